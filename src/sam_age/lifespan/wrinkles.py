"""Wrinkles: painted once for each person where anatomy puts them, brought out by age and expression.

Each group of lines is a texture over canonical (x, z), seen from the front. A line is a groove with raised
shoulders (a narrow Gaussian less a wide one). How deep each group is at an age is `depths`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from sam_age.lifespan.cast import Cast
from sam_age.lifespan.curves import step
from sam_age.lifespan.dice import Dice, normals, uniforms
from sam_age.lifespan.images import blur

_SIDE, _TOP, _BOTTOM = 0.085, 1.0, 0.736  # canonical metres that the textures cover
_STEP = 0.0005  # metres a texel
_ROWS, _COLUMNS = round((_TOP - _BOTTOM) / _STEP), round(2 * _SIDE / _STEP)
_SAMPLES = 96  # points along a line


class Group(NamedTuple):
    """A family of lines; its place in `GROUPS` is its channel."""

    name: str
    width: float  # metres, standard deviation of a groove
    wobble: float  # metres that lines stray sideways
    height: float  # metres of relief at full depth, exaggerated as portraits need
    stain: float  # how much redder and darker the groove is
    onset: tuple[float, float]  # years over which it comes


GROUPS = (
    Group("forehead", 0.00143, 0.0006, 0.00638, 0.58, (21, 76)),
    Group("glabella", 0.00143, 0.0006, 0.00704, 0.58, (24, 76)),
    Group("crow's feet", 0.00104, 0.0006, 0.00528, 0.58, (22, 76)),
    Group("under the eyes", 0.00143, 0.0006, 0.00726, 0.62, (20, 76)),
    Group("nasolabial", 0.00221, 0.0004, 0.01298, 0.65, (19, 76)),
    Group("marionette", 0.00182, 0.0004, 0.01166, 0.62, (27, 82)),
    Group("lip lines", 0.00078, 0.0003, 0.00297, 0.48, (38, 92)),
    Group("neck", 0.00195, 0.0006, 0.00935, 0.50, (28, 82)),
    Group("cheek", 0.00078, 0.0006, 0.00231, 0.17, (31, 90)),
)


@dataclass(frozen=True)
class AgeingTraits:
    """How a person's skin takes the years."""

    wrinkles: tuple[float, ...]  # depth of each group of GROUPS, 1 = mean
    spots: float  # age spots, 0-1
    roughness: float  # of the skin's grain, 1 = mean


def draw_ageing(dice: Dice, ancestry: tuple[float, float, float]) -> AgeingTraits:
    """Darker skin wrinkles later; women and men are drawn alike."""
    depth = dice.uniform("wrinkles", 0.85, 1.15) * (1 - 0.20 * ancestry[0] - 0.08 * ancestry[1])
    return AgeingTraits(
        wrinkles=tuple(depth * dice.uniform(group.name, 0.7, 1.25) for group in GROUPS),
        spots=dice.uniform("spots", 0.2, 1.0),
        roughness=depth,
    )


def depths(cast: Cast) -> Tensor:
    """(B, 9) how deep each group is, 0 in childhood, about 1 at 60, 1.5 in the very old."""
    age = cast.age
    grown = torch.stack([step(*group.onset, age) for group in GROUPS], 1)
    grown[:, 3] = 0.04 * step(2, 5, age) + 0.96 * grown[:, 3]
    grown[:, 4] = 0.03 * step(6, 10, age) + 0.97 * grown[:, 4]
    deep = grown * cast.person.ageing.wrinkles * (1 + 0.45 * step(64, 96, age))[:, None]
    smile = cast.scene.expression.smile
    deep[:, 2] += 0.35 * smile * step(18, 45, age)
    deep[:, 4] += 0.35 * smile * step(6, 30, age)
    return deep


