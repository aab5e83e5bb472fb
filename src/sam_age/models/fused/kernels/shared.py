"""What kernels share: constants, layouts, styles, and the picture."""

# Triton's annotations are its own, its constants are capitals.
# ruff: noqa: ANN001, ANN201, N803

from __future__ import annotations

import triton
import triton.language as tl

SQRT2 = tl.constexpr(1.4142135623730951)
SLOPE = tl.constexpr(0.2)
TINY = tl.constexpr(1e-12)  # a style of 0 would lose the signs of y

RUNTIME = [
    "bits",
    "noise_step",
    "side",
    "chunk",
    "rows",
    "programs",
]  # no kernel of their own for 1, or for multiples of 16


@triton.jit
def usable_style(pointer, offsets, STYLED: tl.constexpr, BLOCK_C: tl.constexpr):
    """(BLOCK_C,) styles away from 0; 1 where the layer has none to hand on."""
    if STYLED:
        style = tl.load(pointer + offsets)
        return tl.where(tl.abs(style) < TINY, TINY, style)
    else:
        return tl.full((BLOCK_C,), 1.0, tl.float32)


@triton.jit
def at(pixel, bits, channels, PHASES: tl.constexpr):
    """Where a pixel's channels begin in a map 2**bits pixels wide."""
    if PHASES:
        row, column = pixel >> bits, pixel & ((1 << bits) - 1)
        block = ((row >> 1) << (bits - 1)) + (column >> 1)
        return (block * 4 + (row & 1) * 2 + (column & 1)) * channels
    else:
        return pixel * channels


@triton.jit
def skip(below, pixel, bits, g0, g1, g2, g3):
    """The picture of half the size, upsampled, at some pixels: zeros inserted, then the filter."""
    width = 1 << bits
    half, row, column = width >> 1, pixel >> bits, pixel & (width - 1)
    odd_row, odd_column = row & 1, column & 1
    i, j = (row >> 1) - 1 + odd_row, (column >> 1) - 1 + odd_column
    up, down = tl.where(odd_row == 1, g1, g0), tl.where(odd_row == 1, g3, g2)
    left, right = tl.where(odd_column == 1, g1, g0), tl.where(odd_column == 1, g3, g2)
    place = below + i * half + j
    above = up * left * tl.load(place, (i >= 0) & (j >= 0), 0.0)
    above += up * right * tl.load(place + 1, (i >= 0) & (j + 1 < half), 0.0)
    beneath = down * left * tl.load(place + half, (i + 1 < half) & (j >= 0), 0.0)
    beneath += down * right * tl.load(place + half + 1, (i + 1 < half) & (j + 1 < half), 0.0)
    return above + beneath


@triton.jit
def paint(red, green, blue, bias, below, rgb, sample, pixel, bits, g0, g1, g2, g3, SKIP: tl.constexpr):
    """A layer's colours and their bias, upon the picture below where there is one."""
    pixels = 1 << (2 * bits)
    red += tl.load(bias)
    green += tl.load(bias + 1)
    blue += tl.load(bias + 2)
    if SKIP:
        quarter = pixels >> 2
        below += sample * 3 * quarter
        red += skip(below, pixel, bits, g0, g1, g2, g3)
        green += skip(below + quarter, pixel, bits, g0, g1, g2, g3)
        blue += skip(below + 2 * quarter, pixel, bits, g0, g1, g2, g3)
    rgb += sample * 3 * pixels
    tl.store(rgb + pixel, red)
    tl.store(rgb + pixels + pixel, green)
    tl.store(rgb + 2 * pixels + pixel, blue)
