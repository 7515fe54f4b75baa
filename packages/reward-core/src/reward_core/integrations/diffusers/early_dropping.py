"""Stops denoising candidates that will not win, told by the reward of the image they are heading for.

A pipeline's loop lets a callback change its latents, but not everything else that has one row a candidate:
FLUX's pooled embeddings and guidance, SDXL's sizes, a multistep scheduler's memory, a list of generators.
So the loop keeps those whole, and they are cut to the remaining rows where they are read: at the
denoiser's door and in ``scheduler.step``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...scoring.rewards import scorer_rewards
from ...scoring.scorer import Scorer
from .clean_latents import predicted_clean, preview_images
from .drop_plan import DropPlan, PredictedRewards

# What the loop hands to one of these has a row a candidate, or a multiple with guidance.
DENOISERS = ("unet", "transformer", "controlnet")
# Positions of tokens: the same for all candidates, whatever their number.
SHARED = ("img_ids", "txt_ids")


class EarlyDropping:
    """A ``callback_on_step_end`` that drops candidates; a context manager around the pipeline's call.

    with EarlyDropping(pipe, prompts, scorer) as drop:
        images = pipe(prompts, callback_on_step_end=drop).images
    drop.alive  # which rows the images are

    Args:
        pipe: a pipeline with a ``unet`` or ``transformer``, a ``scheduler`` and a VAE of images.
        prompts: one for each row of the pipeline's batch (with ``num_images_per_prompt``, repeated so often).
        scorer: gives rewards to the predicted images.
        plan: when, and how many go on.
        groups: candidates of one group compete; default: those of one prompt.
        history: rewards of earlier batches, to compete with; kept up to date.
        height, width: in pixels, needed for FLUX where they are not the default.
        preview_vae: decodes predicted images instead of the pipeline's VAE, such as an AutoencoderTiny.
        names: how errors call each row; default: its index and its prompt.

    Attributes:
        alive: rows that went on to the end, in order; the pipeline returns their images. If none did,
            ``alive`` is empty and the pipeline returns one image, undone.
        steps: for each row, the denoising steps it went through.
        predictions: for each row, (steps done, reward of the predicted image) of every check it had.
        denoised: rows that the denoiser has computed, guidance counted.
    """

    tensor_inputs = ("latents",)  # as diffusers' own callbacks say it

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
            raise InputError("one prompt for each row of the batch was expected, got a string")
        self.pipe, self.scorer, self.plan = pipe, scorer, plan or DropPlan()
        self.prompts, self.groups = list(prompts), list(prompts if groups is None else groups)
        if len(self.groups) != len(self.prompts):
            raise InputError(f"{len(self.prompts)} prompts but {len(self.groups)} groups")
        self.names = list(names or (f"row {i} ({prompt!r})" for i, prompt in enumerate(self.prompts)))
        self.history = PredictedRewards() if history is None else history
        self.height, self.width, self.preview_vae = height, width, preview_vae
        self._modules = [
            m for name in DENOISERS if isinstance(m := getattr(pipe, name, None), torch.nn.Module)
        ]
        if not self._modules or not hasattr(pipe, "scheduler") or getattr(pipe, "vae", None) is None:
            raise InputError(
                f"a {type(pipe).__name__} has no denoiser, scheduler and VAE to drop candidates in"
            )
        self._undo: list[Any] = []
        self._restart()

    def _restart(self) -> None:
        full = len(self.prompts)
        self.alive = list(range(full))
        self.steps = [0] * full
        self.predictions: list[list[tuple[int, float]]] = [[] for _ in range(full)]
        self.denoised = 0
        self._kept = list(range(full))  # rows of the loop's latents: as alive, or one where none is
        self._done = 0  # steps
        self._clean: Tensor | None = None  # x0 of the last step that was looked at

    def __enter__(self) -> EarlyDropping:
        self._restart()
        if "callback_on_step_end" not in inspect.signature(type(self.pipe).__call__).parameters:
            name = type(self.pipe).__name__
            raise InputError(
                f"{name} takes no callback_on_step_end: none of its candidates can be dropped early"
            )
        if hasattr(self.pipe.scheduler, "noise_sampler"):
            name = type(self.pipe.scheduler).__name__
            raise InputError(f"{name} draws its noise for the whole batch: nothing of it can be dropped")
        for module in self._modules:
            hook = module.register_forward_pre_hook(self._cut_inputs, with_kwargs=True)
            self._undo.append(hook.remove)
        scheduler = self.pipe.scheduler
        step = scheduler.step

        @functools.wraps(step)  # pipelines ask its signature whether it takes eta and a generator
        def step_with_prediction(
            model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any
        ) -> Any:
            # The first step's is computed to refuse an unknown scheduler at once.
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
            raise InputError("EarlyDropping must be entered: with EarlyDropping(...) as drop: pipe(...)")
        latents, done = callback_kwargs["latents"], step + 1
        if len(latents) != len(self._kept):
            raise InputError(f"the batch has {len(latents)} rows, but {len(self.prompts)} prompts were given")
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
        shown = keep or [max(range(len(rewards)), key=rewards.__getitem__)]
        if not keep:
            pipe._interrupt = True  # the loop then runs empty, and decodes what is there
        callback_kwargs["latents"] = latents[torch.tensor(shown, device=latents.device)]
        _select_scheduler_rows(pipe.scheduler, len(latents), shown)
        self._kept = [self._kept[i] for i in shown]
        self.alive = [self.alive[i] for i in keep]
        return callback_kwargs

    @torch.no_grad()
    def _predicted_rewards(self) -> list[float]:
        assert self._clean is not None  # the step before a check computes it
        previews = preview_images(self.pipe, self._clean, self.height, self.width, self.preview_vae)
        answer = self.scorer.score_pairs([self.prompts[row] for row in self.alive], previews)
        names = [f"{self.names[row]}, predicted after {self._done} steps," for row in self.alive]
        return scorer_rewards(self.scorer, answer, names)

    def _cut_inputs(self, module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """The denoiser's inputs, cut to the rows that its latents still have."""
        latents = args[0] if args else kwargs["sample" if "sample" in kwargs else "hidden_states"]
        if module is not getattr(self.pipe, "controlnet", None):
            self.denoised += len(latents)
        full, count = len(self.prompts), len(self._kept)
        if count == full or len(latents) % count:
            return None
        copies = len(latents) // count  # 2 with guidance
        rows = torch.tensor([copy * full + row for copy in range(copies) for row in self._kept])

        def cut(value: Any, name: str = "") -> Any:
            if isinstance(value, Tensor):
                whole = value.ndim > 0 and len(value) == copies * full and name not in SHARED
                return value[rows.to(value.device)] if whole else value
            if isinstance(value, dict):
                return {key: cut(item, key) for key, item in value.items()}
            if isinstance(value, (list, tuple)):
                return type(value)(cut(item) for item in value)
            return value

        return tuple(cut(value) for value in args), {key: cut(value, key) for key, value in kwargs.items()}


def step_count(pipe: Any) -> int:
    """Denoising steps of the pipeline's last, or present, call; not every pipeline tells."""
    count = getattr(pipe, "num_timesteps", None)
    return int(count if count is not None else len(pipe.scheduler.timesteps))


def _select_scheduler_rows(scheduler: Any, count: int, rows: Iterable[int]) -> None:
    """Cut what a scheduler remembers of earlier steps to some of ``count`` rows."""
    rows = list(rows)

    def cut(value: Any) -> Any:
        # Tables of levels have one dimension, latents three or more.
        if isinstance(value, Tensor) and value.ndim >= 3 and len(value) == count:
            return value[torch.tensor(rows, device=value.device)]
        if isinstance(value, list):
            return [cut(item) for item in value]
        return value

    for name, value in vars(scheduler).items():
        if isinstance(value, (Tensor, list)):
            setattr(scheduler, name, cut(value))
