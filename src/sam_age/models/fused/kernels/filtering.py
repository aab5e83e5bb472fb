"""Kernels for layers that double the resolution, between their convolution and the next."""

# Triton's annotations are its own, its constants are capitals, its branches are statements.
# ruff: noqa: ANN001, ANN201, ANN202, N803, SIM108

from __future__ import annotations

import triton
import triton.language as tl

from sam_age.models.fused.kernels.shared import RUNTIME, SLOPE, SQRT2, usable_style


@triton.jit
def _along(row, columns):
    """A row's number at each of its columns: Triton's interpreter does not mask with one bit for all."""
    return row + tl.zeros_like(columns)


@triton.jit
def _spread_at(row, column, side, channels, PHASES: tl.constexpr):
    """Where a pixel's channels begin in what a transposed convolution of stride 2 made of side / 2 pixels: side + 1
    rows and columns, or side / 2 + 1 blocks of phases, the last of which are empty."""
    if PHASES:
        block = (row >> 1) * ((side >> 1) + 1) + (column >> 1)
        return (block * 4 + (row & 1) * 2 + (column & 1)) * channels
    else:
        return (row * (side + 1) + column) * channels


@triton.jit
def _along_row(spread, row, columns, c, side, channels, g0, g1, g2, g3, PHASES: tl.constexpr):
    """A row of `spread`, filtered along itself: (columns, channels), float32."""
    line = _along(row, columns)
    inside = (line >= 0) & (line <= side)
    here = spread + _spread_at(row, columns - 1, side, channels, PHASES)[:, None] + c[None, :]
    total = g0 * tl.load(here, (inside & (columns >= 1) & (columns <= side + 1))[:, None], 0.0).to(tl.float32)
    here = spread + _spread_at(row, columns, side, channels, PHASES)[:, None] + c[None, :]
    total += g1 * tl.load(here, (inside & (columns <= side))[:, None], 0.0).to(tl.float32)
    here = spread + _spread_at(row, columns + 1, side, channels, PHASES)[:, None] + c[None, :]
    total += g2 * tl.load(here, (inside & (columns + 1 <= side))[:, None], 0.0).to(tl.float32)
    here = spread + _spread_at(row, columns + 2, side, channels, PHASES)[:, None] + c[None, :]
    total += g3 * tl.load(here, (inside & (columns + 2 <= side))[:, None], 0.0).to(tl.float32)
    return total


