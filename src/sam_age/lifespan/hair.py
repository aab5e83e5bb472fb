"""Hair of the head: where it grows, how it falls, what colour it is, and what the years do to it.

A hairdo is a vector of numbers, so that one flows into another as a person grows up and old. Strands grow from
fixed roots, step by step: combed, pulled down, waved, clumped into locks, and kept outside the head.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache

import torch
from torch import Tensor

from sam_age.lifespan.asset import CENTRE, SKIN, HeadAsset, head_asset
from sam_age.lifespan.cast import Cast
from sam_age.lifespan.curves import between, bump, dot, step, unit
from sam_age.lifespan.dice import Dice, normals, uniforms
from sam_age.lifespan.head import Heads
from sam_age.lifespan.hull import Hull, points_on, scattered
from sam_age.lifespan.rows import at
from sam_age.lifespan.strands import Strands

ROOTS = 15_000  # on a scalp without a bald spot
STEPS = 18  # segments of a strand
_LOCKS = 220  # clumps
# the hairline in canonical coordinates: degrees from the front, height in metres
_LINE_AT = (0, 18, 32, 46, 58, 68, 78, 86, 95, 112, 128, 145, 180)
_LINE = (0.976, 0.979, 0.977, 0.966, 0.948, 0.932, 0.905, 0.900, 0.912, 0.902, 0.872, 0.850, 0.838)
_COLOURS = {
    "black": (0.012, 0.010, 0.009),
    "dark brown": (0.035, 0.020, 0.012),
    "brown": (0.075, 0.038, 0.019),
    "light brown": (0.16, 0.085, 0.040),
    "blond": (0.36, 0.23, 0.10),
    "red": (0.20, 0.062, 0.020),
    "ash blond": (0.33, 0.25, 0.155),
}
_GREY = (0.46, 0.45, 0.43)


@dataclass(frozen=True)
class Cut:
    """A hairdo in numbers."""

    top: float  # metres of length
    side: float
    back: float
    volume: float  # metres that it stands off the head
    lift: float  # how steeply it leaves the skin
    across: float  # combed away from the parting
    backwards: float  # combed back
    down: float  # combed down
    weight: float  # pull of gravity
    mess: float  # disorder
    curl: float  # amplitude of waves, 0-1.2
    curls: float  # waves a metre
    fringe: float  # share of the front hair that falls over the forehead
    tied: float  # drawn together at the back
    round: float  # stands out all round, as an afro does


BABY = Cut(0.016, 0.010, 0.011, 0.0006, 0.05, 0.3, -0.3, 0.6, 0.1, 0.20, 0.1, 20, 0.0, 0.0, 0.0)
_MEN = {
    "buzz": (Cut(0.007, 0.004, 0.004, 0.004, 1.6, 0.2, -0.1, 0.0, 0.0, 0.3, 0.05, 20, 0, 0, 0), 2),
    "crop": (Cut(0.028, 0.011, 0.011, 0.012, 1.0, 0.3, -0.4, 0.1, 0.05, 0.25, 0.15, 20, 0, 0, 0), 3),
    "short": (Cut(0.055, 0.020, 0.020, 0.019, 0.85, 0.85, 0.15, 0.1, 0.10, 0.2, 0.2, 20, 0, 0, 0), 4),
    "combed back": (Cut(0.085, 0.032, 0.045, 0.018, 0.8, 0.12, 0.9, 0.1, 0.08, 0.14, 0.15, 20, 0, 0, 0), 2),
    "medium": (Cut(0.105, 0.060, 0.065, 0.022, 0.6, 0.8, 0.25, 0.3, 0.35, 0.18, 0.3, 20, 0, 0, 0), 1),
    "curly": (Cut(0.060, 0.030, 0.035, 0.026, 0.9, 0.4, 0.0, 0.1, 0.05, 0.5, 0.9, 42, 0, 0, 0.2), 1),
}
_WOMEN = {
    "long": (Cut(0.38, 0.34, 0.34, 0.012, 0.4, 0.7, 0.35, 0.4, 0.7, 0.11, 0.25, 16, 0, 0, 0), 4),
    "bob": (Cut(0.21, 0.16, 0.17, 0.015, 0.45, 0.75, 0.25, 0.4, 0.6, 0.12, 0.2, 18, 0, 0, 0), 3),
    "fringe": (Cut(0.30, 0.28, 0.28, 0.013, 0.4, 0.6, 0.15, 0.4, 0.7, 0.10, 0.12, 16, 1, 0, 0), 1.5),
    "waves": (Cut(0.30, 0.27, 0.27, 0.022, 0.55, 0.7, 0.3, 0.4, 0.6, 0.22, 0.9, 26, 0, 0, 0), 2.5),
    "medium": (Cut(0.16, 0.11, 0.12, 0.017, 0.55, 0.75, 0.25, 0.3, 0.45, 0.16, 0.3, 20, 0, 0, 0), 1),
    "tied": (Cut(0.16, 0.14, 0.12, 0.010, 0.3, 0.0, 0.8, 0.0, 0.0, 0.07, 0.1, 16, 0, 1, 0), 0.8),
}
_AFRO_MEN = {
    "close": (Cut(0.010, 0.006, 0.006, 0.008, 1.4, 0, 0, 0, 0, 0.9, 0.6, 80, 0, 0, 0.3), 3),
    "short": (Cut(0.026, 0.016, 0.018, 0.016, 1.8, 0, 0, 0, 0, 0.8, 0.9, 75, 0, 0, 0.8), 2),
    "full": (Cut(0.068, 0.050, 0.055, 0.026, 2.3, 0, 0, 0, 0, 0.7, 1.0, 65, 0, 0, 1.0), 1),
}
_AFRO_WOMEN = {
    "full": (Cut(0.085, 0.072, 0.075, 0.030, 2.4, 0, 0, 0, 0, 0.7, 1.0, 65, 0, 0, 1.0), 1.5),
    "large": (Cut(0.120, 0.105, 0.11, 0.040, 2.4, 0, 0, 0, 0.02, 0.7, 1.0, 60, 0, 0, 1.0), 0.5),
    "tied": (Cut(0.16, 0.14, 0.12, 0.010, 0.3, 0.0, 0.8, 0.0, 0.0, 0.08, 0.25, 50, 0, 1, 0), 0.8),
    "long curls": (Cut(0.27, 0.25, 0.25, 0.036, 0.6, 0.7, 0.3, 0.3, 0.55, 0.3, 1.1, 34, 0, 0, 0.1), 3),
    "straightened": (Cut(0.30, 0.26, 0.27, 0.012, 0.4, 0.7, 0.35, 0.4, 0.7, 0.11, 0.15, 16, 0, 0, 0), 3),
}


@dataclass(frozen=True)
class HairTraits:
    """A person's hair."""

    cut: Cut  # worn as an adult
    old: Cut  # worn when old
    old_from: float  # years of age when the change begins, over two decades
    colour: tuple[float, float, float]  # linear RGB albedo before it greys
    part: float  # metres of the parting to the person's left of the middle
    grey_from: float  # years
    grey_span: float  # years until all are grey
    dyed: float  # share of the grey that dye hides until old age, 0-1
    balding: float  # 0 never, 1 bald in old age
    fine: float  # share of strands a person has, 1 = mean
    name: str  # of the cut


