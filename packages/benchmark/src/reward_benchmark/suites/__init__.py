"""Suites: prompts, images and people's preferences."""

from .base import Group, Part, SuiteOptions

__all__ = ["SUITES", "Group", "Part", "SuiteOptions", "build_suite"]

#: Suite -> default scorers.
SUITES = {
    "table1": ("ImageReward-v1.0", "CLIP", "BLIP", "Aesthetic"),
    "table3": ("ImageReward-v1.0", "CLIP", "BLIP", "Aesthetic"),
    "shapes": ("oracle", "tiny", "tiny-cosine", "colour-histogram", "random"),
}


def build_suite(name: str, options: SuiteOptions) -> list[Part]:
    """Build the parts (tables) of a suite; download or draw missing images.

    Raises:
        InputError: an unknown suite, or invalid data.
        HubError: a download failed.
    """
    if name == "shapes":
        from .shapes import build
    elif name == "table1":
        from .table1 import build
    elif name == "table3":
        from .table3 import build
    else:
        from reward_core.errors import InputError

        raise InputError(f"Cannot build the suite {name!r}: unknown. Use one of {', '.join(SUITES)}.")
    return build(options)
