"""Frozen weights in autocast's dtype: made once, instead of at every call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


class CastOnce:
    """Copies of the weights of frozen convolutions and linear layers, for the time of a step.

    Autocast casts these weights at every call, and a recorded step cannot use its cache. The copies are what it would
    make, so results are the same to the bit. Other layers, such as normalisations, keep their float32. Outside of
    `in_use` the networks are as they were: what looks at them or saves them finds float32.

    Args:
        networks: None among them is skipped; so is what takes gradients.
        dtype: what autocast casts to.
    """

    LAYERS = (nn.Conv2d, nn.Linear)

    def __init__(self, networks: Iterable[nn.Module | None], dtype: torch.dtype) -> None:
        found: dict[int, nn.Parameter] = {}
        for network in networks:
            for layer in network.modules() if network is not None else ():
                if isinstance(layer, self.LAYERS):
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
