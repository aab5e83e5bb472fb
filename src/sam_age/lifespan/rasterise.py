"""Triangles to pixels, for a batch of pictures at once, in plain torch.

Every triangle proposes the pixels of its bounding box; those inside it compete for the pixel by depth, in one
scatter-minimum over a packed (depth, triangle) key. The result does not depend on the order of the work.
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
    keep, low, count = _boxes(corners, height, width, cull)
    corners = corners[keep]
    a, b, c = (t[keep] for t in _edge_functions(points[:, faces].reshape(batch * n_faces, 3, 3)))

    columns, cells = count[:, 0], count[:, 0] * count[:, 1]
    row = torch.repeat_interleave(torch.arange(len(keep), device=points.device), cells)
    step = torch.arange(len(row), device=points.device) - (cells.cumsum(0) - cells)[row]
    x = low[row, 0] + step % columns[row]
    y = low[row, 1] + torch.div(step, columns[row], rounding_mode="floor")
    w = a[row] * (x + 0.5)[:, None] + b[row] * (y + 0.5)[:, None] + c[row]  # weights of the 2nd and 3rd corner
    inside = ((w >= -1e-5).all(1) & (w.sum(1) <= 1 + 1e-5)).nonzero()[:, 0]
    row, x, y, w = row[inside], x[inside], y[inside], w[inside]

    z = corners[:, :, 2]
    depth = z[row, 0] + w[:, 0] * (z[:, 1] - z[:, 0])[row] + w[:, 1] * (z[:, 2] - z[:, 0])[row]
    portrait = torch.div(keep, n_faces, rounding_mode="floor")[row]
    pixel = (portrait * height + y) * width + x
    key = ((depth * DEPTH_STEPS).long() << _TRIANGLE_BITS) | (keep % n_faces)[row]
    best = torch.full((batch * height * width,), EMPTY, dtype=torch.int64, device=points.device)
    best.scatter_reduce_(0, pixel, key, "amin")

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


def _boxes(corners: Tensor, height: int, width: int, cull: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Triangles that may be seen, the first pixel of each one's bounding box, and its columns and rows."""
    x, y, z = corners.unbind(-1)
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    facing = area < -1e-9 if cull else area.abs() > 1e-9
    low = torch.stack([x.amin(1), y.amin(1)], 1)
    high = torch.stack([x.amax(1), y.amax(1)], 1)
    limit = torch.tensor([width - 1, height - 1], device=corners.device)
    first = (low - 0.5).ceil().long().clamp(min=0)
    last = torch.minimum((high - 0.5).floor().long(), limit)
    keep = (facing & (z.amin(1) > 0) & (last >= first).all(1)).nonzero()[:, 0]
    return keep, first[keep], (last - first + 1)[keep]


def _edge_functions(corners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a, b, c (N, 2) such that a * x + b * y + c are the weights of a triangle's second and third corner."""
    x, y, _ = corners.unbind(-1)
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    scale = 1 / torch.where(area.abs() > 1e-12, area, torch.ones_like(area))[:, None]
    a = torch.stack([y[:, 2] - y[:, 0], y[:, 0] - y[:, 1]], 1) * scale
    b = torch.stack([x[:, 0] - x[:, 2], x[:, 1] - x[:, 0]], 1) * scale
    return a, b, -(a * x[:, :1] + b * y[:, :1])
