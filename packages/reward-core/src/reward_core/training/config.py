"""Every setting of a training run, what it means, and what cannot be."""

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
# What may differ between the parts of a run that is stopped and goes on.
_IRRELEVANT = {
    "out", "checkpoints", "trackers", "cpu", "workers", "cache", "cache_gb", "stuck_after",
    "push_to_hub", "data", "images",
}  # fmt: skip


@dataclass(frozen=True)
class TrainingConfig:
    """A run, from the weights it starts from to the folder it writes. A group: one prompt's images.

    Attributes:
        init: blip-large, scratch, or whatever ``reward_core.load`` takes (name, folder, file, hub id);
            also a file or folder of BLIP's weights.
        data: folder with train.json and, where there are, validation.json and test.json.
        images: folder to which images' names are relative; empty: the data's.
        out: folder of the run; at its end (and after each best validation) ``reward_core.load`` reads it.
        architecture: for scratch: a folder with config.json and the tokenizer; empty: BLIP large, BERT's.
        timm: name of a timm ViT that becomes the vision tower (needs the extra timm); empty: the init's own.
        timm_pretrained: fetch timm's weights for it.
        image_size: side in pixels; position embeddings are interpolated to it; 0: the init's.
        head_init: scaled (each layer keeps the size of its input), original (normal(0, 1/769): every
            reward starts equal), or empty: the init's head where it has one, else scaled.
        freeze: share of each encoder's layers, from below and with the embeddings, that is not trained.
        freeze_vision, freeze_text: the same for one encoder; -1: as freeze. 1 freezes all of it.
        frozen_drop_path: leave stochastic depth on in frozen vision blocks, as the original does.
        drop_path, dropout, head_dropout: of the last vision block, of the text encoder, of the head
            (its first layers alike); -1: the init's.
        average: prompt (mean over prompts of the mean over their pairs, the paper's) or pair (mean over
            all pairs, the original code's).
        batch_size: groups, or about so many pairs in whole groups, of a rank's forward pass (see batch_unit).
        accumulation: such passes of each rank in one step.
        batch_unit: what batch_size counts.
        epochs: passes over the training data.
        steps: steps at most; 0: as many as the epochs have.
        optimizer: adamw, adam, or muon (for the encoders' matrices, AdamW for the rest: for scratch).
        lr, muon_lr: highest learning rates.
        beta1, beta2, epsilon, weight_decay: of Adam and AdamW.
        schedule: cosine or linear, to 0 at the end; or constant.
        warmup_steps: in which the learning rate rises to its height.
        clip: largest norm of the gradient; 0: none.
        mixed_precision: auto (bf16 on a GPU that has it), no, bf16 or fp16.
        gradient_checkpointing: recompute in the backward pass; less memory, slower.
        validation_share: of the training prompts, held out where the data has no validation.json.
        validations: an epoch, evenly; beside one before the first step and one after the last.
        patience: validations in a row without a lower loss that end the run; 0: none.
        stuck_after: steps after which a loss at log 2 is reported.
        cache: folder for the activations of frozen vision blocks; empty: none.
        cache_gb: bound of each of its files.
        cache_dtype: float32 changes nothing; float16 takes half the room.
        checkpoint_every: steps; 0: at each validation.
        checkpoints: so many newest ones are kept.
        seed: of order, dropout, head and scratch weights.
        workers: threads that read images.
        trackers: accelerate's: tensorboard, wandb, ...
        cpu: compute there though a GPU is at hand.
        push_to_hub: repository for the result; empty: none.
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
        """Of "vision" or "text"."""
        own = getattr(self, f"freeze_{encoder}")
        return self.freeze if own < 0 else own

    def check(self) -> TrainingConfig:
        """Itself, or an InputError that names the setting which cannot be."""
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                known = ", ".join(repr(choice) for choice in choices if choice)
                raise InputError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        for name in ("batch_size", "accumulation", "epochs", "checkpoints", "stuck_after", "workers"):
            self._must(name, getattr(self, name) >= 1, "at least 1")
        for name in ("steps", "warmup_steps", "validations", "patience", "checkpoint_every", "image_size"):
            self._must(name, getattr(self, name) >= 0, "0 or more")
        for name in ("lr", "muon_lr", "epsilon", "cache_gb"):
            self._must(name, getattr(self, name) > 0, "above 0")
        for name in ("clip", "weight_decay"):
            self._must(name, getattr(self, name) >= 0, "0 or more")
        for name in ("beta1", "beta2", "drop_path", "dropout", "head_dropout"):
            self._must(name, getattr(self, name) < 1, "below 1")
        for name in ("freeze", "freeze_vision", "freeze_text"):
            self._must(name, getattr(self, name) <= 1, "a share, at most 1")
        self._must("freeze", self.freeze >= 0, "a share, at least 0")
        self._must("validation_share", 0 <= self.validation_share < 1, "a share, below 1")
        if self.cache and self.frozen_drop_path:
            raise InputError(
                "cache keeps what frozen blocks compute, and frozen_drop_path changes it each time"
            )
        if self.optimizer == "muon" and self.mixed_precision == "fp16":
            raise InputError("optimizer=muon does not go with mixed_precision=fp16; take bf16")
        return self

    def _must(self, name: str, so: bool, what: str) -> None:
        if not so:
            raise InputError(f"{name} must be {what}, got {getattr(self, name)}")

    def to_dict(self) -> dict[str, Any]:
        """For YAML and JSON."""
        values = dataclasses.asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the resulting weights."""
        return {name: value for name, value in self.to_dict().items() if name not in _IRRELEVANT}


#: Named starting points. "original": the figures that ImageReward's authors trained with; batches are
#: 4 pairs x 4 passes x 4 ranks = 64 pairs a step, here filled up with whole groups.
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
    """A preset, then a YAML file over it, then values given by name, then ``key=value`` over all; checked.

    Raises:
        InputError: an unknown preset, key or value, named with the nearest that exists.
    """
    return reading.load_settings(TrainingConfig(), PRESETS, preset, file, settings, given).check()
