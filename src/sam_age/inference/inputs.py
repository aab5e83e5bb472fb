"""What there is to age, from files, folders and shards, and what the results of each are called."""

from __future__ import annotations

import glob
import itertools
import logging
import os
import zipfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from sam_age.data.images import IMAGE_SUFFIXES, read_image
from sam_age.data.loader import Loader, batches
from sam_age.data.sources import ImageSource, TarShards, ZipFaces, open_source
from sam_age.errors import InputError

log = logging.getLogger("sam_age")

CLIPS = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".mts", ".m2ts", ".wmv", ".3gp"})


class Files:
    """Files by number, as an `ImageSource`."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def read(self, index: int) -> bytes:
        return self.paths[index].read_bytes()


@dataclass(frozen=True)
class Inputs:
    """Pictures (or clips), and where the results of each go: `output / stems[i]`, to which a mode adds."""

    source: ImageSource
    keys: list[str]  # one a picture, with forward slashes; what the record of a run calls it
    stems: list[str]  # the same without suffix, where that leaves all different
    shards: list[str] = field(default_factory=list)  # archives that they lie in

    def __len__(self) -> int:
        return len(self.keys)

    def file(self, index: int) -> Path:
        """The file that a picture is, or lies in."""
        if isinstance(self.source, TarShards):
            return self.source.shards[self.source.members[index][0]]
        return self.source.path if isinstance(self.source, ZipFaces) else Path(self.source.name(index))

    def stamp(self, index: int) -> str:
        """Changes when the picture's file does."""
        try:
            stat = self.file(index).stat()
        except OSError:
            return "none"
        return f"{stat.st_size}-{stat.st_mtime_ns}"


def open_inputs(given: str | Sequence[Any], output: Path, *, clips: bool = False) -> Inputs:
    """The inputs that a path, several files, a glob or pattern, or the name of the package's own portraits means.

    Raises:
        InputError: nothing there, or nothing usable.
    """
    from sam_age.data.prepare import find_pictures
    from sam_age.pretrained import portraits

    if not isinstance(given, str):
        return _several([Path(str(path)) for path in given])
    if given == portraits.NAME and not clips:
        if Path(given).exists():
            log.warning("input=%s is what comes with the package; for what is here give input=./%s.", given, given)
        chosen = portraits.inputs()
        root, everything = find_pictures(portraits.folder(), output)
        return _files(root, [picture for picture in everything if picture in chosen])
    path = Path(given)
    pattern = not path.exists() and ("{" in given or glob.has_magic(given))
    if pattern and (loose := _matching(given, CLIPS if clips else IMAGE_SUFFIXES)):
        return _several(loose)
    if clips:
        return _clips(path, output)
    packed = path.is_file() and (path.suffix == ".tar" or (path.suffix == ".zip" and zipfile.is_zipfile(path)))
    if not (pattern or packed or (path.is_dir() and any(path.glob("*.tar")))):
        return _files(*find_pictures(path, output))
    there = next((place for place in (output, *output.parents) if place.exists()), output)
    if there.exists() and not there.is_dir():
        raise InputError(f"{there} is a file: give output= a folder.")
    source = open_source(given)
    if isinstance(source, TarShards):
        keys = [f"{source.shards[shard].stem}/{inside(name)}" for shard, name, _, _ in source.members]
        return Inputs(source, keys, stems_of(keys), [str(shard) for shard in source.shards])
    keys = [inside(name) for name in source.names]
    return Inputs(source, keys, stems_of(keys), [str(source.path)])


def _files(root: Path, paths: Sequence[Path]) -> Inputs:
    keys = [path.relative_to(root).as_posix() for path in paths]
    return Inputs(Files(paths), keys, stems_of(keys))


def _matching(pattern: str, suffixes: Collection[str]) -> list[Path]:
    """Files of some kinds that a glob matches: photos/2024-*.jpg, photos/**/*.png."""
    found = (Path(path) for path in sorted(glob.glob(pattern, recursive=True)))  # noqa: PTH207 absolute, too
    return [path for path in found if path.suffix.lower() in suffixes and path.is_file()]


