"""Kernels for layers whose filter is done, or that have none."""

# Triton's annotations are its own, its constants are capitals.
# ruff: noqa: ANN001, ANN201, ANN202, N803

from __future__ import annotations

import triton
import triton.language as tl

from sam_age.models.fused.kernels.shared import RUNTIME, SLOPE, SQRT2, at, paint, usable_style


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
    channels = channels // 8 * 8  # so that the compiler sees 16 bytes
    sample = tl.program_id(1).to(tl.int64)
    pixels = 1 << (2 * bits)
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    convolved += sample * pixels * channels
    made += sample * pixels * channels
    shift = tl.load(strength).to(tl.float32) * tl.load(noise + sample * noise_step + pixel).to(tl.float32)
    source = at(pixel, bits, channels, PHASES)
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
            z = y * usable_style(styles, sample * step + c, STYLED, BLOCK_C)[None, :]
            tl.store(made + (pixel * channels)[:, None] + c[None, :], z.to(made.dtype.element_ty))
    if RGB:
        paint(red, green, blue, rgb_bias, below, rgb, sample, pixel, bits, g0, g1, g2, g3, SKIP)


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
    channels = channels // 8 * 8  # so that the compiler sees 16 bytes
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
    style = usable_style(styles, sample * step + c, STYLED, BLOCK_C)
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
        there = at(pixel, bits, channels, PHASES)[:, None] + c[None, :]
        tl.store(of_convolved + there, (of_v * gain[None, :]).to(of_convolved.dtype.element_ty))
    parts += (sample * tl.num_programs(0) + tl.program_id(0)) * 3 * channels + c
    tl.store(parts, tl.sum(for_gain, 0) / gain)  # gain times convolved is what was summed with
    if GIVEN:
        tl.store(parts + channels, tl.sum(for_style, 0))
    if RGB:
        tl.store(parts + 2 * channels, tl.sum(for_tint, 0))


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