def look_up(textures: Tensor, canonical: Tensor, b: Tensor) -> Tensor:
    """(P, 9) lines at canonical positions (P, 3), 0 off the map; `b` (P,) ascending rows of `textures`."""
    counts = torch.bincount(b, minlength=len(textures))
    most = int(counts.max()) if len(b) else 0
    slot = torch.arange(len(b), device=b.device) - (counts.cumsum(0) - counts)[b]
    grid = canonical.new_zeros(len(textures), 1, max(most, 1), 2)
    grid[b, 0, slot, 0] = canonical[:, 0] / _SIDE
    grid[b, 0, slot, 1] = 2 * (_TOP - canonical[:, 2]) / (_TOP - _BOTTOM) - 1
    return grid_sample(textures, grid, mode="bilinear", align_corners=False)[b, :, 0, slot]


def paint(seeds: Tensor) -> Tensor:
    """The textures of some people, (N, 9, rows, columns); seeds (N,) are theirs."""
    if len(seeds) == 1:
        return _paint_one(int(seeds), str(seeds.device))
    return _paint(seeds)


@lru_cache(maxsize=2)
def _paint_one(seed: int, device: str) -> Tensor:
    """Kept, because portraits of one person are mostly rendered one after another."""
    return _paint(torch.tensor([seed], device=device))


def _paint(seeds: Tensor) -> Tensor:
    return torch.cat([_canvas(curves, amplitude, group, seeds) for (curves, amplitude), group in zip(
        _lines(seeds), GROUPS, strict=True)], 1)  # fmt: skip


