"""The kernels as functions of tensors: shapes of programs, and nothing else.

How much a program does is fixed here, by the size of the map alone: nothing is tuned as it runs, so that all of it can
be recorded as a CUDA graph. `python -m benchmarks.generator --parts tiles` tries others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sam_age.models.fused import kernels

LAST = torch.channels_last


@dataclass
class Tiles:
    """How much one program does. With four warps, 1024 numbers are eight a thread: 16 bytes of bfloat16."""

    widest: int = 64  # channels of a block
    elements: int = 4096  # pixels x channels of a block
    warps: int = 4
    back_elements: int = 2048  # the same on the way back, where there are sums to carry
    back_warps: int = 4
    chunk: int = 32  # blocks of one program on the way back: more of them, fewer parts of sums
    stages: int = 4  # of its loop: 2 and more read ahead, into shared memory
    rows: int = 32  # that a program with a filter walks down
    filtered: int = 2048  # columns x channels that it walks with
    filter_warps: int = 4
    back_filtered: int = 1024
    back_filter_warps: int = 4


tiles = Tiles()


@dataclass(frozen=True)
class Layer:
    """What an epilogue applies besides styles: frozen, float32 unless said otherwise."""

    channels: int
    strength: Tensor  # (1,) of the noise
    bias: Tensor  # (C,)
    taps: tuple[float, ...]  # of one axis, summing to 2, flipped


@dataclass(frozen=True)
class Colours:
    """ToRGB: frozen, float32."""

    weight: Tensor  # (3, C)
    bias: Tensor  # (3,)


def _width(channels: int) -> int:
    """Channels of a block: the largest power of two that divides them, up to the widest."""
    return min(channels & -channels, tiles.widest)


def _block(side: int, width: int, elements: int) -> int:
    return max(1, min(side * side, elements // width))


def _map(like: Tensor, *shape: int) -> Tensor:
    """An empty map, channels-last."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=LAST)


def _bits(side: int) -> int:
    return side.bit_length() - 1


def _noise_step(noise: Tensor) -> int:
    return 0 if noise.shape[0] == 1 else noise.shape[2] * noise.shape[3]


