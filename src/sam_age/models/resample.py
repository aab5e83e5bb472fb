"""Crop and resize as two small matrix products: one for rows, one for columns.

Fixed windows are linear and separable, so `rows @ image @ columns.T` does what an adaptive pool or an
antialiased resize does. Three reasons to prefer it inside a loss: the backward pass is deterministic on CUDA
(those of the library operations add atomically), it runs on MPS (which refuses pools that do not divide the
size), and the crop costs nothing extra.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from sam_age.models.ops import at_least_float32

Span = tuple[int, int]  # first row (or column) and the one after the last, pixels
Fractions = tuple[float, float]  # the same as shares of the whole, in [0, 1]


def crop_and_pool(images: Tensor, rows: Span, columns: Span, size: int) -> Tensor:
    """Cut out a box and average it down to a square, as adaptive average pooling does.

    Args:
        images: (N, C, H, W).
        rows: vertical span of the box, pixels.
        columns: horizontal span of the box, pixels.
        size: side of the result, pixels.
    Returns:
        (N, C, size, size); float32, or float64 for float64 images.

    >>> image = torch.arange(16.0).view(1, 1, 4, 4)
    >>> crop_and_pool(image, (0, 4), (0, 4), 2).flatten().tolist()
    [2.5, 4.5, 10.5, 12.5]
    """
    images = at_least_float32(images)
    height, width = images.shape[-2:]
    return _apply(_windows(height, rows, size, images), images, _windows(width, columns, size, images))


def crop_and_resize(images: Tensor, rows: Fractions, columns: Fractions, size: int) -> Tensor:
    """Cut out a box and resize it to a square: bilinear, with antialiasing where it shrinks.

    Args:
        images: (N, C, H, W).
        rows: vertical span of the box as fractions of the height, in [0, 1].
        columns: horizontal span of the box as fractions of the width, in [0, 1].
        size: side of the result, pixels.
    Returns:
        (N, C, size, size); float32, or float64 for float64 images.
    """
    images = at_least_float32(images)
    height, width = images.shape[-2:]
    return _apply(_triangles(height, rows, size, images), images, _triangles(width, columns, size, images))


def _apply(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    # Autocast would round the weights (1/3 is off by 0.2 % in bfloat16), and with them every pixel.
    kind = images.device.type
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
        return rows @ images @ columns.T


def _windows(length: int, span: Span, size: int, like: Tensor) -> Tensor:
    """(size, length) averaging weights: window i covers floor(i n / size) to ceil((i + 1) n / size)."""
    start, stop = span
    count = stop - start
    i = torch.arange(size, device=like.device).unsqueeze(1)
    position = torch.arange(length, device=like.device) - start
    inside = (position >= i * count // size) & (position < -(-(i + 1) * count // size))
    weights = inside.to(like.dtype)
    return weights / weights.sum(1, keepdim=True)


def _triangles(length: int, span: tuple[float, float], size: int, like: Tensor) -> Tensor:
    """(size, length) weights of a triangle filter as wide as a target pixel, at least one source pixel."""
    start, stop = span[0] * length, span[1] * length
    step = (stop - start) / size  # source pixels a target pixel
    centre = start + (torch.arange(size, device=like.device, dtype=like.dtype).unsqueeze(1) + 0.5) * step
    position = torch.arange(length, device=like.device, dtype=like.dtype) + 0.5
    weights = (1 - (position - centre).abs() / max(step, 1.0)).clamp_min(0)
    return weights / weights.sum(1, keepdim=True)
