"""Hair of the head: its traits, its colour through life, and the strands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace

import torch
from torch import Tensor

from sam_age.lifespan import scalp
from sam_age.lifespan.asset import HeadAsset
from sam_age.lifespan.cast import Cast
from sam_age.lifespan.curves import dot, step, unit
from sam_age.lifespan.dice import Dice, normals, uniforms
from sam_age.lifespan.haircut import Look, draw_childhood, draw_look, draw_old_age, look_now
from sam_age.lifespan.head import Heads
from sam_age.lifespan.hull import Hull, hull
from sam_age.lifespan.strands import Strands

SEGMENTS = 20  # of a strand as it is drawn
_KNOTS = 10  # of a strand as it is grown; a smooth curve goes through them

PIGMENTS = (  # linear RGB albedo of a head of hair
    (0.012, 0.010, 0.009),  # black
    (0.035, 0.020, 0.012),  # dark brown
    (0.075, 0.038, 0.019),  # brown
    (0.160, 0.085, 0.040),  # light brown
    (0.360, 0.230, 0.100),  # blond
    (0.200, 0.062, 0.020),  # red
    (0.330, 0.250, 0.155),  # ash blond
)
_EUROPEAN = (0.10, 0.25, 0.25, 0.17, 0.13, 0.05, 0.05)
_ELSEWHERE = (0.72, 0.24, 0.04, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class HairTraits:
    """A person's hair through life."""

    pigment: tuple[float, float, float]  # linear RGB albedo at twenty
    paler_child: float  # how much paler in childhood, 0-1
    grey_onset: float  # years at which the first strands turn
    grey_span: float  # years from then until all are grey
    coil: float  # how tightly coiled it grows, 0-1
    density: float  # share of the roots that carry hair, about 1
    thinning: float  # share lost in old age
    balding: float  # how far receding and balding go, 0-1; women 0
    bald_onset: float  # years
    hairline: float  # metres that the hairline of the forehead is higher than the mean
    temples: float  # metres that it recedes over the temples with puberty
    peak: float  # metres that it dips in the middle
    sideburns: float  # metres that hair grows down before the ears; women negative
    part: float  # metres of the parting from the middle, to the person's left
    behind: float  # share of long hair that falls behind the shoulders
    change: float  # years at which the child's look gives way to the adult's
    settled: float  # years at which the look of old age is half there
    child: Look
    adult: Look
    old: Look


def draw_hair(dice: Dice, *, female: bool, ancestry: tuple[float, float, float]) -> HairTraits:
    """Args: ancestry: shares of African, Asian and European descent."""
    african, asian, european = ancestry
    pigment = dice.choice("pigment", PIGMENTS, _EUROPEAN if european > 0.6 else _ELSEWHERE)
    depth = dice.uniform("depth", 0.85, 1.2)
    coil = min(max(african * 1.35 - 0.12 + dice.normal("coil", 0, 0.06), 0.0), 1.0)
    curl = dice.uniform("curl") ** (3.5 if asian > 0.6 else 1.8)
    adult = draw_look(dice.of("adult"), female=female, coil=coil, curl=curl)
    side = 1.0 if dice.chance("parted on the left", 0.5) else -1.0
    return HairTraits(
        pigment=(pigment[0] * depth, pigment[1] * depth, pigment[2] * depth),
        paler_child=dice.uniform("paler child", 0.3, 1.0),
        grey_onset=min(max(dice.normal("grey onset", 45, 7), 29), 62) - 4,
        grey_span=dice.uniform("grey span", 18, 32) + 4,
        coil=coil,
        density=dice.uniform("density", 0.88, 1.1),
        thinning=dice.uniform("thinning", 0.15, 0.38) if female else dice.uniform("thinning", 0.2, 0.4),
        balding=0.0 if female else dice.uniform("balding") ** 1.15,
        bald_onset=dice.uniform("bald onset", 22, 34),
        hairline=dice.normal("hairline", -0.002 if female else 0.0, 0.0035),
        temples=dice.uniform("temples", -0.004, 0.004) if female else dice.uniform("temples", 0.002, 0.014),
        peak=max(0.0, dice.normal("peak", 0.001, 0.0025)),
        sideburns=-0.003 if female else dice.uniform("sideburns", 0.004, 0.016),
        part=side * (dice.uniform("part") ** 0.7) * (0.030 if female else 0.036),
        behind=dice.uniform("behind", 0.1, 1.0),
        change=dice.uniform("change", 11, 17),
        settled=dice.uniform("settled", 56, 78),
        child=draw_childhood(adult, dice.of("child"), female=female, coil=coil),
        adult=adult,
        old=draw_old_age(adult, dice.of("old"), female=female, coil=coil),
    )


