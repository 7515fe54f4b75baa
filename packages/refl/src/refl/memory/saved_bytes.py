"""Bytes of the tensors that autograd saves, counted on the "meta" device without computing anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..fast_steps.other_tensors import call_with


class SavedBytes:
    """Bytes of the tensors that autograd saves; shared storage counts once, that of weights never.

    Args:
        weights: tensors that do not count.

    Attributes:
        bytes: bytes of the tensors, without those of recomputed blocks.
        largest_block: bytes of the largest recomputed block, without its inputs.
    """

    def __init__(self, weights: Iterable[Tensor] = ()):
        self.bytes = self.largest_block = 0.0
        self.storages: dict[int, Any] = {}  # holds storages, so that none is freed and counted twice
        self.graphs: list[Any] = []
        self.ignore(weights)

    def ignore(self, weights: Iterable[Tensor]) -> None:
        """Do not count these tensors."""
        for storage in (weight.untyped_storage() for weight in weights):
            self.storages[storage._cdata] = storage

    def add(self, tensor: Tensor) -> Tensor:
        """Count a tensor; return it."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.storages:
            self.storages[storage._cdata] = storage
            self.bytes += storage.nbytes()
        return tensor

    def block(
        self, block: Callable[..., Any], *inputs: Any, use_reentrant: bool = False, **options: Any
    ) -> Any:
        """Call a block that is recomputed in the backward pass: only its inputs count in ``bytes``."""
        for value in (*inputs, *options.values()):
            if isinstance(value, Tensor):
                self.add(value)
        inner = SavedBytes()
        inner.storages |= self.storages
        with inner.hooks():
            result = block(*inputs, **options)
        self.graphs += [inner, result]
        self.largest_block = max(self.largest_block, inner.bytes)
        return result

    def hooks(self) -> Any:
        """Return the context in which saved tensors are counted."""
        return torch.autograd.graph.saved_tensors_hooks(self.add, lambda tensor: tensor)


def on_meta(module: nn.Module, call: Callable[[], Any], saved: SavedBytes) -> None:
    """Call a function that uses the module, with meta tensors as the module's parameters and buffers."""
    tensors = {}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        meta = torch.empty_like(tensor, device="meta")
        tensors[name] = nn.Parameter(meta, tensor.requires_grad) if tensor.is_floating_point() else meta
    saved.ignore(tensors.values())
    with torch.enable_grad(), torch.compiler.set_stance("force_eager"), saved.hooks():
        saved.graphs.append(call_with(module, tensors, call))


@contextmanager
def recorded_blocks(denoiser: nn.Module, saved: SavedBytes) -> Iterator[None]:
    """Count the blocks that a denoiser recomputes as such (see ``SavedBytes.block``)."""
    changed = [m for m in denoiser.modules() if getattr(m, "gradient_checkpointing", False)]
    before = [module._gradient_checkpointing_func for module in changed]
    for module in changed:
        module._gradient_checkpointing_func = saved.block  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, function in zip(changed, before):
            module._gradient_checkpointing_func = function


class _Attention(torch.autograd.Function):
    """Attention as GPU kernels do it: keeps queries, keys, values and the result, but no weights."""

    @staticmethod
    def forward(context: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        result = q.new_empty(*q.shape[:-1], v.shape[-1])
        context.save_for_backward(q, k, v, result)
        return result


class MetaAutocast(TorchFunctionMode):
    """Autocast for meta tensors: linear layers in half precision, norms in float32."""

    def __init__(self, half: torch.dtype):
        super().__init__()
        self.half = half

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        is_attention = function is F.scaled_dot_product_attention
        if is_attention or function in (F.linear, F.conv2d, torch.matmul, torch.bmm, torch.baddbmm):
            args, kwargs = (
                self._cast(args, self.half),
                {k: self._cast([v], self.half)[0] for k, v in kwargs.items()},
            )
        elif function in (F.group_norm, F.layer_norm) and self.half != torch.float32:
            args = self._cast(args, torch.float32)
        if is_attention:
            names = ("query", "key", "value")
            given = [*args, *(kwargs[name] for name in names[len(args) :])]
            return _Attention.apply(*given[:3])
        return function(*args, **kwargs)

    @staticmethod
    def _cast(values: Iterable[Any], dtype: torch.dtype) -> list[Any]:
        return [v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for v in values]
