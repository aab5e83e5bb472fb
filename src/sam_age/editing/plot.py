"""A small line plot with Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

COLOURS = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e", "#a6761d", "#666666")
SCALE = 2  # drawn larger and reduced, for smooth lines
LEFT, RIGHT, TOP, BOTTOM = 62, 24, 32, 52  # margins, pixels


class Curve(NamedTuple):
    """Points joined by lines, each with a dot, in their order."""

    x: Sequence[float]
    y: Sequence[float]
    name: str


def draw(curves: Sequence[Curve], x_label: str, y_label: str, size: tuple[int, int] = (640, 400)) -> Image.Image:
    """Curves with axes and a legend, RGB of `size` (width, height) pixels."""
    width, height = (side * SCALE for side in size)
    left, right, top, bottom = (margin * SCALE for margin in (LEFT, RIGHT, TOP, BOTTOM))
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=13 * SCALE)
    x_ticks = ticks(*_ends([value for curve in curves for value in curve.x]))
    y_ticks = ticks(*_ends([value for curve in curves for value in curve.y]))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return left + across * (width - left - right), height - bottom - up * (height - top - bottom)

    for value in x_ticks:
        x, y = place(value, y_ticks[0])
        pen.line((x, y, x, top), fill="#e4e4e4", width=SCALE)
        pen.text((x, y + 6 * SCALE), f"{value:g}", fill="#444444", font=font, anchor="ma")
    for value in y_ticks:
        x, y = place(x_ticks[0], value)
        pen.line((x, y, width - right, y), fill="#e4e4e4", width=SCALE)
        pen.text((x - 6 * SCALE, y), f"{value:g}", fill="#444444", font=font, anchor="rm")
    pen.text(((left + width - right) / 2, height - 6 * SCALE), x_label, fill="black", font=font, anchor="md")
    pen.text((left, top - 8 * SCALE), y_label, fill="black", font=font, anchor="ls")

    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        points = [place(x, y) for x, y in zip(curve.x, curve.y, strict=True)]
        pen.line(points, fill=colour, width=2 * SCALE, joint="curve")
        for x, y in points:
            pen.ellipse((x - 3 * SCALE, y - 3 * SCALE, x + 3 * SCALE, y + 3 * SCALE), fill=colour)
        if number < len(COLOURS):  # more names than colours would tell nothing
            y = height - bottom - (10 + 17 * number) * SCALE
            pen.text((left + 8 * SCALE, y), curve.name, fill=colour, font=font, anchor="ls")
    return canvas.resize(size, Image.Resampling.BOX)


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers that span low to high, two at least.

    >>> ticks(0.31, 0.98)
    [0.2, 0.4, 0.6, 0.8, 1.0]
    >>> ticks(5, 5)
    [4.5, 5.0, 5.5]
    """
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-3):
        low, high = low - 0.1 * (abs(low) or 1), high + 0.1 * (abs(high) or 1)
    size = 10.0 ** math.floor(math.log10(high - low) - 1)
    for step in (size * factor for factor in (1, 2, 5, 10, 20, 50, 100)):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first < most:
            break
    return [round(number * step, 10) for number in range(first, last + 1)]
