"""The settings of a strategy."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError


@dataclass(frozen=True)
class StrategyConfig:
    """How the model is trained: which denoising steps carry gradient, or without gradient of the reward.

    Attributes:
        name: refl, draft, draft-lv, alignprop, drtune or srpo, which need the reward's gradient; nft or
            grpo, which need only its values. The settings from ``group`` to ``clip`` are used by these two
            alone, those from ``move`` on by srpo alone.
        first: index of the earliest step that may be drawn at random: the gradient step (refl), the first
            gradient step (alignprop), the stop (drtune) or the first random step (grpo); for srpo, the step
            with the noisiest level; unused by the others. Negative values count from the end. None: 0 for
            alignprop and grpo, the start of the last quarter for refl and drtune, the end of the first
            tenth for srpo, but at least 1.
        last: index of the latest step that may be drawn, or with the cleanest level; negative values count
            from the end. None: the last step; for grpo, the last step of the first half, or ``first`` if
            that is later; for srpo, the first step of the second half.
        k: number of gradient steps, from 1 to ``rollout.steps``: the last ones (draft) or evenly spaced
            ones (drtune); unused by the others.
        copies: number of re-noised copies for draft-lv, at least 1; unused by the others.
        group: images per prompt, at least 2, compared with each other. The images of an optimizer step
            (``run.batch_size * run.accumulation * processes``) must be a multiple of it.
        advantage_clip: advantages are clipped to plus or minus this value, above 0.
        spread: what a reward's distance to its group's mean is divided by: the standard deviation of all
            images of the step (pooled) or of the group (group). Unused with combine=zscore.
        combine: how several rewards become one advantage: their weighted sum (sum), or the weighted sum of
            each reward's z-scores within the group (zscore), which does not depend on their scales.
        updates: optimizer steps per set of images; later ones use the same images, with nft at other noise
            levels.
        shared_noise: nft: train all images of a prompt at the same noise levels with the same noise; grpo:
            start all images of a prompt from the same noise, so that they differ by their random steps.
        guided_loss: use ``rollout.guidance_scale`` in the loss too, for trained and old weights. Without
            it, images are generated with guidance and trained on without, at half the cost (nft alone).
        levels: nft: noise levels at which each image is trained per optimizer step, from 1 to
            ``rollout.steps``.
        beta: nft: share of the trained model in the two models that the loss compares, above 0. Smaller
            values learn faster and are less stable.
        old_decay: nft: (start, slope, most): after n optimizer steps, the weights that generate the images
            keep ``min(slope * max(n - start, 0), most)`` of themselves and take the rest from the trained
            ones.
        noise: grpo: how random steps add noise: cps, ddim (not for flow models), flow_sde or dance_sde
            (only for these).
        eta: grpo: amount of noise that random steps add, above 0; at most 1 for cps and ddim.
        window: grpo: number of random steps in a row, which are trained; the others add no noise. At least
            1; 0: all steps but the last, which adds none.
        clip: grpo: change of an image's probability, relative to that when it was generated, beyond which
            it gives no gradient, above 0.
        move: srpo: size of the trained step, as a share of the range of noise levels from ``first`` to
            ``last``, above 0 and at most 0.5.
        discount_denoise: srpo: weight of the preferred prompt beyond 1, at the noisiest and at the cleanest
            level of the range; k in the paper.
        discount_inversion: srpo: the same for the inversion branch; empty: train without this branch.
        positive_words: srpo: words before the prompt for what is wanted; several take turns by optimizer
            step. Empty words leave the prompt as it is. If the words make no difference to a reward, train
            without the inversion branch, which would lower it.
        negative_words: srpo: the same for what is not wanted.
        guided_rollout: srpo: generate the training images with ``rollout.guidance_scale`` too. Without it,
            only the trained step is guided.
    """

    name: str = "refl"
    first: int | None = None
    last: int | None = None
    k: int = 1
    copies: int = 2
    group: int = 8
    advantage_clip: float = 5.0
    spread: str = "pooled"
    combine: str = "sum"
    updates: int = 1
    shared_noise: bool = True
    guided_loss: bool = True
    levels: int = 2
    beta: float = 1.0
    old_decay: tuple[float, ...] = (0.0, 0.001, 0.5)
    noise: str = "cps"
    eta: float = 0.8
    window: int = 2
    clip: float = 1e-4
    move: float = 0.1
    discount_denoise: tuple[float, ...] = (0.25, 0.1)
    discount_inversion: tuple[float, ...] = (0.01, 0.3)
    positive_words: tuple[str, ...] = ("Real. ",)
    negative_words: tuple[str, ...] = ("Painting. ",)
    guided_rollout: bool = True

    @property
    def needs_reward_gradient(self) -> bool:
        """Whether trained rewards must be differentiable."""
        return self.name not in ("nft", "grpo")

    @property
    def has_one_gradient_step(self) -> bool:
        """Whether the denoiser is called with gradient once for every loss."""
        return self.name in ("refl", "srpo") or (self.name in ("draft", "drtune") and self.k == 1)

    @property
    def branches(self) -> int:
        """Number of losses of each image of srpo: denoise, and inversion if it is used."""
        return 2 if self.discount_inversion else 1

    @property
    def prompts_per_image(self) -> int:
        """Number of prompts with which each image is given to a trained reward."""
        return 2 if self.name == "srpo" else 1

    def words(self, step: int) -> tuple[str, str]:
        """Return the words before the prompt in an optimizer step of srpo: wanted, and not wanted."""
        positive, negative = self.positive_words, self.negative_words
        return positive[step % len(positive)], negative[step % len(negative)]

    @property
    def keeps_old_weights(self) -> bool:
        """Whether the weights that generate images differ from the trained ones."""
        return self.name == "nft" or (self.name == "grpo" and self.updates > 1)

    def keep_old(self, steps: int) -> float:
        """Return the share that the old weights keep of themselves after ``steps`` optimizer steps."""
        if self.name == "grpo":
            return 0.0
        start, slope, most = self.old_decay
        return min(slope * max(steps - start, 0.0), most)

    def random_steps(self, steps: int) -> int:
        """Return the number of random steps of grpo in a rollout of ``steps``."""
        return self.window or steps - 1

    def bounds(self, steps: int) -> tuple[int, int]:
        """Return ``first`` and ``last`` as indices into a rollout of ``steps``."""
        first, last = self.first, self.last
        if first is None and self.name == "srpo":
            first = max(round(steps / 10), 1)
        elif first is None:
            first = 0 if self.name in ("alignprop", "grpo") else (3 * steps) // 4
        first = first + steps if first < 0 else first
        if last is None and self.name == "grpo":
            last = max(min((steps - 1) // 2, steps - 1 - self.random_steps(steps)), first)
        elif last is None and self.name == "srpo":
            last = min(max(steps // 2, first + 1), steps - 1)
        elif last is None:
            last = steps - 1
        last = last + steps if last < 0 else last
        if not 0 <= first <= last < steps:
            raise ConfigError(
                f"Cannot use strategy.first={self.first} and strategy.last={self.last}: they must satisfy "
                f"0 <= first <= last < {steps} (rollout.steps)."
            )
        return first, last


SRPO_SETTINGS = (
    "move", "discount_denoise", "discount_inversion", "positive_words", "negative_words", "guided_rollout",
)  # fmt: skip
