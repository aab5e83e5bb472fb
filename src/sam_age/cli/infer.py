"""sam-infer: photographs in, the same faces at other ages out."""

from __future__ import annotations

import logging
import re
import sys
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from PIL import Image

from sam_age.cli.app import hydra_app, need_bool
from sam_age.errors import InputError

if TYPE_CHECKING:
    from sam_age.pipeline import AgedFace
    from sam_age.sheets import Cell

log = logging.getLogger(__name__)


OVERVIEW = "sheet.png"
OVERVIEW_FACES, OVERVIEW_AGES, OVERVIEW_CELL = 12, 11, 144  # at most so many rows and columns; pixels


def infer(cfg: DictConfig) -> None:
    """Age every picture of `cfg.input`; see conf/infer.yaml."""
    from tqdm import tqdm

    from sam_age.pipeline import AgingPipeline, check_ages
    from sam_age.pretrained import portraits
    from sam_age.sheets import sheet

    need_bool(cfg, "overwrite", "sheet")
    ages = check_ages(cfg.target_ages)
    output = Path(str(cfg.output))
    root, pictures = pictures_of(str(cfg.input), output)
    stems = output_stems(pictures, root, output)
    if not cfg.overwrite:
        check_free(stems, output)
    pipeline = AgingPipeline.from_pretrained(
        str(cfg.checkpoint), device=cfg.device, precision=cfg.precision, batch_size=cfg.batch_size
    )
    if str(cfg.checkpoint) == "lifespan" and str(cfg.input) != portraits.NAME:
        log.info("checkpoint=lifespan knows rendered portraits; for photographs see `sam-weights list`.")
    # the package's own were made aligned: nothing to look for
    align = "never" if str(cfg.input) == portraits.NAME and cfg.align == "auto" else cfg.align
    failures, rows = [], []
    for picture, stem in zip(tqdm(pictures, desc="Ageing", unit="picture", disable=None), stems, strict=True):
        try:
            aged = pipeline(picture, ages, align=align, faces=cfg.faces)
        except InputError as error:
            if len(pictures) == 1:
                raise
            failures.append(str(error))
            tqdm.write(f"Skipped: {error}", file=sys.stderr)
            continue
        stem.parent.mkdir(parents=True, exist_ok=True)
        for number, face in enumerate(aged):
            suffix = f"_face{number}" if len(aged) > 1 else ""
            for age, image in zip(face.ages, face.images, strict=True):
                save(image, stem.with_name(f"{stem.name}{suffix}_{age_label(age)}.png"))
            if cfg.sheet:
                path = stem.with_name(f"{stem.name}{suffix}_sheet.png")
                save(face.sheet(), path)
                log.info("%s", path)
                rows += [overview_row(face)] if len(rows) < OVERVIEW_FACES else []
    if failures and len(failures) == len(pictures):
        raise InputError(f"None of the {len(pictures)} pictures could be used; the first: {failures[0]}")
    if len(rows) > 1:
        save(sheet(rows, OVERVIEW_CELL), output / OVERVIEW)
        log.info("%d faces on one sheet: %s", len(rows), output / OVERVIEW)
    if failures:
        log.warning("%d of %d pictures were skipped, see above.", len(failures), len(pictures))


def pictures_of(given: str, output: Path) -> tuple[Path, list[Path]]:
    """The folder that names are relative to, and the pictures: those of a path, or the package's own."""
    from sam_age.data.prepare import find_pictures
    from sam_age.pretrained import portraits

    if given != portraits.NAME:
        return find_pictures(Path(given), output)
    if Path(given).exists():
        log.warning("input=%s is what comes with the package; for what is here give input=./%s.", given, given)
    chosen = portraits.inputs()
    root, everything = find_pictures(portraits.folder(), output)
    return root, [picture for picture in everything if picture in chosen]


def overview_row(face: AgedFace) -> list[Cell]:
    """Input and ages of one face, small: the row may wait for many others."""
    first, *aged = face.cells()
    step = -(-len(aged) // OVERVIEW_AGES)
    small = (OVERVIEW_CELL, OVERVIEW_CELL)
    return [(image.resize(small, Image.Resampling.LANCZOS), caption) for image, caption in [first, *aged[::step]]]


def output_stems(pictures: list[Path], root: Path, output: Path) -> list[Path]:
    """Where each picture's results go, without suffix: the input's tree, mirrored.

    Two pictures that differ in their suffix (or case, which some systems do not tell apart) alone keep it.
    """
    stems = [output / p.relative_to(root).with_suffix("") for p in pictures]
    seen = Counter(str(stem).lower() for stem in stems)
    return [
        stem.with_name(picture.name) if seen[str(stem).lower()] > 1 else stem
        for picture, stem in zip(pictures, stems, strict=True)
    ]


def check_free(stems: list[Path], output: Path) -> None:
    """Refuse to write over results of an earlier call."""
    there = []
    for stem in stems:
        if stem.parent.is_dir():
            ours = re.compile(re.escape(stem.name) + r"(_face\d+)?_(\d{3}(\.\d+)?|sheet)\.png")
            there += [path for path in sorted(stem.parent.iterdir()) if ours.fullmatch(path.name)]
    there += [path for path in [output / OVERVIEW] if path.exists()]
    if there:
        raise InputError(f"{there[0]} is already there: overwrite=true replaces it, output=... writes elsewhere.")


def age_label(age: float) -> str:
    """Ages that sort as names.

    >>> age_label(5), age_label(62.5)
    ('005', '062.5')
    """
    whole, fraction = f"{age:07.3f}".split(".")
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


def save(image: Image.Image, path: Path) -> None:
    """Write a PNG so that an interruption leaves the old file or the new one, never half of one."""
    from sam_age.data.storing import write_whole

    png = BytesIO()
    image.save(png, format="PNG")
    write_whole(path, png.getvalue())


main = hydra_app("infer", infer)

if __name__ == "__main__":
    main()
