"""Spectacles: two rims, a bridge and temples of thin tube, fitted to the eyes and ears of whoever wears them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sam_age.lifespan.asset import HeadAsset
from sam_age.lifespan.camera import View, towards
from sam_age.lifespan.cast import Cast
from sam_age.lifespan.curves import dot, unit
from sam_age.lifespan.dice import Dice
from sam_age.lifespan.head import Heads
from sam_age.lifespan.images import blur, scatter
from sam_age.lifespan.light import Lights
from sam_age.lifespan.rasterise import rasterise
from sam_age.lifespan.rows import at
from sam_age.lifespan.strands import Seen

_RIM, _BAR, _RING = 40, 8, 6  # points along a rim, along bridge and temples, and around the tube
_FRAMES = {
    "black": (0.012, 0.012, 0.013),
    "tortoise": (0.09, 0.035, 0.012),
    "silver": (0.20, 0.20, 0.21),
    "gold": (0.30, 0.20, 0.08),
    "blue": (0.03, 0.05, 0.14),
}


@dataclass(frozen=True)
class GlassesTraits:
    """Spectacles of an adult; on a child everything is smaller with the head. Lengths in metres."""

    worn: bool
    width: float  # half the width of a rim
    height: float  # half its height
    squareness: float  # exponent of the superellipse: 2 round, 4 nearly square
    tube: float  # radius
    colour: tuple[float, float, float]  # linear RGB albedo
    gloss: float


def draw_glasses(dice: Dice) -> GlassesTraits:
    colour = dice.choice("colour", list(_FRAMES), (4, 2, 2, 1, 1))
    metal = colour in ("silver", "gold")
    return GlassesTraits(
        worn=dice.chance("worn", 0.12),
        width=dice.uniform("width", 0.0230, 0.0268),
        height=dice.uniform("height", 0.016, 0.0215),
        squareness=dice.uniform("squareness", 2.1, 3.6),
        tube=dice.uniform("tube", 0.0006, 0.0008) if metal else dice.uniform("tube", 0.0010, 0.0016),
        colour=_FRAMES[colour],
        gloss=1.0 if metal else 0.5,
    )


def frames(cast: Cast, heads: Heads, asset: HeadAsset) -> tuple[Tensor, Tensor, Tensor]:
    """The frames in the head's own frame before it is turned.

    Returns:
        vertices (B, G, 3), unit normals (B, G, 3) and triangles (F, 3). Who wears none has all vertices in one point.
    """
    traits, device = cast.scene.glasses, heads.scale.device
    scale = heads.scale[:, None]
    angle = torch.arange(_RIM, device=device) * (2 * math.pi / _RIM)
    power = (2 / traits.squareness)[:, None]
    across = traits.width[:, None] * angle.cos().sign() * angle.cos().abs() ** power
    upright = traits.height[:, None] * angle.sin().sign() * angle.sin().abs() ** power
    level = heads.eyes[..., 2].mean(1) - 0.0025 * heads.scale
    middle = heads.eyes[..., 0].mean(1)
    room = (traits.tube + 0.0008)[:, None] * scale  # between skin and the middle of a tube

    rims = []
    for eye, side in ((0, 1.0), (1, -1.0)):
        x = heads.eyes[:, eye, 0:1] + side * 0.0020 * scale + across * scale * side
        wrap = 0.10 * (x - middle[:, None]).abs()  # rims follow the curve of the face
        lean = -0.10 * upright * scale  # and lean forwards at the top
        rims.append(torch.stack([x, wrap + lean, level[:, None] + upright * scale], 2))
    # as far back as the eyes' lashes and the face allow
    face = heads.vertices[:, _face(asset)]
    both = torch.cat(rims, 1)
    front = (_outermost(both, face, 1, -1.0, heads.scale) - room - both[..., 1]).amin(1)
    front = torch.minimum(front, heads.eyes[..., 1].amin(1) - heads.eye_radius - 0.0070 * heads.scale)
    pieces, outer, inner = [], [], []
    for rim in rims:
        rim[..., 1] += front[:, None]
        pieces.append(_tube(rim, traits.tube, heads.scale, closed=True))
        outer.append(rim[:, _RIM // 18])  # where the end pieces begin, and the bridge
        inner.append(rim[:, _RIM // 2 - _RIM // 12])

    t = torch.linspace(0, 1, _BAR, device=device)[:, None]
    bridge = inner[0][:, None] + t * (inner[1] - inner[0])[:, None]
    bridge[..., 2] += 0.003 * scale * torch.sin(math.pi * t[:, 0])
    nose = _outermost(bridge, face, 1, -1.0, heads.scale) - room
    bridge[..., 1] = torch.minimum(bridge[..., 1] - 0.002 * scale * torch.sin(math.pi * t[:, 0]), nose)
    pieces.append(_tube(bridge, traits.tube, heads.scale))
    for eye, side in ((0, 1.0), (1, -1.0)):
        temple = heads.vertices[:, _side(asset, side)]
        hinge = outer[eye] + heads.scale[:, None] * outer[0].new_tensor([0.0065 * side, 0.0035, 0.0])
        ear = heads.vertices[:, _top_of_ear(asset, side)]
        ear = ear + heads.scale[:, None] * outer[0].new_tensor([0.001 * side, 0.006, -0.004])
        bar = hinge[:, None] + t * (ear - hinge)[:, None]
        skin = _outermost(bar, temple, 0, side, heads.scale) + side * room
        clear = torch.maximum(bar[..., 0] * side, skin * side) * side
        bar[..., 0] += torch.sin(math.pi * t[:, 0]).clamp(max=0.5) * 2 * (clear - bar[..., 0])
        pieces.append(_tube(torch.cat([outer[eye][:, None], bar], 1), traits.tube, heads.scale))

    vertices, normals, triangles, first = [], [], [], 0
    for points, outward, faces in pieces:
        vertices.append(points)
        normals.append(outward)
        triangles.append(faces + first)
        first += points.shape[1]
    everything = torch.cat(vertices, 1)
    worn = traits.worn[:, None, None]
    return worn * everything + (1 - worn) * heads.centre[:, None], torch.cat(normals, 1), torch.cat(triangles)


class Spectacles(NamedTuple):
    """The frames' visible points."""

    pixel: Tensor  # (P,) index into B * size * size
    b: Tensor  # (P,)
    position: Tensor  # (P, 3) world
    normal: Tensor  # (P, 3) unit
    shadow: Tensor  # (B, 1, size, size) 0-1, on the face below them


