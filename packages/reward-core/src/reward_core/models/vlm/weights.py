"""Weights of the vision-language scorers, read tensor by tensor.

The model is built without memory. Each tensor is read, converted and moved to the device before the next one,
so the host needs memory for the weights and the pages of one file, and with a GPU only for the pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import CheckpointError, KeyMismatchError
from ...files.foreign_bytes import guarded, reason
from ..checkpoint import read_state_dict
from ..shard_index import is_index, shard_paths

LM_HEAD = "lm_head.weight"
EMBEDDINGS = "backbone.model.language_model.embed_tokens.weight"
_HEADS = ("rm_head.", "cap_encoder.", "cond_encoder.", "film_gen.")
# Prefixes of published keys -> this package's, the longer ones first. transformers 4.45 has neither "model."
# before "visual." nor "language_model.".
_PREFIXES = (
    ("model.visual.", "backbone.model.visual."),
    ("model.language_model.", "backbone.model.language_model."),
    ("visual.", "backbone.model.visual."),
    ("model.", "backbone.model.language_model."),
)


class WeightFiles:
    """The tensors of one file or of the shards of an index, read when they are needed.

    Args:
        path: a .safetensors, a torch file, or the .index.json of shards in the same folder.
        rename: function from published keys to this package's.

    Attributes:
        files: the files with tensors.
        shapes: key -> shape of every tensor, under this package's keys.

    Raises:
        CheckpointError: a file is missing or damaged, or a tensor is in two files.
    """

    def __init__(self, path: Path, rename: Callable[[str], str] | None = None) -> None:
        self.path, self.rename = path, rename or renamed
        self.files = tuple(shard_paths(path)) if is_index(path.name) else (path,)
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in self.files:
            with _opened(file) as stored:
                for key, tensor in stored.items():
                    if self.rename(key) in self.shapes:
                        raise CheckpointError(f"Cannot load '{path}': {key!r:.200} is in it twice.")
                    self.shapes[self.rename(key)] = tensor.shape

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield keys and tensors, one read after the other. Only one file is open at a time."""
        for file in self.files:
            with _opened(file) as stored:
                for key, tensor in stored.items():
                    with guarded(partial(_damaged, file)):
                        value = tensor.read()
                    yield self.rename(key), value


@dataclass(frozen=True)
class _StoredTensor:
    """A tensor in an open file."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


@contextmanager
def _opened(file: Path) -> Iterator[dict[str, _StoredTensor]]:
    """Open a file and return its tensors, which are not read yet."""
    if not _is_safetensors(file):
        state = read_state_dict(file)  # mapped into memory
        yield {
            key: _StoredTensor(tuple(value.shape), partial(_itself, value)) for key, value in state.items()
        }
        return
    from safetensors import safe_open

    with ExitStack() as stack:
        with guarded(partial(_damaged, file)):
            opened = stack.enter_context(safe_open(file, "pt"))
            shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
        yield {key: _StoredTensor(shape, partial(opened.get_tensor, key)) for key, shape in shapes.items()}


def renamed(key: str) -> str:
    """Return this package's key for a published key; unknown keys stay."""
    if key.startswith(_HEADS):
        return f"head.{key}"
    for published, own in _PREFIXES:
        if key.startswith(published):
            return own + key.removeprefix(published)
    return key


def check_keys(model: nn.Module, weights: WeightFiles) -> None:
    """Raise KeyMismatchError unless the weights match the model exactly.

    The language head must be there, although no score needs it: the authors load it too.
    """
    actual = weights.shapes
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    expected[LM_HEAD] = expected[EMBEDDINGS]
    missing = [key for key in expected if key not in actual]
    unexpected = [key for key in actual if key not in expected]
    shapes = [
        (key, actual[key], shape) for key, shape in expected.items() if key in actual and actual[key] != shape
    ]
    if missing or unexpected or shapes:
        raise KeyMismatchError(str(weights.path), missing, unexpected, shapes)


def assign_weights(
    model: nn.Module, weights: WeightFiles, dtype_of: Callable[[str], torch.dtype], device: torch.device
) -> None:
    """Put the weights into a model on "meta", each in its dtype on the device. The language head is unused.

    Raises:
        CheckpointError: damaged weights, or weights that are not numbers with a fraction.
    """
    for key, tensor in weights.tensors():
        if not tensor.is_floating_point():
            raise CheckpointError(f"Cannot load '{weights.path}': {key!r} holds {tensor.dtype}, not floats.")
        if key == LM_HEAD:
            continue
        owner, _, name = key.rpartition(".")
        value = tensor.to(device=device, dtype=dtype_of(key))
        setattr(model.get_submodule(owner), name, nn.Parameter(value, requires_grad=False))


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _is_safetensors(file: Path) -> bool:
    with guarded(partial(_damaged, file)), file.open("rb") as opened:
        return opened.read(9)[8:] == b"{"


def _damaged(file: Path, error: BaseException) -> CheckpointError:
    return CheckpointError(f"Cannot load '{file}': it is missing, truncated or damaged ({reason(error)}).")
