"""Weights on disk: reading any of the known forms safely, loading strictly, saving as a folder."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from ..errors import CheckpointError, KeyMismatchError, RoundedWeightsWarning
from ..files.atomic_write import sync_folder, sync_tree
from ..files.foreign_bytes import guarded, reason
from ..files.limits import MB, Limit
from ..inputs.tokenizer import PromptTokenizer
from ..network.onednn_linear import use_onednn
from ..runs.caller_warning import warn_caller
from .key_map import guess_kind, to_own_keys

if TYPE_CHECKING:
    from ..network.config import BlipConfig
    from ..scoring.scoring_model import ScoringModel

M = TypeVar("M", bound="ScoringModel")

# Bytes of a config.json. A model's own has 5 kB, most of it score quantiles.
MAX_CONFIG_BYTES = Limit("MAX_CONFIG_BYTES", 4 * MB)
# How many times its file's size a file's weights may take. Weights that are tied are read twice.
MAX_WEIGHTS_RATIO = 4
# Bytes that the weights of any file may take: ImageReward's own take 1.79 GB.
MIN_WEIGHTS_BYTES = 2048 * MB
# Layers that are built in a moment, also for weights of another model: that error says more.
CHEAP_LAYERS = 100

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
        return _check_tensors(to_own_keys(_read_safetensors(path), str(path)), path)
    if head[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return _check_tensors(to_own_keys(_read_torch(path), str(path)), path)
    what = (
        "a Git LFS pointer; fetch the file itself"
        if head == b"version https://"
        else f"it begins with {head!r}"
    )
    raise CheckpointError(f"{path}: neither a safetensors nor a torch file: {what}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    def damaged(error: BaseException) -> CheckpointError:
        return CheckpointError(f"{path}: truncated or damaged, download it again: {reason(error)}")

    with guarded(damaged):
        return load_file(path)


def _read_torch(path: Path) -> object:
    # Only the zip form (torch 1.6 and later) can be mapped, and only by its path; the older one is
    # read into memory. A path that ends in .safetensors would be read as what it is not.
    is_zip = zipfile.is_zipfile(path)
    mmap = is_zip and path.suffix != ".safetensors"

    def refused(error: BaseException) -> CheckpointError:
        text = _first_lines(str(error)) if str(error).strip() else reason(error)
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):  # the name of some code
            return CheckpointError(
                f"{path}: holds more than weights; refused, and nothing in it was executed: {text}"
            )
        return CheckpointError(f"{path}: truncated, damaged or not saved by torch, download it again: {text}")

    with guarded(refused):
        if is_zip:
            _check_not_compressed(path)
        with path.open("rb") as file:
            return torch.load(path if mmap else file, map_location="cpu", weights_only=True, mmap=mmap)


def _check_not_compressed(path: Path) -> None:
    """Raise CheckpointError for a torch file that would unpack to more than its size."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > path.stat().st_size:
        raise CheckpointError(
            f"{path}: would unpack to {unpacked:,} bytes, but torch saves files without compressing them; "
            "save it again with torch.save"
        )


def _check_tensors(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return weights that are all plain numbers in the file.

    Raises:
        CheckpointError: a sparse, quantized or meta tensor, or few numbers that stand for very many.
    """
    total = 0
    for key, tensor in state.items():
        kind = _special_kind(tensor)
        if kind:
            raise CheckpointError(
                f"{path}: {key!r:.200} is a {kind} tensor; save plain weights in float32 or 16 bits"
            )
        total += tensor.numel() * tensor.element_size()
    most = max(MIN_WEIGHTS_BYTES, MAX_WEIGHTS_RATIO * path.stat().st_size)
    if total > most:
        raise CheckpointError(
            f"{path}: its tensors would take {total:,} bytes, more than {MAX_WEIGHTS_RATIO} times the file; "
            "save contiguous tensors"
        )
    return state


def _special_kind(tensor: Tensor) -> str:
    if tensor.is_meta:
        return "meta"
    if tensor.is_quantized:
        return "quantized"
    if tensor.layout != torch.strided:
        return "sparse"
    return "nested" if tensor.is_nested else ""


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
    if config.layers > max(len(state), CHEAP_LAYERS):  # each layer has one weight at least
        raise CheckpointError(
            f"{source}: its configuration asks for {config.layers:,} layers, but the file has "
            f"{len(state):,} weights. {guess_kind(set(state))}".rstrip()
        )
    # No memory and no time for weights that are replaced at once.
    cannot_build = f"{source}: no model can be built from its configuration"
    with guarded(lambda error: CheckpointError(f"{cannot_build}: {reason(error)}")), torch.device("meta"):
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
    for key, tensor in state.items():
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"{source}: {key!r} holds {str(tensor.dtype).removeprefix('torch.')} instead of float numbers"
            )
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
        warn_caller(
            "these weights were rounded to 16 bits when the model was loaded in precision 'fast', and are "
            "saved so; load it in precision 'exact' to save them whole",
            RoundedWeightsWarning,
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
        sync_tree(staged)
        for file in staged.iterdir():
            # What a temporary file may keep to itself, a published model may not.
            shutil.copymode(staged / CONFIG_FILE, file)
            os.replace(file, folder / file.name)
        sync_folder(folder)
