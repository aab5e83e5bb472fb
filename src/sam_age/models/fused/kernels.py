"""Triton kernels of the generator: all that is done between two convolutions, in one pass over memory each way.

Maps are channels-last; arithmetic is float32 whatever they hold. What a layer makes is kept as z, its activations y
already multiplied by the next layer's styles:

    v = gain FIR(convolved) + strength noise + bias,   y = sqrt(2) LeakyReLU(v),   z = style y.

The weights being frozen, z is all that the way back needs: its sign and the style's give the slope, z / style gives y,
and y / slope gives v. Sums over pixels are left in parts, one a program, for `add_parts` to add in a fixed order.

Sides are powers of two and channels are multiples of BLOCK_C, so that few accesses are masked. Offsets within one
picture fit 32 bits; those of pictures are 64 bits wide.

Layouts that stand for a map of (2H, 2W) pixels: plain (2H, 2W, C), and "phases" (H, W, 4 C), the four pixels of a 2 x 2
block beside one another, (row % 2) * 2 + column % 2 first. FIR taps g are those of one axis, flipped: a correlation.
"""

# Triton's annotations are its own, its constants are capitals, its branches are statements.
# ruff: noqa: ANN001, ANN201, ANN202, N803, SIM108

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
def _style(pointer, offsets, STYLED: tl.constexpr, BLOCK_C: tl.constexpr):
    """(BLOCK_C,) styles away from 0; 1 where the layer has none to hand on."""
    if STYLED:
        style = tl.load(pointer + offsets)
        return tl.where(tl.abs(style) < TINY, TINY, style)
    else:
        return tl.full((BLOCK_C,), 1.0, tl.float32)


@triton.jit
def _at(pixel, bits, channels, PHASES: tl.constexpr):
    """Where a pixel's channels begin in a map 2**bits pixels wide."""
    if PHASES:
        row, column = pixel >> bits, pixel & ((1 << bits) - 1)
        block = ((row >> 1) << (bits - 1)) + (column >> 1)
        return (block * 4 + (row & 1) * 2 + (column & 1)) * channels
    else:
        return pixel * channels


@triton.jit
def _skip(below, pixel, bits, g0, g1, g2, g3):
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
def _paint(red, green, blue, bias, below, rgb, sample, pixel, bits, g0, g1, g2, g3, SKIP: tl.constexpr):
    """A layer's colours and their bias, upon the picture below where there is one."""
    pixels = 1 << (2 * bits)
    red += tl.load(bias)
    green += tl.load(bias + 1)
    blue += tl.load(bias + 2)
    if SKIP:
        quarter = pixels >> 2
        below += sample * 3 * quarter
        red += _skip(below, pixel, bits, g0, g1, g2, g3)
        green += _skip(below + quarter, pixel, bits, g0, g1, g2, g3)
        blue += _skip(below + 2 * quarter, pixel, bits, g0, g1, g2, g3)
    rgb += sample * 3 * pixels
    tl.store(rgb + pixel, red)
    tl.store(rgb + pixels + pixel, green)
    tl.store(rgb + 2 * pixels + pixel, blue)


