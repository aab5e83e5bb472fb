"""Render the portraits that README and docs/lifespan.md show: nobody is picked.

python tools/lifespan_sheets.py [--device cuda]        writes docs/img/lifespan_{lives,random,infants}.jpg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from sam_age.lifespan import Person, Scene, render
from sam_age.lifespan.dice import Dice
from sam_age.lifespan.person import ANCESTRIES, SEXES

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "img"
KEY = "readme"  # names the people, the first that were drawn under it
LIVES = (1, 6, 12, 18, 28, 40, 55, 70, 88)  # years
Row = tuple[Person, float, Scene]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=IMAGES)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    for name, rows, columns, width in (
        ("lives", lives(), len(LIVES), 144),
        ("random", random(), 6, 224),
        ("infants", infants(), 6, 224),
    ):
        path = given.output / f"lifespan_{name}.jpg"
        sheet(rows, columns, width, given.device).save(path, quality=88)
        print(path)


def lives() -> list[Row]:
    """A woman and a man of each ancestry, each at all of LIVES in one scene."""
    rows = []
    for number in range(6):
        person = Person.draw(KEY, "life", number, sex=SEXES[number % 2], ancestry=ANCESTRIES[number // 2])
        rows += [(person, float(age), Scene.draw(KEY, "life", number)) for age in LIVES]
    return rows


def random() -> list[Row]:
    """Thirty-six people, at ages and in scenes drawn for each."""
    ages = [Dice(KEY, number).uniform("age", 0, 100) for number in range(36)]
    return [(Person.draw(KEY, number), age, Scene.draw(KEY, number)) for number, age in enumerate(ages)]


def infants() -> list[Row]:
    """Twelve children from birth to four years."""
    people = [(Person.draw(KEY, "infant", number), Scene.draw(KEY, "infant", number)) for number in range(12)]
    return [(person, number % 6 * 0.8, scene) for number, (person, scene) in enumerate(people)]


def sheet(rows: Sequence[Row], columns: int, width: int, device: str) -> Image.Image:
    """Portraits in rows of `columns`, each reduced to `width` pixels."""
    batch = 1 if device == "cpu" else 36
    out = Image.new("RGB", (columns * width, len(rows) // columns * width))
    for start in tqdm(range(0, len(rows), batch), unit="batch"):
        people, ages, scenes = zip(*rows[start : start + batch], strict=True)
        pictures = render(people, ages, scenes, device=device).permute(0, 2, 3, 1).cpu().numpy()
        for offset, picture in enumerate(pictures):
            row, column = divmod(start + offset, columns)
            small = Image.fromarray(picture).resize((width, width), Image.Resampling.LANCZOS)
            out.paste(small, (column * width, row * width))
    return out


if __name__ == "__main__":
    main()
