"""The folder that sam-render writes for each split, and what the next run needs to go on.

    OUTPUT/train/00017/00017_a034.2_s1.webp   a portrait: person 17 at 34.2 years in the second scene; or
    OUTPUT/train/portraits-000000.tar         shards of them, with format=shards
    OUTPUT/train/portraits.jsonl              a line per portrait, see `Studio.portrait_row`; in the plan's order
    OUTPUT/train/people.jsonl                 a line per person: every parameter, see `Studio.person_row`
    OUTPUT/train/render.json                  the settings; another run with others is refused
    OUTPUT/train/report.json                  how sexes, ancestries, tones and ages are distributed
    OUTPUT/sheets/train_people.jpg            a few people by age, and portraits at random (train_random.jpg)

Every file appears whole or not at all, and a line enters portraits.jsonl after the file that it speaks of.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self

from sam_age.data.storing import (
    IMAGES,
    check_settings,
    line,
    read_lines,
    torn,
    write_lines,
    write_settings,
    write_tar,
    write_whole,
)
from sam_age.errors import InputError
from sam_age.lifespan.portrait import SIZES
from sam_age.lifespan.splits import Portrait, check_ages, plan

SETTINGS, PORTRAITS, PEOPLE, REPORT, SHEETS = "render.json", "portraits.jsonl", "people.jsonl", "report.json", "sheets"
COMMAND = "sam-render"
FORMATS = (*IMAGES, "shards")


@dataclass(frozen=True)
class Settings:
    """Everything that decides which portraits there are and how they are stored.

    Args:
        split, seed, people, ages, scenes: see `sam_age.lifespan.splits.plan`.
        size: side, pixels.
        format: "png", "webp" or "jpg": a file each; "shards": WebDataset tars.
        quality: of webp and jpg, 1-100.
        shard_size: portraits in a tar.
        shard_images: what the tars hold: png, webp or jpg.

    Raises:
        InputError: a value out of range.
    """

    split: str = "train"
    seed: int = 0
    people: int | None = None
    ages: tuple[float, ...] | int | None = None
    scenes: int | str | None = None
    size: int = 256
    format: str = "webp"
    quality: int = 90
    shard_size: int = 1000
    shard_images: str = "webp"

    def __post_init__(self) -> None:
        for key, known in (("format", FORMATS), ("shard_images", tuple(IMAGES))):
            if getattr(self, key) not in known:
                raise InputError(f"{key} is one of {', '.join(known)}, not {getattr(self, key)!r}.")
        for key, (least, most) in {"size": SIZES, "quality": (1, 100), "shard_size": (1, 10**6)}.items():
            value = getattr(self, key)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise InputError(f"{key} is a whole number from {least} to {most}, not {value!r}.")
        if self.ages is not None:
            object.__setattr__(self, "ages", check_ages(self.ages))
        self.plan()

    def plan(self) -> list[Portrait]:
        return plan(self.split, seed=self.seed, people=self.people, ages=self.ages, scenes=self.scenes)

    @property
    def kind(self) -> str:
        """Of the image files: png, webp or jpg."""
        return self.shard_images if self.format == "shards" else self.format

    def file(self, place: int, portrait: Portrait) -> str:
        """Where the portrait at `place` of the plan is stored, relative to the split's folder."""
        if self.format != "shards":
            return f"{portrait.stem}.{self.kind}"
        key = portrait.stem.split("/")[1].replace(".", "-")  # WebDataset's keys end at the first dot
        return f"portraits-{place // self.shard_size:06d}.tar/{key}.{self.kind}"