# ---------------------------------------------------------------- colour


def hair_colour(cast: Cast) -> Tensor:
    """(B, 3) albedo of hair that is not grey: children's is lighter, the lighter the fairer."""
    pigment = cast.person.hair.pigment
    fair = step(0.015, 0.06, pigment.mean(1))
    young = step(15, 2, cast.age) * cast.person.hair.paler_child * fair
    return pigment * (1 + young[:, None] * pigment.new_tensor([0.60, 0.52, 0.38]))


def greyness(cast: Cast) -> Tensor:
    """(B,) share of strands that have turned."""
    hair = cast.person.hair
    return step(hair.grey_onset, hair.grey_onset + hair.grey_span, cast.age)


def turned(own: Tensor, share: Tensor) -> Tensor:
    """How grey strands are, 0-1: each turns when `share` (P,) passes its `own` (P,) number, within a year or two."""
    return step(0, 0.09, share * 1.09 - own)


def greyed(root: Tensor, own: Tensor, share: Tensor) -> Tensor:
    """Albedo (P, 3) of strands of root colour (P, 3): see `turned`; neighbours blend, or grey hair looks like salt."""
    grey = 0.40 * share + 0.60 * turned(own, share)
    silver = (0.30 + 0.19 * share)[:, None] * root.new_tensor([1.0, 0.98, 0.95])
    return root + grey[:, None] * (silver - root)


def scalp_cover(cast: Cast, canonical: Tensor, b: Tensor) -> Tensor:
    """How much hair roots darken the skin there, 0-1: (P,) for canonical points (P, 3) of portraits b (P,)."""
    return scalp.cover(cast, canonical, b)


# ---------------------------------------------------------------- strands


def grow_hair(cast: Cast, heads: Heads, asset: HeadAsset) -> Strands:
    """The hair of each head, in the frame of the head before it is turned."""
    root = scalp.root_asset(asset)
    look = look_now(cast)
    b, which, alive = _living(cast, look, root)
    strand = _Strand(cast, look, root, b, which)
    outside = hull(heads, asset, step(0.035, 0.09, look.side) * (1 - look.tied))
    length = strand.length(alive) * heads.scale[b]
    points = _march(strand, heads, outside, asset, root, length)
    points = torch.einsum("sk,mkc->msc", _smooth_curve(str(asset.device)), points)
    points = _gather_in_locks(points, strand, len(cast))
    points = _knotted(points, strand, heads)
    points = _waved(points, strand, length, outside.centre[b])
    return Strands(points, b, strand.layer, strand.tint, strand.colour(cast))


def _living(cast: Cast, look: SimpleNamespace, root: scalp.Roots) -> tuple[Tensor, Tensor, Tensor]:
    """Portrait and root of each strand that grows (M,), and how far it is above its threshold, 0-1."""
    batch, many = len(cast), len(root.canonical)
    device = cast.age.device
    every = torch.arange(batch, device=device).repeat_interleave(many)
    canonical = root.canonical.repeat(batch, 1)
    share = scalp.density(cast, canonical, every)
    around, z = scalp.azimuth(canonical), canonical[:, 2]
    # behind the head nothing is seen of hair that does not hang down beside the neck
    unseen = step(1.95, 2.35, around) * step(1.0, 0.985, z)
    share = share * (1 - unseen * (0.88 - 0.30 * step(0.06, 0.16, look.back))[every])
    share = share * (1 - 0.30 * step(0.02, 0.12, look.side))[every] * 0.97
    seed = cast.person.seed[every]
    above = share - uniforms(seed, torch.arange(many, device=device).repeat(batch), 100)
    index = (above > 0).nonzero()[:, 0]
    return every[index], index % many, step(0, 0.07, above[index])