def see(
    cast: Cast, heads: Heads, view: View, asset: HeadAsset, surface: Tensor, hair: Seen, size: int
) -> Spectacles | None:
    """What is seen of the frames before the skin (B * size * size,) depths `surface`, and before the hair."""
    if not bool(cast.scene.glasses.worn.any()):
        return None
    vertices, normals, triangles = frames(cast, heads, asset)
    every = torch.arange(len(cast), device=vertices.device)
    world = view.pose(vertices, every)
    seen = rasterise(view.project(world, every, size), triangles, size, size, cull=False)
    nearest = surface.clone()
    nearest[hair.pixel] = torch.minimum(nearest[hair.pixel], hair.depth)
    before = (seen.depth[seen.pixel] < nearest[seen.pixel]).nonzero()[:, 0]
    pixel, b = seen.pixel[before], seen.portrait[before]
    corners = triangles[seen.triangle[before]]
    weights = seen.weights[before, :, None]
    turned = torch.einsum("bij,bvj->bvi", view.turn, normals)
    mask = scatter(torch.ones(len(pixel), 1, device=pixel.device), pixel, len(cast), size)
    return Spectacles(
        pixel=pixel,
        b=b,
        position=(world[b[:, None], corners] * weights).sum(1),
        normal=unit((turned[b[:, None], corners] * weights).sum(1)),
        shadow=torch.roll(blur(mask, 0.004 * size), round(0.010 * size), 2).clamp(0, 1),
    )


