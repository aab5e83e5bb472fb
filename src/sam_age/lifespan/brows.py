"""Eyebrows and lashes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sam_age.lifespan.asset import FRONT_SIDE, FRONT_STEP, FRONT_TOP, LEFT_EYE, RIGHT_EYE, HeadAsset, head_asset
from sam_age.lifespan.cast import Cast
from sam_age.lifespan.curves import between, step, unit
from sam_age.lifespan.dice import Dice, normals, uniforms
from sam_age.lifespan.follicles import grow, rooted
from sam_age.lifespan.hair import greyness, hair_colour
from sam_age.lifespan.head import Heads
from sam_age.lifespan.rows import at
from sam_age.lifespan.strands import Strands

_BROW, _UPPER, _LOWER = 900, 260, 150  # hairs on a brow, and lashes on both upper and both lower lids, at most
_GREY = (0.36, 0.35, 0.34)


@dataclass(frozen=True)
class BrowTraits:
    """A person's brows and lashes."""

    thickness: float  # 1 = mean
    arch: float  # metres of rise in the middle, beyond the common shape
    height: float  # metres above the common place
    lashes: float  # length, 1 = mean


def draw_brows(dice: Dice, *, female: bool) -> BrowTraits:
    return BrowTraits(
        thickness=dice.uniform("thickness", 0.75, 1.3) * (0.72 if female else 1.18),
        arch=dice.normal("arch", 0.0022 if female else 0.0, 0.0010),
        height=dice.normal("height", 0.0016 if female else -0.0010, 0.0009),
        lashes=dice.uniform("lashes", 0.9, 1.1) * (1.3 if female else 0.8),
    )