def _several(paths: Sequence[Path]) -> Inputs:
    """Files; names are relative to the deepest folder that holds all of them."""
    if missing := [path for path in paths if not path.is_file()]:
        what = "is a folder" if missing[0].is_dir() else "is not there"
        raise InputError(f"{missing[0]} {what}: of several inputs each is a file; a folder is given by itself.")
    if not paths:
        raise InputError("input=[] names no file: give one, several, or a folder.")
    files = list({os.path.abspath(path): path for path in paths}.items())  # noqa: PTH100 links keep their names
    root = Path(os.path.commonpath([Path(place).parent for place, _ in files]))
    keys = [Path(place).relative_to(root).as_posix() for place, _ in files]
    return Inputs(Files([path for _, path in files]), keys, stems_of(keys))


def _clips(path: Path, output: Path) -> Inputs:
    if path.is_file():
        return _files(path.parent, [path])
    if not path.is_dir():
        raise InputError(f"There is nothing at {path}: give input= a clip or a folder of clips.")
    made = output.resolve()
    found = [
        clip
        for clip in sorted(path.rglob("*"))
        if clip.suffix.lower() in CLIPS and clip.is_file() and not clip.name.startswith(".")
    ]
    found = [clip for clip in found if made == path.resolve() or not clip.resolve().is_relative_to(made)]
    if not found:
        raise InputError(f"No clips below {path}: mode=video takes {', '.join(sorted(CLIPS))}.")
    return _files(path, found)


def inside(name: str) -> str:
    """A name of an archive's member as a path that stays below where it is put, on every system.

    >>> inside("../../etc/./a.png"), inside("/b.png"), inside("c:\\\\d.png")
    ('etc/a.png', 'b.png', 'c__d.png')
    """
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "//", "..", ".")]
    return "/".join(part.replace("\\", "_").replace(":", "_") for part in parts) or "picture"


def stems_of(keys: Sequence[str]) -> list[str]:
    """Names without suffix, but of those that differ in it (or in case, which some systems do not tell apart) alone.

    >>> stems_of(["a.png", "b.png", "b.jpg"])
    ['a', 'b.png', 'b.jpg']
    """
    bare = [key[: -len(suffix)] if (suffix := PurePosixPath(key).suffix) else key for key in keys]
    count: dict[str, int] = {}
    for stem in bare:
        count[stem.lower()] = count.get(stem.lower(), 0) + 1
    stems, taken = [], set()
    for key, stem in zip(keys, bare, strict=True):
        first = name = key if count[stem.lower()] > 1 else stem
        number = 1
        while name.lower() in taken:  # the same name twice in an archive
            number += 1
            name = f"{first}~{number}"
        taken.add(name.lower())
        stems.append(name)
    return stems


@dataclass
class Loaded:
    """One picture on its way: what a mode takes of it, or why it cannot be had."""

    index: int
    what: Image.Image | bytes | Path | None
    error: str | None = None


class Ahead(Dataset):
    """Reads and decodes inputs; in worker processes, ahead of the network.

    Args:
        indices: of the inputs wanted.
        takes: "image", decoded; "bytes", the file; "path".
    """

    def __init__(self, inputs: Inputs, indices: Sequence[int], takes: str) -> None:
        self.inputs, self.indices, self.takes = inputs, list(indices), takes

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> Loaded:
        index = self.indices[number]
        source = self.inputs.source
        if self.takes == "path":
            return Loaded(index, self.inputs.file(index))
        try:
            data = source.read(index)
            return Loaded(index, data if self.takes == "bytes" else read_image(data, name=source.name(index)))
        except (InputError, OSError) as error:
            return Loaded(index, None, str(error))


def loader(inputs: Inputs, indices: Sequence[int], takes: str, pictures: int, workers: int) -> Loader:
    """Batches, lists of `Loaded`, in order."""
    return batches(Ahead(inputs, indices, takes), _as_it_is, batch_size=pictures, num_workers=workers)


def _as_it_is(batch: list[Any]) -> list[Any]:
    return batch


def shares(indices: Sequence[int], ranks: int) -> list[Sequence[int]]:
    """What each rank takes: a run of neighbours, so that it reads few shards; none twice, sizes equal within one.

    >>> [list(share) for share in shares(range(5), 2)]
    [[0, 1], [2, 3, 4]]
    """
    edges = [len(indices) * rank // ranks for rank in range(ranks + 1)]
    return [indices[start:end] for start, end in itertools.pairwise(edges)]