def wear(picture: Tensor, seen: Spectacles | None, cast: Cast, view: View, light: Lights) -> Tensor:
    """Lay the frames over the picture (B, 3, size, size)."""
    if seen is None:
        return picture
    b, traits = seen.b, cast.scene.glasses
    key, eye = at(light.key, b), towards(view.camera, seen.position, b)
    normal = seen.normal * dot(seen.normal, eye).sign()[:, None]
    diffuse = dot(normal, key).clamp(min=0)[:, None] * at(light.key_colour, b)
    glint = (dot(normal, unit(key + eye)).clamp(min=0) ** 40 * at(traits.gloss, b))[:, None]
    mirrored = unit(2 * dot(normal, eye)[:, None] * normal - eye)
    colour = at(traits.colour, b) * (light.ambient(normal, b) + diffuse)
    colour = colour + 0.5 * glint * at(light.key_colour, b)
    colour = colour + (0.06 + 0.25 * at(traits.gloss, b) ** 2)[:, None] * 0.5 * light.ambient(mirrored, b)
    flat = picture.permute(0, 2, 3, 1).reshape(-1, 3)
    flat[seen.pixel] = colour
    return flat.view(len(cast), *picture.shape[2:], 3).permute(0, 3, 1, 2)


def _top_of_ear(asset: HeadAsset, side: float) -> int:
    """The vertex where the ear leaves the head at the top."""
    ear = (asset.ears > 0.5) & (asset.template[:, 0] * side > 0)
    return int(torch.where(ear, asset.template[:, 2], torch.full_like(asset.ears, -1)).argmax())


def _face(asset: HeadAsset) -> Tensor:
    """Indices of the vertices that rims and bridge lie before: brows, lids, nose and cheeks."""
    x, y, z = asset.template.unbind(1)
    face = torch.zeros_like(x, dtype=torch.bool)
    face[asset.head_vertices] = True
    return (face & (x.abs() < 0.075) & (y < -0.06) & (z > 0.86) & (z < 0.945)).nonzero()[:, 0]


def _side(asset: HeadAsset, side: float) -> Tensor:
    """Indices of the vertices between eye and ear, past which a temple runs."""
    x, _, z = asset.template.unbind(1)
    return ((x * side > 0.04) & (z > 0.88) & (z < 0.94) & (asset.ears < 0.2)).nonzero()[:, 0]


def _outermost(points: Tensor, skin: Tensor, axis: int, sign: float, scale: Tensor) -> Tensor:
    """Where the skin is along an axis at points (B, n, 3): its outermost place (B, n) within some 3 mm of each.

    Smooth in the vertices: a maximum of those near, less a penalty that grows with the square of the distance.
    """
    others = [k for k in range(3) if k != axis]
    apart = points[:, :, None, others] - skin[:, None, :, others]
    penalty = (apart**2).sum(-1) / (0.008 * scale[:, None, None])
    return sign * (sign * skin[:, None, :, axis] - penalty).amax(2)


def _tube(line: Tensor, radius: Tensor, scale: Tensor, *, closed: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """A tube around polylines (B, n, 3): vertices (B, n * RING, 3), normals, triangles."""
    count = line.shape[1]
    along = torch.roll(line, -1, 1) - torch.roll(line, 1, 1)
    if not closed:
        along[:, 0], along[:, -1] = line[:, 1] - line[:, 0], line[:, -1] - line[:, -2]
    along = unit(along)
    reference = torch.where(
        along[..., 1:2].abs() > 0.7, line.new_tensor([0.0, 0.0, 1.0]), line.new_tensor([0.0, 1.0, 0.0])
    )
    first = unit(torch.linalg.cross(along, reference.expand_as(along)))
    second = torch.linalg.cross(along, first)
    turn = torch.arange(_RING, device=line.device) * (2 * math.pi / _RING)
    out = first[:, :, None] * turn.cos()[:, None] + second[:, :, None] * turn.sin()[:, None]
    vertices = line[:, :, None] + out * (radius * scale)[:, None, None, None]
    k = torch.arange(count if closed else count - 1, device=line.device)[:, None]
    j = torch.arange(_RING, device=line.device)[None]
    a, b = k * _RING + j, k * _RING + (j + 1) % _RING
    c, d = (k + 1) % count * _RING + j, (k + 1) % count * _RING + (j + 1) % _RING
    triangles = torch.cat([torch.stack([a, b, c], -1).view(-1, 3), torch.stack([b, d, c], -1).view(-1, 3)])
    return vertices.flatten(1, 2), out.flatten(1, 2), triangles
