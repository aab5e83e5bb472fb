"""The shape of a head: who it is, how old, and what the face is doing.

A head is a mixture of MakeHuman's whole heads (sex x age x weight, ancestry), plus local targets (a longer nose, a
wider jaw) whose weights have three causes: the person, the age, and the sex as puberty brings it out. Expressions
come on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sam_age.lifespan.asset import AGE_CORNERS, HeadAsset
from sam_age.lifespan.cast import Cast
from sam_age.lifespan.curves import between, step
from sam_age.lifespan.dice import Dice

# Years against anny's age axis. Not anny's own map, which is calibrated on body height: at 18 it is a third old.
# Its newborn and baby have an old man's jowls, so infancy stays near the child and gets its looks from INFANT.
YEARS = (0, 1, 3, 6, 10, 14, 18, 25, 40, 60, 80, 100)
AXIS = (0.03, 0.055, 0.115, 0.195, 0.28, 0.385, 0.52, 0.667, 0.74, 0.85, 0.94, 1.0)

# Standard deviation of a person's local targets, by the first word of the name and by name where another suits.
_SPREAD = {
    "head": 0.22, "nose": 0.33, "mouth": 0.28, "chin": 0.30, "forehead": 0.30, "eyebrows": 0.35, "neck": 0.15,
    "ear": 0.30, "eye": 0.28, "cheek": 0.33,
}  # fmt: skip
_SPREAD_OF = {
    "head-age-incr": 0, "head-scale-vert-incr": 0.12, "head-scale-horiz-incr": 0.12, "head-scale-depth-incr": 0.12,
    "head-trans-forward": 0, "head-trans-up": 0, "head-trans-out": 0, "head-angle-out": 0,
    "head-back-scale-depth-incr": 0.12, "head-fat-incr": 0.25, "neck-double-incr": 0, "neck-trans-out": 0,
    "neck-trans-forward": 0.1, "neck-trans-up": 0, "nose-trans-out": 0, "nose-hump-incr": 0.3,
    "nose-greek-incr": 0.25, "nose-compression-uncompress": 0.2, "nose-flaring-incr": 0.25, "mouth-trans-out": 0,
    "mouth-laugh-lines-out": 0.1, "mouth-dimples-out": 0.2, "mouth-trans-up": 0.2, "mouth-angles-up": 0.2,
    "mouth-trans-forward": 0.2, "ear-wing-incr": 0.25, "ear-flap-incr": 0.2, "ear-shape-triangle": 0.2,
    "eye-bag-incr": 0.1, "eye-trans-up": 0.12, "eye-trans-out": 0.22, "eye-epicanthus-out": 0.15,
    "eye-push1-out": 0.12, "eye-push2-out": 0.12, "eye-scale-incr": 0.18, "eye-height1-incr": 0.2,
    "eye-height2-incr": 0.2, "eye-height3-incr": 0.2, "chin-prognathism-incr": 0.18, "chin-jaw-drop-incr": 0.2,
    "chin-cleft-incr": 0.25, "forehead-nubian-incr": 0.2,
}  # fmt: skip
_ASYMMETRY = 0.04  # standard deviation of the difference of each side of the face from their mean

# What a stage of life adds to the local targets at its fullest; both sides of the face alike.
OLD = {
    "head-age-incr": 0.85, "eye-bag-incr": 0.55, "eye-bag-out": 0.25, "neck-double-incr": 0.45,
    "cheek-trans-up": -0.55, "mouth-angles-up": -0.13, "mouth-upperlip-height-incr": -0.38,
    "mouth-lowerlip-height-incr": -0.30, "mouth-upperlip-volume-incr": -0.45, "mouth-lowerlip-volume-incr": -0.38,
    "eye-eyefold-up": -0.40, "eye-corner2-up": -0.22, "nose-point-up": -0.18, "nose-scale-vert-incr": 0.18,
    "ear-scale-incr": 0.25, "ear-lobe-incr": 0.45, "forehead-temple-incr": -0.45, "cheek-inner-incr": -0.30,
    "head-fat-incr": -0.2, "eye-height2-incr": -0.10, "eye-scale-incr": -0.2, "eyebrows-trans-up": -0.2,
}  # fmt: skip
CHILD = {
    "chin-height-incr": -0.56, "chin-jaw-drop-incr": -0.35, "chin-prominent-incr": -0.25,
    "nose-scale-vert-incr": -0.22, "nose-scale-depth-incr": -0.22, "nose-scale-horiz-incr": -0.10,
    "nose-hump-incr": -0.3, "nose-point-up": 0.25, "eye-scale-incr": 0.30, "eye-height2-incr": 0.25,
    "cheek-volume-incr": 0.48, "cheek-bones-incr": -0.3, "mouth-scale-horiz-incr": -0.32,
    "mouth-scale-vert-incr": -0.15, "mouth-upperlip-volume-incr": -0.32, "mouth-lowerlip-volume-incr": -0.32,
    "mouth-lowerlip-height-incr": -0.15, "mouth-upperlip-height-incr": -0.12, "forehead-nubian-incr": 0.2,
    "forehead-scale-vert-incr": -0.15, "eyebrows-trans-forward": -0.4, "head-scale-horiz-incr": 0.12,
    "neck-scale-horiz-incr": -0.25, "neck-scale-depth-incr": -0.2, "eyebrows-trans-up": 0.15,
}  # fmt: skip
INFANT = {
    "forehead-scale-vert-incr": -0.12, "head-scale-horiz-incr": 0.13, "head-scale-vert-incr": -0.02,
    "head-age-incr": -0.18, "cheek-volume-incr": 0.10, "cheek-trans-up": 0.10, "eye-scale-incr": 0.22,
    "head-fat-incr": -0.06, "neck-double-incr": -0.12, "mouth-trans-up": 0.06, "nose-scale-horiz-incr": -0.06,
    "nose-scale-vert-incr": -0.05, "nose-scale-depth-incr": -0.04, "nose-point-up": 0.06,
    "eye-trans-out": 0.04, "mouth-scale-horiz-incr": -0.06, "mouth-upperlip-volume-incr": -0.06,
    "mouth-lowerlip-volume-incr": -0.06, "ear-scale-incr": -0.04,
}  # fmt: skip
MAN = {
    "chin-width-incr": 0.22, "chin-height-incr": 0.18, "chin-prominent-incr": 0.20, "chin-bones-incr": 0.25,
    "eyebrows-trans-forward": 0.24, "eyebrows-trans-up": -0.24, "nose-scale-horiz-incr": 0.14,
    "nose-scale-depth-incr": 0.15, "nose-scale-vert-incr": 0.10, "eye-scale-incr": -0.14,
    "mouth-upperlip-volume-incr": -0.12, "neck-scale-horiz-incr": 0.25, "neck-scale-depth-incr": 0.15,
    "head-scale-vert-incr": 0.05, "cheek-volume-incr": -0.10,
}  # fmt: skip
WOMAN = {
    "chin-width-incr": -0.25, "chin-height-incr": -0.15, "chin-bones-incr": -0.20, "chin-prominent-incr": -0.10,
    "eyebrows-trans-forward": -0.35, "eyebrows-trans-up": 0.38, "nose-scale-horiz-incr": -0.35,
    "nose-scale-depth-incr": -0.30, "nose-point-up": 0.10, "nose-hump-incr": -0.15, "eye-scale-incr": 0.18,
    "mouth-upperlip-volume-incr": 0.14, "mouth-lowerlip-volume-incr": 0.12, "cheek-bones-incr": 0.10,
    "forehead-nubian-incr": 0.10, "neck-scale-horiz-incr": -0.22, "neck-scale-depth-incr": -0.12,
}  # fmt: skip


@dataclass(frozen=True)
class HeadTraits:
    """What makes one head differ from another of the same age."""

    gender: float  # 0 a man's mean head, 1 a woman's; beyond them more so
    weight: float  # 0 thin, 0.5 mean, 1 heavy
    shape: tuple[float, ...]  # weight of each local target of the asset, signed
    sag: float  # how far skin and fat sink with age, 1 = mean


def draw_head(dice: Dice, names: tuple[str, ...], *, female: bool) -> HeadTraits:
    """Args: names: the asset's local targets."""
    shape = []
    for name in names:
        base = _both_sides(name)
        spread = _SPREAD_OF.get(base, _SPREAD.get(base.split("-")[0], 0.25))
        weight = dice.normal(base, 0, spread)
        shape.append(weight + (dice.normal(name, 0, _ASYMMETRY) if base != name else 0.0))
    return HeadTraits(
        gender=dice.normal("gender", 1.10 if female else -0.10, 0.10),
        weight=min(max(dice.normal("weight", 0.5, 0.16, 2.5), 0.1), 0.95),
        shape=tuple(shape),
        sag=dice.uniform("sag", 0.75, 1.15),
    )