@triton.jit(do_not_specialize=RUNTIME)
def fir_epilogue(
    spread,  # see `_spread_at`
    made,  # (N, side, side, C): z
    gains,
    noise,
    strength,
    biases,
    styles,
    g0,
    g1,
    g2,
    g3,
    side,
    channels,
    step,
    noise_step,
    rows,  # of one program
    PHASES: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The filter after a transposed convolution, and the rest of the layer.

    A program walks down some rows of BLOCK_W columns, and remembers the last three, each filtered along itself.
    Grid: (side / rows * ceil(side / BLOCK_W), N, C / BLOCK_C).
    """
    channels = channels // 8 * 8  # so that the compiler sees 16 bytes
    sample = tl.program_id(1).to(tl.int64)
    blocks = tl.cdiv(side, BLOCK_W)
    top = tl.program_id(0) // blocks * rows
    columns = tl.program_id(0) % blocks * BLOCK_W + tl.arange(0, BLOCK_W)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    if PHASES:
        spread += sample * (side + 2) * (side + 2) * channels
    else:
        spread += sample * (side + 1) * (side + 1) * channels
    made += sample * side * side * channels
    noise += sample * noise_step
    amount = tl.load(strength).to(tl.float32)
    gain = tl.load(gains + sample * step + c)
    bias = tl.load(biases + c)
    style = usable_style(styles, sample * step + c, True, BLOCK_C)
    third = _along_row(spread, top - 1, columns, c, side, channels, g0, g1, g2, g3, PHASES)
    second = _along_row(spread, top, columns, c, side, channels, g0, g1, g2, g3, PHASES)
    last = _along_row(spread, top + 1, columns, c, side, channels, g0, g1, g2, g3, PHASES)
    there = columns < side
    for row in range(top, top + rows):
        new = _along_row(spread, row + 2, columns, c, side, channels, g0, g1, g2, g3, PHASES)
        v = (g0 * third + g1 * second + g2 * last + g3 * new) * gain[None, :]
        shift = amount * tl.load(noise + row * side + columns, there, 0.0).to(tl.float32)
        v += shift[:, None] + bias[None, :]
        z = tl.where(v > 0, v, v * SLOPE) * SQRT2 * style[None, :]
        here = ((row * side + columns) * channels)[:, None] + c[None, :]
        tl.store(made + here, z.to(made.dtype.element_ty), there[:, None])
        third, second, last = second, last, new


@triton.jit
def _of_filtered(of_made, made, row, columns, c, side, channels, inside, factor, style):
    """The gradient of what the filter made, at some columns of a row."""
    here = ((row * side + columns) * channels)[:, None] + c[None, :]
    there = (inside & (columns >= 0) & (columns < side))[:, None]
    of_z = tl.load(of_made + here, there, 0.0).to(tl.float32)
    z = tl.load(made + here, there, 0.0).to(tl.float32)
    return of_z * tl.where(z * style[None, :] > 0, factor[None, :], (factor * SLOPE)[None, :])


@triton.jit(do_not_specialize=RUNTIME)
def fir_epilogue_backward(
    of_made,  # (N, side, side, C)
    made,  # (N, side, side, C): z
    of_spread,  # see `_spread_at`
    parts,  # (N, programs, 3, C): sums for gain and style
    gains,
    noise,
    strength,
    biases,
    styles,
    g0,
    g1,
    g2,
    g3,
    side,
    channels,
    step,
    noise_step,
    rows,  # of one program
    PHASES: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Gradient of z -> of spread, and parts of the sums.

    As `fir_epilogue`, with the filter turned round. Grid: (strips * ceil((side + 2) / BLOCK_W), N, C / BLOCK_C), with
    ceil((side + 2) / rows) strips; the plain layout ends one row and one column earlier.
    """
    channels = channels // 8 * 8  # so that the compiler sees 16 bytes
    sample = tl.program_id(1).to(tl.int64)
    blocks = tl.cdiv(side + 2, BLOCK_W)
    top = tl.program_id(0) // blocks * rows
    columns = tl.program_id(0) % blocks * BLOCK_W + tl.arange(0, BLOCK_W)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    if PHASES:
        size = side + 2
    else:
        size = side + 1
    of_spread += sample * size * size * channels
    of_made += sample * side * side * channels
    made += sample * side * side * channels
    noise += sample * noise_step
    amount = tl.load(strength).to(tl.float32)
    gain = tl.load(gains + sample * step + c)
    bias = tl.load(biases + c)
    style = usable_style(styles, sample * step + c, True, BLOCK_C)
    factor = style * gain * SQRT2
    inverse = 1 / style
    for_gain = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    for_style = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    third = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    second = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    last = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    for row in range(top - 2, tl.minimum(top + rows, size) + 1):
        line = _along(row, columns)
        inside = (line >= 0) & (line < side)
        # of the row's own columns, also what the sums need: each pixel is summed by one program
        here = ((row * side + columns) * channels)[:, None] + c[None, :]
        there = (inside & (columns < side))[:, None]
        of_z = tl.load(of_made + here, there, 0.0).to(tl.float32)
        y = tl.load(made + here, there, 0.0).to(tl.float32) * inverse[None, :]
        of_filtered = of_z * tl.where(y > 0, factor[None, :], (factor * SLOPE)[None, :])
        v = y * tl.where(y > 0, 1 / SQRT2, 1 / (SQRT2 * SLOPE))
        shift = amount * tl.load(noise + row * side + columns, inside & (columns < side), 0.0).to(tl.float32)
        own = tl.where((row >= top) & (row < top + rows), 1.0, 0.0)
        for_style += own * of_z * y
        for_gain += own * of_filtered * (v - shift[:, None] - bias[None, :])

        new = g1 * of_filtered
        new += g0 * _of_filtered(of_made, made, row, columns + 1, c, side, channels, inside, factor, style)
        new += g2 * _of_filtered(of_made, made, row, columns - 1, c, side, channels, inside, factor, style)
        new += g3 * _of_filtered(of_made, made, row, columns - 2, c, side, channels, inside, factor, style)
        gradient = g0 * new + g1 * last + g2 * second + g3 * third
        gradient = tl.where(((line - 1 <= side) & (columns <= side))[:, None], gradient, 0.0)  # the empty phases
        at = _spread_at(row - 1, columns, side, channels, PHASES)[:, None] + c[None, :]
        written = ((line > top) & (columns < size))[:, None]
        tl.store(of_spread + at, gradient.to(of_spread.dtype.element_ty), written)
        third, second, last = second, last, new
    parts += (sample * tl.num_programs(0) + tl.program_id(0)) * 3 * channels + c
    tl.store(parts, tl.sum(for_gain, 0) / (gain * gain))
    tl.store(parts + channels, tl.sum(for_style, 0))
