"""Weights on disk: reading any of the known forms safely, loading strictly, saving as a folder."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from ..errors import CheckpointError, KeyMismatchError, RoundedWeightsWarning
from ..inputs.tokenizer import PromptTokenizer
from ..network.onednn_linear import use_onednn
from .key_map import guess_kind, to_own_keys

if TYPE_CHECKING:
    from ..network.config import BlipConfig
    from ..scoring.scoring_model import ScoringModel

M = TypeVar("M", bound="ScoringModel")

# What torch's reader is seen to raise on damaged files.
_DAMAGE = (
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
)

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a .safetensors or a torch file, told apart by content, under this package's keys.

    Tensors stay mapped to the file where its form allows, so reading costs no memory of its own.
    Nothing in the file is ever executed.

    Raises:
        CheckpointError: missing, empty, truncated, a text file, or a pickle with code in it.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise CheckpointError(f"{path}: the file is empty (0 bytes)")
    if head[8:9] == b"{":
        return to_own_keys(_read_safetensors(path), str(path))
    if head[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return to_own_keys(_read_torch(path), str(path))
    what = (
        "a Git LFS pointer; fetch the file itself"
        if head == b"version https://"
        else f"it begins with {head!r}"
    )
    raise CheckpointError(f"{path}: neither a safetensors nor a torch file: {what}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: truncated or damaged, download it again: {error}") from error


def _read_torch(path: Path) -> object:
    # Only the zip form (torch 1.6 and later) can be mapped, and only by its path; the older one is
    # read into memory. A path that ends in .safetensors would be read as what it is not.
    mmap = zipfile.is_zipfile(path) and path.suffix != ".safetensors"
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            # Told once as an error is enough.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path if mmap else file, map_location="cpu", weights_only=True, mmap=mmap)
    except _DAMAGE as error:
        text = str(error)
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in text:  # the name of some code
            reason = f"holds more than weights; refused, and nothing in it was executed: {_first_lines(text)}"
        else:
            reason = f"truncated, damaged or not saved by torch, download it again: {_first_lines(text)}"
        raise CheckpointError(f"{path}: {reason}") from error


def _first_lines(text: str) -> str:
    """torch's explanation without its advice to load the file unsafely."""
    lines = [line.strip() for line in text.splitlines() if "nsupported" in line or "GLOBAL" in line]
    first = (lines or text.strip().splitlines() or ["no more is known"])[0]
    return first.rpartition("WeightsUnpickler error: ")[2][:300]


def build_model(
    model_class: type[M],
    config: BlipConfig,
    state: dict[str, Tensor],
    source: str,
    find_tokenizer: Callable[[], PromptTokenizer],
) -> M:
    """A model in evaluation mode, float32, its parameters frozen, holding exactly ``state``.

    The tokenizer, which may have to be downloaded, is asked for only once the weights are known to fit.

    Raises:
        KeyMismatchError: a key is missing, unexpected or of another shape.
        CheckpointError: the tokenizer's vocabulary is not the one the weights were trained with.
    """
    with torch.device("meta"):  # no memory and no time for weights that are replaced at once
        model = model_class(config, None)
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    shapes = [
        (key, tuple(state[key].shape), tuple(tensor.shape))
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    ]
    if missing or unexpected or shapes:
        raise KeyMismatchError(source, missing, unexpected, shapes, guess_kind(set(state)))
    model.tokenizer = find_tokenizer()
    # With another vocabulary every id would mean another word, and scores would be wrong in silence.
    known, wanted_size = model.tokenizer.fast_tokenizer.get_vocab_size(), config.vocab_size
    if known != wanted_size:
        raise CheckpointError(
            f"{source}: its model knows {wanted_size} tokens, but the vocabulary found for it has {known}; "
            "put the model's own vocab.txt or tokenizer.json beside it"
        )
    model.load_state_dict({key: tensor.float() for key, tensor in state.items()}, assign=True)
    use_onednn(model)
    return model.eval().requires_grad_(False)


def save_folder(model: ScoringModel, folder: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer files into ``folder``.

    Each file appears whole or not at all; other files in the folder are left alone. A RoundedWeightsWarning
    tells when the model was loaded in 16 bits, because so are the weights that are written.
    """
    from safetensors.torch import save_file

    if model.fast and any(parameter.dtype.itemsize < 4 for parameter in model.parameters()):
        warnings.warn(
            "these weights were rounded to 16 bits when the model was loaded in precision 'fast', and are "
            "saved so; load it in precision 'exact' to save them whole",
            RoundedWeightsWarning,
            stacklevel=3,
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as temporary:
        staged = Path(temporary)
        model.tokenizer.save(staged)
        save_file(
            {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()},
            staged / WEIGHTS_FILE,
            metadata={"format": "pt"},
        )
        config = json.dumps(model.config.to_dict(), indent=1, ensure_ascii=False)
        (staged / CONFIG_FILE).write_text(config + "\n", encoding="utf-8")
        for file in staged.iterdir():
            # What a temporary file may keep to itself, a published model may not.
            shutil.copymode(staged / CONFIG_FILE, file)
            os.replace(file, folder / file.name)