@triton.jit(do_not_specialize=RUNTIME)
def epilogue(
    convolved,  # (N, P, C), plain or phases
    made,  # (N, P, C): z
    gains,  # (N, step)
    noise,  # (1 or N, P), noise_step from one to the next
    strength,  # (1,)
    biases,  # (C,)
    styles,  # (N, step), of the next layer
    rgb_styles,  # (N, step)
    rgb_weight,  # (3, C)
    rgb_bias,  # (3,)
    below,  # (N, 3, P / 4): the picture so far
    rgb,  # (N, 3, P): with this layer
    g0,
    g1,
    g2,
    g3,
    bits,
    channels,
    step,
    noise_step,
    PHASES: tl.constexpr,
    WRITES: tl.constexpr,
    STYLED: tl.constexpr,
    RGB: tl.constexpr,
    SKIP: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """convolved -> z, and the picture with this layer's colours.

    Grid: (P / BLOCK_P, N, C / BLOCK_C), or (P / BLOCK_P, N, 1) with RGB.
    """
    sample = tl.program_id(1).to(tl.int64)
    pixels = 1 << (2 * bits)
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    convolved += sample * pixels * channels
    made += sample * pixels * channels
    shift = tl.load(strength).to(tl.float32) * tl.load(noise + sample * noise_step + pixel).to(tl.float32)
    source = _at(pixel, bits, channels, PHASES)
    red = tl.zeros((BLOCK_P,), tl.float32)
    green = tl.zeros((BLOCK_P,), tl.float32)
    blue = tl.zeros((BLOCK_P,), tl.float32)
    first = tl.program_id(2) * BLOCK_C
    for start in range(first, channels if RGB else first + BLOCK_C, BLOCK_C):
        c = tl.multiple_of(start, BLOCK_C) + tl.arange(0, BLOCK_C)
        gain = tl.load(gains + sample * step + c)
        bias = tl.load(biases + c)
        v = tl.load(convolved + source[:, None] + c[None, :]).to(tl.float32)
        v = v * gain[None, :] + (shift[:, None] + bias[None, :])
        y = tl.where(v > 0, v, v * SLOPE) * SQRT2
        if RGB:
            tint = tl.load(rgb_styles + sample * step + c)
            red += tl.sum(y * (tint * tl.load(rgb_weight + c))[None, :], 1)
            green += tl.sum(y * (tint * tl.load(rgb_weight + channels + c))[None, :], 1)
            blue += tl.sum(y * (tint * tl.load(rgb_weight + 2 * channels + c))[None, :], 1)
        if WRITES:
            z = y * _style(styles, sample * step + c, STYLED, BLOCK_C)[None, :]
            tl.store(made + (pixel * channels)[:, None] + c[None, :], z.to(made.dtype.element_ty))
    if RGB:
        _paint(red, green, blue, rgb_bias, below, rgb, sample, pixel, bits, g0, g1, g2, g3, SKIP)


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
            _paint(red, green, blue, rgb_bias, below, rgb, sample, pixel, bits, g0, g1, g2, g3, SKIP)
        if WRITES:
            z = y * _style(styles, sample * step + o, STYLED, OUTPUTS)[None, :]
            tl.store(made + place, z.to(made.dtype.element_ty))
    else:
        tl.store(made + place, total.to(made.dtype.element_ty))


@triton.jit(do_not_specialize=RUNTIME)
def epilogue_backward(
    of_made,  # (N, P, C)
    made,  # (N, P, C): z
    of_convolved,  # (N, P, C), plain or phases; may be of_made
    of_rgb,  # (N, 3, P)
    parts,  # (N, programs, 3, C): sums for gain, style, rgb style
    gains,
    noise,
    strength,
    biases,
    styles,
    rgb_styles,
    rgb_weight,
    bits,
    channels,
    step,
    noise_step,
    chunk,  # blocks of pixels of one program
    PHASES: tl.constexpr,
    GIVEN: tl.constexpr,
    STYLED: tl.constexpr,
    RGB: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STAGES: tl.constexpr,  # blocks read ahead, and one
):
    """Gradients of z and of the picture -> of convolved, and parts of the sums. Grid: (programs, N, C / BLOCK_C)."""
    sample = tl.program_id(1).to(tl.int64)
    pixels = 1 << (2 * bits)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    made += sample * pixels * channels
    of_made += sample * pixels * channels
    of_convolved += sample * pixels * channels
    of_rgb += sample * 3 * pixels
    noise += sample * noise_step
    amount = tl.load(strength).to(tl.float32)
    gain = tl.load(gains + sample * step + c)
    bias = tl.load(biases + c)
    style = _style(styles, sample * step + c, STYLED, BLOCK_C)
    inverse = 1 / style
    if RGB:
        tint = tl.load(rgb_styles + sample * step + c)
        to_red = tl.load(rgb_weight + c)
        to_green = tl.load(rgb_weight + channels + c)
        to_blue = tl.load(rgb_weight + 2 * channels + c)
    for_gain = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)  # added up over pixels once, after the loop
    for_style = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for_tint = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    first = tl.program_id(0) * chunk
    for block in tl.range(first, first + chunk, num_stages=STAGES):
        pixel = block * BLOCK_P + tl.arange(0, BLOCK_P)
        here = (pixel * channels)[:, None] + c[None, :]
        y = tl.load(made + here).to(tl.float32) * inverse[None, :]
        of_y = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
        if GIVEN:
            of_z = tl.load(of_made + here).to(tl.float32)
            for_style += of_z * y
            of_y = of_z * style[None, :]
        if RGB:
            mixed = tl.load(of_rgb + pixel)[:, None] * to_red[None, :]
            mixed += tl.load(of_rgb + pixels + pixel)[:, None] * to_green[None, :]
            mixed += tl.load(of_rgb + 2 * pixels + pixel)[:, None] * to_blue[None, :]
            for_tint += mixed * y
            of_y += mixed * tint[None, :]
        of_v = of_y * tl.where(y > 0, SQRT2, SQRT2 * SLOPE)
        v = y * tl.where(y > 0, 1 / SQRT2, 1 / (SQRT2 * SLOPE))
        shift = amount * tl.load(noise + pixel).to(tl.float32)
        for_gain += of_v * (v - shift[:, None] - bias[None, :])
        there = _at(pixel, bits, channels, PHASES)[:, None] + c[None, :]
        tl.store(of_convolved + there, (of_v * gain[None, :]).to(of_convolved.dtype.element_ty))
    parts += (sample * tl.num_programs(0) + tl.program_id(0)) * 3 * channels + c
    tl.store(parts, tl.sum(for_gain, 0) / gain)  # gain times convolved is what was summed with
    if GIVEN:
        tl.store(parts + channels, tl.sum(for_style, 0))
    if RGB:
        tl.store(parts + 2 * channels, tl.sum(for_tint, 0))


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
    style = _style(styles, sample * step + c, True, BLOCK_C)
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
    style = _style(styles, sample * step + c, True, BLOCK_C)
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