class _Random:
    """Numbers (N, count) for each person, a stream for each call."""

    def __init__(self, seeds: Tensor) -> None:
        self.seeds, self.stream = seeds[:, None], 1000

    def _next(self, count: int) -> tuple[Tensor, Tensor, int]:
        self.stream += 1
        return self.seeds, torch.arange(count, device=self.seeds.device), self.stream

    def uniform(self, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * uniforms(*self._next(count))

    def normal(self, count: int, sd: float = 1.0) -> Tensor:
        return sd * normals(*self._next(count)).clamp(-2.5, 2.5)

    def side(self, count: int) -> Tensor:
        return torch.where(self.uniform(count) < 0.5, 1.0, -1.0)


def _curve(*points: tuple[Tensor | float, Tensor | float], like: Tensor) -> Tensor:
    """Bezier curves through control points given as (x, z) of shape (N, L): (N, L, 4, 2); three are made four."""
    stacked = [torch.stack([torch.zeros_like(like) + x, torch.zeros_like(like) + z], -1) for x, z in points]
    if len(stacked) == 3:
        a, b, c = stacked
        stacked = [a, a + (b - a) * (2 / 3), c + (b - c) * (2 / 3), c]
    return torch.stack(stacked, 2)


def _join(*lines: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.cat([curve for curve, _ in lines], 1), torch.cat([amplitude for _, amplitude in lines], 1)


def _lines(seeds: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Control points (N, L, 4, 2) and amplitudes (N, L) of each group, canonical metres."""
    r = _Random(seeds)
    both = torch.tensor([1.0, -1.0], device=seeds.device)
    return [
        _forehead(r), _glabella(r, both), _crows_feet(r), _under_eyes(r, both), _nasolabial(r, both),
        _marionette(r, both), _lip_lines(r), _neck(r), _cheek(r),
    ]  # fmt: skip


def _forehead(r: _Random) -> tuple[Tensor, Tensor]:
    many = 5
    number = (r.uniform(1) * 3).floor() + 3  # 3 to 5 long lines
    k = torch.arange(many, device=r.seeds.device)
    z = 0.940 + r.normal(1, 0.002) + k * 0.0105 * (4.2 / number) + r.normal(many, 0.001)
    w = 0.046 - 0.004 * k + r.normal(many, 0.004)
    here = (k < number).float()
    whole = _curve(
        (-w, z - 0.004 + r.normal(many, 0.002)), (-w * 0.35, z + 0.006),
        (w * 0.35, z + 0.006 + r.normal(many, 0.002)), (w, z - 0.004 + r.normal(many, 0.002)), like=w,
    )  # fmt: skip
    broken = (r.uniform(many) < 0.3).float()  # one side only
    s = r.side(many)
    half = _curve((s * 0.004, z), (s * w * 0.5, z + 0.005), (s * w, z - 0.004), like=w)
    x, line, reach = r.uniform(16, -0.04, 0.04), r.uniform(16, 0.932, 0.975), r.uniform(16, 0.006, 0.016)
    short = _curve((x - reach, line - 0.0008), (x, line + 0.0012), (x + reach, line - 0.0008), like=x)
    return _join(
        (whole, r.uniform(many, 0.6, 1) * here * (1 - broken)),
        (half, r.uniform(many, 0.6, 1) * here * broken),
        (short, r.uniform(16, 0.12, 0.35)),
    )


def _glabella(r: _Random, s: Tensor) -> tuple[Tensor, Tensor]:
    x = [0.0065 + r.normal(2, 0.001), 0.005 + r.normal(2, 0.001), 0.007 + r.normal(2, 0.001)]
    top = 0.934 + r.normal(2, 0.003)
    return _curve((s * x[0], 0.909), (s * x[1], 0.92), (s * x[2], top), like=top), r.uniform(2, 0.5, 1)


def _crows_feet(r: _Random) -> tuple[Tensor, Tensor]:
    many = 6
    s = torch.tensor([1.0, -1.0], device=r.seeds.device).repeat_interleave(many)
    k = torch.arange(many, device=r.seeds.device).repeat(2)
    a = -0.55 + 1.3 * k / (many - 1) + r.normal(2 * many, 0.07)
    length, x, z = r.uniform(2 * many, 0.012, 0.021), 0.0495 + r.normal(2 * many, 0.001), 0.9025 + 0.006 * a
    rise = length * a.sin()
    lines = _curve(
        (s * x, z),
        (s * (x + 0.5 * length), z + 0.4 * rise - 0.0005),
        (s * (x + length), z + 0.9 * rise - 0.002),
        like=a,
    )
    return lines, r.uniform(2 * many, 0.5, 1) * (r.uniform(2 * many) < 0.8).float()


def _under_eyes(r: _Random, s: Tensor) -> tuple[Tensor, Tensor]:
    one = r.uniform(2)
    fold = _curve(
        (s * 0.016, 0.8945), (s * 0.022, 0.8845 + r.normal(2, 0.0007)), (s * 0.034, 0.8795 + r.normal(2, 0.0008)),
        (s * 0.047, 0.888), like=one,
    )  # fmt: skip
    lines = [(fold, torch.ones_like(one))]
    for k in range(3):
        fine = _curve(
            (s * 0.019, 0.8925 - 0.0012 * k), (s * 0.03, 0.8862 - 0.001 * k + r.normal(2, 0.0004)),
            (s * 0.044, 0.892 - 0.001 * k), like=one,
        )  # fmt: skip
        lines.append((fine, r.uniform(2, 0.2, 0.5) * (1.0 if k < 2 else (r.uniform(2) < 0.5).float())))
    trough = _curve((s * 0.016, 0.893), (s * 0.024, 0.884), (s * 0.036, 0.873), like=one)
    return _join(*lines, (trough, r.uniform(2, 0.2, 0.5)))


def _nasolabial(r: _Random, s: Tensor) -> tuple[Tensor, Tensor]:
    e = r.normal(2, 0.002)
    main = _curve(
        (s * 0.0185, 0.866),
        (s * 0.027, 0.857),
        (s * (0.0335 + 0.5 * e), 0.842 + e),
        (s * (0.0335 + e), 0.822 + e),
        like=e,
    )
    outer = _curve((s * 0.034, 0.85), (s * 0.0395, 0.838), (s * 0.039, 0.822), like=e)
    return _join((main, torch.ones_like(e)), (outer, r.uniform(2, 0.1, 0.4)))


def _marionette(r: _Random, s: Tensor) -> tuple[Tensor, Tensor]:
    e = r.normal(2, 0.002)
    main = _curve((s * 0.0265, 0.8285), (s * (0.030 + 0.5 * e), 0.818), (s * 0.029, 0.801 + e), like=e)
    outer = _curve((s * 0.032, 0.82), (s * 0.036, 0.81), (s * 0.034, 0.798), like=e)
    return _join((main, torch.ones_like(e)), (outer, r.uniform(2, 0.1, 0.5)))


def _lip_lines(r: _Random) -> tuple[Tensor, Tensor]:
    many = 13
    x = torch.linspace(-0.02, 0.02, many, device=r.seeds.device) + r.normal(many, 0.0008)
    above = _curve((x * 0.95, 0.8425), (x, 0.846), (x * 1.1, 0.850 + r.normal(many, 0.001)), like=x)
    below = _curve((x * 0.95, 0.8185), (x, 0.815), (x * 1.05, 0.812), like=x)
    return _join((above, r.uniform(many, 0.3, 1)), (below, r.uniform(many, 0.2, 0.6) * (r.uniform(many) < 0.6).float()))


def _neck(r: _Random) -> tuple[Tensor, Tensor]:
    a, b, c = (r.normal(1, 0.003) for _ in range(3))
    upper = _curve((-0.06, 0.772 + a), (0.0, 0.758 + b), (0.06, 0.772 + a), like=a)
    lower = _curve((-0.06, 0.758), (0.0, 0.745 + c), (0.06, 0.758), like=a)
    return _join((upper, r.uniform(1, 0.5, 1)), (lower, r.uniform(1, 0.4, 0.9)))


def _cheek(r: _Random) -> tuple[Tensor, Tensor]:
    """Fine crêpe lines over cheeks and temples."""
    many = 210
    s, x, z = r.side(many), r.uniform(many, 0.03, 0.066), r.uniform(many, 0.805, 0.895)
    a = torch.where(x < 0.055, -1.1 + r.normal(many, 0.35), -1.35 + r.normal(many, 0.3))
    length = r.uniform(many, 0.006, 0.018)
    across, down = 0.5 * length * a.cos(), length * a.sin()
    lines = _curve(
        (s * x, z),
        (s * (x + 0.6 * across) + r.normal(many, 0.0006), z + 0.5 * down),
        (s * (x + across), z + down),
        like=x,
    )
    return lines, r.uniform(many, 0.2, 0.8)


def _canvas(curves: Tensor, amplitude: Tensor, group: Group, seeds: Tensor) -> Tensor:
    """One group's texture (N, 1, rows, columns): 1 in the middle of a groove of amplitude 1."""
    people, lines = amplitude.shape
    device = curves.device
    t = torch.linspace(0, 1, _SAMPLES, device=device)[:, None]
    basis = torch.cat([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3], 1)
    points = torch.einsum("sk,nlkc->nlsc", basis, curves)
    index = torch.arange(lines * 12, device=device).view(lines, 12)
    phase = uniforms(seeds[:, None, None], index, 2000 + GROUPS.index(group)) * 2 * math.pi
    waves = torch.stack([torch.sin(t[:, 0] * (5 + 7 * k) + phase[..., k, None]) for k in range(6)], -1)
    points[..., 0] += group.wobble * 0.5 * (waves[..., 0] + 0.5 * waves[..., 2])
    points[..., 1] += group.wobble * 0.5 * (waves[..., 1] + 0.5 * waves[..., 3])
    taper = torch.sin(0.05 + (math.pi - 0.1) * t[:, 0]) ** 0.6
    strength = amplitude[..., None] * taper * (1 + 0.14 * (waves[..., 4] + waves[..., 5]))
    spacing = (points[:, :, 1:] - points[:, :, :-1]).norm(dim=-1).mean(-1, keepdim=True) / _STEP

    row = ((_TOP - points[..., 1]) / _STEP).long()
    column = ((points[..., 0] + _SIDE) / _STEP).long()
    inside = (row >= 0) & (row < _ROWS) & (column >= 0) & (column < _COLUMNS)
    person = torch.arange(people, device=device)[:, None, None].expand_as(row)
    texel = (person * _ROWS + row) * _COLUMNS + column
    drawn = torch.zeros(people * _ROWS * _COLUMNS, device=device)
    drawn.index_add_(0, texel[inside], (strength * spacing)[inside])
    drawn = drawn.view(people, 1, _ROWS, _COLUMNS)
    sigma = group.width / _STEP
    return _ridge(drawn, sigma) - 0.27 * _ridge(drawn, 2.6 * sigma)


def _ridge(drawn: Tensor, sigma: float) -> Tensor:
    """Blur that leaves a long line of unit density with a height of 1."""
    return blur(drawn, sigma) * (sigma * math.sqrt(2 * math.pi))
