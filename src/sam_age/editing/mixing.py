"""Style mixing: some layers of a code from another one.

The first styles of a w+ steer pose and shape, the last ones colour and texture, so that a face keeps its age and form
and takes the look of another where only the fine layers are exchanged.

Source: the authors' scripts for style mixing (random styles) and for reference-guided inference. They exchange layers
8 to 17 of 18 and draw the generator's noise anew; here it is the stored noise, as in all other inference.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from sam_age.errors import InputError
from sam_age.models.stylegan2 import Generator

FINE_FROM = 8
"""First of the layers that the authors exchange: from 64 pixels up."""

Layers = str | int | Iterable[int] | None
"""Which styles: a number or several; "8-17" or "4,5,8-11"; "coarse", "middle", "fine" or "all"; None is "fine"."""


def layers_of(layers: Layers, n_styles: int) -> list[int]:
    """The numbers of the layers meant, each once, in order.

    "coarse" is 0 to 2, "middle" 3 to 7 and "fine" 8 and up, as the authors mix; of codes with fewer than 12 styles,
    fine is the later half.

    Raises:
        InputError: no such layer, or none at all.

    >>> layers_of("fine", 18)
    [8, 9, 10, 11, 12, 13, 14, 15, 16, 17]
    >>> layers_of("0, 4-6", 18), layers_of(9, 18)
    ([0, 4, 5, 6], [9])
    """
    fine = FINE_FROM if n_styles >= 12 else n_styles // 2
    named = {"coarse": range(min(3, fine)), "middle": range(3, fine), "fine": range(fine, n_styles)}
    named["all"] = range(n_styles)
    if layers is None:
        layers = "fine"
    try:
        if isinstance(layers, int):  # mode.layers=9 of a command line
            chosen = {layers}
        elif not isinstance(layers, str):
            chosen = {int(layer) for layer in layers}
        elif layers in named:
            chosen = set(named[layers])
        else:
            chosen = {number for part in layers.split(",") for number in _span(part)}
    except (TypeError, ValueError):
        raise InputError(f"layers is {', '.join(named)}, numbers, or spans such as 8-13; found {layers!r}.") from None
    if not chosen or min(chosen) < 0 or max(chosen) >= n_styles:
        raise InputError(f"A code of this model has the layers 0 to {n_styles - 1}; layers={layers!r} asks for others.")
    return sorted(chosen)


def _span(part: str) -> range:
    first, dash, last = part.partition("-")
    return range(int(first), int(last if dash else first) + 1)


def mix(w_plus: Tensor, other: Tensor, layers: Layers = None, alpha: float = 1.0) -> Tensor:
    """Codes with some layers from others: alpha times the other's, 1 - alpha times their own.

    Args:
        w_plus: (..., n_styles, D), e.g. aged codes.
        other: the same shape or one that broadcasts: what to take; `AgingPipeline.encode(reference)` for a reference.
        layers: see `Layers`.
        alpha: share of the other, 0 to 1.
    Returns:
        A tensor of its own; layers that are not named are those of `w_plus`, bit for bit.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is the other style's share, from 0 to 1, not {alpha}.")
    if w_plus.shape[-2:] != other.shape[-2:]:
        raise InputError(
            f"These codes are of different models: {tuple(w_plus.shape[-2:])} and {tuple(other.shape[-2:])} "
            "(styles, dimensions): make both with the same one."
        )
    chosen = layers_of(layers, w_plus.shape[-2])
    shape = torch.broadcast_shapes(w_plus.shape, other.shape)
    mixed = w_plus.expand(shape).clone()  # the authors write into the caller's tensor
    mixed[..., chosen, :] = alpha * other[..., chosen, :] + (1 - alpha) * mixed[..., chosen, :]
    return mixed


@torch.no_grad()
def random_styles(generator: Generator, count: int, seed: int = 0, truncation: float = 1.0) -> Tensor:
    """Codes (count, n_styles, D) of styles that the generator's mapping makes of random numbers.

    The k-th depends on the seed and k alone, however many are drawn. truncation: 1 as drawn (the authors), towards 0
    ever closer to the average.
    """
    if count < 1:
        raise InputError(f"The number of random styles is 1 or more, not {count}.")
    draws = torch.Generator().manual_seed(seed)
    z = torch.stack([torch.randn(generator.style_dim, generator=draws) for _ in range(count)])
    weight = generator.input.input
    w = generator.mapping(z.to(weight))
    if truncation != 1:
        centre = generator.latent_avg
        w = centre + truncation * (w - centre)
    return w[:, None].expand(-1, generator.n_latent, -1).clone()
