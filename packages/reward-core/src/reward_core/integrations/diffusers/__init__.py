"""Best of n images of a diffusers pipeline, with early dropping (extra: ``diffusers``).

from reward_core.integrations.diffusers import DropPlan, best_of

result = best_of(pipe, "a red house by the sea", 16, "ImageReward-v1.0", early=DropPlan())
result.best.image.save("house.png")
"""

try:
    import diffusers as _  # noqa: F401
except ImportError as error:
    from ...errors import MissingExtraError

    raise MissingExtraError("diffusers", "diffusers") from error

from .best_of import BestOf, Candidate, best_of
from .clean_latents import predicted_clean
from .drop_plan import DropPlan, PredictedRewards
from .early_dropping import EarlyDropping

__all__ = [
    "BestOf",
    "Candidate",
    "DropPlan",
    "EarlyDropping",
    "PredictedRewards",
    "best_of",
    "predicted_clean",
]