def epilogue(
    convolved: Tensor,
    layer: Layer,
    gain: Tensor,
    noise: Tensor,
    style: Tensor | None,
    *,
    phases: bool = False,
    colours: Colours | None = None,
    rgb_style: Tensor | None = None,
    below: Tensor | None = None,
    keep: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """What follows a convolution that leaves no filter to do.

    Args:
        convolved: (N, C, S, S) channels-last, which z takes the place of; or phases, (N, 4 C, S / 2, S / 2).
        gain: (N, >= C) demodulation; rows of one stride with style and rgb_style.
        noise: (1 or N, 1, S, S).
        style: (N, >= C) of the next layer; None keeps the activations as they are.
        colours, rgb_style, below: of ToRGB, and the picture of half the size (N, 3, S / 2, S / 2), float32.
        keep: give z; a picture may be all that is asked for.
    Returns:
        z (N, C, S, S) and the picture (N, 3, S, S), float32: None where not asked for.
    """
    count, channels = convolved.shape[0], layer.channels
    side = convolved.shape[2] * (2 if phases else 1)
    made = convolved
    if phases and keep:
        made = _map(convolved, count, channels, side, side)
    rgb = None if colours is None else convolved.new_empty((count, 3, side, side), dtype=torch.float32)
    width = _width(channels)
    block = _block(side, width, tiles.elements)
    other = gain  # any tensor, where a kernel is told not to look
    kernels.epilogue[(side * side // block, count, channels // width if colours is None else 1)](
        convolved,
        made,
        gain,
        noise,
        layer.strength,
        layer.bias,
        other if style is None else style,
        other if rgb_style is None else rgb_style,
        other if colours is None else colours.weight,
        other if colours is None else colours.bias,
        other if below is None else below,
        other if rgb is None else rgb,
        *layer.taps,
        _bits(side),
        channels,
        gain.stride(0),
        _noise_step(noise),
        PHASES=phases,
        WRITES=keep,
        STYLED=style is not None,
        RGB=colours is not None,
        SKIP=below is not None,
        BLOCK_P=block,
        BLOCK_C=width,
        num_warps=tiles.warps,
    )
    return (made if keep else None), rgb


def epilogue_backward(
    of_made: Tensor | None,
    made: Tensor,
    layer: Layer,
    gain: Tensor,
    noise: Tensor,
    style: Tensor | None,
    *,
    phases: bool = False,
    colours: Colours | None = None,
    rgb_style: Tensor | None = None,
    of_rgb: Tensor | None = None,
    sums: tuple[Tensor, Tensor | None, Tensor | None],
) -> Tensor:
    """Gradients of z and of the picture -> of what was convolved, in the layout of `epilogue`; it takes the place of
    of_made where that is plain.

    sums: where the gradients of gain, style and rgb_style go, (N, >= C), of one stride with them.
    """
    count, channels, side = made.shape[:3]
    if phases:
        of_convolved = _map(made, count, 4 * channels, side // 2, side // 2)
    else:
        of_convolved = torch.empty_like(made) if of_made is None else of_made
    width = _width(channels)
    block = _block(side, width, tiles.back_elements)
    chunk = min(tiles.chunk, side * side // block)
    programs = side * side // block // chunk
    parts = gain.new_empty((count, programs, 3, channels))
    other = gain
    kernels.epilogue_backward[(programs, count, channels // width)](
        made if of_made is None else of_made,
        made,
        of_convolved,
        other if of_rgb is None else of_rgb,
        parts,
        gain,
        noise,
        layer.strength,
        layer.bias,
        other if style is None else style,
        other if rgb_style is None else rgb_style,
        other if colours is None else colours.weight,
        _bits(side),
        channels,
        gain.stride(0),
        _noise_step(noise),
        chunk,
        PHASES=phases,
        GIVEN=of_made is not None,
        STYLED=style is not None,
        RGB=colours is not None,
        BLOCK_P=block,
        BLOCK_C=width,
        STAGES=tiles.stages,
        num_warps=tiles.back_warps,
    )
    _add(parts, sums)
    return of_convolved


def _filter_block(side: int, channels: int, elements: int) -> tuple[int, int, int]:
    """Channels, columns and rows of a program with a filter: kernels of few shapes, which take long to compile."""
    width = min(_width(channels), 32)
    return width, elements // width, min(side, tiles.rows)


def fir_epilogue(
    spread: Tensor, layer: Layer, gain: Tensor, noise: Tensor, style: Tensor, *, phases: bool = False
) -> Tensor:
    """What follows a transposed convolution of stride 2: the filter, and all of `epilogue`.

    Args:
        spread: channels-last, (N, C, 2H + 1, 2H + 1); or its phases, (N, 4 C, H + 1, H + 1).
    Returns:
        z (N, C, 2H, 2H).
    """
    count, channels = spread.shape[0], layer.channels
    side = 2 * (spread.shape[2] - 1) if phases else spread.shape[2] - 1
    made = _map(spread, count, channels, side, side)
    width, columns, rows = _filter_block(side, channels, tiles.filtered)
    kernels.fir_epilogue[((side // rows) * -(-side // columns), count, channels // width)](
        spread,
        made,
        gain,
        noise,
        layer.strength,
        layer.bias,
        style,
        *layer.taps,
        side,
        channels,
        gain.stride(0),
        _noise_step(noise),
        rows,
        PHASES=phases,
        BLOCK_W=columns,
        BLOCK_C=width,
        num_warps=tiles.filter_warps,
    )
    return made


def fir_epilogue_backward(
    of_made: Tensor,
    made: Tensor,
    layer: Layer,
    gain: Tensor,
    noise: Tensor,
    style: Tensor,
    *,
    phases: bool = False,
    sums: tuple[Tensor, Tensor | None, Tensor | None],
) -> Tensor:
    """Gradient of z -> of spread, in the layout of `fir_epilogue`; sums as `epilogue_backward` takes them."""
    count, channels, side = made.shape[:3]
    size = side // 2 + 1 if phases else side + 1
    of_spread = _map(made, count, channels * (4 if phases else 1), size, size)
    width, columns, rows = _filter_block(side, channels, tiles.back_filtered)
    programs = -(-(side + 2) // rows) * -(-(side + 2) // columns)
    parts = gain.new_empty((count, programs, 3, channels))
    kernels.fir_epilogue_backward[(programs, count, channels // width)](
        of_made,
        made,
        of_spread,
        parts,
        gain,
        noise,
        layer.strength,
        layer.bias,
        style,
        *layer.taps,
        side,
        channels,
        gain.stride(0),
        _noise_step(noise),
        rows,
        PHASES=phases,
        BLOCK_W=columns,
        BLOCK_C=width,
        num_warps=tiles.back_filter_warps,
    )
    _add(parts, sums)
    return of_spread


def skip_backward(of_rgb: Tensor, taps: tuple[float, ...]) -> Tensor:
    """Gradient of an upsampled picture (N, 3, S, S) -> of the picture (N, 3, S / 2, S / 2), float32."""
    count, planes, side = of_rgb.shape[:3]
    half = side // 2
    of_below = of_rgb.new_empty((count, planes, half, half))
    kernels.skip_backward[(-(-half * half // 512), count * planes)](
        of_rgb, of_below, *taps, _bits(half), BLOCK_P=512, num_warps=4
    )
    return of_below


def _add(parts: Tensor, sums: tuple[Tensor, Tensor | None, Tensor | None]) -> None:
    of_gain, of_style, of_rgb_style = sums
    count, programs, _, channels = parts.shape
    width = min(_width(channels), 32)
    kernels.add_parts[(channels // width, count)](
        parts,
        of_gain,
        of_gain if of_style is None else of_style,
        of_gain if of_rgb_style is None else of_rgb_style,
        programs,
        channels,
        of_gain.stride(0),
        STYLED=of_style is not None,
        RGB=of_rgb_style is not None,
        BLOCK=64,
        BLOCK_C=width,
        num_warps=4,
    )
