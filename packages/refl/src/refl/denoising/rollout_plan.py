"""The plan of one rollout: where it stops, and which of its steps carry gradient or are random."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RolloutPlan:
    """The plan of one rollout.

    Attributes:
        stop: index of the last denoising step that is computed.
        gradient: indices of the steps at which the denoiser carries gradient.
        detach_input: detach the denoiser's input, so that no gradient passes through it.
        read: where x0 comes from: "prediction" (x0 predicted at ``stop``) or "latents" (the latents
            after ``stop``).
        copies: number of times the result is re-noised to the level of the last step and denoised with
            gradient; 0 for a plain rollout.
        random: indices of the steps whose probability is compared; their latents are kept.
    """

    stop: int
    gradient: tuple[int, ...]
    detach_input: bool = False
    read: str = "prediction"
    copies: int = 0
    random: tuple[int, ...] = ()

    def cost(self) -> tuple[int, int]:
        """Return the denoiser passes without gradient and those with gradient."""
        with_gradient = len(self.gradient) + self.copies
        return self.stop + 1 - len(self.gradient), with_gradient

    def __str__(self) -> str:
        with_gradient = ", ".join(map(str, self.gradient)) or "none"
        if len(self.gradient) > 2 and self.gradient == tuple(range(self.gradient[0], self.stop + 1)):
            with_gradient = f"{self.gradient[0]}-{self.stop}"
        parts = [f"steps 0-{self.stop}", f"gradient at {with_gradient}", f"x0 from the {self.read}"]
        if self.random:
            parts.insert(2, f"random at {self.random[0]}-{self.random[-1]}")
        if self.detach_input:
            parts.append("denoiser input detached")
        if self.copies:
            parts.append(f"{self.copies} re-noised copies")
        return ", ".join(parts)


def whole_rollout(steps: int) -> RolloutPlan:
    """Return the plan of a rollout of ``steps`` steps without gradient."""
    return RolloutPlan(steps - 1, (), read="latents")
