"""Facial hair: from the down of puberty to a white beard."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sam_age.lifespan.asset import HeadAsset
from sam_age.lifespan.cast import Cast
from sam_age.lifespan.curves import bump, step
from sam_age.lifespan.dice import Dice, normals, uniforms
from sam_age.lifespan.follicles import grow, rooted
from sam_age.lifespan.hair import hair_colour
from sam_age.lifespan.head import Heads
from sam_age.lifespan.rows import at
from sam_age.lifespan.strands import Strands

_HAIRS = 16_000  # candidates over the lower face
_GREY = (0.48, 0.47, 0.45)
# length on cheeks, chin and upper lip (metres), density 0-1, and how dark shaven roots leave the skin
_STYLES = {
    "shaven": ((0.0, 0.0, 0.0), 0.0, 0.30),
    "stubble": ((0.0016, 0.0018, 0.0015), 0.45, 0.55),
    "short beard": ((0.005, 0.008, 0.005), 0.9, 0.8),
    "full beard": ((0.011, 0.022, 0.008), 1.0, 0.9),
    "goatee": ((0.0, 0.012, 0.006), 0.9, 0.4),
    "moustache": ((0.0, 0.0, 0.008), 0.95, 0.4),
}


@dataclass(frozen=True)
class BeardTraits:
    """How a man wears what grows on his face; women's are zeros."""

    cheeks: float  # metres of length
    chin: float
    lip: float
    density: float  # 0-1
    shadow: float  # how dark shaven or bristly skin is, 0-1
    onset: float  # years of age at the first down
    grown: float  # years of age at full growth
    grey_from: float  # years, before the head's
    grey_span: float
    style: str


def draw_beard(dice: Dice, *, female: bool) -> BeardTraits:
    if female:
        return BeardTraits(0.0, 0.0, 0.0, 0.0, 0.0, 100.0, 120.0, 100.0, 1.0, "none")
    style = dice.choice("style", list(_STYLES), (0.34, 0.26, 0.14, 0.12, 0.08, 0.06))
    (cheeks, chin, lip), density, shadow = _STYLES[style]
    size = dice.uniform("length", 0.8, 1.2)
    onset = dice.uniform("onset", 14, 18)
    return BeardTraits(
        cheeks=cheeks * size, chin=chin * size, lip=lip * size, density=density, shadow=shadow,
        onset=onset, grown=onset + dice.uniform("years", 6, 10),
        grey_from=dice.normal("grey from", 40, 6), grey_span=dice.uniform("grey span", 16, 28), style=style,
    )  # fmt: skip


def beard_area(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shares (P,) of cheek and jaw, chin, and upper lip at canonical (x, z), 0-1 each; lips are left out."""
    ax = x.abs()
    line = 0.846 + (ax - 0.038).clamp(min=0) * 1.25 - bump(ax, 0.030, 0.012) * 0.010
    jaw = step(0.006, -0.006, z - line) * step(0.757, 0.772, z) * step(0.075, 0.066, ax)
    lips = 1 - (1.6 * torch.exp(-((ax / 0.0265) ** 4) - ((z - 0.8305) / 0.0115) ** 4)).clamp(0, 1)
    lip = step(0.857, 0.852, z) * step(0.838, 0.841, z) * step(0.031, 0.025, ax)
    chin = jaw * step(0.036, 0.026, ax) * step(0.842, 0.836, z)
    return jaw * (1 - chin) * lips, chin * lips, lip * lips


def _grown(cast: Cast) -> Tensor:
    """(B,) 0 before puberty, 1 when fully grown."""
    beard = cast.person.beard
    return step(torch.zeros_like(cast.age), beard.grown - beard.onset, cast.age - beard.onset)


def beard_shadow(cast: Cast, canonical: Tensor, b: Tensor) -> Tensor:
    """(P,) share of the skin darkened by roots, 0-1."""
    cheeks, chin, lip = beard_area(canonical[:, 0], canonical[:, 2])
    return at(cast.person.beard.shadow * _grown(cast), b) * torch.maximum(torch.maximum(cheeks, chin), lip)


def grow_beard(cast: Cast, heads: Heads, asset: HeadAsset) -> Strands:
    """The beard of each head, none of most."""
    beard, grown = cast.person.beard, _grown(cast)
    bearded = ((beard.density * grown) > 0).nonzero()[:, 0]  # the others' candidates are not even drawn
    every = torch.arange(len(bearded) * _HAIRS, device=asset.device)
    b, hair = bearded[torch.div(every, _HAIRS, rounding_mode="floor")], every % _HAIRS
    seed = cast.person.seed[b]
    u = [uniforms(seed, hair, 140 + k) for k in range(4)]
    x, z = (2 * u[0] - 1) * 0.078, 0.757 + 0.143 * u[1]
    cheeks, chin, lip = beard_area(x, z)
    wanted = cheeks * at(beard.cheeks, b) + chin * at(beard.chin, b) + lip * at(beard.lip, b)
    here = step(0.0, 0.0014, wanted) * at(beard.density * grown, b)
    alive = (here > u[2]).nonzero()[:, 0]
    b, hair, seed, x, z, lip = b[alive], hair[alive], seed[alive], x[alive], z[alive], lip[alive]
    edge = step(0.0, 0.15, (here - u[2])[alive])
    length = wanted[alive] * (0.6 + 0.5 * u[3][alive]) * (0.3 + 0.7 * edge)
    length = length * at((0.3 + 0.7 * grown) * heads.scale, b)
    start, normal, skin = rooted(x, z, b, heads, asset)
    sideways = x.sign() * (0.12 + 0.68 * lip)
    heading = torch.stack([sideways, torch.zeros_like(x), torch.full_like(x, -1.0)], 1)
    heading = heading + torch.stack([normals(seed, hair, 145 + k) * 0.28 for k in range(3)], 1)
    on = skin.nonzero()[:, 0]
    b, hair, seed = b[on], hair[on], seed[on]
    points = grow(start[on], normal[on], heading[on], length[on], lift=0.38, steps=4)

    age = at(cast.age, b) - at(beard.grey_from, b)
    grey = step(torch.zeros_like(age), at(beard.grey_span, b), age)
    turned = step(-0.08, 0.08, grey * 1.16 - 0.08 - uniforms(seed, hair, 149))[:, None]
    colour = at(hair_colour(cast), b) * 0.9
    colour = colour * (1 - turned) + turned * colour.new_tensor(_GREY)
    whole = torch.ones_like(grey)
    return Strands(points, b, whole, normals(seed, hair, 148).clamp(-2, 2), colour, whole)