class _Strand:
    """What each strand is, before it grows: everything (M,) or (M, 3)."""

    def __init__(self, cast: Cast, look: SimpleNamespace, root: scalp.Roots, b: Tensor, which: Tensor) -> None:
        hair = cast.person.hair
        seed = cast.person.seed[b]
        self.b, self.which, self.clump = b, which, root.clump[which]
        self.canonical = root.canonical[which]
        self.look = SimpleNamespace(**{name: value[b] for name, value in vars(look).items()})
        x, y, z = self.canonical.unbind(1)
        self.top = step(0.925, 0.990, z)
        self.rear = step(-0.06, 0.0, y)
        self.margin = scalp.margin(cast, self.canonical, b)
        self.right = x > hair.part[b]
        self.side = torch.where(self.right, 1.0, -1.0)
        self.front = step(-0.085, -0.105, y) * step(0.062, 0.045, x.abs())
        self.fringe = self.look.fringe * step(-0.080, -0.095, y) * step(0.056, 0.044, x.abs())
        self.layer = uniforms(seed, which, 101) ** 0.8
        self.own = torch.stack([normals(seed, which, 102 + k) for k in range(3)], 1).clamp(-2, 2)
        self.of_clump = torch.stack([normals(seed, self.clump, 110 + k) for k in range(3)], 1).clamp(-2, 2)
        self.phase = uniforms(seed, self.clump, 114) * 2 * math.pi
        self.tint = (0.55 * self.of_clump[:, 0] + 0.55 * self.own[:, 0]).clamp(-2, 2)
        self.jitter = uniforms(seed, which, 106)
        self.turns_at = 0.75 * uniforms(seed, which, 107) + 0.25 * uniforms(seed, self.clump, 115)

    def length(self, alive: Tensor) -> Tensor:
        """(M,) metres for an adult-sized head."""
        look = self.look
        laid = look.top * self.top + (1 - self.top) * (look.side + self.rear * (look.back - look.side))
        rim = step(0.035, 0.0, self.margin) * (1 - self.top)
        laid = laid * (1 - look.taper * rim)
        laid = laid + self.fringe * (0.060 - laid)
        uneven = 0.30 - 0.12 * step(0.05, 0.2, look.side)
        laid = laid * (1 - uneven * self.jitter) * (1 + 0.06 * self.of_clump[:, 1] * look.clump)
        baby_hairs = 0.30 + 0.70 * step(-0.001, 0.008, self.margin)
        return laid * baby_hairs * (0.35 + 0.65 * alive)

    def colour(self, cast: Cast) -> Tensor:
        """(M, 3) albedo; the temples grey first."""
        temple = step(0.985, 0.92, self.canonical[:, 2])
        share = (greyness(cast)[self.b] * (0.78 + 0.5 * temple)).clamp(0, 1)
        return greyed(hair_colour(cast)[self.b], self.turns_at, share)


def _march(
    strand: _Strand, heads: Heads, outside: Hull, asset: HeadAsset, root: scalp.Roots, length: Tensor
) -> Tensor:
    """Grow strands knot by knot: (M, _KNOTS + 1, 3)."""
    b, look = strand.b, strand.look
    scale, centre = heads.scale[b], outside.centre[b]
    eyes = heads.eyes.mean(1)[b]
    point = scalp.at_roots(heads.vertices, root, strand.which, b)
    normal = unit(scalp.at_roots(heads.normals, root, strand.which, b))
    seg = (length / _KNOTS)[:, None]
    hang = step(0.2, 0.5, look.gravity)
    stands = step(1.5, 2.1, look.lift)  # afros
    lift = look.lift * (1 - (0.72 * (1 - strand.top)) * (1 - stands))
    volume = look.volume * scale * strand.layer
    knot = torch.stack([torch.zeros_like(scale), 0.108 * scale, look.knot * scale], 1) + centre
    unruly = 0.10 + 0.30 * look.frizz
    stray = (0.6 * strand.of_clump + 0.5 * strand.own) * unruly[:, None]
    outwards = (1 - strand.fringe) * hang
    down = torch.zeros_like(point)
    down[:, 2] = -1
    towards = unit(normal * lift[:, None] + stray * 0.4)
    points = [point]
    for i in range(_KNOTS):
        t = (i + 1) / _KNOTS
        outward, _, _ = outside.at(point, b)
        fade = 1 - hang * min(1.0, 1.7 * t)
        fade = torch.maximum(fade, strand.front * (1 - 1.1 * t) * (1 - strand.fringe))
        across = strand.side * look.sideways * fade * (1 - 0.9 * strand.fringe)
        backwards = look.backwards * fade
        backwards = backwards + strand.fringe * (-1.0 - backwards)
        downwards = -(0.25 + 0.75 * (1 - strand.top)) * (1 - stands)
        comb = torch.stack([across, backwards, downwards], 1)
        comb = comb + look.tied[:, None] * (1.4 * unit(knot - point) - comb)
        comb = comb - outward * dot(comb, outward)[:, None] + outward * (0.9 * stands)[:, None]
        pull = down * (look.gravity * (0.5 + 2.5 * t))[:, None]
        field = 1.3 * comb + pull + stray
        if i == 0:
            field = field + normal * (0.8 * lift)[:, None]
        towards = unit(towards * 0.42 + 0.58 * field)
        point = point + towards * seg

        # hanging hair frames the face and does not cross it
        before = step(-0.025, -0.055, (point[:, 1] - centre[:, 1]) / scale)
        height = (point[:, 2] - eyes[:, 2]) / scale
        half = 0.060 * step(0.046, 0.022, height) * (0.80 + 0.20 * step(-0.09, -0.04, height))
        inside = (half - strand.side * (point[:, 0] - centre[:, 0]) / scale).clamp(min=0) * before * outwards
        point = point + torch.stack([strand.side * inside * scale * 0.7, 0.4 * inside * scale, 0 * inside], 1)

        outward, distance, radius = outside.at(point, b)
        least = radius + 0.0012 * scale + volume * min(1.0, (i + 1) / 3) ** 0.7
        if i == 0:
            least = torch.minimum(least, distance + 0.002)
        most = least + (0.010 + 0.5 * look.gravity + 0.1 * stands) * scale
        point = centre + outward * torch.minimum(torch.maximum(distance, least), most)[:, None]
        points.append(point)
    return torch.stack(points, 1)