@dataclass(frozen=True)
class Expression:
    """What the face is doing; each from 0, at rest, to 1."""

    smile: float
    teeth: float  # shown in the smile
    open: float  # mouth open
    squint: float
    frown: float  # brows drawn down
    brows_up: float  # outer ends
    brows_worried: float  # inner ends up
    eyes_wide: float
    mouth_down: float  # corners


def draw_expression(dice: Dice) -> Expression:
    smile = dice.uniform("smile") ** 1.1
    return Expression(
        smile=smile,
        teeth=float(dice.chance("teeth", 0.55) and smile > 0.35),
        open=dice.uniform("open") ** 5,
        squint=dice.uniform("squint", 0, 0.1),
        frown=max(0.0, dice.uniform("frown") - 0.75) * 1.2,
        brows_up=max(0.0, dice.uniform("brows up") - 0.75) * 1.6,
        brows_worried=max(0.0, dice.uniform("brows worried") - 0.8) * 1.5,
        eyes_wide=max(0.0, dice.uniform("eyes wide") - 0.65) * (1 - smile),
        mouth_down=max(0.0, dice.uniform("mouth down") - 0.8) * (1 - smile),
    )


class Heads(NamedTuple):
    """The heads of a batch before they are turned: metres, person's own frame."""

    vertices: Tensor  # (B, V, 3)
    normals: Tensor  # (B, V, 3) unit
    occlusion: Tensor  # (B, V) share of the sky seen
    eyes: Tensor  # (B, 2, 3) centres of the left and right eyeball
    eye_radius: Tensor  # (B,)
    scale: Tensor  # (B,) distance between the eyes over the template's
    centre: Tensor  # (B, 3) middle of the head, where hair radiates from


