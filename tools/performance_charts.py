"""Charts for docs/performance.md, from what benchmarks print: nothing is measured here.

    sam-bench generator > generator.json; sam-bench step --batch 16 --fast > step16.json
    python tools/performance_charts.py roofline generator.json step16.json --output docs/img/roofline.svg

    for batch in 1 2 4 8 16; do sam-bench step --batch $batch --fast > step$batch.json; done
    for side in 256 512 1024; do sam-bench inference --pixels $side --faces 1 4 --ages 1 2 4 8 11 > ages$side.json; done
    python tools/performance_charts.py growth step*.json ages*.json --output docs/img/growth.svg

`roofline`: operations a second over operations a byte, against the peaks measured in the same run: each layer of the
generator in its fastest form, and each step of training, whose bytes nobody counts, as a level. `growth`: seconds over
faces in a batch, ages of a face and pixels, with what the first costs and each further one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

GIGA, TERA, MEGA, MILLI = 1e9, 1e12, 1e6, 1e3
COLOURS = ("#2a78d6", "#c8552b", "#2f8f5b", "#8a5cc2")  # legible on white and on black
GREY = "#888888"
NAMED = 2  # layers each way, those that lose most time below the roof

Result = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("chart", choices=("roofline", "growth"))
    parser.add_argument("results", type=Path, nargs="+", help="JSON that sam-bench printed")
    parser.add_argument("--output", type=Path, required=True, help="an .svg")
    given = parser.parse_args(arguments)
    results = [read(path) for path in given.results]
    plt.rcParams |= {"font.size": 9, "svg.hashsalt": "sam-age", "axes.spines.top": False, "axes.spines.right": False}
    plt.rcParams |= dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), GREY
    )
    figure = {"roofline": roofline, "growth": growth}[given.chart](results)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(given.output, transparent=True, bbox_inches="tight", metadata={"Date": None})
    print(given.output)


def read(path: Path) -> Result:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"performance_charts: {path} holds no JSON of a benchmark ({error}): sam-bench NAME > {path}.")
    if not isinstance(result, dict) or "benchmark" not in result:
        sys.exit(f"performance_charts: {path} is JSON, but no benchmark's: sam-bench NAME > {path}.")
    return result


def of(results: Iterable[Result], name: str) -> list[Result]:
    return [result for result in results if result["benchmark"] == name]


# ---- roofline --------------------------------------------------------------------------------------------------------


def roofline(results: list[Result]) -> plt.Figure:
    """Every layer's operations a second over its operations a byte, below what the device can do."""
    generators = [result for result in of(results, "generator") if result.get("layers")]
    if not generators:
        sys.exit("performance_charts: a roofline needs the generator's layers: sam-bench generator > generator.json.")
    result = generators[0]
    peak, memory = result["peaks"][f"{result['dtype']}_flops"], result["peaks"]["memory_bytes"]
    figure, axes = plt.subplots(figsize=(7, 4.2))
    points = {way: fastest(result["layers"], way) for way in ("forward", "back")}
    everything = [row["GFLOP"] * GIGA / (row["MB"] * MEGA) for rows in points.values() for row in rows]
    x = np.geomspace(min(everything) / 3, max(*everything, peak / memory) * 3, 200)
    axes.loglog(x, np.minimum(peak, x * memory) / TERA, color=GREY, linewidth=1.5)
    axes.annotate(f"{peak / TERA:.3g} TFLOP/s", (x[-1], peak / TERA), ha="right", va="bottom")
    axes.annotate(f"{memory / TERA:.3g} TB/s", (x[0], x[0] * memory / TERA), ha="left", va="bottom", rotation=30)
    for (way, rows), colour in zip(points.items(), COLOURS, strict=False):
        intensity = [row["GFLOP"] * GIGA / (row["MB"] * MEGA) for row in rows]
        reached = [row["GFLOP"] * GIGA / (row["ms"] / MILLI) / TERA for row in rows]
        axes.scatter(intensity, reached, color=colour, s=22, label=f"layers, {way}", zorder=3)
        lost = [row["ms"] / MILLI - max(row["GFLOP"] * GIGA / peak, row["MB"] * MEGA / memory) for row in rows]
        for place in np.argsort(lost)[::-1][:NAMED]:
            sides = rows[place]["layer"].split()[-1].replace("->", " to ")
            at, beside = (intensity[place], reached[place]), (4, 3 if way == "forward" else -9)
            axes.annotate(sides, at, beside, textcoords="offset points", fontsize=7, color=colour)
        total = sum(row["GFLOP"] for row in rows) * GIGA
        whole = (total / sum(row["MB"] * MEGA for row in rows), total / sum(row["ms"] / MILLI for row in rows) / TERA)
        axes.scatter(*whole, color=colour, s=110, marker="*", label=f"all of them, {way}", zorder=4)
    for step, colour in zip(of(results, "training_step"), COLOURS[2:], strict=False):
        level = step["flops_per_second"] / TERA
        axes.axhline(level, color=colour, linestyle="--", linewidth=1, label=f"training step, batch {step['batch']}")
    device = result["machine"].get("gpu", result["machine"]["processor"])
    axes.set(
        xlabel="operations a byte", ylabel="TFLOP/s", title=f"{device}, {result['dtype']}, batch {result['batch']}"
    )
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}" if axis is axes.yaxis else NullFormatter())
    return figure


