"""Agreement of approximate rewards, such as those of a faster precision, with exact ones.

Shapes: P prompts, N images of each prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .correlation import kendall

#: Largest difference, in standard deviations of the exact rewards, up to which a precision counts as safe.
SAFE_DIFFERENCE = 0.1
# Exact rewards whose difference is at most this share of the largest reward count as equal: those of copies
# of an image differ in their last bits if they are computed in other batches.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Agreement:
    """How well approximate rewards agree with exact ones.

    Differences are in standard deviations of all exact rewards.

    Attributes:
        max_difference: largest absolute difference.
        mean_difference: mean absolute difference.
        tau: mean over prompts of Kendall's tau-b of the images' rewards, in [-1, 1].
        changed_winners: number of prompts whose best image is another one.
        winner_loss: largest difference between the exact rewards of a prompt's exact and approximate winner.
    """

    max_difference: float
    mean_difference: float
    tau: float
    changed_winners: int
    winner_loss: float

    @property
    def verdict(self) -> str:
        """Return "unsafe" above SAFE_DIFFERENCE, otherwise "safe", or "close" if a winner changed."""
        if not self.max_difference <= SAFE_DIFFERENCE:
            return "unsafe"
        return "close" if self.changed_winners else "safe"


def agreement(exact: np.ndarray, approximate: np.ndarray) -> Agreement:
    """Compare approximate rewards (P, N) with exact ones (P, N).

    Raises:
        InputError: fewer than two images, or every prompt gives all images the same exact reward.
    """
    exact, approximate = np.asarray(exact, float), np.asarray(approximate, float)
    ranked = check_rewards(exact)
    std = exact.std()
    rounding = _ROUNDING * np.abs(exact).max()
    differences = np.abs(approximate - exact) / std
    # Approximate rewards that are all equal have no order: tau is 0.
    taus = [np.nan_to_num(kendall(exact[i], approximate[i])) for i in np.flatnonzero(ranked)]
    winners = approximate.argmax(1)  # (P,)
    losses = exact.max(1) - exact[np.arange(len(exact)), winners]
    changed = losses > rounding
    return Agreement(
        max_difference=float(differences.max()),
        mean_difference=float(differences.mean()),
        tau=float(np.mean(taus)),
        changed_winners=int(changed.sum()),
        winner_loss=float(losses[changed].max(initial=0.0) / std),
    )


def check_rewards(exact: np.ndarray) -> np.ndarray:
    """Return whether each prompt's exact rewards (P, N) differ, (P,).

    Raises:
        InputError: as in ``agreement``.
    """
    images = exact.shape[1]
    if images < 2:
        raise InputError(f"Cannot compare rewards: at least 2 images are needed, got {images}. Add images.")
    ranked = np.ptp(exact, axis=1) > _ROUNDING * np.abs(exact).max()
    if not ranked.any():
        raise InputError(
            f"Cannot compare rewards: all {images} images have the same reward for each prompt. Use images "
            "that differ."
        )
    return ranked