@triton.jit(do_not_specialize=RUNTIME)
def skip_backward(of_rgb, of_below, g0, g1, g2, g3, bits, BLOCK_P: tl.constexpr):
    """Gradient of the picture -> of the one below: (planes, 4 P) -> (planes, P). Grid: (ceil(P / BLOCK_P), planes).

    bits: of the width below.
    """
    plane = tl.program_id(1).to(tl.int64)
    width = 1 << bits
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    there = pixel < width * width
    row, column = 2 * (pixel >> bits), 2 * (pixel & (width - 1))
    side = 2 * width
    of_rgb += plane * side * side
    total = tl.zeros((BLOCK_P,), tl.float32)
    for i in tl.static_range(4):  # tap k takes part in the pixel at 2 i + 2 - k
        y = row + 2 - i
        tap_y = g0 if i == 0 else (g1 if i == 1 else (g2 if i == 2 else g3))
        for j in tl.static_range(4):
            x = column + 2 - j
            tap_x = g0 if j == 0 else (g1 if j == 1 else (g2 if j == 2 else g3))
            inside = there & (y >= 0) & (y < side) & (x >= 0) & (x < side)
            total += tap_y * tap_x * tl.load(of_rgb + y * side + x, inside, 0.0)
    tl.store(of_below + plane * width * width + pixel, total, there)


@triton.jit
def _add_one(parts, out, programs, channels, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr):
    total = tl.zeros((BLOCK, BLOCK_C), tl.float32)
    c = tl.arange(0, BLOCK_C)
    for start in range(0, programs, BLOCK):
        k = start + tl.arange(0, BLOCK)
        total += tl.load(parts + (k * 3 * channels)[:, None] + c[None, :], (k < programs)[:, None], 0.0)
    tl.store(out + c, tl.sum(total, 0))


@triton.jit(do_not_specialize=RUNTIME)
def add_parts(
    parts,  # (N, programs, 3, C)
    of_gains,  # (N, step)
    of_styles,
    of_rgb_styles,
    programs,
    channels,
    step,
    STYLED: tl.constexpr,
    RGB: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The sums over pixels, of what the programs have left. Grid: (C / BLOCK_C, N)."""
    sample = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * BLOCK_C
    parts += sample * programs * 3 * channels + first
    here = sample * step + first
    _add_one(parts, of_gains + here, programs, channels, BLOCK, BLOCK_C)
    if STYLED:
        _add_one(parts + channels, of_styles + here, programs, channels, BLOCK, BLOCK_C)
    if RGB:
        _add_one(parts + 2 * channels, of_rgb_styles + here, programs, channels, BLOCK, BLOCK_C)
