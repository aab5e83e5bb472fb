"""Kernels for networks that learn: what is between two convolutions, with the gradients of biases and noise too.

A style multiplies the map that goes into a convolution, and demodulation the one that comes out, so that maps are those
of the plain path, one for one. Nothing here assumes more of a map than channels that come in eights.
"""

# Triton's annotations are its own, its constants are capitals.
# ruff: noqa: ANN001, ANN201, N803

from __future__ import annotations

import triton
import triton.language as tl

from sam_age.models.fused.kernels.shared import SLOPE, SQRT2

SIZES = ["pixels", "chunk", "height", "width", "made_height", "made_width", "before", "noise_step"]
"""No kernel of their own for 1, or for multiples of 16."""


@triton.jit(do_not_specialize=SIZES)
def resample(
    given,  # (N, height, width, C)
    made,  # (N, made_height, made_width, C)
    kernel,  # (4, 4), float32
    height,
    width,
    made_height,
    made_width,
    before,  # zeros above and to the left; fewer than none: rows and columns left out
    channels,
    UP: tl.constexpr,
    DOWN: tl.constexpr,
    FLIP: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Zeros put in between, a filter of four by four taps, every second pixel kept: each where asked for.

    Grid: (made_height * ceil(made_width / BLOCK_W), N, C / BLOCK_C).
    """
    channels = channels // 8 * 8  # so that the compiler sees 16 bytes
    sample = tl.program_id(1).to(tl.int64)
    blocks = tl.cdiv(made_width, BLOCK_W)
    columns = tl.program_id(0) % blocks * BLOCK_W + tl.arange(0, BLOCK_W)
    row = tl.program_id(0) // blocks + tl.zeros_like(columns)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    given += sample * height * width * channels
    made += sample * made_height * made_width * channels
    total = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    for i in tl.static_range(4):
        y = row * DOWN + i - before
        for j in tl.static_range(4):
            x = columns * DOWN + j - before
            inside = (y >= 0) & (x >= 0) & (y < height * UP) & (x < width * UP)
            if UP == 2:
                inside = inside & (y % 2 == 0) & (x % 2 == 0)
            tap = tl.load(kernel + (4 * (3 - i) + 3 - j if FLIP else 4 * i + j))
            here = ((y // UP * width + x // UP) * channels)[:, None] + c[None, :]
            total += tap * tl.load(given + here, inside[:, None], 0.0).to(tl.float32)
    there = ((row * made_width + columns) * channels)[:, None] + c[None, :]
    tl.store(made + there, total.to(made.dtype.element_ty), (columns < made_width)[:, None])


@triton.jit(do_not_specialize=SIZES)
def activate(
    given,  # (N, P, C)
    made,  # (N, P, C): y
    gains,  # (N, C)
    noise,  # (1 or N, P), noise_step from one to the next
    strength,  # (1,)
    biases,  # (C,)
    pixels,
    noise_step,
    channels,
    GAIN: tl.constexpr,
    NOISE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """y = sqrt(2) LeakyReLU(gain given + strength noise + bias). Grid: (ceil(P / BLOCK_P), N, C / BLOCK_C)."""
    channels = channels // 8 * 8
    sample = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = pixel < pixels
    here = sample * pixels * channels + (pixel * channels)[:, None] + c[None, :]
    v = tl.load(given + here, there[:, None], 0.0).to(tl.float32)
    if GAIN:
        v *= tl.load(gains + sample * channels + c)[None, :]
    if NOISE:
        shift = tl.load(strength) * tl.load(noise + sample * noise_step + pixel, there, 0.0).to(tl.float32)
        v += shift[:, None]
    v += tl.load(biases + c)[None, :]
    y = tl.where(v > 0, v, v * SLOPE) * SQRT2
    tl.store(made + here, y.to(made.dtype.element_ty), there[:, None])


@triton.jit(do_not_specialize=SIZES)
def activate_backward(
    of_made,  # (N, P, C)
    made,  # (N, P, C): y, whose sign gives the slope
    of_given,  # (N, P, C)
    parts,  # (N, programs, 3, C): sums for bias, gain and the noise's strength
    gains,
    noise,
    strength,
    biases,
    pixels,
    noise_step,
    channels,
    chunk,  # blocks of pixels of one program
    GAIN: tl.constexpr,
    NOISE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Gradient of y -> of what was given, and parts of the sums. Grid: (programs, N, C / BLOCK_C)."""
    channels = channels // 8 * 8
    sample = tl.program_id(1).to(tl.int64)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    begin = sample * pixels * channels
    bias = tl.load(biases + c)
    for_bias = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for_gain = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for_strength = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    if GAIN:
        gain = tl.load(gains + sample * channels + c)
    if NOISE:
        amount = tl.load(strength)
    first = tl.program_id(0) * chunk
    for block in range(first, first + chunk):
        pixel = block * BLOCK_P + tl.arange(0, BLOCK_P)
        there = pixel < pixels
        here = begin + (pixel * channels)[:, None] + c[None, :]
        y = tl.load(made + here, there[:, None], 0.0).to(tl.float32)
        of_y = tl.load(of_made + here, there[:, None], 0.0).to(tl.float32)
        of_v = of_y * tl.where(y > 0, SQRT2, SQRT2 * SLOPE)
        for_bias += of_v
        scaled = y * tl.where(y > 0, 1 / SQRT2, 1 / (SQRT2 * SLOPE)) - bias[None, :]
        of_x = of_v
        if NOISE:
            drawn = tl.load(noise + sample * noise_step + pixel, there, 0.0).to(tl.float32)
            for_strength += of_v * drawn[:, None]
            scaled -= (amount * drawn)[:, None]
        if GAIN:
            for_gain += of_v * scaled  # gain times what was given
            of_x = of_v * gain[None, :]
        tl.store(of_given + here, of_x.to(of_given.dtype.element_ty), there[:, None])
    parts += (sample * tl.num_programs(0) + tl.program_id(0)) * 3 * channels + c
    tl.store(parts, tl.sum(for_bias, 0))
    if GAIN:
        tl.store(parts + channels, tl.sum(for_gain, 0) / gain)
    if NOISE:
        tl.store(parts + 2 * channels, tl.sum(for_strength, 0))


@triton.jit(do_not_specialize=SIZES)
def modulate(given, made, styles, pixels, channels, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """(N, P, C) times its styles (N, C). Grid: (ceil(P / BLOCK_P), N, C / BLOCK_C)."""
    channels = channels // 8 * 8
    sample = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = (pixel < pixels)[:, None]
    here = sample * pixels * channels + (pixel * channels)[:, None] + c[None, :]
    x = tl.load(given + here, there, 0.0).to(tl.float32)
    x *= tl.load(styles + sample * channels + c)[None, :]
    tl.store(made + here, x.to(made.dtype.element_ty), there)


@triton.jit(do_not_specialize=SIZES)
def modulate_backward(
    of_made,  # (N, P, C)
    given,  # (N, P, C)
    of_given,  # (N, P, C)
    parts,  # (N, programs, C): sums for styles
    styles,
    pixels,
    channels,
    chunk,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Gradient of what `modulate` made -> of what it was given, and parts of the sums. Grid: as `activate_backward`."""
    channels = channels // 8 * 8
    sample = tl.program_id(1).to(tl.int64)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    begin = sample * pixels * channels
    style = tl.load(styles + sample * channels + c)
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    first = tl.program_id(0) * chunk
    for block in range(first, first + chunk):
        pixel = block * BLOCK_P + tl.arange(0, BLOCK_P)
        there = (pixel < pixels)[:, None]
        here = begin + (pixel * channels)[:, None] + c[None, :]
        of_z = tl.load(of_made + here, there, 0.0).to(tl.float32)
        total += of_z * tl.load(given + here, there, 0.0).to(tl.float32)
        tl.store(of_given + here, (of_z * style[None, :]).to(of_given.dtype.element_ty), there)
    tl.store(parts + (sample * tl.num_programs(0) + tl.program_id(0)) * channels + c, tl.sum(total, 0))
