"""Clothes: a garment on the shoulders, with a neckline that is drawn pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sam_age.lifespan.asset import HeadAsset
from sam_age.lifespan.cast import Cast
from sam_age.lifespan.curves import bump, step
from sam_age.lifespan.dice import Dice
from sam_age.lifespan.head import Heads
from sam_age.lifespan.rows import at

Colour = tuple[float, float, float]

# Linear RGB of cloth as people wear it, and how common it is.
_DYES = {
    (0.014, 0.014, 0.016): 4,  # black
    (0.075, 0.077, 0.082): 2,  # charcoal
    (0.27, 0.27, 0.28): 2,  # grey
    (0.58, 0.57, 0.55): 3.5,  # white
    (0.48, 0.43, 0.35): 1.5,  # cream
    (0.018, 0.028, 0.070): 3,  # navy
    (0.055, 0.10, 0.20): 2,  # denim
    (0.24, 0.34, 0.47): 1.5,  # pale blue
    (0.15, 0.018, 0.026): 1,  # burgundy
    (0.36, 0.045, 0.035): 1,  # red
    (0.055, 0.075, 0.035): 1,  # olive
    (0.03, 0.085, 0.055): 0.8,  # bottle green
    (0.06, 0.20, 0.19): 0.6,  # teal
    (0.24, 0.15, 0.08): 1,  # camel
    (0.075, 0.042, 0.026): 1,  # brown
    (0.42, 0.27, 0.045): 0.5,  # mustard
    (0.44, 0.22, 0.23): 0.8,  # rose
    (0.19, 0.14, 0.27): 0.5,  # lilac
}
_LEAF_STEP = 0.0010  # metres over which the edge of a fold-over falls


@dataclass(frozen=True)
class ClothesTraits:
    """What is worn; lengths in canonical metres, colours linear RGB."""

    colour: Colour
    second: Colour  # of stripes and checks
    height: float  # of the neckline over the common one, a crew neck's
    v_depth: float  # how far a V reaches down in front
    scoop: float  # how far a round neck is cut down in front
    stand: float  # how far a collar or a roll neck stands up over it
    opens: float  # 1 a collar, open in front; 0 a roll neck
    leaf: float  # width of the part of them that is folded over; 0 none
    band: float  # width of the ribbed band at the neck
    bulk: float  # thickness of the cloth
    stripes: float  # 0-1 strength of level stripes
    checks: float  # 0-1 strength of upright ones
    stripe: float  # width of a stripe
    knit: float  # 0 smooth, 1 coarse wool
    folds: float  # height of folds, metres


def draw_clothes(dice: Dice) -> ClothesTraits:
    def colour(name: str) -> Colour:
        base = dice.choice(f"{name} dye", list(_DYES), list(_DYES.values()))
        faded = dice.uniform(f"{name} faded", 0.75, 1.15)
        red, green, blue = (
            max(0.01, c * faded * (1 + dice.normal(f"{name} {k}", 0, 0.06))) for k, c in enumerate(base)
        )
        return red, green, blue

    neck = dice.choice("neck", ("round", "v", "scoop", "high", "roll", "collar"), (5, 1.5, 1, 1.5, 1.3, 4))
    pattern = dice.choice("pattern", ("plain", "stripes", "checks"), (7, 1.5, 3) if neck == "collar" else (8, 2, 0.3))
    roll, collar = neck == "roll", neck == "collar"
    return ClothesTraits(
        colour=colour("first"),
        second=colour("second"),
        height=dice.uniform("height", -0.006, 0.006) + (0.014 if neck == "high" else 0.0),
        v_depth=dice.uniform("v", 0.035, 0.065) if neck in ("v", "collar") else 0.0,
        scoop=dice.uniform("scoop", 0.012, 0.030) if neck == "scoop" else 0.0,
        stand=dice.uniform("stand", 0.026, 0.036) if roll else dice.uniform("stand", 0.016, 0.027) * collar,
        opens=float(collar),
        leaf=dice.uniform("leaf", 0.024, 0.034) * float(roll or collar),
        band=dice.uniform("band", 0.006, 0.012) * float(dice.chance("has band", 0.8) and not roll and not collar),
        bulk=dice.uniform("bulk", 0.004, 0.009),
        stripes=dice.uniform("strength", 0.5, 1.0) * float(pattern != "plain"),
        checks=dice.uniform("strength", 0.5, 1.0) * float(pattern == "checks"),
        stripe=dice.uniform("stripe", 0.004, 0.010) if collar else dice.uniform("stripe", 0.008, 0.020),
        knit=0.5 + 0.5 * dice.uniform("knit") if roll else 0.0 if collar else dice.uniform("knit") ** 2,
        folds=dice.uniform("folds", 0.0006, 0.0020),
    )


def _below_neckline(cast: Cast, canonical: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(P,) metres below the edge of the garment, and (P,) how far round from the front, radians 0-pi."""
    wear = cast.scene.clothes
    x, y, z = canonical.unbind(-1)
    front = step(-0.02, -0.06, y)
    round_ = torch.atan2(x.abs(), -(y + 0.02))
    edge = 0.729 + 0.019 * step(0.4, 1.5, round_) + 0.014 * step(1.4, 2.9, round_) + at(wear.height, b)
    middle = front * (1 - x.abs() / 0.055).clamp(min=0)
    edge = edge + at(wear.stand, b) * (1 - at(wear.opens, b) * middle) - at(wear.v_depth, b) * middle
    edge = edge - at(wear.scoop, b) * front * step(0.085, 0.02, x.abs())
    return edge - z, round_


