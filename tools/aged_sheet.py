"""The README's picture of what the package's own weights do, docs/img/lifespan_aged.jpg: python tools/aged_sheet.py

The first six of the portraits that come with the package, at six ages, with the ages read. Less than a minute on a CPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sam_age.data.images import read_image
from sam_age.pipeline import AgingPipeline
from sam_age.pretrained import portraits
from sam_age.sheets import sheet

FACES, AGES, CELL = 6, range(0, 101, 20), 144


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="lifespan", help="the model; the package's own")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "img", help="folder; %(default)s"
    )
    given = parser.parse_args()
    pipeline = AgingPipeline.from_pretrained(given.checkpoint, device="cpu")
    faces = [read_image(path) for path in portraits.inputs()[:FACES]]
    given.output.mkdir(parents=True, exist_ok=True)
    rows = [aged.cells() for aged in pipeline.age_faces(faces, AGES)]
    sheet(rows, CELL).save(given.output / "lifespan_aged.jpg", quality=90)


if __name__ == "__main__":
    main()
