"""Activations computed again on the way back instead of kept: memory for time."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

KEPT = 0.7
"""Of what a compiled network would keep for the way back, the share above which it keeps less. It is met by computing
batch norms, activations and their like again, and no convolution."""


@contextlib.contextmanager
def recompute_what_is_compiled() -> Iterator[None]:
    """What torch.compile makes inside, when a network is called for the first time, keeps less for the way back."""
    import torch._functorch.config as functorch

    with functorch.patch(activation_memory_budget=KEPT):
        yield


def recompute(units: Iterable[nn.Module]) -> None:
    """Let each unit keep its input alone, and run again when its gradients are asked for.

    The units draw nothing at random. Batch statistics count once: in the second run nothing is counted. State dicts and
    results do not change.
    """
    for unit in units:
        unit.forward = functools.partial(_checkpointed, unit, unit.forward)


def _checkpointed(unit: nn.Module, forward: Any, *args: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args)
    contexts = functools.partial(_contexts, unit)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def _contexts(unit: nn.Module) -> tuple[Any, Any]:
    return contextlib.nullcontext(), _counting_nothing(unit)


@contextlib.contextmanager
def _counting_nothing(unit: nn.Module) -> Iterator[None]:
    """Batch norm in training as it is, but its running statistics rest: they move by none of the batch's, and a copy of
    the counter counts."""
    norms = [m for m in unit.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter
