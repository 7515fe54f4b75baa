"""Checkpoints: read weights safely, load them strictly, save model folders."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from ..errors import CheckpointError, KeyMismatchError, RoundedWeightsWarning
from ..files.atomic_write import sync_folder, sync_tree
from ..files.foreign_bytes import guarded, reason
from ..files.limits import MB, Limit
from ..inputs.tokenizer import PromptTokenizer
from ..network.onednn_linear import use_onednn
from ..runs.caller_warning import warn_caller
from .key_map import guess_kind, rename_keys
from .model_spec import CONFIG_FILE, WEIGHTS_FILE
from .pickled_module import is_pickled_module, read_pickled_module

if TYPE_CHECKING:
    from ..network.config import BlipConfig
    from ..scoring.scoring_model import ScoringModel

M = TypeVar("M", bound="ScoringModel")

# Largest config.json. Usual ones have 5 kB, mostly score quantiles.
MAX_CONFIG_BYTES = Limit("MAX_CONFIG_BYTES", 4 * MB)
# Largest ratio of the size of the weights in memory to the size of their file. Tied weights are read twice.
MAX_WEIGHTS_RATIO = 4
# Size of weights that is allowed for any file. ImageReward-v1.0 has 1.79 GB.
MIN_WEIGHTS_BYTES = 2048 * MB
# Number of layers that is always built: it is fast, and the error about mismatched keys is more helpful.
CHEAP_LAYERS = 100


def read_state_dict(path: Path, pickled_module: bool = False) -> dict[str, Tensor]:
    """Read a safetensors or torch file and rename its keys to this package's.

    The format is detected from the content. Tensors are memory-mapped where the format allows it. Code in
    the file is never executed.

    Args:
        path: the file.
        pickled_module: whether a module that was pickled as a whole is accepted (see pickled_module.py).

    Raises:
        CheckpointError: the file is missing, empty, truncated, a text file, or a pickle with code in it.
    """
    if not path.is_file():
        raise CheckpointError(f"Cannot load '{path}': no such file.")
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise CheckpointError(f"Cannot load '{path}': the file is empty (0 bytes). Download it again.")
    if head[8:9] == b"{":
        return _check_tensors(rename_keys(_read_safetensors(path), str(path)), path)
    if head[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return _check_tensors(rename_keys(_read_torch(path, pickled_module), str(path)), path)
    detail = (
        "it is a Git LFS pointer. Download the file itself"
        if head == b"version https://"
        else f"it begins with {head!r}"
    )
    raise CheckpointError(f"Cannot load '{path}': it is neither a safetensors nor a torch file: {detail}.")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    def damaged(error: BaseException) -> CheckpointError:
        return CheckpointError(
            f"Cannot load '{path}': it is truncated or damaged ({reason(error)}). Download it again."
        )

    with guarded(damaged):
        return load_file(path)


def _read_torch(path: Path, pickled_module: bool) -> object:
    # Only the zip format (torch 1.6 and later) can be memory-mapped, and only by path. The older format is
    # read into memory. torch would read a path that ends in .safetensors as safetensors.
    is_zip = zipfile.is_zipfile(path)
    mmap = is_zip and path.suffix != ".safetensors"

    def refused(error: BaseException) -> CheckpointError:
        text = _first_lines(str(error)) if str(error).strip() else reason(error)
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):  # the name of some code
            return CheckpointError(
                f"Cannot load '{path}': it contains code besides weights. Nothing was loaded and no code was "
                f"executed: {text}"
            )
        return CheckpointError(
            f"Cannot load '{path}': it is truncated, damaged or not saved by torch ({text}). Download it "
            "again."
        )

    with guarded(refused):
        if is_zip:
            _check_not_compressed(path)
        if pickled_module and is_pickled_module(path):
            return read_pickled_module(path)
        with path.open("rb") as file:
            return torch.load(path if mmap else file, map_location="cpu", weights_only=True, mmap=mmap)


def _check_not_compressed(path: Path) -> None:
    """Raise CheckpointError for a torch file that would unpack to more than its size."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > path.stat().st_size:
        raise CheckpointError(
            f"Cannot load '{path}': it is compressed and would unpack to {unpacked:,} bytes. Save it "
            "again with torch.save, which does not compress files."
        )