def fastest(rows: list[Result], way: str) -> list[Result]:
    """Of each layer the form that took least, with the operations that the layer asks for: those of the form that does
    no more."""
    forms: dict[str, list[Result]] = {}
    for row in rows:
        if row["way"] == way:
            forms.setdefault(row["layer"], []).append(row)
    return [
        min(layer, key=lambda row: row["ms"]) | {"GFLOP": min(row["GFLOP"] for row in layer)}
        for layer in forms.values()
    ]


# ---- growth ----------------------------------------------------------------------------------------------------------


def growth(results: list[Result]) -> plt.Figure:
    """A panel for each thing that grows, of those that the results tell of."""
    panels = [panel for panel in (by_batch(results), by_ages(results), by_pixels(results)) if panel]
    if not panels:
        sys.exit("performance_charts: nothing grows in these: give results of sam-bench step or inference.")
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.4), squeeze=False)
    for place, (title, unit, lines) in zip(axes[0], panels, strict=True):
        draw(place, title, unit, lines)
    figure.tight_layout()
    return figure


Lines = dict[str, list[tuple[float, float]]]


def by_batch(results: list[Result]) -> tuple[str, str, Lines] | None:
    lines: Lines = {}
    for result in of(results, "training_step"):
        line = lines.setdefault(result["precision"] + how(result), [])
        line.append((result["batch"], result["step_seconds"]["median"]))
    return ("a training step", "faces in the batch", lines) if lines else None


def by_ages(results: list[Result]) -> tuple[str, str, Lines] | None:
    lines: Lines = {}
    for result in of(results, "inference"):
        for case in result["cases"]:
            name = f"{result['pixels']} pixels, {counted(case['faces'], 'face')}{how(result)}"
            lines.setdefault(name, []).append((case["ages"], on_the_device(case)))
    lines = {name: line for name, line in lines.items() if len(line) > 1}
    return ("ageing, on the device", "ages of each face", lines) if lines else None


def by_pixels(results: list[Result]) -> tuple[str, str, Lines] | None:
    lines: Lines = {}
    for result in of(results, "inference"):
        for case in result["cases"]:
            name = f"{counted(case['faces'], 'face')}, {counted(case['ages'], 'age')}{how(result)}"
            lines.setdefault(name, []).append((result["pixels"], on_the_device(case)))
    lines = {name: line for name, line in lines.items() if len({at for at, _ in line}) > 1}
    lines = {name: lines[name] for name in list(lines)[:1] + list(lines)[1:][-1:]}  # the fewest and the most ages
    return ("ageing, by size of the picture", "pixels of its side", lines) if lines else None


def how(result: Result) -> str:
    return ", recorded" if result.get("graphed") else ""


def on_the_device(case: Result) -> float:
    """Seconds of the networks, without what makes pictures of their results."""
    return case["seconds_on_device"]["median"]


def counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def draw(axes: Axes, title: str, unit: str, lines: Lines) -> None:
    """Curves from nothing up, solid ones of what is recorded; where they run over counts, the straight line that fits
    best, told in words."""
    for (name, line), colour in zip(lines.items(), COLOURS * len(lines), strict=False):
        at, seconds = np.array(sorted(line)).T
        label = name
        if "pixels" not in unit and len({*at}) > 1:
            each, first = np.polyfit(at, seconds, 1)
            label += f"\n   {said(first)} and {said(each)} each"
        dashes = "-" if "recorded" in name else "--"
        axes.plot(at, seconds, marker="o", linestyle=dashes, color=colour, markersize=3.5, linewidth=1.2, label=label)
    axes.set(title=title, xlabel=unit, ylabel="seconds", xlim=(0, None), ylim=(0, None))
    axes.legend(frameon=False, fontsize=7)


def said(seconds: float) -> str:
    """
    >>> said(0.0123), said(2.5)
    ('12.3 ms', '2.5 s')
    """
    return f"{seconds * MILLI:.3g} ms" if abs(seconds) < 1 else f"{seconds:.3g} s"


if __name__ == "__main__":
    main()