def _everyone(cast: Cast, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Portrait, number and seed of `count` hairs for each portrait, (B * count,) each."""
    every = torch.arange(len(cast) * count, device=cast.age.device)
    portrait = torch.div(every, count, rounding_mode="floor")
    return portrait, every % count, cast.person.seed[portrait]


def grow_brows(cast: Cast, heads: Heads, asset: HeadAsset) -> Strands:
    """Both eyebrows of each head."""
    b, hair, seed = _everyone(cast, 2 * _BROW)
    age, brows = cast.age, cast.person.brows
    side = torch.where(hair % 2 == 0, 1.0, -1.0)
    u = [uniforms(seed, hair, 110 + k) for k in range(5)]
    density = brows.thickness * between(age, (0, 1, 5, 10, 16, 70, 95), (0.25, 0.35, 0.55, 0.8, 1.0, 0.85, 0.6)) * 0.74
    even = 0.5 - torch.sin(torch.asin((1 - 2 * u[0]).clamp(-1, 1)) / 3)  # of beta(2, 2), denser in the middle
    t = 0.35 * u[0] + 0.65 * even
    grown = between(age, (0, 8, 18), (0.25, 0.45, 1.0))
    x = 0.0105 + 0.042 * t
    middle = 0.9195 + at(brows.height, b) + 0.0075 * torch.sin(2.3 * t) - 0.006 * t**3
    middle = middle + at(brows.arch * grown, b) * torch.sin(3.1 * t)
    half = (0.0042 * (1 - t).clamp(min=0) ** 0.45 + 0.0006) * at(brows.thickness.clamp(min=0.4) ** 0.7, b)
    z = middle + (2 * u[1] - 1) * 0.75 * half
    below = step(0.0008, -0.0008, z - middle)
    rise = (0.35 - 1.0 * t) + below * (0.75 - 0.3 * t)
    jitter = [normals(seed, hair, 115 + k) * 0.12 for k in range(3)]
    heading = torch.stack([side * (0.35 + 0.95 * t), torch.zeros_like(t), rise], 1)
    heading = unit(heading) + torch.stack(jitter, 1)
    length = 0.0062 * (1 - 0.35 * t) * (0.7 + 0.45 * u[2])
    length = length * at(between(age, (0, 6, 16, 60, 85), (0.6, 0.8, 1.0, 1.05, 1.35)), b)
    start, normal, skin = rooted(side * x, z, b, heads, asset)
    ramp = step(0.0, 0.12, at(density, b) - u[3])  # on the brink of being there, hairs are short
    alive = (skin & (ramp > 0)).nonzero()[:, 0]
    b = b[alive]
    length = (length * (0.3 + 0.7 * ramp))[alive] * at(heads.scale, b)
    points = grow(start[alive], normal[alive], heading[alive], length, lift=0.22, steps=5)
    return _strands(cast, points, b, seed[alive], hair[alive], 0.62, 0.55)


def grow_lashes(cast: Cast, heads: Heads, asset: HeadAsset) -> Strands:
    """Upper and lower lashes of both eyes."""
    b, hair, seed = _everyone(cast, _UPPER + _LOWER)
    upper = hair < _UPPER
    rim = _rims(str(asset.device))
    u = [uniforms(seed, hair, 130 + k) for k in range(3)]
    column = (u[0] * rim.shape[1]).long()
    x, high, low = rim[:, column]
    x = x + (u[1] - 0.5) * FRONT_STEP
    z = torch.where(upper, high, low)
    outward = (x.abs() - 0.0313) / 0.016  # -1 at the nose to 1 at the temple
    length = torch.where(upper, 0.0062, 0.0032) * (0.7 + 0.4 * u[2]) * (1 + 0.2 * outward)
    length = length * at(
        heads.scale * cast.person.brows.lashes * between(cast.age, (0, 3, 60, 90), (0.8, 1.0, 1.0, 0.65)), b
    )
    start, _, _ = rooted(x, z, b, heads, asset)
    across = x.sign() * (0.15 + 0.55 * outward)
    direction = torch.stack([across, torch.full_like(x, -1.0), torch.where(upper, -0.15, -0.4)], 1)
    bend = torch.stack([torch.zeros_like(x), torch.full_like(x, 0.25), torch.where(upper, 0.85, -0.15)], 1)
    points = [start]
    for _ in range(4):
        direction = unit(direction)
        points.append(points[-1] + direction * (length / 4)[:, None])
        direction = direction + 0.38 * bend
    return _strands(cast, torch.stack(points, 1), b, seed, hair, 0.35, 0.25)


def _strands(cast: Cast, points: Tensor, b: Tensor, seed: Tensor, hair: Tensor, dark: float, greys: float) -> Strands:
    """Args: dark: colour over that of the head's hair. greys: how far it follows the head's greying."""
    grey = at(greyness(cast) * greys, b)
    turned = step(-0.08, 0.08, grey * 1.16 - 0.08 - uniforms(seed, hair, 119))[:, None]
    colour = (at(hair_colour(cast), b) * dark).clamp(min=0.004)
    colour = colour * (1 - turned) + turned * colour.new_tensor(_GREY)
    fine = at(between(cast.age, (0, 2, 10), (0.35, 0.55, 1.0)), b)
    return Strands(points, b, torch.ones_like(grey), normals(seed, hair, 118).clamp(-2, 2), colour, fine)


@lru_cache(maxsize=4)
def _rims(device: str) -> Tensor:
    """(3, n) canonical x, and z of the upper and lower rim of the eyes' opening there."""
    asset = head_asset(device)
    kind = torch.where(asset.face_at >= 0, asset.kind[asset.face_at], -1)
    eye = (kind == LEFT_EYE) | (kind == RIGHT_EYE)
    columns = (eye.sum(0) > 4).nonzero()[:, 0]
    rows = torch.arange(eye.shape[0], device=asset.device)[:, None]
    top = torch.where(eye, rows, eye.shape[0]).amin(0)[columns]
    bottom = torch.where(eye, rows, -1).amax(0)[columns]
    x = (columns + 0.5) * FRONT_STEP - FRONT_SIDE
    return torch.stack([x, FRONT_TOP - (top - 2) * FRONT_STEP, FRONT_TOP - (bottom + 3) * FRONT_STEP])
