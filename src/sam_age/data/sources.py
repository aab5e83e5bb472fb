"""Where pictures are: folders, zips and tar shards, all read the same way."""

from __future__ import annotations

import glob
import os
import re
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

from sam_age.data.images import IMAGE_SUFFIXES
from sam_age.errors import InputError


@runtime_checkable
class ImageSource(Protocol):
    """Pictures by number. A source may also have `age(index) -> float` years, NaN where unknown, and
    `labels(index) -> dict[str, int]`, the same names for every picture: whole numbers that batches carry along, such
    as `person`, who it is, and `kin`, which people are alike enough to be mistaken for each other. And
    `others(index) -> list[int]`: pictures of the same person in the same scene at other ages, for `Truths`.

    With `endless = True` its numbers have no end that matters, and training takes them in their order.
    """

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What to call the picture in a message: its path."""
        ...

    def read(self, index: int) -> bytes:
        """The picture's file."""
        ...


def labels_of(source: ImageSource, index: int) -> dict[str, int]:
    """What a source says of a picture in whole numbers; nothing where it has no `labels`."""
    return source.labels(index) if hasattr(source, "labels") else {}


class FolderFaces:
    """All pictures below a folder, at any depth, sorted by path.

    FFHQ's layouts (images1024x1024/00000/00000.png and flat, thumbnails128x128) and CelebA-HQ's are folders; of the
    whole download of either, `open_source` takes the aligned faces alone.

    Raises:
        InputError: no such folder, or no picture in it.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise InputError(f"There is no folder {self.root}: give the folder that holds the faces.")
        # by parts, not by the separator, so that a seed means the same order on every system
        self.paths = sorted(_pictures_below(str(self.root), set()), key=lambda path: Path(path).parts)
        if not self.paths:
            raise InputError(f"No pictures below {self.root}: give the folder that holds the faces.")

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index]

    def read(self, index: int) -> bytes:
        return Path(self.paths[index]).read_bytes()


def _pictures_below(folder: str, seen: set[str]) -> list[str]:
    real = os.path.realpath(folder)
    if real in seen:  # a link, perhaps back to a folder that is being read
        return []
    seen.add(real)
    found = []
    with os.scandir(folder) as entries:  # rglob takes minutes on FFHQ over a network
        # folders before links to them, so that a folder has the same name wherever it is read
        for entry in sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name)):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                found += _pictures_below(entry.path, seen)
            elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
                found.append(entry.path)
    return found


class Subset:
    """Some pictures of another source, in the order given."""

    def __init__(self, source: ImageSource, indices: Sequence[int]) -> None:
        self.source, self.indices = source, list(indices)
        outside = [index for index in self.indices if not 0 <= index < len(source)]
        if outside:
            raise InputError(
                f"Picture {outside[0]} is wanted of {len(source)}, the first {source.name(0)}: are all there?"
            )

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.source.name(self.indices[index])

    def read(self, index: int) -> bytes:
        return self.source.read(self.indices[index])

    def age(self, index: int) -> float:
        return self.source.age(self.indices[index]) if hasattr(self.source, "age") else float("nan")

    def labels(self, index: int) -> dict[str, int]:
        return labels_of(self.source, self.indices[index])


class _PerProcess(threading.local):
    """An open file that each worker process and thread opens for itself: handles do not survive pickling."""

    def __init__(self) -> None:
        self.pid, self.handle = -1, None

    def __reduce__(self) -> tuple[Any, ...]:
        return _PerProcess, ()


class ZipFaces:
    """All pictures in a zip file, sorted by name.

    Raises:
        InputError: not a zip, damaged, or without pictures.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with zipfile.ZipFile(self.path) as archive:
                names = archive.namelist()
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(f"{self.path} cannot be read as a zip file ({error}).") from error
        self.names = sorted(n for n in names if _is_picture(n))
        if not self.names:
            raise InputError(f"No pictures in {self.path}.")
        self._open = _PerProcess()

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return f"{self.path}/{self.names[index]}"

    def read(self, index: int) -> bytes:
        if self._open.pid != os.getpid():
            self._open.pid, self._open.handle = os.getpid(), zipfile.ZipFile(self.path)
        try:
            return self._open.handle.read(self.names[index])
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:  # damaged, or encrypted
            raise InputError(f"{self.name(index)} cannot be unpacked ({error}).") from error