def draw_hair(dice: Dice, *, female: bool, ancestry: tuple[float, float, float]) -> HairTraits:
    afro = ancestry[0] > 0.55
    table = {(False, False): _MEN, (True, False): _WOMEN, (False, True): _AFRO_MEN, (True, True): _AFRO_WOMEN}[
        female, afro
    ]
    name = dice.choice("cut", list(table), [weight for _, weight in table.values()])
    cut = table[name][0]
    size, body = dice.uniform("length", 0.85, 1.15), dice.uniform("volume", 0.85, 1.2)
    curl = cut.curl if afro else cut.curl + max(0.0, dice.normal("curl", 0.05, 0.2))
    cut = replace(
        cut, top=cut.top * size, side=cut.side * size, back=cut.back * size, volume=cut.volume * body, curl=curl
    )
    if ancestry[2] > 0.6:
        colours, weights = list(_COLOURS), (0.10, 0.25, 0.25, 0.17, 0.13, 0.05, 0.05)
    else:
        colours, weights = ["black", "dark brown", "brown"], (0.72, 0.24, 0.04)
    shade = dice.uniform("shade", 0.85, 1.2)
    red, green, blue = _COLOURS[dice.choice("colour", colours, weights)]
    return HairTraits(
        cut=cut,
        old=_when_old(cut, female=female, tied=cut.tied),
        old_from=dice.normal("old", 56, 6),
        colour=(red * shade, green * shade, blue * shade),
        part=(1 if dice.chance("side", 0.5) else -1) * dice.uniform("part", 0, 0.035),
        grey_from=dice.normal("grey from", 44, 7),
        grey_span=dice.uniform("grey span", 18, 30),
        dyed=dice.uniform("dyed", 0.6, 1.0) if female and dice.chance("dyes", 0.5) else 0.0,
        balding=0.0 if female else dice.uniform("balding") ** 1.2,
        fine=dice.uniform("fine", 0.85, 1.0),
        name=name,
    )


