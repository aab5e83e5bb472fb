"""Triangles to pixels, for a batch of pictures at once, in plain torch.

Every triangle proposes the pixels inside it, line by line; they compete by depth, in one scatter-minimum over a packed
(depth, triangle) key. The result does not depend on the order of the work.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EMPTY = 1 << 62  # larger than any key
FAR = 1e9  # depth where nothing is
_TRIANGLE_BITS = 16
DEPTH_STEPS = 1e6  # a unit of depth (1 m) has so many: micrometres


class Fragments(NamedTuple):
    """The visible points of a batch of pictures, H x W each."""

    pixel: Tensor  # (P,) index into B * H * W
    portrait: Tensor  # (P,) row in the batch
    triangle: Tensor  # (P,) index into the faces
    weights: Tensor  # (P, 3) barycentric coordinates
    depth: Tensor  # (B * H * W,) metres, FAR where nothing is


def rasterise(points: Tensor, faces: Tensor, height: int, width: int, *, cull: bool = True) -> Fragments:
    """Find what is seen through the middle of every pixel.

    Args:
        points: (B, V, 3): x and y in pixels (y down), depth in metres, of the vertices of each picture.
        faces: (F, 3), counter-clockwise in a picture whose y points up; the same for all pictures.
        height, width: of the pictures, pixels.
        cull: leave out triangles seen from behind.
    """
    batch, n_faces = len(points), len(faces)
    corners = points[:, faces].reshape(batch * n_faces, 3, 3)
    keep, first, rows = _visible(corners, height, width, cull)
    corners = corners[keep]
    a, b, c = _edge_functions(corners)

    # every triangle's lines, and on each line the pixels between its edges
    line, nth = _repeat(rows)
    a, b, c = (t.index_select(0, line) for t in (a, b, c))
    y = first.index_select(0, line)[:, 1] + nth
    level = b * (y + 0.5)[:, None] + c  # weights of the 2nd and 3rd corner at x = 0
    left, right = _span(a, level, width)
    z = corners[:, :, 2].index_select(0, line)
    slope = a[:, 0] * (z[:, 1] - z[:, 0]) + a[:, 1] * (z[:, 2] - z[:, 0])
    start = z[:, 0] + level[:, 0] * (z[:, 1] - z[:, 0]) + level[:, 1] * (z[:, 2] - z[:, 0]) + slope * (left + 0.5)
    owner = keep.index_select(0, line)
    base = (torch.div(owner, n_faces, rounding_mode="floor") * height + y) * width + left

    dot, nth = _repeat((right - left + 1).clamp(min=0))
    depth = start.index_select(0, dot) + nth * slope.index_select(0, dot)
    key = ((depth * DEPTH_STEPS).long() << _TRIANGLE_BITS) | (owner % n_faces).index_select(0, dot)
    best = torch.full((batch * height * width,), EMPTY, dtype=torch.int64, device=points.device)
    best.scatter_reduce_(0, base.index_select(0, dot) + nth, key, "amin")

    pixel = (best < EMPTY).nonzero()[:, 0]
    triangle = best[pixel] & ((1 << _TRIANGLE_BITS) - 1)
    portrait = torch.div(pixel, height * width, rounding_mode="floor")
    a, b, c = _edge_functions(points[portrait[:, None], faces[triangle]])
    x, y = pixel % width + 0.5, torch.div(pixel, width, rounding_mode="floor") % height + 0.5
    w = a * x[:, None] + b * y[:, None] + c
    depth = torch.full((len(best),), FAR, device=points.device)
    depth[pixel] = (best[pixel] >> _TRIANGLE_BITS).float() / DEPTH_STEPS
    return Fragments(pixel, portrait, triangle, torch.cat([1 - w.sum(1, keepdim=True), w], 1), depth)


def depth_map(points: Tensor, faces: Tensor, size: int) -> Tensor:
    """Depth of the nearest surface, both sides of it, (B * size * size,), FAR where nothing is."""
    return rasterise(points, faces, size, size, cull=False).depth


def _visible(corners: Tensor, height: int, width: int, cull: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Triangles that may be seen, the first pixel (x, y) of each one's bounding box, and its lines."""
    x, y, z = corners.unbind(-1)
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    facing = area < -1e-9 if cull else area.abs() > 1e-9
    low = torch.stack([x.amin(1), y.amin(1)], 1)
    high = torch.stack([x.amax(1), y.amax(1)], 1)
    limit = torch.tensor([width - 1, height - 1], device=corners.device)
    first = (low - 0.5).ceil().long().clamp(min=0)
    last = torch.minimum((high - 0.5).floor().long(), limit)
    keep = (facing & (z.amin(1) > 0) & (last >= first).all(1)).nonzero()[:, 0]
    return keep, first[keep], (last - first + 1)[keep, 1]


def _span(a: Tensor, level: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """First and last pixel of a line inside a triangle, whose weights at x are a * x + level and their rest."""
    a = torch.cat([a, -a.sum(1, keepdim=True)], 1)  # of all three corners; each must be at least 0
    level = torch.cat([level, 1 - level.sum(1, keepdim=True)], 1)
    crossing = -level / torch.where(a.abs() > 1e-12, a, torch.full_like(a, 1e-12))
    flat = a.abs() <= 1e-12
    outside = (flat & (level < 0)).any(1)
    left = torch.where((a > 0) & ~flat, crossing, torch.full_like(a, -1e6)).amax(1)
    right = torch.where((a < 0) & ~flat, crossing, torch.full_like(a, 1e6)).amin(1)
    tolerance = 1e-3  # pixels by which neighbours overlap, so that no crack opens between them
    left = (left - 0.5 - tolerance).ceil().clamp(0, width).long()
    right = (right - 0.5 + tolerance).floor().clamp(-1, width - 1).long()
    return left, torch.where(outside, torch.full_like(right, -1), right)


def _repeat(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Index k repeated counts[k] times, and the number of each among its like."""
    index = torch.repeat_interleave(counts)
    nth = torch.arange(len(index), device=counts.device) - (counts.cumsum(0) - counts).index_select(0, index)
    return index, nth


def _edge_functions(corners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a, b, c (N, 2) such that a * x + b * y + c are the weights of a triangle's second and third corner."""
    x, y, _ = corners.unbind(-1)
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    scale = 1 / torch.where(area.abs() > 1e-12, area, torch.ones_like(area))[:, None]
    a = torch.stack([y[:, 2] - y[:, 0], y[:, 0] - y[:, 1]], 1) * scale
    b = torch.stack([x[:, 0] - x[:, 2], x[:, 1] - x[:, 0]], 1) * scale
    return a, b, -(a * x[:, :1] + b * y[:, :1])
