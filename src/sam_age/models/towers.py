"""The encoder's towers on GPUs, in half precision: those that read one map together, and not one after another.

A pSp encoder of 1024 pixels has 18 towers of 4 to 6 strided convolutions each, with 2.4 M weights a layer. Their last
maps have 64 pixels and fewer: one such convolution keeps a few of a GPU's multiprocessors busy, and 18 of them take 18
times as long. Here a layer of all towers on one map is one product: the first, whose input they share, a convolution
with the channels of all; where maps are small, a batched matrix product of their neighbourhoods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sam_age.models.convolve import takes_second_gradients

if TYPE_CHECKING:
    from sam_age.models.encoder import MapToStyle

SMALL = 2048
"""Pixels of all pictures of a layer's output up to which towers are joined. Beyond, each all but fills a GPU for itself
(a program of cuDNN's makes 128 x 128 numbers: 16 x 4 of them at 512 channels), and copies of maps cost more."""


def serves(x: Tensor) -> bool:
    """Whether towers on the map x are to be joined: on GPUs in half precision, where nothing else looks on.

    In float32 PyTorch multiplies matrices more precisely than it convolves (TF32 is off for the one and on for the
    other), and so more slowly.
    """
    if x.device.type != "cuda" or _exporting() or torch.jit.is_tracing() or takes_second_gradients():
        return False
    return _dtype(x) in (torch.bfloat16, torch.float16)


def _exporting() -> bool:
    if hasattr(torch.compiler, "is_exporting"):  # torch 2.7 and later
        return torch.compiler.is_exporting()
    return torch.compiler.is_compiling()


def _dtype(x: Tensor) -> torch.dtype:
    """What convolutions of x compute in."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def read(towers: Sequence[MapToStyle], x: Tensor, small: int = SMALL) -> Tensor:
    """What each tower's convolutions make of the map x: (N, C, S, S) -> (T, N, width)."""
    x, slope = x.to(_dtype(x)), towers[0].convs[1].negative_slope
    weight, bias = _joined(towers, 0, x.dtype)
    wide = F.conv2d(x, weight.flatten(0, 1).permute(0, 3, 1, 2), bias.flatten(), stride=2, padding=1)
    wide = F.leaky_relu(wide, slope, inplace=True)
    maps = wide.permute(0, 2, 3, 1).unflatten(3, bias.shape).permute(3, 0, 1, 2, 4)  # (T, N, S / 2, S / 2, width)
    for layer in range(2, len(towers[0].convs), 2):
        count, side = maps.shape[1:3]
        if count * (side // 2) ** 2 > small:
            each = zip(towers, maps.unbind(), strict=True)
            made = [F.leaky_relu(tower.convs[layer](one.permute(0, 3, 1, 2)), slope) for tower, one in each]
            maps = torch.stack([one.permute(0, 2, 3, 1) for one in made])
        else:
            maps = _Shrink.apply(maps, *_joined(towers, layer, x.dtype), slope)
    return maps.flatten(2)


def style(towers: Sequence[MapToStyle], read: Tensor) -> Tensor:
    """The towers' linear layers, at the precision of their weights: (T, N, width) -> (N, T, style_dim)."""
    linears = [tower.linear for tower in towers]
    weight, bias = (torch.stack([getattr(linear, name) for linear in linears]) for name in ("weight", "bias"))
    with torch.autocast(read.device.type, enabled=False):
        made = torch.bmm(read.to(weight.dtype), (weight * linears[0].scale).transpose(1, 2))
        return (made + (bias * linears[0].lr_mul)[:, None]).transpose(0, 1).contiguous()


def _joined(towers: Sequence[MapToStyle], layer: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """One layer's weights (T, O, 3, 3, I) and biases (T, O)."""
    convolutions = [tower.convs[layer] for tower in towers]
    weight = _Stack.apply(dtype, *(convolution.weight for convolution in convolutions))
    return weight, torch.stack([convolution.bias for convolution in convolutions]).to(dtype)


class _Stack(torch.autograd.Function):
    """Weights (O, I, 3, 3), cast and laid out with their inputs innermost, in one pass; (T, O, 3, 3, I)."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> Tensor:
        outputs, inputs, *kernel = weights[0].shape
        made = weights[0].new_empty((len(weights), outputs, *kernel, inputs), dtype=dtype)
        torch._foreach_copy_([one.permute(0, 3, 1, 2) for one in made.unbind()], list(weights))
        ctx.dtype = weights[0].dtype
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_made: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(one.permute(0, 3, 1, 2) for one in of_made.to(ctx.dtype).unbind())


class _Shrink(torch.autograd.Function):
    """A 3x3 convolution of stride 2 and a leaky ReLU, for each of T maps with its own weights.

    maps (T, N, S, S, I) in any layout, weight (T, O, 3, 3, I), bias (T, O) -> (T, N, S / 2, S / 2, O).
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
        made = torch.bmm(_neighbourhoods(maps), weight.flatten(2).transpose(1, 2))
        made = F.leaky_relu(made.add_(bias[:, None]), slope, inplace=True)
        count, side = maps.shape[1:3]
        made = made.view(len(maps), count, side // 2, side // 2, -1)
        ctx.save_for_backward(maps, weight, made)  # whose sign is that of what the activation was given
        ctx.slope = slope
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_made: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight, made = ctx.saved_tensors
        of_made = torch.ops.aten.leaky_relu_backward(of_made, made, ctx.slope, True).flatten(1, 3)
        of_maps = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_maps = _put_back(torch.bmm(of_made, weight.flatten(2)), maps)
        if ctx.needs_input_grad[1]:
            of_weight = torch.bmm(of_made.transpose(1, 2), _neighbourhoods(maps)).view_as(weight)
        if ctx.needs_input_grad[2]:
            of_bias = of_made.sum(1)
        return of_maps, of_weight, of_bias, None


def _neighbourhoods(maps: Tensor) -> Tensor:
    """What a 3x3 kernel of stride 2 sees, zeros around the map: (T, N, S, S, C) -> (T, N S/2 S/2, 9 C)."""
    towers, count, side, _, channels = maps.shape
    padded = F.pad(maps, (0, 0, 1, 0, 1, 0)).contiguous()  # an even map needs nothing below and to the right
    tower, picture, row, column, channel = padded.stride()
    half = side // 2
    seen = padded.as_strided(
        (towers, count, half, half, 3, 3, channels), (tower, picture, 2 * row, 2 * column, row, column, channel)
    )
    return seen.reshape(towers, count * half * half, 9 * channels)


def _put_back(of_seen: Tensor, maps: Tensor) -> Tensor:
    """The gradient of `_neighbourhoods`, laid out as the maps are; it adds up within of_seen.

    An even row is seen by the kernel's middle, an odd one by the last row of its kernel and the first of the next.
    """
    towers, count, side, _, channels = maps.shape
    half = side // 2
    seen = of_seen.view(towers, count, half, half, 3, 3, channels)
    seen[:, :, :-1, :, 2] += seen[:, :, 1:, :, 0]
    seen[:, :, :, :-1, 1:, 2] += seen[:, :, :, 1:, 1:, 0]
    of_maps = torch.empty_like(maps)
    phases = of_maps.unflatten(3, (half, 2)).unflatten(2, (half, 2))  # rows: (half, 2), columns: (half, 2)
    phases.copy_(seen[..., 1:, 1:, :].permute(0, 1, 2, 4, 3, 5, 6))
    return of_maps