def _when_old(cut: Cut, *, female: bool, tied: float) -> Cut:
    """Women mostly wear it shorter and fuller, men shorter."""
    if not female:
        return replace(cut, top=min(cut.top, 0.06), side=min(cut.side, 0.025), back=min(cut.back, 0.03))
    if tied or cut.round > 0.5:
        return cut
    return replace(
        cut, top=min(cut.top, 0.15), side=min(cut.side, 0.115), back=min(cut.back, 0.115), volume=cut.volume + 0.006,
        curl=cut.curl + 0.35, curls=cut.curls + 6, weight=cut.weight * 0.6, fringe=cut.fringe * 0.5,
    )  # fmt: skip


# ---- what the years do ---------------------------------------------------------------------------------------------


def worn(cast: Cast) -> dict[str, Tensor]:
    """The hairdo of each portrait, (B,) for each field of `Cut`: a baby's, a child's, an adult's, an old person's."""
    hair, age = cast.person.hair, cast.age
    old = step(0, 20, age - hair.old_from)
    grown = step(0.3, 13.0, age)
    short = between(age, (0, 4, 10, 15), (0.45, 0.62, 0.85, 1.0))  # children's hair has not had the time
    out = {}
    for field in fields(Cut):
        value = torch.lerp(getattr(hair.cut, field.name), getattr(hair.old, field.name), old)
        if field.name in ("top", "side", "back", "volume"):
            value = value * short
        out[field.name] = torch.lerp(torch.full_like(value, getattr(BABY, field.name)), value, grown)
    return out


def hair_colour(cast: Cast) -> Tensor:
    """(B, 3) linear RGB of the hair that is not grey; a child's is lighter."""
    child = step(15, 2, cast.age)[:, None] * cast.age.new_tensor([0.5, 0.42, 0.3])
    return cast.person.hair.colour * (1 + child)


def greyness(cast: Cast) -> Tensor:
    """(B,) share of the hairs that are grey, 0-1."""
    hair = cast.person.hair
    grey = step(torch.zeros_like(cast.age), hair.grey_span, cast.age - hair.grey_from)
    return grey * (1 - hair.dyed * step(88, 68, cast.age))


def _receding(cast: Cast) -> Tensor:
    """(B,) how far the hairline has gone back, 0-1.5."""
    return cast.person.hair.balding * (1.15 * step(20, 62, cast.age) + 0.35 * step(15, 40, cast.age))


def _bald(cast: Cast) -> Tensor:
    """(B,) how bald the crown is, 0-1."""
    return (cast.person.hair.balding * 1.5 - 0.45).clamp(0, 1) * step(26, 68, cast.age)


def above_hairline(canonical: Tensor, receding: Tensor) -> Tensor:
    """(P,) metres above the hairline, positive on the scalp; `receding` (P,)."""
    x, y, z = canonical.unbind(-1)
    angle = torch.atan2(x, -(y - CENTRE[1])).abs()
    line = between(angle, [a * torch.pi / 180 for a in _LINE_AT], _LINE)
    back = 0.030 * bump(angle, 0.62, 0.30) + 0.016 * bump(angle, 0, 0.35) + 0.020 * bump(angle, 1.05, 0.35)
    ear = step(0.062, 0.068, x.abs()) * step(-0.080, -0.074, y) * step(-0.020, -0.027, y)
    ear = ear * step(0.918, 0.912, z) * step(0.842, 0.848, z)
    return z - line - receding * back - 0.1 * ear


