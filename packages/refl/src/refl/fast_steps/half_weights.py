"""Gradient steps that read their weights in half precision, if all weights are trained."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..dtypes import cast_by_autocast
from ..families import Family
from ..gradients import buckets
from .no_grad_copy import NoGradCopy

CHUNK_BYTES = 512 * 2**20

Pair = tuple[Tensor, nn.Parameter]
"""(weight in half precision, trained parameter)"""


class HalfWeights:
    """A denoiser for gradient steps whose matrices and kernels are in half precision.

    Under autocast, every pass casts the float32 weights of linear layers and convolutions, and keeps the
    results for the backward pass. The copy for the steps without gradient holds the same numbers. This
    denoiser shares them with the copy, and all other weights with the trained denoiser. It computes what
    autocast computes. Its shared weights get gradients in half precision, the dtype in which autocast
    computes them too.

    Args:
        copy: copy for the steps without gradient in the dtype of autocast, to be refreshed before a gradient
            step.
        parameters: name within the denoiser -> trained parameter, float32.
        keep: returns whether gradients stay in half precision until ``step``; otherwise each is added to that
            of the trained parameter at once.

    Attributes:
        family: the family with that denoiser; everything else is shared.
        parameters: name within the denoiser -> the parameter that gets a gradient.
        pairs: (weight in half precision, trained parameter) of each shared weight.
    """

    def __init__(
        self, copy: NoGradCopy, parameters: Mapping[str, nn.Parameter], keep: Callable[[], bool] = bool
    ):
        halves = dict(copy.module.named_parameters())
        cast = cast_by_autocast(copy.trained.denoiser)
        self.parameters = {
            name: nn.Parameter(halves[name].detach()) if name in cast else parameter
            for name, parameter in parameters.items()
        }
        self.pairs = [(self.parameters[name], p) for name, p in parameters.items() if name in cast]
        self.family = self._family_of(copy.trained)
        self.keep = keep
        # Python's garbage collector does not see through hooks of tensors.
        weights = weakref.ref(self)

        def arrived(parameter: nn.Parameter, half: Tensor) -> None:
            owner = weights()
            if owner is not None and not owner.keep():
                owner.add_gradients([(half, parameter)])

        for half, parameter in self.pairs:
            half.register_post_accumulate_grad_hook(partial(arrived, parameter))

    def _family_of(self, trained: Family) -> Family:
        # deepcopy takes weights from here and copies none.
        weights: dict[int, Any] = {
            id(parameter): self.parameters.get(name, parameter)
            for name, parameter in trained.denoiser.named_parameters()
        }
        family = copy.copy(trained)
        family.pipeline = copy.copy(trained.pipeline)
        family.denoiser = copy.deepcopy(trained.denoiser, weights)
        family.input_dtype = trained.input_dtype
        return family

    @torch.no_grad()
    def add_gradients(self, pairs: Iterable[Pair] | None = None) -> None:
        """Add the gradients to those of the trained parameters, in float32, and drop them.

        Args:
            pairs: some of ``pairs``; None: all.
        """
        for half, parameter in self.pairs if pairs is None else pairs:
            if half.grad is None:
                continue
            if parameter.grad is None:  # with the strides of the parameter, which fused optimizers need
                parameter.grad = torch.empty_like(parameter).copy_(half.grad)
            else:
                parameter.grad += half.grad
            half.grad = None

    def drop_gradients(self) -> None:
        """Drop the gradients of the weights in half precision."""
        for half, _ in self.pairs:
            half.grad = None

    def gradient_norm(self) -> Tensor:
        """Return the global norm of the gradients, a float32 scalar."""
        norms: list[Tensor] = []
        for of_pairs in (True, False):
            gradients = [p.grad for p in self._with_gradient(of_pairs) if p.grad is not None]
            if gradients:
                norms += torch._foreach_norm(gradients, 2, torch.float32)
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())

    @torch.no_grad()
    def step(self, optimizer: Any, scale: Tensor) -> None:
        """Take an optimizer step without having all gradients in float32 at once.

        Args:
            optimizer: optimizer of the trained parameters, which is called for some of them at a time.
            scale: scalar to multiply the gradients by.
        """
        self._step(optimizer, self._with_gradient(of_pairs=False), scale)
        pairs = {id(parameter): (half, parameter) for half, parameter in self.pairs if half.grad is not None}
        for chunk in buckets((parameter for _, parameter in pairs.values()), CHUNK_BYTES):
            self.add_gradients(pairs[id(parameter)] for parameter in chunk)
            self._step(optimizer, chunk, scale)

    def _with_gradient(self, of_pairs: bool) -> list[nn.Parameter]:
        """Return the weights in half precision, or all others, that have a gradient."""
        halves = {id(half) for half, _ in self.pairs}
        return [p for p in self.parameters.values() if p.grad is not None and (id(p) in halves) == of_pairs]

    @staticmethod
    def _step(optimizer: Any, parameters: list[nn.Parameter], scale: Tensor) -> None:
        if parameters:
            torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], scale)
            optimizer.step()
            for parameter in parameters:
                parameter.grad = None
