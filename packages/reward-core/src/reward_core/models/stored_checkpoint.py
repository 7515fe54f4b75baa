"""A torch checkpoint read tensor by tensor from any file that can be sought, such as a part of a tar.

``torch.load(mmap=True)`` needs a path of its own. Here `torch.load(weights_only=True)` runs inside torch's
FakeTensorMode: it unpickles the names, shapes and dtypes, reads no weights, and says where in the file each
storage begins. Classes that the pickle names besides tensors, such as the arguments of a training run, are
replaced by inert ones (pickled_module.py). No code of the file is executed.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from ..errors import CheckpointError
from ..files.foreign_bytes import guarded, reason
from .pickled_module import inert_globals


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        shape, stride, dtype: as in torch.
        position: first byte of the tensor in the file.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    position: int

    @property
    def span(self) -> int:
        """Number of bytes from the first to the last element."""
        if 0 in self.shape:
            return 0
        steps = sum((size - 1) * step for size, step in zip(self.shape, self.stride))
        return (1 + steps) * self.dtype.itemsize


class StoredCheckpoint:
    """The tensors of a file that ``torch.save`` wrote: a state dict, or {"module": state dict, ...}.

    Args:
        file: the file.
        name: its name in errors.

    Attributes:
        tensors: where each tensor is, by key.

    Raises:
        CheckpointError: the file is damaged, has another format, or has other things than tensors.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file, self.name = file, name
        with guarded(self._damaged):
            self.tensors = self._read_places()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by its key."""
        return {key: stored.shape for key, stored in self.tensors.items()}

    def read(self, key: str) -> Tensor:
        """Return a tensor.

        Raises:
            CheckpointError: the file cannot be read.
        """
        stored = self.tensors[key]
        with guarded(self._damaged):
            if not stored.span:
                return torch.empty(stored.shape, dtype=stored.dtype)
            data = bytearray(stored.span)
            self.file.seek(stored.position)
            read = 0
            while count := self.file.readinto(memoryview(data)[read:]):  # type: ignore[attr-defined]
                read += count
            if read < len(data):
                raise EOFError("the file ends within the weights")
            flat = torch.frombuffer(data, dtype=stored.dtype)
            return flat.as_strided(stored.shape, stored.stride).contiguous()

    def _read_places(self) -> dict[str, StoredTensor]:
        from torch._subclasses.fake_tensor import FakeTensorMode

        self.file.seek(0)
        with zipfile.ZipFile(self.file) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("it is compressed; save it again with torch.save")
        self.file.seek(0)
        names = get_unsafe_globals_in_checkpoint(self.file)
        self.file.seek(0)
        with FakeTensorMode(), safe_globals(inert_globals(names)):
            content = torch.load(self.file, weights_only=True)
        if isinstance(content, Mapping) and isinstance(content.get("module"), Mapping):
            content = content["module"]
        if not isinstance(content, Mapping) or not content:
            raise ValueError("it does not contain weights")
        return {str(key): self._place(key, value) for key, value in content.items()}

    def _place(self, key: object, value: object) -> StoredTensor:
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
            raise ValueError(f"{key!r:.200} is not a dense tensor")
        storage = value.untyped_storage()
        begin = storage._checkpoint_offset  # documented in torch's notes on serialization
        if begin is None:
            raise ValueError(f"torch {torch.__version__} does not report the place of {key!r:.200}")
        position = int(begin + value.storage_offset() * value.element_size())
        stored = StoredTensor(tuple(value.shape), tuple(value.stride()), value.dtype, position)
        if position + stored.span > begin + storage.nbytes():
            raise ValueError(f"{key!r:.200} is larger than its data")
        return stored

    def _damaged(self, error: BaseException) -> CheckpointError:
        return CheckpointError(
            f"Cannot load '{self.name}': it is truncated, damaged or not saved by torch ({reason(error)}). "
            "Download it again."
        )