def _bald_crown(canonical: Tensor, bald: Tensor) -> Tensor:
    """(P,) share of roots lost at the crown and then on top."""
    away = ((canonical - canonical.new_tensor([0, -0.025, 1.005])) * canonical.new_tensor([1, 0.8, 1])).norm(dim=-1)
    crown = step(0.085 * bald + 0.02, 0.085 * bald - 0.02, away) * step(0.08, 0.5, bald)
    return torch.maximum(crown, step(0.45, 0.95, bald) * step(0.945, 0.985, canonical[..., 2]))


def scalp_cover(cast: Cast, canonical: Tensor, b: Tensor) -> Tensor:
    """(P,) how much hair roots darken the skin, 0-1."""
    margin = above_hairline(canonical, at(_receding(cast), b))
    hairy = 1 - 0.85 * _bald_crown(canonical, at(_bald(cast), b))
    young = at(between(cast.age, (0, 1, 3), (0.10, 0.25, 0.8)), b)
    return step(-0.002, 0.011, margin) * hairy * young * step(-0.2, -0.19, canonical[:, 1])


# ---- growth --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _roots(device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Triangle, weights, canonical position and lock of every root, in an order that is random."""
    asset = head_asset(device)
    low = asset.template[asset.faces][:, :, 2].amin(1)
    ears = asset.ears[asset.faces].amax(1)
    triangle, weights = scattered(asset, (asset.kind == SKIN) & (low > 0.80) & (ears < 0.3), 6 * ROOTS, 60)
    where = points_on(triangle, weights, asset.template[None], asset)[0]
    ok = (above_hairline(where, torch.zeros_like(where[:, 0])) > -0.004) & (where[:, 2] > 0.83)
    keep = ok.nonzero()[:ROOTS, 0]
    where = where[keep]
    return triangle[keep], weights[keep], where, torch.cdist(where, where[:_LOCKS]).argmin(1)


def _density(cast: Cast, cut: dict[str, Tensor], roots: Tensor, b: Tensor) -> Tensor:
    """(P,) share of the strands that grow at canonical `roots`."""
    age = cast.age
    margin = above_hairline(roots, at(_receding(cast), b))
    edge = step(torch.full_like(margin, -0.003), at(0.006 + 0.006 * step(40, 55, age), b), margin)
    length = torch.maximum(cut["top"], cut["back"])
    share = between(length, (0.005, 0.05, 0.2, 0.4), (1.0, 0.80, 0.58, 0.46)) * cast.person.hair.fine
    share = share * (1 - 0.30 * step(50, 92, age)) * between(age, (0, 1, 3), (0.45, 0.65, 1.0))
    nape = torch.atan2(roots[:, 0], -(roots[:, 1] - CENTRE[1])).abs()
    hidden = step(2.1, 2.4, nape) * step(0.995, 0.985, roots[:, 2]) * at(0.75 - 0.2 * step(0.07, 0.12, cut["back"]), b)
    return edge * at(share, b) * (1 - 0.97 * _bald_crown(roots, at(_bald(cast), b))) * (1 - hidden)


def grow_hair(cast: Cast, heads: Heads, asset: HeadAsset) -> Strands:
    """The hair of each head."""
    canonical = _roots(str(asset.device))[2]
    every = torch.arange(len(cast) * len(canonical), device=asset.device)
    portrait, root = torch.div(every, len(canonical), rounding_mode="floor"), every % len(canonical)
    cut = worn(cast)
    chance = uniforms(at(cast.person.seed, portrait), root, 70)
    density = _density(cast, cut, canonical[root], portrait)
    alive = (chance < density).nonzero()[:, 0]
    portrait, root, chance = portrait[alive], root[alive], (chance / density.clamp(min=1e-6))[alive]
    growth = _Growth(cast, heads, asset, cut, portrait, root)
    points, layer, tint = growth.grown(step(1.0, 0.85, chance))
    colour = _coloured(cast, portrait, root, canonical)
    kept = (~growth.across_the_face(points)).nonzero()[:, 0]
    fine = at(between(cast.age, (0, 1, 3), (0.28, 0.55, 1.0)), portrait)
    return Strands(*(field[kept] for field in (points, portrait, layer, tint, colour, fine)))