def shape(cast: Cast, asset: HeadAsset) -> Heads:
    """The heads of a batch."""
    corner = _corner_weights(cast)
    heaviness = _heaviness(cast)
    by_weight = torch.einsum("bga,bw->bgaw", corner, heaviness).flatten(1)
    by_ancestry = torch.einsum("bga,br->bgar", corner, cast.person.ancestry).flatten(1)
    local = local_weights(cast, asset)
    signed = torch.stack([local.clamp(min=0), (-local).clamp(min=0)], 2).flatten(1)
    vertices = _mix(by_weight, asset.corners) + _mix(by_ancestry, asset.ancestry)
    vertices = vertices + _mix(signed, asset.local) + _mix(action_weights(cast, asset), asset.action)

    eyes = torch.stack([vertices[:, index].mean(1) for index in asset.eye_vertices], 1)
    radius = (vertices[:, asset.eye_vertices[0]] - eyes[:, :1]).norm(dim=2).mean(1)
    middle = eyes.mean(1)
    skull = vertices[:, asset.head_vertices]
    top, back = skull[..., 2].amax(1), skull[..., 1].amax(1)
    centre = torch.stack(
        [middle[:, 0], middle[:, 1] + 0.45 * (back - middle[:, 1]), middle[:, 2] + 0.18 * (top - middle[:, 2])], 1
    )
    return Heads(
        vertices=vertices,
        normals=vertex_normals(vertices, asset.faces),
        occlusion=torch.einsum("bga,gav->bv", corner.clamp(0, 1), asset.occlusion),
        eyes=eyes,
        eye_radius=radius,
        scale=(eyes[:, 0] - eyes[:, 1]).norm(dim=1) / 0.0626,
        centre=centre,
    )


def age_axis(age: Tensor) -> Tensor:
    """Years to the asset's age axis, -1/3 newborn to 1 old."""
    return between(age, YEARS, AXIS)


def _corner_weights(cast: Cast) -> Tensor:
    """(B, 2, 5) share of each sex and age among the whole heads."""
    axis = age_axis(cast.age)
    ages = (1 - (axis[:, None] - axis.new_tensor(AGE_CORNERS)).abs() * 3).clamp(min=0)
    ages = ages / ages.sum(1, keepdim=True)
    grown = 0.5 + (cast.person.head.gender - 0.5) * (0.55 + 0.45 * step(8, 18, cast.age))
    return torch.stack([1 - grown, grown], 1)[:, :, None] * ages[:, None]


