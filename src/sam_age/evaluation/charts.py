"""Line charts as SVG text, for a page that needs nothing else. Colours are the page's: classes, not values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 300  # of the drawing; it scales with the page
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 40

Line = Sequence[float | None]
"""A value for each x; None where there is none."""


@dataclass(frozen=True)
class Chart:
    """Curves over target ages.

    Args:
        ages: x, years.
        lines: name of a method -> its curve; the name is also its CSS class.
        y_label: what is on the y axis.
        labels: name -> what to call it in tooltips.
        diagonal: draw y = x, where the curve should be.
        band: low and high of the first line, shaded.
        digits: of values in tooltips.
        zero: the y axis begins at 0.
    """

    ages: Sequence[float]
    lines: Mapping[str, Line]
    y_label: str
    labels: Mapping[str, str]
    diagonal: bool = False
    band: tuple[Line, Line] | None = None
    digits: int = 2
    zero: bool = True

    def svg(self) -> str:
        """The drawing; empty where there is nothing to draw."""
        values = [v for line in (*self.lines.values(), *(self.band or ())) for v in line if v is not None]
        if not values:
            return ""
        if self.diagonal:
            values += [min(self.ages), max(self.ages)]
        low, high = (min(0.0, *values), max(values)) if self.zero else (min(values), max(values))
        y_ticks = ticks(low, high)
        y = _Scale(min(low, y_ticks[0]), max(high, y_ticks[-1]), HEIGHT - BOTTOM, TOP)
        x = _Scale(min(self.ages), max(self.ages), LEFT + 6, WIDTH - RIGHT - 6)
        parts = [*self._axes(x, y, y_ticks), *self._band(x, y)]
        if self.diagonal:
            a, b = min(self.ages), max(self.ages)
            parts.append(f'<path class="ideal" d="M{x(a):.1f} {y(a):.1f}L{x(b):.1f} {y(b):.1f}"/>')
        for name, line in reversed(self.lines.items()):  # the first on top
            parts += self._line(name, line, x, y)
        title = escape(f"{self.y_label} by target age")
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">' + "".join(parts) + "</svg>"
        )  # fmt: skip

    def _axes(self, x: _Scale, y: _Scale, y_ticks: Sequence[float]) -> list[str]:
        parts = []
        for value in y_ticks:
            parts.append(f'<path class="grid" d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"/>')
            text = f"{value:g}"
            parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y(value) + 3.5:.1f}" text-anchor="end">{text}</text>')
        every = math.ceil(len(self.ages) / 11)
        for age in self.ages[::every]:
            place = f'x="{x(age):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle"'
            parts.append(f'<text class="tick" {place}>{age:g}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        place = f'x="{middle}" y="{HEIGHT - 5}" text-anchor="middle"'
        parts.append(f'<text class="label" {place}>target age, years</text>')
        return parts

    def _band(self, x: _Scale, y: _Scale) -> list[str]:
        if self.band is None:
            return []
        name = next(iter(self.lines))
        edges = [(a, lo, hi) for a, lo, hi in zip(self.ages, *self.band, strict=True) if None not in (lo, hi)]
        there = [f"{x(a):.1f} {y(hi):.1f}" for a, _, hi in edges]
        back = [f"{x(a):.1f} {y(lo):.1f}" for a, lo, _ in reversed(edges)]
        return [f'<path class="band {name}" d="M{"L".join(there + back)}Z"/>'] if edges else []

    def _line(self, name: str, line: Line, x: _Scale, y: _Scale) -> list[str]:
        parts, pen = [], "M"
        path = ""
        for age, value in zip(self.ages, line, strict=True):
            if value is None:
                pen = "M"
                continue
            path += f"{pen}{x(age):.1f} {y(value):.1f}"
            pen = "L"
            said = escape(f"{self.labels.get(name, name)}, target {age:g}: {value:.{self.digits}f}")
            parts.append(
                f'<circle class="{name}" cx="{x(age):.1f}" cy="{y(value):.1f}" r="3.2"><title>{said}</title></circle>'
            )
        return [f'<path class="line {name}" d="{path}"/>', *parts] if path else []


@dataclass(frozen=True)
class _Scale:
    """Values -> pixels, linearly."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        return self.start + (self.end - self.start) * ((value - self.low) / span if span else 0.5)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers that span low to high, `most` at most.

    >>> ticks(0, 0.83)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> ticks(-3, 97)
    [-25.0, 0.0, 25.0, 50.0, 75.0, 100.0]
    """
    span = (high - low) or abs(high) or 1.0
    exponent = math.floor(math.log10(span)) - 1
    for step in (m * 10.0 ** (exponent + e) for e in (0, 1, 2) for m in (1, 2, 2.5, 5)):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first < most:
            return [round(i * step, 10) for i in range(first, last + 1)]
    return [low, high]
