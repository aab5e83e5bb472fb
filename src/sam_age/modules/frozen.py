"""Weights in autocast's dtype: made once, instead of at every call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

LAYERS = (nn.Conv2d, nn.Linear)
"""Whose weights autocast casts."""


class CastOnce:
    """Copies of the weights of frozen convolutions and linear layers, for the time of a step.

    Autocast casts these weights at every call, and a recorded step cannot use its cache. The copies are what it would
    make, so results are the same to the bit. Other layers, such as normalisations, keep their float32. Outside of
    `in_use` the networks are as they were: what looks at them or saves them finds float32.

    Args:
        networks: None among them is skipped; so is what takes gradients.
        dtype: what autocast casts to.
    """

    def __init__(self, networks: Iterable[nn.Module | None], dtype: torch.dtype) -> None:
        found: dict[int, nn.Parameter] = {}
        for network in networks:
            for layer in network.modules() if network is not None else ():
                if isinstance(layer, LAYERS):
                    found |= {id(p): p for p in layer.parameters(recurse=False) if not p.requires_grad}
        self.parameters = [p for p in found.values() if p.dtype == torch.float32]
        self.copies: list[Tensor] = [parameter.detach().to(dtype) for parameter in self.parameters]

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """The networks with the copies in them; whatever is computed and its backward pass belong inside."""
        whole = [parameter.data for parameter in self.parameters]
        self._put(self.copies)
        try:
            yield
        finally:
            self._put(whole)

    def _put(self, tensors: list[Tensor]) -> None:
        for parameter, tensor in zip(self.parameters, tensors, strict=True):
            parameter.data = tensor


class CastForAStep:
    """Copies of a network's weights that learn, for the time of a step, which casts them once for all its passes.

    The passes' gradients are added up in the copies' type, where autocast adds them in float32 (one rounding more), and
    go to the weights once. Other parameters take their gradients as always. Between two passes `set_aside` keeps what
    the first one left, so that both are added in one launch, and not weight by weight.

    Args:
        network: whose convolutions and linear layers learn.
        dtype: what autocast casts to.
        halves: the weights' gradients stay in that type, for an optimizer that takes them so; else they are float32.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype, *, halves: bool = False) -> None:
        found = [
            (layer, name, weight)
            for layer in network.modules()
            if isinstance(layer, LAYERS)
            for name, weight in layer.named_parameters(recurse=False)
            if weight.requires_grad and weight.dtype == torch.float32
        ]
        self.dtype, self.halves = dtype, halves
        self.places = [(layer, name) for layer, name, _ in found]
        self.weights = [weight for _, _, weight in found]
        self.copies = [nn.Parameter(weight.detach().to(dtype)) for weight in self.weights]
        self.left: dict[int, Tensor] = {}
        self.end()  # of a run that was broken off

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """The network with the copies in it. At the end the gradients that they were left are the weights', whose own,
        zeros if there are any, are written over."""
        with torch.no_grad():
            torch._foreach_copy_(self.copies, self.weights)
        self._put(self.copies)
        try:
            yield
            self.set_aside()
        finally:
            self._put(self.weights)
            left, self.left = self.left, {}
            for copy in self.copies:
                copy.grad = None  # of a step that failed
        if self.halves:
            for number, gradient in left.items():
                if self.weights[number].grad is None:
                    self.weights[number].grad_dtype = self.dtype
                    self.weights[number].grad = gradient
        elif left:
            for weight in (self.weights[number] for number in left):
                weight.grad = torch.empty_like(weight) if weight.grad is None else weight.grad
            torch._foreach_copy_([self.weights[number].grad for number in left], list(left.values()))

    def set_aside(self) -> None:
        """Take the copies' gradients from them, and add them to those that were taken before."""
        found = {number: copy.grad for number, copy in enumerate(self.copies) if copy.grad is not None}
        for copy in self.copies:
            copy.grad = None
        both = [number for number in found if number in self.left]
        if both:
            torch._foreach_add_([self.left[number] for number in both], [found[number] for number in both])
        first = {number: gradient for number, gradient in found.items() if number not in self.left}
        if self.halves:  # where the weights have room for them they go there at once, and none is held twice
            room = {number: self.weights[number].grad for number in first if self.weights[number].grad is not None}
            if room:
                torch._foreach_copy_(list(room.values()), [first[number] for number in room])
            first |= room
        self.left |= first

    def end(self) -> None:
        """Weights take float32 gradients again; those that they have in half precision are dropped."""
        for weight in self.weights:
            if getattr(weight, "grad_dtype", weight.dtype) != weight.dtype:
                weight.grad = None
                weight.grad_dtype = weight.dtype

    def _put(self, tensors: list[nn.Parameter]) -> None:
        for (layer, name), tensor in zip(self.places, tensors, strict=True):
            layer._parameters[name] = tensor
