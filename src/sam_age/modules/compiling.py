"""Which networks of a step torch.compile takes, and how they are without it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from sam_age.errors import InputError
from sam_age.models.encoder import GradualStyleEncoder

COMPILED = ("generator", "encoders", "judges")
"""What `AgingModule.compiled` can name."""


def compile_encoder(encoder: GradualStyleEncoder, **options: Any) -> None:
    """torch.compile for an encoder, in place: what comes before its towers as one, and each tower by itself, so that
    they can run side by side.

    options: `compile_options`.
    """
    encoder.tower_maps = torch.compile(encoder.tower_maps, **options)
    for tower in encoder.styles:
        tower.compile(**options)


@contextlib.contextmanager
def as_written(*networks: nn.Module | None) -> Iterator[None]:
    """Networks without what torch.compile made of them, of their layers, or of their `features` or `tower_maps`."""
    compiled: list[tuple[nn.Module, str, Any]] = []
    for layer in (layer for network in filter(None, networks) for layer in network.modules()):
        if layer._compiled_call_impl is not None:  # of `nn.Module.compile`
            compiled.append((layer, "_compiled_call_impl", layer._compiled_call_impl))
            layer._compiled_call_impl = None
        for name in ("features", "tower_maps"):  # of torch.compile
            made = vars(layer).get(name)
            if hasattr(made, "_torchdynamo_orig_callable"):
                compiled.append((layer, name, made))
                setattr(layer, name, made._torchdynamo_orig_callable)
    try:
        yield
    finally:
        for layer, name, made in compiled:
            setattr(layer, name, made)


def parts_to_compile(compiled: bool | str | Sequence[str]) -> tuple[str, ...]:
    """`module.compiled` as names of `COMPILED`.

    Raises:
        InputError: another name.
    """
    if isinstance(compiled, bool):
        return ("generator",) if compiled else ()
    names = (compiled,) if isinstance(compiled, str) else tuple(compiled)
    if unknown := [name for name in names if name not in COMPILED]:
        raise InputError(f"module.compiled is true, false or some of [{', '.join(COMPILED)}], not {unknown[0]!r}.")
    return names
