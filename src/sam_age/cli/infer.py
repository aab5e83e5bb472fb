"""sam-infer: photographs in, the same faces at other ages out."""

from __future__ import annotations

import logging
import re
import sys
from collections import Counter
from io import BytesIO
from pathlib import Path

from omegaconf import DictConfig
from PIL import Image

from sam_age.cli.app import hydra_app, need_bool
from sam_age.errors import InputError

log = logging.getLogger(__name__)


def infer(cfg: DictConfig) -> None:
    """Age every picture of `cfg.input`; see conf/infer.yaml."""
    from tqdm import tqdm

    from sam_age.data.prepare import find_pictures
    from sam_age.pipeline import AgingPipeline, check_ages

    need_bool(cfg, "overwrite", "sheet")
    ages = check_ages(cfg.target_ages)
    source, output = Path(str(cfg.input)), Path(str(cfg.output))
    root, pictures = find_pictures(source, output)
    stems = output_stems(pictures, root, output)
    if not cfg.overwrite:
        check_free(stems)
    pipeline = AgingPipeline.from_pretrained(
        str(cfg.checkpoint), device=cfg.device, precision=cfg.precision, batch_size=cfg.batch_size
    )
    failures = []
    for picture, stem in zip(tqdm(pictures, desc="Ageing", unit="picture", disable=None), stems, strict=True):
        try:
            aged = pipeline(picture, ages, align=cfg.align, faces=cfg.faces)
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
    if failures and len(failures) == len(pictures):
        raise InputError(f"None of the {len(pictures)} pictures could be used; the first: {failures[0]}")
    if failures:
        log.warning("%d of %d pictures were skipped, see above.", len(failures), len(pictures))


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


def check_free(stems: list[Path]) -> None:
    """Refuse to write over results of an earlier call."""
    for stem in stems:
        if not stem.parent.is_dir():
            continue
        ours = re.compile(re.escape(stem.name) + r"(_face\d+)?_(\d{3}(\.\d+)?|sheet)\.png")
        if old := next((p for p in sorted(stem.parent.iterdir()) if ours.fullmatch(p.name)), None):
            raise InputError(f"{old} is already there: overwrite=true replaces it, output=... writes elsewhere.")


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
