"""How a folder is written so that any interruption leaves whole files, and another run can tell how to go on."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from sam_age.errors import InputError

IMAGES = {"png": "PNG", "webp": "WEBP", "jpg": "JPEG"}
"""The formats that pictures are written in, and Pillow's names of them."""


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that an interruption leaves the old one or the new one, never half of one."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    os.replace(part, path)  # noqa: PTH105 the atomic one, by name


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """The same for a tar of (name, content)."""
    part = path.with_name(f".{path.name}.part")
    with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    os.replace(part, path)  # noqa: PTH105 the atomic one, by name


def encode(image: Image.Image, kind: str, quality: int) -> bytes:
    """A picture's file; kind: a key of `IMAGES`, quality: of webp and jpg, 1-100."""
    buffer = io.BytesIO()
    options = {} if kind == "png" else {"quality": quality}
    if kind == "jpg":
        options["subsampling"] = 0  # eyes and lips are colour detail of a few pixels
    image.save(buffer, format=IMAGES[kind], **options)
    return buffer.getvalue()


# ---- files of JSON lines: appended to after the files that they speak of exist ---------------------------------------


def line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_whole(path, "".join(map(line, rows)).encode())


def read_lines(path: Path, keys: set[str], *, command: str) -> list[dict[str, Any]]:
    """The rows of such a file; a last line torn by an interruption is left out. No file has no rows.

    Args:
        keys: that every row has.
        command: that writes such files, for the error.
    Raises:
        InputError: a line that is not ours.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): move it away, or overwrite=true.") from error
    rows = []
    for number, text_line in enumerate(text.split("\n")[:-1], 1):  # after the last newline: torn, or nothing
        try:
            row = json.loads(text_line)
            if not keys <= set(row):
                raise ValueError("keys are missing")
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}, line {number}, is not {command}'s ({error}): give another output=.") from error
        rows.append(row)
    return rows


def torn(path: Path) -> bool:
    """Does a file end in the middle of a line?"""
    return path.is_file() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")


# ---- the settings of the run that made a folder ----------------------------------------------------------------------


def write_settings(path: Path, settings: dict[str, Any]) -> None:
    write_whole(path, (json.dumps(settings, indent=2) + "\n").encode())


def check_settings(path: Path, settings: dict[str, Any], *, command: str) -> None:
    """Refuse to go on in a folder that was made with other settings, or by something else.

    Args:
        path: the folder's settings file, beside which its other files lie.
    Raises:
        InputError: both, with what differs.
    """
    folder = path.parent
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(
                f"{folder} holds files that {command} did not make: give output= a new folder, or overwrite=true."
            )
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        before = {}
    now = json.loads(json.dumps(settings))  # tuples are lists there
    if changed := [f"{k} was {before.get(k)}, is {v}" for k, v in now.items() if before.get(k) != v]:
        raise InputError(
            f"{folder} was made with other settings ({'; '.join(changed)}): overwrite=true starts over, "
            "output=... writes elsewhere."
        )
