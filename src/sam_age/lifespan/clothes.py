"""Clothes: a garment on the shoulders, with a neckline that is drawn pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sam_age.lifespan.asset import HeadAsset
from sam_age.lifespan.cast import Cast
from sam_age.lifespan.curves import step
from sam_age.lifespan.dice import Dice
from sam_age.lifespan.head import Heads
from sam_age.lifespan.rows import at

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class ClothesTraits:
    """What is worn; lengths in canonical metres, colours linear RGB."""

    colour: Colour
    second: Colour  # of stripes and checks
    height: float  # of the neckline over the common one
    v_depth: float  # how far a V reaches down in front
    scoop: float  # how far a round neck is cut down in front
    band: float  # width of the ribbed band at the neck
    bulk: float  # thickness of the cloth
    stripes: float  # 0-1 strength of level stripes
    checks: float  # 0-1 strength of upright ones
    stripe: float  # width of a stripe
    knit: float  # 0 smooth, 1 coarse wool
    folds: float  # height of folds, metres


def draw_clothes(dice: Dice) -> ClothesTraits:
    def colour(name: str) -> Colour:
        light = 0.02 + 0.55 * dice.uniform(f"{name} light") ** 1.8
        vivid = 0.12 + 0.5 * dice.uniform(f"{name} vivid") ** 2
        red, green, blue = (max(0.01, light * (1 + vivid * dice.normal(f"{name} {k}", 0, 0.9))) for k in range(3))
        return red, green, blue

    pattern = dice.choice("pattern", ("plain", "stripes", "checks"), (7, 2, 1))
    neck = dice.choice("neck", ("round", "v", "scoop", "high"), (5, 2, 2, 1.5))
    return ClothesTraits(
        colour=colour("first"),
        second=colour("second"),
        height=dice.uniform("height", -0.008, 0.008) + (0.014 if neck == "high" else 0.0),
        v_depth=dice.uniform("v", 0.035, 0.065) if neck == "v" else 0.0,
        scoop=dice.uniform("scoop", 0.012, 0.030) if neck == "scoop" else 0.0,
        band=dice.uniform("band", 0.006, 0.012) * float(dice.chance("has band", 0.75)),
        bulk=dice.uniform("bulk", 0.004, 0.010),
        stripes=dice.uniform("strength", 0.5, 1.0) * float(pattern != "plain"),
        checks=dice.uniform("strength", 0.5, 1.0) * float(pattern == "checks"),
        stripe=dice.uniform("stripe", 0.008, 0.022),
        knit=dice.uniform("knit") ** 2,
        folds=dice.uniform("folds", 0.0006, 0.0018),
    )


def _below_neckline(cast: Cast, canonical: Tensor, b: Tensor) -> Tensor:
    """(P,) metres below the edge of the garment."""
    wear = cast.scene.clothes
    x, y, z = canonical.unbind(-1)
    front = step(-0.02, -0.06, y)
    edge = 0.732 + 0.22 * (y + 0.06).clamp(-0.1, 0.12) + at(wear.height, b)
    edge = edge - at(wear.v_depth, b) * front * (1 - x.abs() / 0.055).clamp(min=0)
    edge = edge - at(wear.scoop, b) * front * step(0.085, 0.02, x.abs())
    return edge - z


def bulk(cast: Cast, asset: HeadAsset, heads: Heads) -> Tensor:
    """(B, V) metres by which vertices are pushed out along their normals to be cloth."""
    count = len(asset.template)
    canonical = asset.template.repeat(len(cast), 1)
    b = torch.arange(len(cast), device=canonical.device).repeat_interleave(count)
    inside = step(-0.001, 0.005, _below_neckline(cast, canonical, b)).view(len(cast), count)
    return inside * (cast.scene.clothes.bulk * heads.scale)[:, None]


def cover(cast: Cast, canonical: Tensor, b: Tensor) -> Tensor:
    """(P,) 1 where cloth is, 0 where skin is, between them on the edge itself."""
    return step(-0.0007, 0.0007, _below_neckline(cast, canonical, b))


def cloth(cast: Cast, canonical: Tensor, b: Tensor, noise: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Albedo (P, 3) and relief (P,), metres; `noise` (P, 2) -> (P, 4) as `sam_age.lifespan.noise`."""
    wear = cast.scene.clothes
    x, y, z = canonical.unbind(-1)
    below = _below_neckline(cast, canonical, b)
    around = torch.atan2(x, -(y + 0.02)) * 0.12
    grain = noise(torch.stack([around, z], 1) / 0.12 + at(cast.scene.clothes.bulk, b)[:, None] * 37)
    width = at(wear.stripe, b)
    level = step(-0.15, 0.15, torch.sin(2 * torch.pi * z / (2 * width)))
    across = step(-0.15, 0.15, torch.sin(2 * torch.pi * x / (2 * width)))
    mixed = (at(wear.stripes, b) * level * (1 - 0.5 * at(wear.checks, b)) + 0.5 * at(wear.checks, b) * across)[:, None]
    on_band = step(1.1, 0.9, below / at(wear.band.clamp(min=1e-4), b)) * (at(wear.band, b) > 0)
    mixed = mixed * (1 - on_band[:, None])
    first = at(wear.colour, b)
    albedo = first + mixed * (at(wear.second, b) - first)
    knit = at(wear.knit, b)
    ribs = torch.sin(around * 2 * torch.pi / 0.0028)
    rows = torch.sin(2 * torch.pi * (z / 0.0045)) * torch.sin(around * 2 * torch.pi / 0.0036)
    relief = at(wear.folds, b) * grain[:, 0] * (1 - on_band) + 0.00012 * grain[:, 2] * (0.3 + knit)
    relief = relief + 0.00025 * ribs * on_band + 0.00030 * rows * knit * (1 - on_band)
    seam = torch.exp(-((below / 0.0012) ** 2)) + 0.6 * torch.exp(-(((below - at(wear.band, b)) / 0.0009) ** 2))
    albedo = (
        albedo * (1 - 0.35 * seam - 0.05 * ribs * on_band)[:, None] * (1 + 0.04 * grain[:, 3] * (0.4 + knit))[:, None]
    )
    return albedo.clamp(min=0.005), relief
