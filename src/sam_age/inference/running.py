"""Batches of inputs through a mode, and the results to their places."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from tqdm import tqdm

from sam_age.data.images import UNNAMED
from sam_age.data.storing import encode, write_whole
from sam_age.errors import InputError
from sam_age.inference.inputs import Inputs, Loaded
from sam_age.inference.modes import FaceMode, Made, Mode
from sam_age.inference.record import Record

if TYPE_CHECKING:
    from sam_age.pipeline import AgingPipeline

log = logging.getLogger(__name__)

OVERVIEW = "sheet.png"
OVERVIEW_FACES, OVERVIEW_AGES, OVERVIEW_CELL = 12, 11, 144  # at most so many rows and columns; pixels


@dataclass
class Result:
    """What became of one picture: its faces' results, or why there are none; or what is still to be made of it."""

    loaded: Loaded
    faces: list[Made] = field(default_factory=list)
    error: str | None = None


class Runner:
    """One rank's work.

    Args:
        quiet: several ranks work: a failure is recorded at once, so that the first of them can count all.
    """

    def __init__(
        self, mode: Mode, pipeline: AgingPipeline, inputs: Inputs, record: Record, *, quiet: bool = False
    ) -> None:
        self.mode, self.pipeline, self.inputs, self.record, self.quiet = mode, pipeline, inputs, record, quiet
        self.failures: list[str] = []
        mode.prepare(pipeline)

    def make(self, batch: Sequence[Loaded]) -> list[Result]:
        """Results of a batch of pictures: their faces together where the mode can, else made as they are written."""
        results = [Result(loaded, error=loaded.error) for loaded in batch]
        if not isinstance(self.mode, FaceMode):
            return results
        crops: list[list[Image.Image]] = []
        for result in results:
            crops.append([])
            if result.error is None:
                try:
                    crops[-1] = self._find(result.loaded)
                except Exception as error:
                    result.error = _said(error, self.inputs.source.name(result.loaded.index))
        try:
            faces = [face for some in crops for face in some]
            made = self.mode.make(self.pipeline, faces) if faces else []
        except Exception as error:
            if len(batch) > 1:  # one of them is to blame: the others shall not suffer
                return [result for loaded in batch for result in self.make([loaded])]
            results[0].error = _said(error, self.inputs.source.name(batch[0].index))
            return results
        rest = iter(made)
        for result, some in zip(results, crops, strict=True):
            result.faces = [next(rest) for _ in some]
        return results

    def _find(self, loaded: Loaded) -> list[Image.Image]:
        name = self.inputs.source.name(loaded.index)
        found = self.pipeline.find_faces(loaded.what, align=self.mode.align, faces=self.mode.faces, name=name)
        return [face for face, _ in found]

    def write(self, results: Sequence[Result]) -> None:
        """Write results, each file whole or not at all, and put down what is done."""
        for result in results:
            index = result.loaded.index
            key, stamp = self.inputs.keys[index], self.inputs.stamp(index)
            if result.error is None:
                try:
                    files, rows = self._write(result, key)
                    self.record.add(key, "done", stamp=stamp, files=files, rows=rows)
                    continue
                except OSError:  # a full disk: the next picture would fare no better
                    raise
                except Exception as error:
                    result.error = _said(error, self.inputs.source.name(index))
            self.failures.append(result.error)
            if len(self.inputs) > 1:
                tqdm.write(f"Skipped: {result.error}", file=sys.stderr)
            self.record.add(key, "failed", wait=not self.quiet, stamp=stamp, error=result.error)

    def _write(self, result: Result, key: str) -> tuple[list[str], list[dict]]:
        stem = self.inputs.stems[result.loaded.index]
        names: list[str] = []

        def path(ending: str) -> Path:
            names.append(f"{stem}{ending}")
            self.record.add(key, "begun", files=names[-1:])
            return self._place(names[-1])

        if not isinstance(self.mode, FaceMode):
            self.mode.write(self.pipeline, result.loaded.what, key, path)
            return names, []
        contents: list[tuple[str, Image.Image | bytes]] = []
        for number, made in enumerate(result.faces):
            face = f"_face{number}" if len(result.faces) > 1 else ""
            some = [*made.pictures, *([] if made.sheet is None else [("sheet", made.sheet)])]
            contents += [(f"{stem}{face}_{label}.png", image) for label, image in some]
            contents += [(f"{stem}{face}_{ending}", content) for ending, content in made.more]
        names = [name for name, _ in contents]
        self.record.add(key, "begun", files=names)
        for name, content in contents:
            write_whole(self._place(name), content if isinstance(content, bytes) else encode(content, "png", 0))
        rows = []
        if result.loaded.index < OVERVIEW_FACES:
            rows = [self._strip(result.loaded.index, n, made) for n, made in enumerate(result.faces[:OVERVIEW_FACES])]
        return names, [row for row in rows if row]

    def _place(self, name: str) -> Path:
        target = self.record.output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _strip(self, index: int, number: int, made: Made) -> dict:
        """Input and ages of one face, small, in one picture: the overview is put together when all are there."""
        if not made.row or not self.mode.sheet:
            return {}
        first, *aged = made.row
        cells = [first, *aged[:: -(-len(aged) // OVERVIEW_AGES)]]
        strip = Image.new("RGB", (OVERVIEW_CELL * len(cells), OVERVIEW_CELL))
        for column, (image, _) in enumerate(cells):
            small = image.resize((OVERVIEW_CELL, OVERVIEW_CELL), Image.Resampling.LANCZOS)
            strip.paste(small, (column * OVERVIEW_CELL, 0))
        folder = self.record.folder / self.record.print
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{index:05d}-{number:02d}.strip"  # a PNG, but none that a search for results should find
        write_whole(file, encode(strip, "png", 0))
        return {"file": file.name, "captions": [caption for _, caption in cells]}


def _said(error: Exception, name: str) -> str:
    if isinstance(error, InputError):  # which may know the picture by its bytes alone
        said = str(error).replace(UNNAMED, name, 1)
        return said if name in said else f"{name}: {said}"
    log.debug("%s", name, exc_info=error)
    return f"{name}: {type(error).__name__}: {' '.join(str(error).split())}"


def overview(inputs: Inputs, record: Record) -> Path | None:
    """The first faces of a run below one another, from the strips that its ranks left."""
    from sam_age.sheets import sheet

    done = record.done()
    rows = []
    for key in inputs.keys[:OVERVIEW_FACES]:
        for row in done.get(key, {}).get("rows", []):
            file = record.folder / record.print / row["file"]
            if len(rows) == OVERVIEW_FACES or not file.is_file():
                continue
            with Image.open(file) as strip:
                strip.load()
                edges = range(0, strip.width, OVERVIEW_CELL)
                cells = [strip.crop((left, 0, left + OVERVIEW_CELL, OVERVIEW_CELL)) for left in edges]
                rows.append(list(zip(cells, row["captions"], strict=True)))
    if len(rows) < 2:
        return None
    path = record.output / OVERVIEW
    record.add("", "begun", files=[OVERVIEW])
    write_whole(path, encode(sheet(rows, OVERVIEW_CELL), "png", 0))
    return path
