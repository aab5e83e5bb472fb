"""Short hair that grows from the face: brows, lashes and beards share how it stands and bends."""

from __future__ import annotations

import torch
from torch import Tensor

from sam_age.lifespan.asset import SKIN, HeadAsset
from sam_age.lifespan.curves import dot, unit
from sam_age.lifespan.head import Heads


def rooted(x: Tensor, z: Tensor, b: Tensor, heads: Heads, asset: HeadAsset) -> tuple[Tensor, Tensor, Tensor]:
    """Where canonical (x, z), seen from the front, lie on the heads.

    Returns:
        positions (P, 3), normals (P, 3), and whether there is skin at all (P,).
    """
    triangle, weights = asset.front(x, z)
    skin = (triangle >= 0) & (asset.kind[triangle] == SKIN)
    corners = asset.faces[triangle.clamp(min=0)] + (b * heads.vertices.shape[1])[:, None]
    flat, normals = heads.vertices.flatten(0, 1), heads.normals.flatten(0, 1)
    position = sum(flat.index_select(0, corners[:, k]) * weights[:, k, None] for k in range(3))
    normal = unit(sum(normals.index_select(0, corners[:, k]) * weights[:, k, None] for k in range(3)))
    return position, normal, skin


def grow(start: Tensor, normal: Tensor, heading: Tensor, length: Tensor, *, lift: float, steps: int) -> Tensor:
    """Strands (M, steps + 1, 3) that leave the skin at a slant and lie down on it.

    Args:
        heading: (M, 3) direction along the skin, any length.
        length: (M,) metres.
        lift: tangent of the angle at which they leave the skin.
    """
    along = unit(heading - normal * dot(heading, normal)[:, None])
    direction = unit(along + lift * normal)
    points = [start + 0.0003 * normal]
    for _ in range(steps):
        points.append(points[-1] + direction * (length / steps)[:, None])
        direction = unit(direction - normal * (1.1 * lift / steps))
    return torch.stack(points, 1)
