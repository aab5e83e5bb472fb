"""What a rendered split holds: how its people and ages are distributed, and sheets to look at."""

from __future__ import annotations

import io
import json
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from sam_age.data.storing import encode, read_lines, write_whole
from sam_age.lifespan.dice import Dice
from sam_age.lifespan.folder import COMMAND, PEOPLE, PORTRAITS, REPORT, SHEETS, Settings
from sam_age.lifespan.sources import LifespanFaces
from sam_age.sheets import Cell, sheet

TONES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # edges of the bins of `Person.skin.melanin`, from fair to dark

Report = dict[str, Any]


def save_report(output: Path, settings: Settings) -> Report:
    """Count the split's people and portraits, and write report.json beside them."""
    folder = output / settings.split
    people = read_lines(folder / PEOPLE, {"person", "sex", "ancestry", "parameters"}, command=COMMAND)
    rows = read_lines(folder / PORTRAITS, {"file", "person", "age"}, command=COMMAND)
    report = distribution(people, rows)
    write_whole(folder / REPORT, (json.dumps({"split": settings.split} | report, indent=2) + "\n").encode())
    return report


def distribution(people: list[dict[str, Any]], rows: list[dict[str, Any]]) -> Report:
    """Counts: of people by sex, leading ancestry and melanin, of portraits by decade of age.

    Args:
        people, rows: lines of people.jsonl and of portraits.jsonl.
    """
    melanin = [person["parameters"]["skin"]["melanin"] for person in people]
    return {
        "people": len(people),
        "portraits": len(rows),
        "sex": _counted(person["sex"] for person in people),
        "ancestry": _counted(person["ancestry"] for person in people),
        "melanin": _binned(melanin),
        "age": _counted(f"{int(min(row['age'], 99.9)) // 10 * 10:02d}-" for row in rows),  # 100 is of the last
    }


def table(report: Report) -> str:
    """The report as lines for a terminal."""
    lines = [f"{report['portraits']} portraits of {report['people']} people"]
    for key, what in (("sex", "people"), ("ancestry", "people"), ("melanin", "people"), ("age", "portraits")):
        total = sum(report[key].values())
        shares = "  ".join(f"{name} {100 * count / total:.1f} %" for name, count in report[key].items())
        lines.append(f"  {key:<9}{shares}   of {what}")
    return "\n".join(lines)


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _binned(melanin: list[float]) -> dict[str, int]:
    places = Counter(bisect(TONES[1:-1], value) for value in melanin)
    return {f"{low:.2f}-{high:.2f}": places[i] for i, (low, high) in enumerate(pairwise(TONES))}


def save_sheets(output: Path, settings: Settings) -> Iterator[Path]:
    """Write two sheets of the split: its first people by age, and portraits at random, none of them picked."""
    faces = LifespanFaces(output, settings.split)
    (output / SHEETS).mkdir(exist_ok=True)
    for name, rows in (("people", by_age(faces)), ("random", at_random(faces, settings.seed))):
        path = output / SHEETS / f"{settings.split}_{name}.jpg"
        write_whole(path, encode(sheet(rows, cell=min(settings.size, 256)), "jpg", 90))
        yield path


def by_age(faces: LifespanFaces, people: int = 6, most: int = 12) -> list[list[Cell]]:
    """A row for each of the first people, at most so many portraits, by age."""
    order = sorted(range(len(faces)), key=lambda index: (faces.row(index)["number"], faces.age(index)))
    rows = [list(group) for _, group in groupby(order, key=lambda index: faces.row(index)["person"])]
    return [[_cell(faces, index) for index in row[:most]] for row in rows[:people]]


def at_random(faces: LifespanFaces, seed: int, rows: int = 6, columns: int = 6) -> list[list[Cell]]:
    """Portraits that nobody chose: the same ones of the same seed."""
    dice = Dice(seed, "sheet")
    drawn = sorted(range(len(faces)), key=lambda index: dice.uniform(str(index)))[: rows * columns]
    return [[_cell(faces, index) for index in drawn[at : at + columns]] for at in range(0, len(drawn), columns)]


def _cell(faces: LifespanFaces, index: int) -> Cell:
    row = faces.row(index)
    return Image.open(io.BytesIO(faces.read(index))), f"{row['age']:g} years, {row['sex']}"
