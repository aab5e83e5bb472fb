"""Places to be photographed in, painted small and sharp: what stands where is a hash of the scene's seed.

Painters take a `Canvas` of n portraits and return light (n, SIDE, SIDE, 3), linear RGB, where 1 is a white wall and
lamps are far above it. They paint in broad strokes: a lens out of focus does the rest.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sam_age.lifespan.curves import bump, step
from sam_age.lifespan.dice import normals, uniforms

SIDE, MARGIN = 128, 16  # pixels of the painting, and of it on every side outside the picture


class Canvas:
    """Coordinates and random numbers of n paintings.

    x and y, (1, SIDE, SIDE), run over the picture from 0 at the left and top to 1, and beyond it into the margin.
    """

    def __init__(self, seed: Tensor, first: Tensor, second: Tensor, third: Tensor) -> None:
        self.seed = seed  # (n,)
        self.first, self.second, self.third = (colour[:, None, None] for colour in (first, second, third))
        at = (torch.arange(SIDE, device=seed.device) + 0.5 - MARGIN) / (SIDE - 2 * MARGIN)
        self.y, self.x = (t[None] for t in torch.meshgrid(at, at, indexing="ij"))
        self._stream = 100

    def any(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(n, 1, 1) the next random number of each painting, uniform."""
        self._stream += 1
        return (low + (high - low) * uniforms(self.seed, self.seed.new_zeros(1), self._stream))[:, None, None]

    def has(self, probability: float) -> Tensor:
        """(n, 1, 1) 1 with a probability, else 0."""
        return (self.any() < probability).float()

    def tiles(self, *cell: Tensor) -> Tensor:
        """(n, SIDE, SIDE) uniform, one number for each cell of integer coordinates."""
        self._stream += 1
        index = sum(c.floor().long() % 1009 * 1009**k for k, c in enumerate(cell))
        return uniforms(self.seed[:, None, None], index, self._stream)

    def field(self, across: int, down: int) -> Tensor:
        """(n, SIDE, SIDE) smooth noise of unit variance with so many bumps."""
        self._stream += 1
        index = torch.arange((down + 2) * (across + 2), device=self.seed.device)
        coarse = normals(self.seed[:, None], index, self._stream).view(-1, 1, down + 2, across + 2)
        fine = interpolate(coarse, scale_factor=(SIDE / down, SIDE / across), mode="bicubic", align_corners=False)
        return 1.3 * fine[:, 0, :SIDE, :SIDE]

    def cloud(self, *sizes: int, stretch: int = 1) -> Tensor:
        """(n, SIDE, SIDE) noise of many sizes, each half as strong as the one before."""
        total = torch.zeros(len(self.seed), SIDE, SIDE, device=self.seed.device)
        for k, size in enumerate(sizes):
            total = total + 0.62**k * self.field(max(2, size // stretch), size)
        return total / math.sqrt(sum(0.62 ** (2 * k) for k in range(len(sizes))))

    def specks(self, picture: Tensor, x: Tensor, y: Tensor, light: Tensor) -> Tensor:
        """Add points of light (n, m, 3) at x and y (n, m); `light` is what each one spreads over 10 pixels."""
        n = len(x)
        column, line = ((t * (SIDE - 2 * MARGIN) + MARGIN).floor().long().clamp(0, SIDE - 1) for t in (x, y))
        where = (torch.arange(n, device=x.device)[:, None] * SIDE + line) * SIDE + column
        flat = picture.reshape(-1, 3).index_add(0, where.view(-1), 10 * light.reshape(-1, 3))
        return flat.view(n, SIDE, SIDE, 3)

    def spread(self, count: int) -> Tensor:
        """(n, count) uniform."""
        self._stream += 1
        return uniforms(self.seed[:, None], torch.arange(count, device=self.seed.device), self._stream)


def _rgb(like: Tensor, red: float, green: float, blue: float) -> Tensor:
    return like.new_tensor([red, green, blue])


def _lay(picture: Tensor, share: Tensor, colour: Tensor) -> Tensor:
    """`colour` over the picture where `share` (n, SIDE, SIDE) is 1."""
    return picture + share[..., None] * (colour - picture)


def _inside(t: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """1 where low < t < high, edges a pixel soft."""
    pixel = 1.0 / (SIDE - 2 * MARGIN)
    return ((t - low) / pixel + 0.5).clamp(0, 1) * ((high - t) / pixel + 0.5).clamp(0, 1)


def _box(at: Canvas, left: Tensor, right: Tensor, top: Tensor, bottom: Tensor) -> Tensor:
    return _inside(at.x, left, right) * _inside(at.y, top, bottom)


def _mix(share: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return one + share[..., None] * (other - one)


def studio(at: Canvas) -> Tensor:
    """A painted canvas or paper roll with a lamp on it."""
    wall = at.first * torch.exp(at.any(0.0, 0.14) * at.cloud(3, 6, 12))[..., None]
    away = (at.x - at.any(0.2, 0.8)) ** 2 + (at.y - at.any(0.1, 0.8)) ** 2
    lamp = torch.exp(-away / at.any(0.15, 0.8))
    dim = at.any(0.25, 0.9)
    return wall * (dim + (1.1 - dim) * lamp)[..., None]


def wall(at: Canvas) -> Tensor:
    """An indoor wall lit from one side; perhaps a corner, a picture, a rail."""
    picture = at.first * torch.exp(0.05 * at.cloud(4, 8))[..., None]
    corner = at.any(-0.3, 1.3)
    beyond = _inside(at.x, corner, corner + 9)
    picture = picture * (1 + beyond * at.any(-0.4, 0.25) + bump(at.x, corner, 0.06) * -0.12)[..., None]
    for _ in range(2):
        left, top = at.any(-0.2, 1.0), at.any(-0.3, 0.5)
        wide, high = at.any(0.15, 0.45), at.any(0.2, 0.5)
        shown = at.has(0.3)
        edge = at.any(0.012, 0.03)
        picture = picture * (1 - 0.25 * shown * _box(at, left, left + wide + 0.03, top, top + high + 0.04))[..., None]
        picture = _lay(picture, shown * _box(at, left, left + wide, top, top + high), at.third)
        inner = _box(at, left + edge, left + wide - edge, top + edge, top + high - edge)
        print_ = at.second * torch.exp(0.5 * at.cloud(5, 9))[..., None]
        picture = _lay(picture, shown * inner, print_)
    line = at.any(0.55, 1.5)
    below = _inside(at.y, line, line + 9) * at.has(0.4)
    picture = _lay(picture, below, at.second)
    return picture * torch.exp(-at.any(0.0, 1.2) * (at.x - at.has(0.5)).abs())[..., None]


def window_light(at: Canvas) -> Tensor:
    """The sun through a window on a wall, past leaves and bars."""
    wall_ = at.first.clamp(max=0.45) * torch.exp(0.05 * at.cloud(4, 8))[..., None]
    lean, dive = at.any(-0.7, 0.7), at.any(-0.35, 0.35)
    u = at.x + lean * (at.y - 0.5)
    v = at.y + dive * (at.x - 0.5)
    left, top = at.any(-0.5, 0.5), at.any(-0.5, 0.3)
    wide, high = at.any(0.25, 0.45), at.any(0.3, 0.6)
    soft = at.any(0.01, 0.05)
    lit = torch.zeros_like(u + left)
    for column in range(2):
        for line in range(2):
            cx, cy = left + wide * (column + 0.5), top + high * (line + 0.5)
            pane = step(0.44 * wide + soft, 0.44 * wide - soft, (u - cx).abs())
            lit = lit + pane * step(0.45 * high + soft, 0.45 * high - soft, (v - cy).abs())
    leaves = step(-0.3, 0.9, at.cloud(5, 10, 20)) * at.has(0.5) * at.any(0.3, 1)
    lit = lit.clamp(max=1) * (1 - leaves)
    sun = _rgb(lit, 1.10, 1.0, 0.84)
    return wall_ * (0.55 + at.any(0.5, 1.6)[..., None] * lit[..., None] * sun)


def room(at: Canvas) -> Tensor:
    """A wall with some of: corner, doorway, shelf, picture, window, curtain, sofa, lamp, plant."""
    picture = at.first * torch.exp(0.06 * at.cloud(4, 8))[..., None]
    corner = at.any(-0.2, 1.2)
    picture = picture * (1 + _inside(at.x, corner, corner + 9) * at.any(-0.45, 0.2))[..., None]
    ceiling = at.any(-0.5, 0.18) + 0.25 * (at.x - corner).abs()
    picture = _lay(picture, _inside(at.y, ceiling - 9, ceiling), (0.5 + 0.4 * at.first))

    left, wide = at.any(-0.35, 1.0), at.any(0.22, 0.4)  # a doorway to a darker or lighter room
    top, shown = at.any(-0.3, 0.25), at.has(0.45)
    picture = _lay(picture, shown * _box(at, left - 0.03, left + wide + 0.03, top - 0.03, top + 9), at.third)
    depth = at.second * at.any(0.15, 1.1)[..., None] * torch.exp(0.5 * at.cloud(3, 6))[..., None]
    picture = _lay(picture, shown * _box(at, left, left + wide, top, top + 9), depth)

    left, wide = at.any(-0.5, 0.9), at.any(0.35, 0.7)  # a shelf of books
    top, high, shown = at.any(-0.2, 0.3), at.any(0.16, 0.24), at.has(0.38)
    row, column = (at.y - top) / high, (at.x - left) / at.any(0.018, 0.035)
    tall = (row - row.floor()) > 0.15 + 0.45 * at.tiles(column, row)
    spine = torch.exp(1.0 * (at.tiles(column, row) - 0.7))[..., None] * _mix(
        at.tiles(column, row), at.third, _mix(at.tiles(column, row), at.second, _rgb(row, 0.30, 0.16, 0.11))
    )
    books = _mix(tall.float() * (at.tiles(column / 7, row) > 0.2), 0.25 * at.second, spine)
    board = (row - row.floor() > 0.90).float()
    books = _mix(board, books, at.third * 0.8)
    picture = _lay(picture, shown * _box(at, left, left + wide, top, top + 9), books)

    left, wide = at.any(-0.3, 0.95), at.any(0.25, 0.5)  # a window: sky and trees, bars, a curtain beside it
    top, bottom, shown = at.any(-0.4, 0.15), at.any(0.45, 0.9), at.has(0.45)
    day = (
        _mix(step(0.1, 0.5, at.y + 0.12 * at.cloud(6, 12)), _rgb(left, 1.5, 1.6, 1.75), _rgb(left, 0.55, 0.68, 0.45))
        * at.any(0.5, 1.6)[..., None]
    )
    inside = _box(at, left, left + wide, top, bottom)
    middle, bar = left + 0.5 * wide, top + 0.45 * (bottom - top)
    bars = (_inside(at.x, middle - 0.012, middle + 0.012) + _inside(at.y, bar - 0.01, bar + 0.01)).clamp(max=1)
    picture = _lay(picture, shown * _box(at, left - 0.03, left + wide + 0.03, top, bottom + 0.04), 0.3 + 0.5 * at.third)
    picture = _lay(picture, shown * inside * (1 - bars), day)
    hung = left + wide * at.has(0.5)
    folds = 0.75 + 0.25 * torch.sin(at.x / at.any(0.006, 0.014) + 2 * at.field(8, 2))
    drape = _inside(at.x, hung - 0.09, hung + 0.09) * _inside(at.y, top - 9, bottom + 0.3) * at.has(0.5) * shown
    picture = _lay(picture, drape, (0.35 + 0.6 * at.second) * folds[..., None])

    left, wide, top = at.any(-0.4, 0.8), at.any(0.4, 0.9), at.any(0.62, 1.1)  # the back of a sofa, a table
    round_ = top + 0.06 * ((at.x - left - 0.5 * wide) / (0.5 * wide)).abs().clamp(max=1) ** 6
    sofa = _inside(at.x, left, left + wide) * _inside(at.y, round_, round_ + 9)
    picture = _lay(picture, sofa, at.third * (0.7 + 0.1 * at.cloud(4, 8))[..., None])

    side, top, shown = at.any(-0.1, 1.1), at.any(0.05, 0.5), at.has(0.25)  # a plant
    leaves = step(0.28, 0.05, ((at.x - side) ** 2 + (at.y - top - 0.15) ** 2).sqrt() + 0.09 * at.cloud(10, 20))
    green = _rgb(side, 0.09, 0.14, 0.05) * torch.exp(0.6 * at.cloud(12, 24))[..., None]
    picture = _lay(picture, leaves * shown, green)

    x, y, shown = at.any(-0.1, 1.1), at.any(-0.05, 0.5), at.has(0.3)  # a lamp and its glow
    away = ((at.x - x) ** 2 + (at.y - y) ** 2).sqrt()
    warm = _rgb(away, 1.0, 0.72, 0.42)
    picture = picture * (1 + 1.2 * shown * torch.exp(-away / 0.25))[..., None]
    shade = _inside(at.x, x - 0.07 - 0.3 * (at.y - y), x + 0.07 + 0.3 * (at.y - y)) * _inside(at.y, y - 0.06, y + 0.06)
    return _lay(picture, shade * shown, 2.6 * warm)


def garden(at: Canvas) -> Tensor:
    """Leaves near and far, light through them, lawn."""
    mass, detail = at.cloud(3, 5), at.cloud(11, 22, 44)
    light = torch.exp(0.55 * mass + 0.5 * detail + at.any(-0.5, 0.5))
    autumn = at.any() ** 7
    dull = at.any(0.0, 0.5)
    leaf = _mix(autumn, _rgb(light, 0.085, 0.125, 0.040), _rgb(light, 0.21, 0.115, 0.035))
    sunny = _mix(autumn, _rgb(light, 0.20, 0.235, 0.065), _rgb(light, 0.40, 0.22, 0.06))
    green = _mix(step(-0.8, 1.8, detail + 0.5 * mass), leaf, sunny)
    green = _mix(dull, green, green.mean(3, keepdim=True).expand_as(green)) * light[..., None]
    lawn_at = at.any(0.45, 1.4) + 0.03 * at.field(3, 2)
    lawn = 1.5 * sunny * torch.exp(0.20 * at.cloud(6, 12, 24, stretch=3))[..., None]
    lawn = _mix(dull, lawn, lawn.mean(3, keepdim=True).expand_as(lawn))
    green = _lay(green, _inside(at.y, lawn_at, lawn_at + 9), lawn)
    for _ in range(3):
        x, lean = at.any(-0.2, 1.2), at.any(-0.12, 0.12)
        thick = at.any(0.01, 0.05)
        bark = _rgb(x, 0.10, 0.075, 0.055) * torch.exp(0.4 * at.cloud(8, 8))[..., None]
        at_x = x + lean * (at.y - 0.5)
        trunk = _inside(at.x, at_x - thick, at_x + thick) * at.has(0.4) * _inside(at.y, at.y * 0 - 9, lawn_at + 0.05)
        green = _lay(green, trunk, bark)
    sky = _rgb(light, 0.95, 1.02, 1.10) * at.any(0.6, 1.5)[..., None]
    gap = step(0.0, 0.9, 0.8 * at.cloud(6, 13, 26) + 3.2 * (at.any(-0.7, 0.35) - at.y))
    green = _lay(green, gap * at.has(0.6), sky)
    x, y = at.spread(220) * 1.3 - 0.15, at.spread(220) * 1.2 - 0.15
    clustered = step(0.2, 0.9, at.spread(220) + 0.25 * torch.sin(9 * x + 14 * y + 6 * at.any()[:, 0]))
    glint = torch.exp(1.2 * (at.spread(220) * 2 - 1)) * clustered * at.any(0.0, 0.9)[:, 0]
    hue = _mix(at.spread(220), sunny[:, 0] * 4, _rgb(x, 0.9, 0.95, 0.85))
    return at.specks(green, x, y, 0.55 * glint[..., None] * hue)


def street(at: Canvas) -> Tensor:
    """Houses on both sides that grow smaller towards a point, sky over them, road below, cars and lights."""
    vx, vy = at.any(-0.1, 1.1), at.any(0.35, 0.7)
    sky = (
        _mix(step(-0.1, 0.8, at.y), _rgb(vx, 0.62, 0.74, 0.90), _rgb(vx, 0.95, 0.95, 0.93))
        * at.any(0.6, 1.1)[..., None]
    )
    sky = sky * torch.exp(0.12 * at.cloud(3, 6, 12))[..., None]
    away = (at.x - vx).abs() + 0.04  # houses are nearer the farther from the vanishing point
    block = (torch.log2(away) * at.any(1.2, 2.5)) + 50 * (at.x > vx)
    tall = at.any(0.6, 1.8) + 1.4 * at.tiles(block)
    roof = vy - away * tall - 0.05
    facade = _mix(at.tiles(block), at.first, _mix(at.tiles(block), at.second, at.third))
    facade = facade * (0.6 + 0.7 * at.tiles(block) + 0.5 * (at.x > vx) * at.any(-0.5, 0.5))[..., None]
    floor = (at.y - roof) / (0.13 * away + 0.02)
    bay = torch.log2(away) * at.any(7, 14)
    pane = ((floor - floor.floor() - 0.5).abs() < 0.26) & ((bay - bay.floor() - 0.5).abs() < 0.27)
    glass = _mix((at.tiles(floor, bay) > 0.8).float(), facade * 0.30, _rgb(vx, 0.75, 0.72, 0.62))
    facade = _mix(pane.float(), facade, glass)
    picture = _lay(sky, _inside(at.y, roof, roof + 9), facade)
    shop = at.any(0.02, 0.07) + 0.12 * away
    picture = _lay(picture, _inside(at.y, vy - shop, vy + 9), facade * at.any(0.3, 0.8)[..., None])
    road = _rgb(vx, 0.24, 0.24, 0.25) * torch.exp(0.12 * at.cloud(4, 10, stretch=2))[..., None]
    ground = vy + 0.22 * away * at.any(0.3, 1.0)
    picture = _lay(picture, _inside(at.y, ground, ground + 9), road * at.any(0.7, 1.6)[..., None])
    tree, side = at.has(0.45), at.any(-0.1, 1.1)
    crown = step(0.34, 0.12, ((at.x - side) ** 2 + (1.1 * (at.y - vy + 0.42)) ** 2).sqrt() + 0.07 * at.cloud(8, 16))
    leaves = _rgb(vx, 0.09, 0.12, 0.05) * torch.exp(0.6 * at.cloud(10, 20))[..., None]
    picture = _lay(picture, crown * tree, leaves)
    for _ in range(4):
        x, long_, high = at.any(-0.1, 1.1), at.any(0.05, 0.16), at.any(0.03, 0.06)
        dark = _mix(at.has(0.35), at.third * at.any(0.15, 0.8)[..., None], _rgb(x, 0.6, 0.6, 0.62))
        car = _box(at, x - long_, x + long_, vy - high, vy + high) * at.has(0.55)
        picture = _lay(picture, car, dark)
    x, y = at.spread(14) * 1.2 - 0.1, vy[:, 0] + 0.10 * (at.spread(14) * 2 - 1.3)
    lamp = torch.stack([torch.ones_like(x), 0.25 + 0.7 * at.spread(14), 0.1 + 0.7 * at.spread(14)], 2)
    bright = at.any(0.0, 1.6)[:, 0] * at.spread(14) ** 3
    return at.specks(picture, x, y, bright[..., None] * lamp)


def open_country(at: Canvas) -> Tensor:
    """Sky and clouds over sea, sand, fields or hills."""
    line = at.any(0.35, 1.15)
    deep, hazy = _rgb(line, 0.30, 0.48, 0.78), _rgb(line, 0.80, 0.86, 0.92)
    grey = _rgb(line, 0.72, 0.74, 0.77)
    sky = _mix(step(line - 0.9, line, at.y + 0 * line), deep, hazy)
    sky = _mix(at.any() + 0 * at.y, sky, grey) * at.any(0.7, 1.1)[..., None]
    evening = at.has(0.2) * step(line - 0.6, line, at.y + 0 * line)
    sky = _mix(evening, sky, sky * _rgb(line, 1.15, 0.85, 0.62))
    cover = step(0.1, 1.6, at.cloud(3, 6, 12, stretch=2) + at.any(-1.2, 0.8)) * at.any(0.3, 0.9)
    picture = _lay(sky, cover, 1.02 * hazy + 0 * sky)
    kinds = at.any()
    sea = _rgb(line, 0.13, 0.22, 0.28) * torch.exp(0.22 * at.cloud(12, 24, 48, stretch=8))[..., None]
    sand = _rgb(line, 0.50, 0.42, 0.31) * torch.exp(0.08 * at.cloud(5, 12, stretch=3))[..., None]
    field = _rgb(line, 0.21, 0.22, 0.09) * torch.exp(0.25 * at.cloud(5, 12, 24, stretch=4))[..., None]
    ground = _mix((kinds > 0.5).float() + 0 * at.y, sea, field)
    shore = line + at.any(0.12, 0.5)
    sandy = _inside(at.y, shore, shore + 9) * (kinds < 0.35)
    ground = _mix(sandy, ground, sand) * at.any(0.7, 1.3)[..., None]
    for k in range(2):  # hills, the farther the hazier
        shown = (kinds > 0.3 + 0.25 * k).float()
        ridge = line - (0.10 - 0.05 * k) * (1 + 0.7 * at.field(3, 2)[:, :1]) - 0.012 * at.field(24, 2)[:, :1]
        colour = _mix(at.any(0.25, 0.7) * (1 - 0.5 * k) + 0 * line, _rgb(line, 0.09, 0.11, 0.06), hazy * 0.6)
        picture = _lay(picture, shown * _inside(at.y, ridge, ridge + 9), colour)
    return _lay(picture, _inside(at.y, line, line + 9), ground)


def night(at: Canvas) -> Tensor:
    """Dark, or a dim restaurant: dull shapes, and lamps near and far."""
    dim = 0.01 * torch.exp(at.any(0.0, 2.3))
    picture = _mix(step(-1, 1, at.cloud(3, 5)), at.first, at.second) * dim[..., None]
    picture = picture * (1.2 * torch.exp(0.8 * at.cloud(4, 8)))[..., None] * 2.0
    for _ in range(5):
        left, top = at.any(-0.2, 1.0), at.any(-0.2, 0.9)
        shape = _box(at, left, left + at.any(0.08, 0.4), top, top + at.any(0.1, 0.7)) * at.has(0.7)
        picture = _lay(picture, 0.8 * shape, at.third * (dim * at.any(0.3, 4.0))[..., None])
    count = 48
    row = at.any(0.0, 0.9)[:, 0] + 0.25 * at.any(-1, 1)[:, 0] * at.spread(count)  # lamps in rows, or anywhere
    loose = at.spread(count)
    x = at.spread(count) * 1.25 - 0.12
    y = torch.where(at.spread(count) < at.any(0.2, 0.9)[:, 0], row + 0.05 * loose, loose * 1.1 - 0.05)
    which, own = at.spread(count), at.any()[:, 0]
    amber, white = _rgb(x, 1.0, 0.50, 0.16), _rgb(x, 1.0, 0.80, 0.55)
    odd = _mix(at.spread(count), _rgb(x, 1.0, 0.12, 0.07), _rgb(x, 0.30, 0.65, 1.0))
    hue = _mix(which, amber.expand(*x.shape, 3), white)
    hue = _mix((at.spread(count) < 0.05 + 0.35 * own**2).float(), hue, odd)
    bright = 0.9 * torch.exp(1.6 * (at.spread(count) * 2 - 1.4)) * (at.spread(count) < at.any(0.3, 1.0)[:, 0])
    return at.specks(picture, x, y, 1.6 * bright[..., None] * hue)


def facade(at: Canvas) -> Tensor:
    """A wall outdoors close by: bricks, boards or render, perhaps with a dark window."""
    wide, high = at.any(0.06, 0.14), at.any(0.03, 0.05)
    line = at.y / high
    bricks = at.tiles(at.x / wide + 0.5 * (line.floor() % 2), line)
    joint = (line - line.floor()) < 0.16
    bricks = torch.where(joint, 1.35 * torch.ones_like(bricks), 0.7 + 0.5 * bricks)
    along = torch.where(at.has(0.5) > 0, at.x + 0 * line, at.y + 0 * line) / at.any(0.05, 0.13)
    boards = torch.where(along - along.floor() < 0.08, 0.45 * torch.ones_like(along), 0.85 + 0.3 * at.tiles(along))
    render = torch.exp(0.10 * at.cloud(4, 9, 18))
    which = at.any()
    relief = torch.where(which < 0.35, bricks, torch.where(which < 0.65, boards, render))
    picture = at.first * (relief * torch.exp(0.06 * at.cloud(5, 11)))[..., None]
    left, top, shown = at.any(-0.3, 1.0), at.any(-0.4, 0.3), at.has(0.5)
    across, down = at.any(0.25, 0.4), at.any(0.4, 0.6)
    picture = _lay(
        picture,
        shown * _box(at, left - 0.03, left + across + 0.03, top - 0.03, top + down + 0.04),
        0.2 + 0.6 * at.third,
    )
    glass = _rgb(left, 0.05, 0.06, 0.07) + 0.16 * step(-0.6, 1.4, at.cloud(4, 8))[..., None] * _rgb(
        left, 0.8, 0.95, 1.1
    )
    picture = _lay(picture, shown * _box(at, left, left + across, top, top + down), glass)
    shadow = step(-0.05, 0.05, at.y - at.any(-0.4, 1.4) + at.any(-0.8, 0.8) * (at.x - 0.5) + 0.04 * at.cloud(6, 12))
    return picture * (1 - 0.55 * shadow * at.has(0.35))[..., None]


PAINTERS = (studio, wall, window_light, room, garden, street, open_country, night, facade)