class PortraitFolder:
    """Writes the portraits of a split, going on from what is there. Nothing is touched before the first one.

    Args:
        root: the output; need not exist.
        overwrite: what an earlier run made of this split is removed, once there is something to put in its place.

    Raises:
        InputError: the split's folder holds something else, or portraits of other settings.
    """

    def __init__(self, root: Path, settings: Settings, *, overwrite: bool = False) -> None:
        self.folder, self.settings, self.overwrite = root / settings.split, settings, overwrite
        self.files = {portrait: settings.file(place, portrait) for place, portrait in enumerate(settings.plan())}
        self._listed = read_lines(self.folder / PORTRAITS, {"file", "person"}, command=COMMAND)
        self.rows: dict[str, dict[str, Any]] = {}  # of portraits that are there, by file
        if not overwrite:
            check_settings(self.folder / SETTINGS, asdict(settings), command=COMMAND)
            self.rows = self._whole(self._listed)
        self._lines: IO[str] | None = None
        self._shard: list[tuple[bytes, dict[str, Any]]] = []  # of the tar that is being filled

    def _whole(self, listed: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """The rows of portraits that are there; of a tar all or none, since it is written at once."""
        planned = set(self.files.values())
        rows = {row["file"]: row for row in listed if row["file"] in planned and self._path(row).is_file()}
        if self.settings.format != "shards":
            return rows
        sizes, there = (Counter(file.split("/")[0] for file in names) for names in (planned, rows))
        return {file: row for file, row in rows.items() if there[_tar(row)] == sizes[_tar(row)]}

    def _path(self, row: dict[str, Any]) -> Path:
        """The image, or the tar that holds it."""
        path = self.folder / row["file"]
        return path.parent if path.parent.suffix == ".tar" else path

    @property
    def todo(self) -> list[Portrait]:
        """What is not there yet, in the plan's order."""
        return [portrait for portrait, file in self.files.items() if file not in self.rows]

    # ---- writing -----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lines is not None:
            self._lines.close()

    def begin(self, people: Iterable[dict[str, Any]]) -> None:
        """The folder, the settings, the people unless listed, and the lines that the last run left whole."""
        if self.overwrite:
            self._remove_earlier()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_settings(self.folder / SETTINGS, asdict(self.settings))
            if not (self.folder / PEOPLE).is_file():
                write_lines(self.folder / PEOPLE, people)
            if len(self.rows) != len(self._listed) or torn(self.folder / PORTRAITS):
                write_lines(self.folder / PORTRAITS, self.rows.values())
            self._lines = (self.folder / PORTRAITS).open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError(f"{self.folder} cannot be written ({reason}): give output= a folder that can.") from error

    def add(self, data: bytes, row: dict[str, Any]) -> bool:
        """Store a portrait unless it is there; they come in the plan's order. True: it was not there."""
        if row["file"] in self.rows:
            return False
        if self.settings.format == "shards":
            if self._shard and _tar(self._shard[0][1]) != _tar(row):
                self._close_shard()
            self._shard.append((data, row))
            return True
        path = self.folder / row["file"]
        path.parent.mkdir(exist_ok=True)
        write_whole(path, data)
        self._list([row])
        return True

    def finish(self) -> None:
        """After the last one: the last tar, and the lines in the plan's order, whatever was lost in between."""
        self._close_shard()
        ordered = [self.rows[file] for file in self.files.values()]
        if list(self.rows.values()) != ordered:
            write_lines(self.folder / PORTRAITS, ordered)

    def _close_shard(self) -> None:
        if not self._shard:
            return
        members: list[tuple[str, bytes]] = []
        for data, row in self._shard:
            name = row["file"].split("/")[1]
            members += [(name, data), (f"{name.removesuffix(self.settings.kind)}json", json.dumps(row).encode())]
        write_tar(self.folder / _tar(self._shard[0][1]), members)
        self._list([row for _, row in self._shard])
        self._shard = []

    def _list(self, rows: list[dict[str, Any]]) -> None:
        assert self._lines is not None  # begin() came first
        self._lines.write("".join(map(line, rows)))
        self._lines.flush()
        self.rows |= {row["file"]: row for row in rows}

    def _remove_earlier(self) -> None:
        for row in self._listed:  # and nothing that this program did not make
            path = self._path(row)
            if path.is_file() and path.resolve().is_relative_to(self.folder.resolve()):
                path.unlink()
                if path.parent != self.folder and not any(path.parent.iterdir()):
                    path.parent.rmdir()
        for name in (PORTRAITS, PEOPLE, SETTINGS, REPORT):
            (self.folder / name).unlink(missing_ok=True)
        self._listed = []


def _tar(row: dict[str, Any]) -> str:
    return row["file"].split("/")[0]
