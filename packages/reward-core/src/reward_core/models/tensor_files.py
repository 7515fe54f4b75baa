"""Weights that are read tensor by tensor: safetensors, their shards, torch files, pieces of a tar.

The host needs memory for one tensor, and the device for the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, KeyMismatchError
from ..files.foreign_bytes import guarded, reason
from ..files.joined_files import pieces_of
from .sat_archive import SatArchive
from .shard_index import is_index, shard_paths
from .stored_checkpoint import StoredCheckpoint

PIECES = "split_part_*"  # pieces of the tar that the authors of VisionReward publish


class TensorSource(Protocol):
    """Weights that can be read one by one.

    Attributes:
        shapes: shape of every tensor by its published key.
    """

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def read(self, key: str) -> Tensor: ...


def open_tensors(path: Path) -> TensorSource:
    """Open the weights of a file, of the shards of an index, or of the pieces of a tar.

    Raises:
        CheckpointError: a file is missing or damaged, or has another format.
    """
    if path.match(PIECES):
        return SatArchive(path).weights
    if path.suffix == ".safetensors" or is_index(path.name):
        return SafetensorsFiles(path)
    try:
        return StoredCheckpoint(path.open("rb"), str(path))
    except OSError as error:
        raise _damaged(path, error) from error


def files_of(path: Path) -> list[Path]:
    """Return the files with weights that a path stands for: itself, the shards of an index, or the pieces."""
    if path.match(PIECES):
        return pieces_of(path)
    return shard_paths(path) if is_index(path.name) else [path]


class SafetensorsFiles:
    """The tensors of a .safetensors file, or of the shards of an .index.json in the same folder.

    Attributes:
        files: key -> file of the tensor.
    """

    def __init__(self, path: Path) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.files: dict[str, Path] = {}
        self._opened: tuple[Path, Any] | None = None
        for file in files_of(path):
            with guarded(partial(_damaged, file)):
                opened = self._open(file)
                shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
            if twice := set(shapes) & set(self.shapes):
                raise CheckpointError(f"Cannot load '{path}': {min(twice)!r:.200} is in it twice.")
            self.shapes |= shapes
            self.files |= dict.fromkeys(shapes, file)

    def read(self, key: str) -> Tensor:
        """Return a tensor."""
        with guarded(partial(_damaged, self.files[key])):
            return self._open(self.files[key]).get_tensor(key)

    def _open(self, file: Path) -> Any:
        """Return an open file. Only the last one stays open, because its pages are mapped into memory."""
        from safetensors import safe_open

        if self._opened is None or self._opened[0] != file:
            self._opened = file, safe_open(file, "pt")
        return self._opened[1]


def assign_tensors(
    model: nn.Module,
    source: TensorSource,
    own_keys: Mapping[str, str],
    name: str,
    dtype_of: Callable[[str], torch.dtype],
    device: torch.device,
) -> None:
    """Put weights into a model on "meta", each in its dtype on the device.

    Args:
        model: the model.
        source: the weights.
        own_keys: published key -> key of the model, of every tensor.
        name: path of the weights in errors.
        dtype_of: function from a key of the model to the dtype of the weight.
        device: the device.

    Raises:
        KeyMismatchError: a key is missing or has the wrong shape.
        CheckpointError: weights that are damaged, or not numbers with a fraction.
    """
    check_shapes(model, source.shapes, own_keys, name)
    for key, own in own_keys.items():
        tensor = source.read(key)
        if not tensor.is_floating_point():
            raise CheckpointError(f"Cannot load '{name}': {key!r} holds {tensor.dtype}, not floats.")
        owner, _, attribute = own.rpartition(".")
        value = tensor.to(device=device, dtype=dtype_of(own))
        setattr(model.get_submodule(owner), attribute, nn.Parameter(value, requires_grad=False))


def check_shapes(
    model: nn.Module, shapes: Mapping[str, tuple[int, ...]], own_keys: Mapping[str, str], name: str
) -> None:
    """Raise KeyMismatchError unless the tensors at ``own_keys`` are exactly the weights of a model."""
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    actual = {own: shapes[key] for key, own in own_keys.items() if key in shapes}
    missing = [key for key in expected if key not in actual]
    unexpected = [key for key in actual if key not in expected]
    both = [key for key in expected if key in actual]
    wrong = [(key, actual[key], expected[key]) for key in both if actual[key] != expected[key]]
    if missing or unexpected or wrong:
        raise KeyMismatchError(name, missing, unexpected, wrong)


def _damaged(file: Path, error: BaseException) -> CheckpointError:
    return CheckpointError(f"Cannot load '{file}': it is missing, truncated or damaged ({reason(error)}).")
