"""The curves of a training run as one SVG, for docs/training.md.

    python tools/training_curves.py runs/lifespan_gan docs/img/curves_lifespan_gan.svg
    python tools/training_curves.py runs/a runs/b both.svg val/age_mae train/total      several runs, chosen columns

A panel for each column of the runs' metrics.csv (logger=csv); without names, those that say most of each stage. What is
logged at every few steps is drawn as the median of twentieths of the run, and their quartiles as a band.
"""

import csv
import math
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import quantiles

from sam_age.evaluation.charts import ticks

Points = list[tuple[float, float]]

TELLING = (
    *("val/kid", "train/generator_loss", "train/discriminator_loss", "train/real_sign", "train/path_length"),
    *("val/age_age_mae", "val/identity_eer", "train/age_cross_entropy", "train/identity_accuracy"),
    *("val/lpips", "val/identity_similarity", "val/ssim", "val/psnr", "train/code", "train/l2"),
    *("val/age_mae", "val/judged_age_mae", "val/cycle_lpips", "train/total", "train/age_error"),
)
"""Columns that are drawn where a run has them."""

COLUMNS, WIDTH, HEIGHT = 3, 300, 190  # panels in a row; of each, pixels
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 26, 24
COLOURS = ("#2a78d6", "#c8552b", "#2f8f5b", "#8a5cc2")  # of runs; legible on white and on black
PARTS = 20

STYLE = """text{font:11px system-ui,sans-serif;fill:#555}.name{font-weight:600;fill:#222}.grid{stroke:#ddd}
@media(prefers-color-scheme:dark){text{fill:#aaa}.name{fill:#eee}.grid{stroke:#444}}"""


def read(run: Path) -> dict[str, Points]:
    """Column -> (step, value) of all lines of a run's logs, in order; a resumed run has several."""
    files = sorted(run.glob("**/metrics.csv"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise SystemExit(f"There is no metrics.csv below {run}: give the folder of a run with logger=csv.")
    found: dict[str, dict[float, float]] = {}
    for file in files:
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                for name, text in row.items():
                    if text and name not in ("step", "epoch") and math.isfinite(float(text)):
                        found.setdefault(name, {})[float(row["step"])] = float(text)
    return {name: sorted(points.items()) for name, points in found.items()}


def thinned(points: Points) -> tuple[Points, list[tuple[float, float, float]]]:
    """Many noisy points as medians, and (step, lower, upper quartile) around them; few points as they are."""
    if len(points) <= 3 * PARTS:
        return points, []
    medians, band = [], []
    for part in range(PARTS):
        chosen = points[part * len(points) // PARTS : (part + 1) * len(points) // PARTS]
        low, middle, high = quantiles([value for _, value in chosen], n=4)
        step = sum(step for step, _ in chosen) / len(chosen)
        medians.append((step, middle))
        band.append((step, low, high))
    return medians, band


def panel(name: str, runs: Sequence[Points]) -> list[str]:
    """One column of all runs that have it."""
    drawn = [thinned(points) for points in runs]
    values = [v for line, band in drawn for v in [v for _, v in line] + [v for _, *both in band for v in both]]
    last = max(step for points in runs for step, _ in points)
    marks = ticks(min(values), max(values), 5)
    low, high = min(marks[0], *values), max(marks[-1], *values)

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / (last or 1)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * ((value - low) / ((high - low) or 1))

    parts = [f'<text class="name" x="{LEFT}" y="15">{escape(name)}</text>']
    for mark in marks:
        parts.append(f'<path class="grid" d="M{LEFT} {y(mark):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(mark) + 4:.1f}" text-anchor="end">{mark:g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">step {last:,.0f}</text>')
    for (line, band), colour in zip(drawn, COLOURS, strict=False):
        if band:
            edge = [f"{x(s):.1f} {y(h):.1f}" for s, _, h in band] + [f"{x(s):.1f} {y(v):.1f}" for s, v, _ in band[::-1]]
            parts.append(f'<path fill="{colour}" opacity=".2" d="M{"L".join(edge)}Z"/>')
        path = "L".join(f"{x(step):.1f} {y(value):.1f}" for step, value in line)
        parts.append(f'<path fill="none" stroke="{colour}" stroke-width="2" d="M{path}"/>')
    return parts


def drawing(runs: dict[str, dict[str, Points]], names: Sequence[str]) -> str:
    """The SVG: a panel for each of the columns that any run has, and the runs' names below where they are several."""
    panels = [
        panel(name, [run.get(name, []) for run in runs.values() if run.get(name)])
        for name in names
        if any(name in run for run in runs.values())
    ]
    if not panels:
        raise SystemExit(
            f"None of {', '.join(names)} was logged; there are {', '.join(sorted(set().union(*runs.values())))}."
        )
    rows = math.ceil(len(panels) / COLUMNS)
    legend = 24 if len(runs) > 1 else 0
    width, height = min(len(panels), COLUMNS) * WIDTH, rows * HEIGHT + legend
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"><style>{STYLE}</style>']
    for place, content in enumerate(panels):
        at = f"{place % COLUMNS * WIDTH} {place // COLUMNS * HEIGHT}"
        parts.append(f'<g transform="translate({at})">{"".join(content)}</g>')
    if legend:
        for place, (name, colour) in enumerate(zip(runs, COLOURS, strict=False)):
            parts.append(f'<text x="{LEFT + place * 200}" y="{height - 8}" style="fill:{colour}">{escape(name)}</text>')
    return "".join(parts) + "</svg>\n"


def main(arguments: Sequence[str]) -> None:
    targets = [number for number, argument in enumerate(arguments) if argument.endswith(".svg")]
    if len(targets) != 1 or targets[0] == 0:
        raise SystemExit(__doc__)
    folders, target, names = arguments[: targets[0]], arguments[targets[0]], arguments[targets[0] + 1 :]
    runs = {Path(folder).name: read(Path(folder)) for folder in folders}
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(drawing(runs, names or TELLING), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
