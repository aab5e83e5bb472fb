"""A convolution of few channels, and all that follows it."""

# Triton's annotations are its own, its constants are capitals.
# ruff: noqa: ANN001, ANN201, N803

from __future__ import annotations

import triton
import triton.language as tl

from sam_age.models.fused.kernels.shared import RUNTIME, SLOPE, SQRT2, paint, usable_style


@triton.jit(do_not_specialize=RUNTIME)
def convolve(
    x,  # (N, side, side, INPUTS)
    weight,  # (3, 3, INPUTS, OUTPUTS)
    made,  # (N, side, side, OUTPUTS): z, or what the convolution gives
    gains,
    noise,
    strength,
    biases,
    styles,
    rgb_styles,
    rgb_weight,
    rgb_bias,
    below,
    rgb,
    g0,
    g1,
    g2,
    g3,
    bits,
    step,
    noise_step,
    EPILOGUE: tl.constexpr,
    WRITES: tl.constexpr,
    STYLED: tl.constexpr,
    RGB: tl.constexpr,
    SKIP: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A 3 x 3 convolution of few channels, whose weights a program holds whole; and `epilogue`, if asked.

    Grid: (side / ROWS * side / COLUMNS, N).
    """
    sample = tl.program_id(1).to(tl.int64)
    side, pixels = 1 << bits, 1 << (2 * bits)
    blocks = side // COLUMNS
    p = tl.arange(0, ROWS * COLUMNS)
    row = tl.program_id(0) // blocks * ROWS + p // COLUMNS
    column = tl.program_id(0) % blocks * COLUMNS + p % COLUMNS
    pixel = row * side + column
    i, o = tl.arange(0, INPUTS), tl.arange(0, OUTPUTS)
    x += sample * pixels * INPUTS
    total = tl.zeros((ROWS * COLUMNS, OUTPUTS), tl.float32)
    for down in tl.static_range(3):
        for right in tl.static_range(3):
            inside = (row + down >= 1) & (row + down <= side) & (column + right >= 1) & (column + right <= side)
            here = (pixel + ((down - 1) * side + right - 1)) * INPUTS
            tile = tl.load(x + here[:, None] + i[None, :], inside[:, None], 0.0)
            taps = tl.load(weight + (down * 3 + right) * INPUTS * OUTPUTS + i[:, None] * OUTPUTS + o[None, :])
            total = tl.dot(tile, taps, total)
    place = sample * pixels * OUTPUTS + (pixel * OUTPUTS)[:, None] + o[None, :]
    if EPILOGUE:
        shift = tl.load(strength).to(tl.float32) * tl.load(noise + sample * noise_step + pixel).to(tl.float32)
        gain = tl.load(gains + sample * step + o)
        v = total * gain[None, :] + (shift[:, None] + tl.load(biases + o)[None, :])
        y = tl.where(v > 0, v, v * SLOPE) * SQRT2
        if RGB:
            tint = tl.load(rgb_styles + sample * step + o)
            red = tl.sum(y * (tint * tl.load(rgb_weight + o))[None, :], 1)
            green = tl.sum(y * (tint * tl.load(rgb_weight + OUTPUTS + o))[None, :], 1)
            blue = tl.sum(y * (tint * tl.load(rgb_weight + 2 * OUTPUTS + o))[None, :], 1)
            paint(red, green, blue, rgb_bias, below, rgb, sample, pixel, bits, g0, g1, g2, g3, SKIP)
        if WRITES:
            z = y * usable_style(styles, sample * step + o, STYLED, OUTPUTS)[None, :]
            tl.store(made + place, z.to(made.dtype.element_ty))
    else:
        tl.store(made + place, total.to(made.dtype.element_ty))