def _heaviness(cast: Cast) -> Tensor:
    """(B, 3) thin, mean, heavy. People gain weight to sixty and lose it again; small children are near the mean."""
    age = cast.age
    weight = cast.person.head.weight + 0.07 * step(25, 55, age) - 0.10 * step(72, 95, age)
    three = (1 - 2 * (weight.clamp(0.05, 1)[:, None] - weight.new_tensor([0, 0.5, 1])).abs()).clamp(min=0)
    child = step(14, 8, age)[:, None] * 0.4
    return three * (1 - child) + child * three.new_tensor([0.0, 1.0, 0.0])


def local_weights(cast: Cast, asset: HeadAsset) -> Tensor:
    """(B, L) signed weight of each local target."""
    age, person = cast.age, cast.person.head
    own = person.shape * between(age, [0, 3, 10, 18], [0.38, 0.55, 0.82, 1.0])[:, None]
    old = sagging(cast)
    adult = step(9, 19, age)
    weight = person.weight + 0.07 * step(25, 55, age) - 0.10 * step(72, 95, age)
    stages: list[tuple[Tensor, Mapping[str, float]]] = [
        (old, OLD),
        (step(24, 8, age) * between(age, [1, 4], [0.6, 1.0]), CHILD),
        ((1 - age / 6).clamp(min=0), INFANT),
        (adult * (1 - person.gender).clamp(0, 1), MAN),
        (adult * person.gender.clamp(0, 1), WOMAN),
        (step(24, 80, age) * person.sag, {"mouth-laugh-lines-out": 0.85}),
        (step(50, 95, age), {"cheek-volume-incr": -0.35}),
        ((weight - 0.6).clamp(min=0) * step(6, 20, age), {"neck-double-incr": 0.5}),
    ]
    return own + sum(strength[:, None] * _table(table, asset) for strength, table in stages)


def sagging(cast: Cast) -> Tensor:
    """(B,) how far the face has sunk: 0 in youth, about 1.7 in a mean person of 96."""
    return (0.52 * step(22, 58, cast.age) + 0.48 * step(44, 96, cast.age)) * cast.person.head.sag * 1.7


def action_weights(cast: Cast, asset: HeadAsset) -> Tensor:
    """(B, A) how far each facial action is carried out; a child's face moves less, in metres."""
    face = cast.scene.expression
    smile = face.smile * 0.75
    table = {
        "mouthSmile": smile * 0.9,
        "cheekSquint": smile * 0.5,
        "eyeSquint": smile * 0.30 + face.squint,
        "mouthDimple": smile * 0.2,
        "browDown": face.frown,
        "browOuterUp": face.brows_up,
        "browInnerUp": face.brows_worried,
        "eyeWide": face.eyes_wide,
        "mouthFrown": face.mouth_down,
        "mouthUpperUp": (face.open * 0.25 + 0.55 * face.teeth) * smile,
        "mouthLowerDown": 0.5 * face.teeth * smile,
        "jawOpen": face.open * 0.3 + 0.10 * face.teeth * smile,
    }
    size = between(cast.age, [0, 10, 18], [0.62, 0.85, 1.0])
    zero = torch.zeros_like(size)
    names = [name.removesuffix("Left").removesuffix("Right") for name in asset.action_names]
    return torch.stack([table.get(name, zero) * size for name in names], 1)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """(B, V, 3) unit normals, each the area-weighted mean of the triangles around it."""
    a, b, c = (vertices[:, faces[:, k]] for k in range(3))
    normal = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices)
    for k in range(3):
        total.index_add_(1, faces[:, k], normal)
    return total / total.norm(dim=2, keepdim=True).clamp(min=1e-12)


def _mix(weights: Tensor, shapes: Tensor) -> Tensor:
    """Weighted sums (B, V, 3) of shapes (..., V, 3) whose leading dimensions multiply to the n of weights (B, n)."""
    flat = shapes.flatten(0, shapes.ndim - 3).flatten(1)
    return (weights @ flat).unflatten(1, shapes.shape[-2:])


def _both_sides(name: str) -> str:
    return name[2:] if name[:2] in ("l-", "r-") else name


def _table(table: Mapping[str, float], asset: HeadAsset) -> Tensor:
    """(L,) a stage's amounts, in the asset's order."""
    return asset.template.new_tensor([table.get(_both_sides(name), 0.0) for name in asset.local_names])
