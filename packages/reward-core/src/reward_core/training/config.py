"""The settings of a training run and the checks on their values."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..runs import settings as reading

_CHOICES = {
    "head_init": ("", "scaled", "original"),
    "average": ("prompt", "pair"),
    "batch_unit": ("groups", "pairs"),
    "optimizer": ("adamw", "adam", "muon"),
    "schedule": ("cosine", "linear", "constant"),
    "mixed_precision": ("auto", "no", "bf16", "fp16"),
    "cache_dtype": ("float32", "float16"),
}
# Settings that may change when a stopped run is resumed.
_IRRELEVANT = {
    "out", "checkpoints", "trackers", "cpu", "workers", "cache", "cache_gb", "stuck_after",
    "push_to_hub", "data", "images", "merge_passes",
}  # fmt: skip


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of a training run. A group is one prompt with its ranked images.

    Attributes:
        init: "blip-large", "scratch", a file or folder of BLIP weights, or any source that
            ``reward_core.load`` accepts (name, folder, file, hub id).
        data: folder with train.json and optionally validation.json and test.json.
        images: folder that image names are relative to; empty: the data folder.
        out: output folder; ``reward_core.load`` can read it after each best validation.
        architecture: for "scratch": folder with config.json and tokenizer; empty: BLIP large with BERT's.
        timm: name of a timm ViT to use as the vision encoder (needs the extra timm); empty: keep init's.
        timm_pretrained: download timm's weights for it.
        image_size: image side in pixels, to which position embeddings are interpolated; 0: init's size.
        head_init: "scaled" (each layer keeps the scale of its input), "original" (normal(0, 1/769): all
            rewards start equal), or empty: keep init's head if it has one, otherwise "scaled".
        freeze: fraction of each encoder's layers to freeze, starting at the embeddings.
        freeze_vision, freeze_text: the same for one encoder; -1: use freeze; 1: freeze the whole encoder.
        frozen_drop_path: keep stochastic depth on in frozen vision blocks, as the original code does.
        drop_path, dropout, head_dropout: rates of the last vision block, of the text encoder, and of the
            head (the same for each of its first layers); -1: init's rate.
        average: "prompt" (mean over each prompt's pairs, then over prompts; the paper) or "pair" (mean
            over all pairs; the original code).
        batch_size: groups in one forward pass of a rank, or pairs, rounded up to whole groups (see
            batch_unit).
        accumulation: forward passes of each rank in one step.
        merge_passes: compute several forward passes of a step as one, as many as memory allows: the gradients
            are the same sums, up to rounding and the random numbers of dropout. None: on one CUDA GPU. Runs
            of several processes never do.
        batch_unit: what batch_size counts: "groups" or "pairs".
        epochs: passes over the training data.
        steps: maximum number of steps; 0: no limit other than epochs.
        optimizer: "adamw", "adam", or "muon" (Muon for the encoders' matrices and AdamW for the rest;
            useful for "scratch").
        lr, muon_lr: peak learning rates.
        beta1, beta2, epsilon, weight_decay: of Adam and AdamW.
        schedule: "cosine" or "linear" decay to 0, or "constant".
        warmup_steps: steps in which the learning rate rises linearly to its peak; a run uses at most 10%
            of its steps for this.
        clip: maximum gradient norm; 0: no clipping.
        mixed_precision: "auto" (the precision given to ``accelerate launch``, else bf16 on a GPU that
            supports it), "no", "bf16" or "fp16".
        gradient_checkpointing: recompute activations in the backward pass: less memory, slower.
        validation_share: fraction of the training prompts to hold out if there is no validation.json.
        validations: validations per epoch, evenly spaced, besides one before the first step and one
            after the last.
        patience: stop after this many validations in a row without a lower loss; 0: never.
        stuck_after: step from which a loss that stays at log 2 is reported.
        cache: folder in which to cache the output of frozen vision blocks; empty: no cache.
        cache_gb: maximum size of each cache file, in GB.
        cache_dtype: "float32" (exact) or "float16" (half the disk space).
        checkpoint_every: steps between checkpoints; 0: one at each validation.
        checkpoints: number of newest checkpoints to keep.
        seed: seed of order, dropout, the new head and the weights of "scratch".
        workers: threads that read images.
        trackers: names of accelerate's trackers, such as "tensorboard" or "wandb".
        cpu: train on the CPU even if a GPU is available.
        push_to_hub: hub repository to upload the result to; empty: no upload.
    """

    init: str = "blip-large"
    data: str = ""
    images: str = ""
    out: str = "runs/reward"
    architecture: str = ""
    timm: str = ""
    timm_pretrained: bool = True
    image_size: int = 0
    head_init: str = ""
    freeze: float = 0.7
    freeze_vision: float = -1.0
    freeze_text: float = -1.0
    frozen_drop_path: bool = False
    drop_path: float = -1.0
    dropout: float = -1.0
    head_dropout: float = -1.0
    average: str = "prompt"
    batch_size: int = 4
    accumulation: int = 4
    merge_passes: bool | None = None
    batch_unit: str = "groups"
    epochs: int = 4
    steps: int = 0
    optimizer: str = "adamw"
    lr: float = 1e-5
    muon_lr: float = 0.002
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    schedule: str = "cosine"
    warmup_steps: int = 50
    clip: float = 1.0
    mixed_precision: str = "auto"
    gradient_checkpointing: bool = False
    validation_share: float = 0.05
    validations: int = 4
    patience: int = 0
    stuck_after: int = 200
    cache: str = ""
    cache_gb: float = 50.0
    cache_dtype: str = "float32"
    checkpoint_every: int = 0
    checkpoints: int = 2
    seed: int = 0
    workers: int = 4
    trackers: tuple[str, ...] = ("tensorboard",)
    cpu: bool = False
    push_to_hub: str = ""

    def frozen_share(self, encoder: str) -> float:
        """Return the fraction of layers to freeze in "vision" or "text"."""
        share = getattr(self, f"freeze_{encoder}")
        return self.freeze if share < 0 else share

    def check(self) -> TrainingConfig:
        """Return self; raise InputError if a setting is invalid."""
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                known = ", ".join(repr(choice) for choice in choices if choice)
                raise InputError(f"Cannot use {name}={getattr(self, name)!r}: it must be one of {known}.")
        for name in ("batch_size", "accumulation", "epochs", "checkpoints", "stuck_after", "workers"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("steps", "warmup_steps", "validations", "patience", "checkpoint_every", "image_size"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("lr", "muon_lr", "epsilon", "cache_gb"):
            self._require(name, getattr(self, name) > 0, "above 0")
        for name in ("clip", "weight_decay"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("beta1", "beta2", "drop_path", "dropout", "head_dropout"):
            self._require(name, getattr(self, name) < 1, "below 1")
        for name in ("freeze", "freeze_vision", "freeze_text"):
            self._require(name, getattr(self, name) <= 1, "a fraction, at most 1")
        self._require("freeze", self.freeze >= 0, "a fraction, at least 0")
        self._require("validation_share", 0 <= self.validation_share < 1, "a fraction below 1")
        if self.cache and self.frozen_drop_path:
            raise InputError(
                "Cannot use cache with frozen_drop_path: the output of the frozen blocks differs at each "
                "pass. Turn one of them off."
            )
        check_precision(self.optimizer, self.mixed_precision)
        return self

    def _require(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            raise InputError(f"Cannot use {name}={getattr(self, name)!r}: it must be {expected}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as values that YAML and JSON can hold."""
        values = dataclasses.asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    def decisive(self) -> dict[str, Any]:
        """Return the settings that affect the resulting weights."""
        return {name: value for name, value in self.to_dict().items() if name not in _IRRELEVANT}


def check_precision(optimizer: str, precision: str) -> None:
    """Raise InputError if the optimizer does not support the precision.

    Args:
        optimizer: the setting of that name.
        precision: the setting ``mixed_precision``, or what "auto" became.
    """
    if optimizer == "muon" and precision == "fp16":
        raise InputError(
            "Cannot use optimizer=muon with mixed_precision=fp16. Set mixed_precision=bf16 or no."
        )


#: Presets by name. "original" has the hyperparameters of ImageReward's authors. Their step has
#: 4 pairs x 4 passes x 4 ranks = 64 pairs; ours adds whole groups until it has at least as many.
PRESETS: dict[str, dict[str, Any]] = {
    "original": {
        "init": "blip-large",
        "head_init": "original",
        "freeze": 0.7,
        "frozen_drop_path": True,
        "drop_path": 0.1,
        "dropout": 0.1,
        "average": "pair",
        "batch_size": 4,
        "accumulation": 4,
        "batch_unit": "pairs",
        "epochs": 10,
        "optimizer": "adam",
        "lr": 1e-5,
        "beta1": 0.9,
        "beta2": 0.999,
        "epsilon": 1e-8,
        "weight_decay": 0.0,
        "schedule": "cosine",
        "warmup_steps": 0,
        "clip": 0.0,
        "validations": 4,
        "patience": 0,
    },
}


def load_settings(
    file: str | os.PathLike[str] | None = None,
    preset: str | None = None,
    settings: Sequence[str] = (),
    given: Mapping[str, Any] | None = None,
) -> TrainingConfig:
    """Return checked settings: a preset, overridden by ``file``, then ``given``, then ``settings``.

    Args:
        file: a YAML file.
        preset: a key of ``PRESETS``.
        settings: "key=value" strings.
        given: values by name.

    Raises:
        InputError: an unknown preset or key (the message suggests the closest), or an invalid value.
    """
    return reading.load_settings(TrainingConfig(), PRESETS, preset, file, settings, given).check()
