"""Stop denoising candidates that are unlikely to win, by the reward of their predicted images.

A pipeline lets a callback change its latents, but not its other per-candidate values: FLUX's pooled
embeddings and guidance, SDXL's sizes, the state of a multistep scheduler, a list of generators. So the
pipeline keeps these for all candidates, and they are reduced to the remaining rows where they are used: in
the inputs of the denoiser and in ``scheduler.step``. Z-Image's guidance loops over all candidates; so the
denoiser's outputs are repeated for the dropped ones, and ``scheduler.step`` leaves them out.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...scoring.rewards import scorer_rewards
from ...scoring.scorer import Scorer
from .batch_rows import denoiser_latents, expanded_outputs, reduced_inputs, select_scheduler_rows
from .clean_latents import predicted_clean, preview_images
from .drop_plan import DropPlan, PredictedRewards

# Modules whose inputs have one row per candidate, or several with guidance.
DENOISERS = ("unet", "transformer", "controlnet")


class EarlyDropping:
    """A ``callback_on_step_end`` that drops candidates; also a context manager for the pipeline's call.

    with EarlyDropping(pipe, prompts, scorer) as drop:
        images = pipe(prompts, callback_on_step_end=drop).images
    drop.alive  # indices of the rows of the images

    Args:
        pipe: a pipeline with a ``unet`` or ``transformer``, a ``scheduler`` and an image VAE.
        prompts: prompt of each row of the batch (repeated if ``num_images_per_prompt`` is above 1).
        scorer: scores the predicted images.
        plan: when to compare candidates, and how many to keep.
        groups: group of each row; candidates of the same group compete (default: the same prompt).
        history: rewards of earlier batches, which compete too; it is updated.
        height, width: image size in pixels; needed for FLUX and Qwen-Image if it is not the default.
        preview_vae: VAE for predicted images, such as an AutoencoderTiny; None for the pipeline's.
        names: name of each row in errors (default: its index and prompt).

    Attributes:
        alive: indices of the rows that were not dropped; the pipeline returns their images. If all were
            dropped, it is empty and the pipeline returns one unfinished image.
        steps: number of denoising steps of each row.
        predictions: for each row, (steps done, reward of the predicted image) of each check.
        denoised: number of rows that the denoiser computed, including those for guidance.
    """

    tensor_inputs = ("latents",)  # required of diffusers' callbacks

    def __init__(
        self,
        pipe: Any,
        prompts: Sequence[str],
        scorer: Scorer,
        plan: DropPlan | None = None,
        *,
        groups: Sequence[Hashable] | None = None,
        history: PredictedRewards | None = None,
        height: int | None = None,
        width: int | None = None,
        preview_vae: Any = None,
        names: Sequence[str] | None = None,
    ):
        if isinstance(prompts, str):
            raise InputError(
                "Cannot use a string as prompts: expected a list with one prompt per row of the batch."
            )
        self.pipe, self.scorer, self.plan = pipe, scorer, plan or DropPlan()
        self.prompts, self.groups = list(prompts), list(prompts if groups is None else groups)
        if len(self.groups) != len(self.prompts):
            raise InputError(
                "prompts and groups must have the same length, got "
                f"{len(self.prompts)} and {len(self.groups)}"
            )
        self.names = list(names or (f"row {i} ({prompt!r})" for i, prompt in enumerate(self.prompts)))
        self.history = PredictedRewards() if history is None else history
        self.height, self.width, self.preview_vae = height, width, preview_vae
        self._modules = [
            m for name in DENOISERS if isinstance(m := getattr(pipe, name, None), torch.nn.Module)
        ]
        if not self._modules or not hasattr(pipe, "scheduler") or getattr(pipe, "vae", None) is None:
            raise InputError(
                f"Cannot drop candidates of {type(pipe).__name__}: it has no denoiser, scheduler or VAE."
            )
        self._undo: list[Any] = []
        self._restart()

    def _restart(self) -> None:
        full = len(self.prompts)
        self.alive = list(range(full))
        self.steps = [0] * full
        self.predictions: list[list[tuple[int, float]]] = [[] for _ in range(full)]
        self.denoised = 0
        self._kept = list(range(full))  # rows of the latents: the alive ones, or one if none is alive
        self._done = 0  # number of steps
        self._clean: Tensor | None = None  # the most recently predicted x0
        self._input_shape: torch.Size | None = None  # of one row of the denoiser's last latents

    def __enter__(self) -> EarlyDropping:
        self._restart()
        if "callback_on_step_end" not in inspect.signature(type(self.pipe).__call__).parameters:
            name = type(self.pipe).__name__
            raise InputError(
                f"Cannot drop candidates of {name}: it does not accept callback_on_step_end. Set early=None."
            )
        if hasattr(self.pipe.scheduler, "noise_sampler"):
            name = type(self.pipe.scheduler).__name__
            raise InputError(
                f"Cannot drop candidates with {name}: it draws noise for the whole batch. "
                "Use another scheduler."
            )
        for module in self._modules:
            hook = module.register_forward_pre_hook(self._cut_inputs, with_kwargs=True)
            self._undo.append(hook.remove)
            hook = module.register_forward_hook(self._expand_outputs, with_kwargs=True)
            self._undo.append(hook.remove)
        scheduler = self.pipe.scheduler
        step = scheduler.step

        @functools.wraps(step)  # pipelines inspect its signature for eta and generator
        def step_with_prediction(
            model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any
        ) -> Any:
            if self._done == 0:
                self._check_inputs(sample)
            if len(sample) == len(self._kept) < len(model_output) == len(self.prompts):
                model_output = model_output[torch.tensor(self._kept, device=model_output.device)]
            # Also in the first step, so that an unsupported scheduler is refused immediately.
            if self._done == 0 or self._done + 1 in self.plan.checks(step_count(self.pipe)):
                self._clean = predicted_clean(scheduler, model_output, timestep, sample)
            if isinstance(kwargs.get("generator"), list) and len(sample) < len(self.prompts):
                kwargs["generator"] = [kwargs["generator"][row] for row in self._kept]
            return step(model_output, timestep, sample, *args, **kwargs)

        scheduler.step = step_with_prediction
        self._undo.append(lambda: scheduler.__dict__.pop("step"))
        return self

    def __exit__(self, *error: Any) -> None:
        while self._undo:
            self._undo.pop()()

    def __call__(
        self, pipe: Any, step: int, timestep: Any, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        if not self._undo:
            raise InputError(
                "Cannot drop candidates: EarlyDropping must be entered first. Use: "
                "with EarlyDropping(...) as drop: pipe(..., callback_on_step_end=drop)"
            )
        latents, done = callback_kwargs["latents"], step + 1
        if len(latents) != len(self._kept):
            raise InputError(
                f"Cannot drop candidates: the batch has {len(latents)} rows, but EarlyDropping has "
                f"{len(self.prompts)} prompts."
            )
        self._done = done
        for row in self.alive:
            self.steps[row] = done
        share = self.plan.checks(step_count(pipe)).get(done)
        if share is None or not self.alive:
            return callback_kwargs
        rewards = self._predicted_rewards()
        self.history.enter([self.groups[row] for row in self.alive], done, rewards)
        for row, reward in zip(self.alive, rewards):
            self.predictions[row].append((done, reward))
        keep = [
            i
            for i, (row, reward) in enumerate(zip(self.alive, rewards))
            if self.history.survives(self.groups[row], done, reward, share)
        ]
        if len(keep) == len(self.alive):
            return callback_kwargs
        rows = keep or [max(range(len(rewards)), key=rewards.__getitem__)]
        if not keep:
            pipe._interrupt = True  # the pipeline then skips the remaining steps and decodes the latents
        callback_kwargs["latents"] = latents[torch.tensor(rows, device=latents.device)]
        select_scheduler_rows(pipe.scheduler, len(latents), rows)
        self._kept = [self._kept[i] for i in rows]
        self.alive = [self.alive[i] for i in keep]
        return callback_kwargs

    @torch.no_grad()
    def _predicted_rewards(self) -> list[float]:
        assert self._clean is not None  # computed in the step before a check
        previews = preview_images(self.pipe, self._clean, self.height, self.width, self.preview_vae)
        rewards = self.scorer.score_pairs([self.prompts[row] for row in self.alive], previews)
        names = [f"{self.names[row]}, predicted after {self._done} steps," for row in self.alive]
        return scorer_rewards(self.scorer, rewards, names)

    def _cut_inputs(self, module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Return the inputs of a denoiser, reduced to the remaining rows; None if nothing changes."""
        if module is not getattr(self.pipe, "controlnet", None):
            latents = denoiser_latents(args, kwargs)
            self.denoised += len(latents)
            self._input_shape = latents.shape[1:] if isinstance(latents, Tensor) else None
        return reduced_inputs(args, kwargs, len(self.prompts), self._kept)

    def _expand_outputs(
        self, module: torch.nn.Module, args: tuple, kwargs: dict, output: Any
    ) -> tuple | None:
        """Return a denoiser's output for all rows if it has one tensor per row; None if nothing changes."""
        in_lists = isinstance(denoiser_latents(args, kwargs), list) and isinstance(output, tuple)
        if not in_lists or len(self._kept) == len(self.prompts):
            return None
        return expanded_outputs(output[0], len(self.prompts), self._kept), *output[1:]

    def _check_inputs(self, sample: Tensor) -> None:
        """Raise InputError if the pipeline extends the denoiser's latents by values of all candidates."""
        if self._input_shape is not None and self._input_shape != sample.shape[1:]:
            raise InputError(
                f"Cannot drop candidates of {type(self.pipe).__name__}: its reference images or masks have "
                "the rows of all candidates. Remove them, or set early=None."
            )


def step_count(pipe: Any) -> int:
    """Return the number of denoising steps in the pipeline's current or last call."""
    count = getattr(pipe, "num_timesteps", None)
    return int(count if count is not None else len(pipe.scheduler.timesteps))