def _coloured(cast: Cast, b: Tensor, root: Tensor, canonical: Tensor) -> Tensor:
    """(M, 3): each strand turns grey within a year or two, temples first."""
    seed, grey = at(cast.person.seed, b), at(greyness(cast), b)
    temple = step(0.985, 0.92, canonical[root, 2])
    share = (grey * (0.8 + 0.5 * temple)).clamp(0, 1)
    turned = step(-0.06, 0.06, share * 1.12 - 0.06 - uniforms(seed, root, 71))[:, None]
    turned = 0.25 * share[:, None] + 0.75 * turned
    return at(hair_colour(cast), b) * (1 - turned) + turned * turned.new_tensor(_GREY)


class _Growth:
    """Strands growing, all of a batch at once; M of them."""

    def __init__(
        self, cast: Cast, heads: Heads, asset: HeadAsset, cut: dict[str, Tensor], b: Tensor, root: Tensor
    ) -> None:
        triangle, weights, canonical, lock = _roots(str(asset.device))
        self.b, self.root = b, root
        corners = asset.faces[triangle[root]]
        first = (b * heads.vertices.shape[1])[:, None] + corners
        flat, normal = heads.vertices.flatten(0, 1), heads.normals.flatten(0, 1)
        share = weights[root]
        self.start = sum(flat.index_select(0, first[:, k]) * share[:, k, None] for k in range(3))
        self.normal = unit(sum(normal.index_select(0, first[:, k]) * share[:, k, None] for k in range(3)))
        self.canonical = canonical[root]
        self.scale, self.centre = at(heads.scale, b), at(heads.centre, b)
        self.hull = Hull(heads, asset)
        # the hull is smooth and so lies a little off the head, which short hair must not
        radius = (self.start - self.centre).norm(dim=1)
        self.gap = self.hull.radius((self.start - self.centre) / radius[:, None], b) - radius
        self.cut = {name: at(value, b) for name, value in cut.items()}
        self.part = at(cast.person.hair.part, b)
        self.thin = at(1 - 0.35 * step(60, 92, cast.age), b)
        seed, lock = at(cast.person.seed, b), lock[root]
        self.own = torch.stack([normals(seed, root, 72 + k).clamp(-2.5, 2.5) for k in range(3)], 1)
        self.locks = torch.stack([normals(seed, lock, 80 + k).clamp(-2.5, 2.5) for k in range(3)], 1)
        self.phase = torch.stack([uniforms(seed, lock, 90 + k) for k in range(3)], 1) * 2 * torch.pi
        self.layer = uniforms(seed, root, 75) ** 0.8
        self.length = self._lengths(uniforms(seed, root, 76))

    def _lengths(self, chance: Tensor) -> Tensor:
        """(M,) metres."""
        x, y, z = self.canonical.unbind(1)
        top, back = step(0.935, 0.985, z), step(-0.06, 0.0, y)
        cut = self.cut
        length = cut["top"] * top + (1 - top) * (cut["side"] * (1 - back) + cut["back"] * back)
        self.top = top
        # a share of the front hair is cut above the brows
        self.fringe = cut["fringe"] * step(-0.080, -0.090, y) * step(0.054, 0.046, x.abs())
        length = length + self.fringe * (0.056 - length)
        return length * (0.80 + 0.32 * chance) * self.scale

    def grown(self, edge: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points (M, STEPS + 1, 3), layers and tints; `edge` (M,) is small for strands on the brink of thinning."""
        cut, scale = self.cut, self.scale[:, None]
        length = self.length * (0.35 + 0.65 * edge)
        segment = (length / STEPS)[:, None]
        lying = 1 - cut["round"].clamp(0, 1)  # 0 for hair that stands by itself
        lift = cut["lift"] * (lying * (0.25 + 0.75 * self.top) + 1 - lying)
        heading = unit(self.normal * lift[:, None] + self.own * 0.12)
        side = torch.tanh((self.canonical[:, 0] - self.part) / 0.004)
        front = step(-0.09, -0.105, self.canonical[:, 1]) * step(0.052, 0.040, self.canonical[:, 0].abs())
        knot = self.centre + scale * scale.new_tensor([0, 0.115, -0.02])
        heavy = step(0.15, 0.45, cut["weight"])
        volume = cut["volume"] * self.scale * self.thin
        frequency = cut["curls"] * (1 + 0.15 * self.locks[:, 0])
        crinkled = cut["round"].clamp(0, 1)
        swing = cut["curl"] * (0.55 + 1.6 * crinkled)
        keep = (0.63 - 0.28 * crinkled)[:, None]  # of the direction so far
        p, points = self.start, [self.start]
        for k in range(STEPS):
            t = (k + 1) / STEPS
            away = p - self.centre
            radius = away.norm(dim=1)
            out = away / radius[:, None]
            combing = 1 - heavy * min(1.0, 1.9 * t)  # long hair is combed at the roots and then falls
            combing = torch.maximum(combing, front * (1 - self.fringe) * max(0.0, 1.9 * (1 - 1.3 * t)) * heavy)
            back = cut["backwards"] * combing * (1 - self.fringe) - self.fringe
            pull = torch.stack(
                [
                    side * cut["across"] * combing * (1 - 0.9 * self.fringe),
                    back,
                    -cut["down"] - 0.9 * (1 - self.top) * lying * (1 - cut["tied"]),
                ],
                1,
            )
            tied = unit(knot - p) * 1.4
            pull = pull + cut["tied"][:, None] * (tied - pull)
            pull = pull - out * dot(pull, out)[:, None] + 0.9 * (cut["round"] * (cut["lift"] > 0))[:, None] * out
            fall = torch.zeros_like(p)
            fall[:, 2] = -cut["weight"] * (0.5 + 3.0 * t)
            arc = (k * segment[:, 0] / self.scale * frequency)[:, None] * 2 * torch.pi
            wave = torch.cos(arc * p.new_tensor([1, 1, 0.7]) + self.phase + 0.5 * self.own) * swing[:, None]
            mess = ((0.55 - 0.35 * crinkled)[:, None] * self.locks + 0.25 * self.own) * cut["mess"][:, None]
            lifted = self.normal * (0.25 * lift * (1 - t))[:, None] if k < 3 else 0
            force = 1.3 * pull + fall + mess + wave + self._off_the_face(p)
            heading = unit(keep * heading + (1 - keep) * force + lifted)
            p = p + heading * segment
            p = self._outside(p, k, volume, lying)
            points.append(p)
        return torch.stack(points, 1), self.layer, 0.6 * self.locks[:, 0] + 0.6 * self.own[:, 0]

    def _off_the_face(self, p: Tensor) -> Tensor:
        """(M, 3) what brushes long hair away from the face."""
        x, y, z = ((p - self.centre) / self.scale[:, None]).unbind(1)
        over = step(-0.040, -0.050, y) * step(0.066, 0.054, x.abs()) * step(0.056, 0.044, z) * step(-0.17, -0.15, z)
        over = over * (1 - self.fringe) * (0.4 + self.cut["weight"] * 2).clamp(max=1)
        return torch.stack([torch.tanh(x / 0.004) * 1.6 * over, 0.9 * over, torch.zeros_like(x)], 1)

    def across_the_face(self, points: Tensor) -> Tensor:
        """(M,) bool: a second or later point hangs before the eyes, nose or mouth; fringes end above them."""
        x, y, z = ((points - self.centre[:, None]) / self.scale[:, None, None]).unbind(-1)
        before = (y < -0.034) & (x.abs() < 0.065) & (z < 0.028) & (z > -0.13)
        return (before.sum(1) > 1) & (self.fringe < 0.5)

    def _outside(self, p: Tensor, k: int, volume: Tensor, lying: Tensor) -> Tensor:
        """Push strands out of the head, and keep short ones near it."""
        away = p - self.centre
        radius = away.norm(dim=1)
        surface = self.hull.radius(away / radius[:, None], self.b) + 0.0012 * self.scale
        surface = surface - self.gap * torch.exp(-(k + 1) / STEPS * self.length / 0.03)
        surface = surface + volume * self.layer * min(1.0, (k + 1) / 4) ** 0.7
        if k == 0:
            surface = torch.minimum(surface, radius + 0.002)
        near = (0.0004 + 1.3 * self.cut["volume"]).clamp(max=0.008)
        far = surface + (near + 0.03 * (1 - lying) + 0.020 * step(0.15, 0.4, self.cut["weight"])) * self.scale
        return self.centre + away * (torch.minimum(torch.maximum(radius, surface), far) / radius)[:, None]
