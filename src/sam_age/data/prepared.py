"""The folder that sam-prepare writes: images or tar shards, and what the next run needs to go on.

    prepare.json     the settings; another run with others is refused
    manifest.jsonl   a line per face: file, source, face (its number in the picture, 0 the largest), faces (how many
                     of the picture were kept), quad, landmarks, box (pixels of the upright picture), score, width,
                     height (of the upright picture), orientation (EXIF, 1-8), bytes (of the source file)
    failures.jsonl   a line per picture that the last run could not use: source, reason

Every file appears whole or not at all, and lines enter the manifest after the files they speak of. Hence any
interruption leaves at most one torn line and files that no line names, and both are put right by the next run.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Self

from sam_age.data.storing import (
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

if TYPE_CHECKING:
    from sam_age.data.prepare import Settings

SETTINGS, MANIFEST, FAILURES = "prepare.json", "manifest.jsonl", "failures.jsonl"


class Crop(NamedTuple):
    """One face: its file's bytes, and what the manifest says of it."""

    data: bytes
    row: dict[str, Any]


class Prepared:
    """Writes faces to a folder, going on from what is there. Nothing is touched before the first face.

    Args:
        folder: need not exist.
        overwrite: what an earlier run made is removed, once there is something to put in its place.

    Raises:
        InputError: the folder holds something else, or faces of other settings.
    """

    def __init__(self, folder: Path, settings: Settings, *, overwrite: bool = False) -> None:
        self.folder, self.settings, self.overwrite = folder, settings, overwrite
        self.rows: list[dict[str, Any]] = []
        self._listed = read_lines(folder / MANIFEST, {"file", "source", "faces", "bytes"}, command="sam-prepare")
        if not overwrite:
            check_settings(folder / SETTINGS, asdict(settings), command="sam-prepare")
            self.rows = self._whole(self._listed)
        self._done = {row["source"]: row["bytes"] for row in self.rows}
        self._manifest: IO[str] | None = None
        self._failures: list[dict[str, str]] = []
        self._shard: list[tuple[str, Crop]] = []  # (source, crop) of the tar that is being filled
        self._shard_numbers: Iterator[int] = iter(())

    def _whole(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows of pictures all of whose faces are listed and there."""
        there = Counter(row["source"] for row in rows if self._path(row).is_file())
        return [row for row in rows if there[row["source"]] == row["faces"]]

    def _path(self, row: dict[str, Any]) -> Path:
        """The image, or the tar that holds it."""
        return self.folder / (row["file"].split("/")[0] if self.settings.format == "shards" else row["file"])

    def has(self, source: str, size: int) -> bool:
        """Has an earlier run done this picture?

        Raises:
            InputError: it did one of this name, but of another file size: not the same picture.
        """
        if source not in self._done:
            return False
        if self._done[source] != size:
            raise InputError(
                f"{self.folder} holds the face of another {source} ({self._done[source]} bytes, now {size}): "
                "overwrite=true starts over, output=... writes elsewhere."
            )
        return True

    def stems(self, sources: list[str], everything: list[str]) -> list[str]:
        """A name for each picture's faces, without suffix: the input's tree.

        Pictures of `everything`, done or not, that differ in their suffix alone keep it. Case does not tell names
        apart, as on Windows and macOS.
        """
        taken = {_without_face(row["file"], self.settings).lower() for row in self.rows}
        wanted = [_without_suffix(source) for source in sources]
        count = Counter(_without_suffix(source).lower() for source in everything)
        names = []
        for source, short in zip(sources, wanted, strict=True):
            free = (short, source) if count[short.lower()] == 1 else (source,)
            numbered = (f"{source}_{n}" for n in itertools.count(2))
            name = next(n for n in itertools.chain(free, numbered) if n.lower() not in taken)
            taken.add(name.lower())
            names.append(name)
        return names

    # ---- writing -----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._close_shard()
                if self._manifest is None and self.rows:  # nothing new; yet the failures may be others
                    self._begin()
        finally:
            if self._manifest is not None:
                self._write_failures()
                self._manifest.close()

    def add(self, source: str, name: str, crops: list[Crop]) -> None:
        """Store the faces of one picture; name: from `stems`."""
        self._begin()
        for crop in crops:
            crop.row["faces"] = len(crops)
        if self.settings.format == "shards":
            # a picture's faces stay in one tar, so that a tar is done or not done
            if self._shard and len(self._shard) + len(crops) > self.settings.shard_size:
                self._close_shard()
            self._shard += [(source, crop) for crop in crops]
            return
        rows = []
        for crop in crops:
            file = name + (f"_face{crop.row['face']}" if self.settings.faces == "all" else "") + self.settings.suffix
            path = self.folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, crop.data)
            rows.append({"file": file, "source": source} | crop.row)
        self._list(rows)

    def fail(self, source: str, reason: str) -> None:
        """Note a picture that could not be used."""
        self._failures.append({"source": source, "reason": reason})
        if self._manifest is not None:
            with (self.folder / FAILURES).open("a", encoding="utf-8", newline="\n") as file:
                file.write(line(self._failures[-1]))

    def _begin(self) -> None:
        """Once: the folder, the settings, the manifest without what the last run left half done."""
        if self._manifest is not None:
            return
        if self.overwrite:
            self._remove_earlier()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if len(self.rows) != len(self._listed) or torn(self.folder / MANIFEST):
                write_lines(self.folder / MANIFEST, self.rows)
            write_settings(self.folder / SETTINGS, asdict(self.settings))
            self._manifest = (self.folder / MANIFEST).open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError(f"{self.folder} cannot be written ({reason}): give output= a folder that can.") from error
        self._write_failures()
        used = {row["file"].split("/")[0] for row in self.rows}
        self._shard_numbers = (n for n in itertools.count() if _shard_name(n) not in used)

    def _remove_earlier(self) -> None:
        for row in self._listed:  # and nothing that this program did not make
            for path in (self.folder / row["file"], self.folder / row["file"].split("/")[0]):
                if path.is_file() and path.resolve().is_relative_to(self.folder.resolve()):
                    path.unlink()
        for name in (MANIFEST, FAILURES, SETTINGS):
            (self.folder / name).unlink(missing_ok=True)
        self._listed = []

    def _write_failures(self) -> None:
        path = self.folder / FAILURES
        if self._failures:
            write_lines(path, self._failures)
        else:
            path.unlink(missing_ok=True)

    def _list(self, rows: list[dict[str, Any]]) -> None:
        assert self._manifest is not None
        self._manifest.write("".join(map(line, rows)))  # a picture's lines together
        self._manifest.flush()

    def _close_shard(self) -> None:
        if not self._shard:
            return
        number = next(self._shard_numbers)
        tar_name = _shard_name(number)
        rows: list[dict[str, Any]] = []
        members: list[tuple[str, bytes]] = []
        for place, (source, crop) in enumerate(self._shard):
            key = f"{number:06d}_{place:06d}_{_key(crop, source, self.settings)}"
            member = key + self.settings.suffix
            rows.append({"file": f"{tar_name}/{member}", "source": source} | crop.row)
            members += [(member, crop.data), (f"{key}.json", json.dumps(rows[-1]).encode())]
        write_tar(self.folder / tar_name, members)
        self._list(rows)
        self._shard = []


def _shard_name(number: int) -> str:
    return f"faces-{number:06d}.tar"


def _key(crop: Crop, source: str, settings: Settings) -> str:
    """The picture's name as WebDataset's keys allow it (they end at the first dot); its number stays last."""
    stem = re.sub(r"[^A-Za-z0-9_-]", "-", PurePosixPath(source).stem)[-60:]
    return stem + (f"_face{crop.row['face']}" if settings.faces == "all" else "")


def _without_suffix(source: str) -> str:
    return str(PurePosixPath(source).with_suffix(""))


def _without_face(file: str, settings: Settings) -> str:
    stem = file.removesuffix(settings.suffix)
    return stem.rsplit("_face", 1)[0] if settings.faces == "all" else stem
