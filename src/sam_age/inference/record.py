"""What a run has done, kept beside its results: another run goes on from there, and writes over nobody's files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sam_age.data.storing import line, torn
from sam_age.errors import InputError

FOLDER = ".sam-infer"


def fingerprint(options: dict[str, Any]) -> str:
    """Sixteen digits that change with any of the options."""
    text = json.dumps(options, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Record:
    """Lines of JSON, one file a rank, under the fingerprint of the options that results were made with.

    A picture is `begun` before its first file is written, `done` after its last, or `failed`. What was begun and not
    done is made again; files that this record does not name are somebody else's.
    """

    def __init__(self, output: Path, options: dict[str, Any], rank: int = 0) -> None:
        self.output, self.print = output, fingerprint(options)
        self.folder = output / FOLDER
        self.path = self.folder / f"{self.print}-{rank:05d}.jsonl"
        self._waiting: list[dict[str, Any]] = []
        self._opened = False

    def rows(self) -> list[dict[str, Any]]:
        """What all ranks have written; lines torn by an interruption are left out."""
        rows = []
        for path in sorted(self.folder.glob(f"{self.print}-*.jsonl")):
            for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):
                try:
                    row = json.loads(text)
                except ValueError:
                    continue
                if isinstance(row, dict) and {"picture", "state"} <= set(row):
                    rows.append(row)
        return rows

    def latest(self) -> dict[str, dict[str, Any]]:
        """The last that is known of each picture that came to an end."""
        return {row["picture"]: row for row in self.rows() if row["state"] != "begun"}

    def done(self) -> dict[str, dict[str, Any]]:
        """Pictures that are done, and whose files are all still there."""
        return {
            key: row
            for key, row in self.latest().items()
            if row["state"] == "done" and all((self.output / file).is_file() for file in row.get("files", []))
        }

    def files(self) -> set[str]:
        """All that this record calls its own, relative to the output."""
        return {file for row in self.rows() for file in row.get("files", [])}

    def add(self, picture: str, state: str, *, wait: bool = False, **more: Any) -> None:
        """Append a line; `wait` until there is another one, so that a run without results leaves no trace."""
        self._waiting.append({"picture": picture, "state": state, **more})
        if wait:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        start = "\n" if not self._opened and torn(self.path) else ""
        self._opened = True
        with self.path.open("a", encoding="utf-8") as file:
            file.write(start + "".join(map(line, self._waiting)))
        self._waiting.clear()


def check_free(output: Path, wanted: Iterable[tuple[str, list[str]]], ours: set[str]) -> None:
    """Refuse to write over what is not ours.

    Args:
        wanted: (stem, endings) of each picture to be made; files may have a `_face` and number between both.
        ours: files, relative to the output, that may be replaced.
    """
    listed: dict[str, dict[str, list[str]]] = {}  # each folder is read once, however many pictures are in it
    for stem, endings in wanted:
        parent, _, name = stem.rpartition("/")
        if parent not in listed:
            listed[parent] = {}
            place = output / parent
            for file in sorted(file.name for file in place.iterdir()) if place.is_dir() else []:
                for called in {file, _without_face(file)}:  # a photo itself may be called my_face1.png
                    listed[parent].setdefault(called, []).append(file)
        for ending in endings:
            for file in listed[parent].get(f"{name}{ending}", []):
                if (f"{parent}/{file}" if parent else file) not in ours:
                    raise InputError(
                        f"{output / parent / file} is already there: overwrite=true replaces it, "
                        "output=... writes elsewhere (it was not made with these options)."
                    )


def _without_face(file: str) -> str:
    before, face, after = file.rpartition("_face")
    digits = len(after) - len(after.lstrip("0123456789"))
    return before + after[digits:] if face and digits else file