@lru_cache(maxsize=4)
def _smooth_curve(device: str) -> Tensor:
    """(SEGMENTS + 1, _KNOTS + 1) weights of a Catmull-Rom curve through the knots."""
    weights = torch.zeros(SEGMENTS + 1, _KNOTS + 1)
    for row in range(SEGMENTS + 1):
        at = row * _KNOTS / SEGMENTS
        k = min(int(at), _KNOTS - 1)
        t = at - k
        basis = (
            0.5 * (-t + 2 * t * t - t**3),
            0.5 * (2 - 5 * t * t + 3 * t**3),
            0.5 * (t + 4 * t * t - 3 * t**3),
            0.5 * (-t * t + t**3),
        )
        for offset, weight in enumerate(basis, -1):
            weights[row, min(max(k + offset, 0), _KNOTS)] += weight
    return weights.to(device)


def _gather_in_locks(points: Tensor, strand: _Strand, batch: int) -> Tensor:
    """Draw strands towards the middle of their lock, the more the nearer to the tip."""
    steps = points.shape[1]
    lock = ((strand.b * 2 + strand.right.long()) * scalp.CLUMPS) + strand.clump
    total = points.new_zeros(batch * 2 * scalp.CLUMPS, steps * 3).index_add_(0, lock, points.flatten(1))
    count = points.new_zeros(batch * 2 * scalp.CLUMPS).index_add_(0, lock, torch.ones_like(strand.tint))
    middle = (total / count.clamp(min=1)[:, None])[lock].view_as(points)
    t = torch.linspace(0, 1, steps, device=points.device)
    hold = strand.look.clump * 0.8 * (1 - 0.4 * strand.jitter)
    return points + (hold[:, None] * t**1.3)[..., None] * (middle - points)


def _knotted(points: Tensor, strand: _Strand, heads: Heads) -> Tensor:
    """Wind the ends of tied hair into a knot."""
    look, scale = strand.look, heads.scale[strand.b]
    t = torch.linspace(0, 1, points.shape[1], device=points.device)
    angle = strand.own[:, :1] * 2 + 7 * t
    up = strand.own[:, 1:2] * 0.8 + 2.5 * t
    ball = torch.stack([angle.cos() * up.cos(), angle.sin() * up.cos(), up.sin()], 2) * 0.030
    ball = ball + ball.new_tensor([0.0, 0.112, 0.0])
    ball[..., 2] = ball[..., 2] + look.knot[:, None]
    place = heads.centre[strand.b][:, None] + ball * scale[:, None, None]
    share = step(0.62, 0.95, t) * look.tied[:, None]
    return points + share[..., None] * (place - points)


def _waved(points: Tensor, strand: _Strand, length: Tensor, centre: Tensor) -> Tensor:
    """Waves and curls, which neighbours share, and the little that each strand adds."""
    look = strand.look
    t = torch.linspace(0, 1, points.shape[1], device=points.device)
    tangent = unit(torch.cat([points[:, 1:] - points[:, :-1], points[:, -1:] - points[:, -2:-1]], 1))
    outward = unit(points - centre[:, None])
    first = unit(outward - tangent * dot(outward, tangent)[..., None])
    second = torch.linalg.cross(tangent, first)
    amplitude = torch.minimum(look.wave, 0.10 * length)
    turns = length / look.wavelength * (1 + 0.12 * strand.of_clump[:, 2])
    own = strand.own[:, 1] * (0.3 + 2.0 * look.frizz**2)
    angle = 2 * math.pi * turns[:, None] * t + (strand.phase + own)[:, None]
    size = (amplitude[:, None] * step(0, 0.35, t))[..., None]
    return points + size * (angle.sin()[..., None] * second + 0.5 * (1 + angle.cos())[..., None] * first)