def _before_leaf(cast: Cast, canonical: Tensor, below: Tensor, round_: Tensor, b: Tensor) -> Tensor:
    """(P,) metres inside what is folded over, negative outside it; a collar ends in two points that part in front."""
    wear = cast.scene.clothes
    x, _, z = canonical.unbind(-1)
    opens = at(wear.opens, b)
    hang = at(wear.leaf, b) * (1 + 0.7 * opens * bump(round_, 0.50, 0.30)) - below
    under_button = 0.729 + at(wear.height, b) - at(wear.v_depth, b) - z
    parted = 0.7 * (x.abs() - 0.002 - 0.8 * under_button.clamp(min=0))
    return torch.where((opens > 0) & (under_button > 0), torch.minimum(hang, parted), hang)


def bulk(cast: Cast, asset: HeadAsset, heads: Heads) -> Tensor:
    """(B, V) metres by which vertices are pushed out along their normals to be cloth."""
    count, wear = len(asset.template), cast.scene.clothes
    canonical = asset.template.repeat(len(cast), 1)
    b = torch.arange(len(cast), device=canonical.device).repeat_interleave(count)
    below, round_ = _below_neckline(cast, canonical, b)
    inside = step(-0.001, 0.005, below)
    folded = step(-0.006, 0.002, _before_leaf(cast, canonical, below, round_, b)) * (at(wear.leaf, b) > 0)
    pushed = inside * (at(wear.bulk, b) + 0.0035 * folded)
    return pushed.view(len(cast), count) * heads.scale[:, None]


def cover(cast: Cast, canonical: Tensor, b: Tensor) -> Tensor:
    """(P,) 1 where cloth is, 0 where skin is, between them on the edge itself."""
    return step(-0.0007, 0.0007, _below_neckline(cast, canonical, b)[0])


def cloth(cast: Cast, canonical: Tensor, b: Tensor, noise: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Albedo (P, 3) and relief (P,), metres; `noise` (P, 2) -> (P, 4) as `sam_age.lifespan.noise`."""
    wear = cast.scene.clothes
    x, y, z = canonical.unbind(-1)
    below, round_ = _below_neckline(cast, canonical, b)
    around = torch.atan2(x, -(y + 0.02)) * 0.12
    grain = noise(torch.stack([around, z], 1) / 0.12 + at(wear.bulk, b)[:, None] * 37)

    drape = noise(torch.stack([around / 0.22, z / 0.40], 1) + at(wear.folds, b)[:, None] * 911)[:, 0]

    rolled = (at(wear.leaf, b) > 0).float()
    hang = _before_leaf(cast, canonical, below, round_, b)
    on_leaf = step(-_LEAF_STEP, 0.0, hang) * rolled
    on_band = step(1.1, 0.9, below / at(wear.band.clamp(min=1e-4), b)) * (at(wear.band, b) > 0)
    on_band = torch.maximum(on_band, on_leaf * (1 - at(wear.opens, b)))  # a roll neck is ribbed all over

    # a collar is cut across the cloth: its stripes follow its edge
    own_z = torch.where((on_leaf * at(wear.opens, b)) > 0.5, below, z)
    period = 2 * at(wear.stripe, b)
    level = step(-0.15, 0.15, torch.sin(2 * torch.pi * own_z / period))
    across = step(-0.15, 0.15, torch.sin(2 * torch.pi * x / period))
    checks, plain = at(wear.checks, b), 1 - on_band
    mixed = at(wear.stripes, b) * level * (1 - 0.5 * checks) + 0.5 * checks * across
    first = at(wear.colour, b)
    albedo = first + (mixed * plain)[:, None] * (at(wear.second, b) - first)

    knit = at(wear.knit, b)
    ribs = torch.sin(around * 2 * torch.pi / 0.0028)
    rows = torch.sin(2 * torch.pi * (z / 0.0045)) * torch.sin(around * 2 * torch.pi / 0.0036)
    relief = at(wear.folds, b) * (1.6 * drape + 0.15 * grain[:, 0]) * (1 - 0.75 * torch.maximum(on_band, on_leaf))
    relief = relief + 0.00012 * grain[:, 2] * (0.3 + knit)
    relief = relief + 0.00025 * ribs * on_band + 0.00030 * rows * knit * plain
    relief = relief + 0.0012 * on_leaf

    banded = (at(wear.band, b) > 0).float()
    seam = bump(below, 0.0, 0.0012) + 0.6 * bump(below, at(wear.band, b), 0.0009) * banded
    stitched = 0.5 * bump(hang, 0.004, 0.0005) * rolled * at(wear.opens, b)
    placket = 0.6 * bump(x.abs(), 0.014, 0.0007) * at(wear.opens, b) * (1 - on_leaf) * step(-0.02, -0.06, y)
    under = step(-0.008, 0.0, hang) * rolled * (1 - on_leaf)  # what is folded over shades the cloth below it
    dark = 0.35 * seam + 0.25 * stitched + 0.4 * placket + 0.55 * under + 0.05 * ribs * on_band
    albedo = albedo * (1 - dark)[:, None] * (1 + 0.04 * grain[:, 3] * (0.4 + knit))[:, None]
    return albedo.clamp(min=0.005), relief