class TarShards:
    """WebDataset shards: pictures in tar files, read at random through an index of their offsets.

    Args:
        pattern: a tar file, a folder of them, a glob, or WebDataset's braces: faces-{000000..000099}.tar.

    A member with the same stem and the suffix .json or .cls is not used; ages come from a manifest.
    Opening reads every tar header once, a few seconds for a hundred thousand pictures.

    Raises:
        InputError: no shards, a damaged shard, or no pictures in them.
    """

    def __init__(self, pattern: str | Path) -> None:
        self.shards = [Path(p) for p in expand_shards(str(pattern))]
        if not self.shards:
            raise InputError(f"No tar shards match {pattern}.")
        self.members: list[tuple[int, str, int, int]] = []  # shard, name, offset, size
        self.blocks: list[int] = []  # pictures in each shard
        for number, shard in enumerate(self.shards):
            before = len(self.members)
            try:
                with tarfile.open(shard, "r:") as tar:
                    self.members += [
                        (number, m.name, m.offset_data, m.size) for m in tar if m.isfile() and _is_picture(m.name)
                    ]
            except (OSError, tarfile.TarError) as error:
                raise InputError(f"{shard} cannot be read as a tar shard ({error}).") from error
            self.blocks.append(len(self.members) - before)
        if not self.members:
            raise InputError(f"No pictures in the {len(self.shards)} shards of {pattern}.")
        self._open = _PerProcess()

    def __len__(self) -> int:
        return len(self.members)

    def name(self, index: int) -> str:
        shard, name, _, _ = self.members[index]
        return f"{self.shards[shard]}/{name}"

    def read(self, index: int) -> bytes:
        shard, _, offset, size = self.members[index]
        if self._open.pid != os.getpid():
            self._open.pid, self._open.handle = os.getpid(), {}
        if shard not in self._open.handle:
            self._open.handle[shard] = self.shards[shard].open("rb")
        file = self._open.handle[shard]
        file.seek(offset)
        return file.read(size)


def expand_shards(pattern: str) -> list[str]:
    """Shard paths from a file, folder, glob or brace range.

    >>> expand_shards("x-{008..010}.tar")
    ['x-008.tar', 'x-009.tar', 'x-010.tar']
    """
    if braces := re.search(r"\{(\d+)\.\.(\d+)\}", pattern):
        first, last = braces.groups()
        numbers = range(int(first), int(last) + 1)
        before, after = pattern[: braces.start()], pattern[braces.end() :]
        return [path for n in numbers for path in expand_shards(f"{before}{n:0{len(first)}d}{after}")]
    if Path(pattern).is_dir():
        return sorted(str(p) for p in Path(pattern).glob("*.tar"))
    if Path(pattern).exists():
        return [pattern]
    return sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207 absolute patterns


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


# Where the aligned faces lie in a whole download, best first: beside them are FFHQ's uncropped photographs and
# smaller copies, and CelebAMask-HQ's masks.
_ALIGNED = ("images1024x1024", "CelebA-HQ-img", "thumbnails128x128")


def open_source(where: str | Path | ImageSource) -> ImageSource:
    """The source that a path means: a folder of pictures, a zip, a tar, a folder or pattern of tars.

    Of the folder that FFHQ or CelebAMask-HQ was downloaded to, the aligned faces, not what lies beside them.

    Raises:
        InputError: nothing there, or nothing usable in it.
    """
    if not isinstance(where, str | Path):
        return where
    text, path = str(where), Path(where)
    pattern = "{" in text or glob.has_magic(text)
    if path.suffix == ".tar" or (pattern and not path.exists()):  # a folder's own name may hold brackets
        return TarShards(text)
    if path.is_file():
        if zipfile.is_zipfile(path):
            return ZipFaces(path)
        raise InputError(f"{path} is neither a folder, a zip nor a tar: give where the faces are.")
    if not path.exists():
        raise InputError(f"There is nothing at {path}: give the folder, zip or shards that hold the faces.")
    if any(path.glob("*.tar")):
        return TarShards(text)
    return FolderFaces(next((path / name for name in _ALIGNED if (path / name).is_dir()), path))