def _check_tensors(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the weights unchanged after checking that all tensors are dense.

    Raises:
        CheckpointError: a sparse, quantized or meta tensor, or tensors that expand to far more than the file.
    """
    total = 0
    for key, tensor in state.items():
        kind = _special_kind(tensor)
        if kind:
            raise CheckpointError(
                f"Cannot load '{path}': {key!r:.200} is a {kind} tensor. Save dense tensors in float32 or "
                "16 bits."
            )
        total += tensor.numel() * tensor.element_size()
    most = max(MIN_WEIGHTS_BYTES, MAX_WEIGHTS_RATIO * path.stat().st_size)
    if total > most:
        raise CheckpointError(
            f"Cannot load '{path}': its tensors would take {total:,} bytes, more than "
            f"{MAX_WEIGHTS_RATIO} times the file. "
            "Save contiguous tensors."
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
    """Return torch's explanation without its advice to load the file unsafely."""
    text = text.rpartition("WeightsUnpickler error:")[2]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if "nsupported" in line or "GLOBAL" in line]
    return (named or lines or ["unknown reason"])[0][:300]


def build_model(
    model_class: type[M],
    config: BlipConfig,
    state: dict[str, Tensor],
    source: str,
    find_tokenizer: Callable[[], PromptTokenizer],
) -> M:
    """Build a frozen float32 model in evaluation mode with the weights ``state``.

    Args:
        model_class: class of the model.
        config: configuration of the model.
        state: weights; they must match the model exactly.
        source: name of the weights in error messages.
        find_tokenizer: function that returns the tokenizer, downloading it if needed. It is called after the
            weights were checked.

    Raises:
        KeyMismatchError: a key is missing or unexpected or has the wrong shape.
        CheckpointError: the weights were trained with another vocabulary.
    """
    if config.layers > max(len(state), CHEAP_LAYERS):  # each layer has at least one weight
        raise CheckpointError(
            f"Cannot load '{source}': its configuration asks for {config.layers:,} layers, but the file has "
            f"{len(state):,} weights. {guess_kind(set(state))}".rstrip()
        )
    # On "meta" no memory and time is spent on weights that are replaced below.
    cannot_build = f"Cannot build the model of '{source}' from its configuration"
    with guarded(lambda error: CheckpointError(f"{cannot_build}: {reason(error)}.")), torch.device("meta"):
        model = model_class(config, None)
    expected = model.state_dict()
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    shapes = [
        (key, tuple(state[key].shape), tuple(tensor.shape))
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    if missing or unexpected or shapes:
        raise KeyMismatchError(source, missing, unexpected, shapes, guess_kind(set(state)))
    for key, tensor in state.items():
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"Cannot load '{source}': {key!r} holds {str(tensor.dtype).removeprefix('torch.')} instead "
                "of float numbers."
            )
    model.tokenizer = find_tokenizer()
    # With the wrong vocabulary every id would mean another word, and scores would be silently wrong.
    size = model.tokenizer.fast_tokenizer.get_vocab_size()
    if size != config.vocab_size:
        raise CheckpointError(
            f"Cannot load '{source}': the model has {config.vocab_size} tokens, but its tokenizer has "
            f"{size}. "
            "Put the model's vocab.txt or tokenizer.json in its folder."
        )
    model.load_state_dict({key: tensor.float() for key, tensor in state.items()}, assign=True)
    use_onednn(model)
    return model.eval().requires_grad_(False)


def share_weights(model: M, config: Any) -> M:
    """Return a model with another configuration of the same sizes that shares all weights of ``model``."""
    with torch.device("meta"):
        other = type(model)(config, model.tokenizer)
    for parameter, shared in zip(other.parameters(), model.parameters()):
        parameter.requires_grad_(shared.requires_grad)  # loading sets it on the shared parameter
    other.load_state_dict(model.state_dict(keep_vars=True), assign=True)
    use_onednn(other)
    other.fast, other.source = model.fast, model.source
    return other.to(model.device).train(model.training)


def save_folder(model: ScoringModel, folder: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer files to ``folder``.

    Each file is written atomically, and other files in the folder stay. A RoundedWeightsWarning is issued if
    the model was loaded in 16 bits, because the saved weights are then rounded.
    """
    from safetensors.torch import save_file

    if model.fast and any(parameter.dtype.itemsize < 4 for parameter in model.parameters()):
        warn_caller(
            "The saved weights are rounded to 16 bits, because the model was loaded with precision 'fast'. "
            "Load it with precision 'exact' to save exact weights.",
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
            # Temporary files are private, but a saved model has the usual permissions.
            shutil.copymode(staged / CONFIG_FILE, file)
            os.replace(file, folder / file.name)
        sync_folder(folder)
