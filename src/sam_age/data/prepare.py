"""Photographs in, a folder or tar shards of aligned faces out: what sam-prepare does.

Each picture is decoded, searched with MTCNN, cut as FFHQ was and encoded by a worker; the parent alone writes, in
the order of the pictures. So the result does not depend on the number of workers, and what an interruption leaves
is a prefix of it that the next run goes on from (see `sam_age.data.prepared`).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sam_age.data.align import align
from sam_age.data.images import read_photo
from sam_age.data.prepared import Crop, Prepared
from sam_age.data.processes import in_order
from sam_age.data.sources import FolderFaces
from sam_age.data.storing import IMAGES, encode
from sam_age.errors import InputError

log = logging.getLogger("sam_age")

FACES = ("largest", "all")
FORMATS = (*IMAGES, "shards")


@dataclass(frozen=True)
class Settings:
    """Everything that decides what the faces look like and how they are stored.

    Args:
        size: side of the crops, pixels.
        faces: "largest" or "all" of each picture.
        format: "png", "webp" or "jpg": one file a face, in the input's tree; "shards": WebDataset tars.
        quality: of webp and jpg, 1-100.
        shard_size: faces in a tar.
        shard_images: what the tars hold: png, webp or jpg.
        supersample: resample at this many times `size`; see `sam_age.data.align.align`.
        min_face: smallest face, side of the detector's box in pixels of the picture.
        min_score: least confidence of the detector, 0-1.

    Raises:
        InputError: a value out of range.
    """

    size: int = 256
    faces: str = "largest"
    format: str = "png"
    quality: int = 95
    shard_size: int = 1000
    shard_images: str = "png"
    supersample: int = 4
    min_face: float = 40
    min_score: float = 0.9

    def __post_init__(self) -> None:
        for key, known in (("faces", FACES), ("format", FORMATS), ("shard_images", tuple(IMAGES))):
            if getattr(self, key) not in known:
                raise InputError(f"{key} is one of {', '.join(known)}, not {getattr(self, key)!r}.")
        limits = {"size": (16, 4096), "quality": (1, 100), "shard_size": (1, 10**6), "supersample": (1, 8)}
        for key, (least, most) in limits.items():
            value = getattr(self, key)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise InputError(f"{key} is a whole number from {least} to {most}, not {value!r}.")
        for key, most in (("min_face", float("inf")), ("min_score", 1.0)):
            value = getattr(self, key)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
                raise InputError(f"{key} is a number from 0 to {most:g}, not {value!r}.")

    @property
    def suffix(self) -> str:
        """Of the image files: .png, .webp or .jpg."""
        return "." + (self.shard_images if self.format == "shards" else self.format)


class Counts(NamedTuple):
    """What a run of `prepare_faces` did."""

    faces: int  # written by this run
    pictures: int  # that gave them
    already: int  # pictures that an earlier run had done
    failed: int  # pictures without a usable face


def prepare_faces(
    source: str | Path,
    output: str | Path,
    settings: Settings | None = None,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    device: str = "cpu",
) -> Counts:
    """Cut the faces out of a picture, or of all pictures below a folder.

    Pictures that cannot be used are reported in `output`/failures.jsonl, and the rest go on. A second call with the
    same settings goes on where the first one stopped, and tries failed pictures again.

    Args:
        source: a picture or a folder of pictures.
        output: folder for the faces, manifest.jsonl and failures.jsonl.
        workers: processes; 0 or 1 works in this one; None takes one per core.
        overwrite: start over, whatever `output` holds of an earlier call.
        device: where the detector runs.
    Raises:
        InputError: nothing to read, no usable face in any picture (nothing is written then), or an output that
            was made with other settings or from other pictures.
    """
    from tqdm import tqdm

    settings = settings or Settings()
    if workers is not None and (not isinstance(workers, int) or workers < 0):
        raise InputError(f"workers is a whole number from 0, or null for one per core, not {workers!r}.")
    root, pictures = find_pictures(Path(source), Path(output))
    prepared = Prepared(Path(output), settings, overwrite=overwrite)
    todo = [path for path in pictures if not prepared.has(_relative(path, root), path.stat().st_size)]
    names = prepared.stems([_relative(path, root) for path in todo], [_relative(path, root) for path in pictures])
    workers = min(workers if workers is not None else os.cpu_count() or 1, len(todo))
    first_failure, faces, failed = "", 0, 0
    with (
        prepared,
        tqdm(
            total=len(pictures), initial=len(pictures) - len(todo), desc="Preparing", unit="picture", disable=None
        ) as bar,
    ):
        results = _results(todo, settings, workers, device)
        for path, name, result in zip(todo, names, results, strict=True):
            if isinstance(result, str):
                failed, first_failure = failed + 1, first_failure or result
                prepared.fail(_relative(path, root), result)
                if len(pictures) > 1:  # of a single picture the error says it
                    tqdm.write(f"Skipped: {result}", file=sys.stderr)
            else:
                prepared.add(_relative(path, root), name, result)
                faces += len(result)
            bar.update()
    already = len(pictures) - len(todo)
    if not faces and not already:
        which = f"None of the {len(pictures)} pictures could be used; the first: " if len(pictures) > 1 else ""
        raise InputError(f"{which}{first_failure}")
    return Counts(faces, len(todo) - failed, already, failed)


def find_pictures(source: Path, output: Path) -> tuple[Path, list[Path]]:
    """The folder that names are relative to, and the pictures: one, or all below a folder, sorted.

    Faces of an earlier run are left out where the output lies inside the input.
    """
    there = next((path for path in (output, *output.parents) if path.exists()), output)
    if there.exists() and not there.is_dir():
        raise InputError(f"{there} is a file: give output= a folder.")
    if source.is_file():
        return source.parent, [source]
    if not source.exists():
        raise InputError(f"There is nothing at {source}: give input= a picture or a folder of pictures.")
    inside = output.resolve()
    if inside == source.resolve():
        raise InputError(f"input and output are both {source}: give output= another folder.")
    found = [Path(path) for path in FolderFaces(source).paths]
    if inside.is_relative_to(source.resolve()):
        found = [path for path in found if not path.resolve().is_relative_to(inside)]
    if not found:
        raise InputError(f"No pictures in {source} but those of the output: give input= a folder of photographs.")
    return source, found


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


# ---- the work on one picture ----------------------------------------------------------------------------------------


def crops(path: Path, detector: Any, settings: Settings) -> list[Crop]:
    """The faces of one picture, encoded, largest first.

    Args:
        detector: a `sam_age.data.detect.FaceDetector`, or what has its `detect`.
    Raises:
        InputError: not a picture, or no usable face in it.
    """
    photo = read_photo(path)
    image = photo.image
    found = detector.detect(image)
    if not found:
        raise InputError(f"No face found in {path} ({image.width} x {image.height}). Use a photo where it is larger.")
    made: list[Crop] = []
    reason = ""
    for face in found:
        try:
            crop = align(image, face.quad, settings.size, supersample=settings.supersample)
        except InputError as error:
            reason = str(error)
            continue
        row = {
            "face": len(made),
            "quad": face.quad.round(3).tolist(),
            "landmarks": face.landmarks.round(3).tolist(),
            "box": face.box.round(3).tolist(),
            "score": round(face.score, 6),
            "width": image.width,
            "height": image.height,
            "orientation": photo.orientation,
            "bytes": path.stat().st_size,
        }
        made.append(Crop(encode(crop, settings.suffix[1:], settings.quality), row))
        if settings.faces == "largest":
            break
    if not made:
        raise InputError(f"{path}: {reason}")
    return made


def _attempt(path: Path, detector: Any, settings: Settings) -> list[Crop] | str:
    try:
        return crops(path, detector, settings)
    except InputError as error:
        return str(error)
    except Exception as error:  # one picture must not end a run of hours; the type tells a bug from bad input
        return f"{path}: {type(error).__name__}: {' '.join(str(error).split())}"


# ---- processes ------------------------------------------------------------------------------------------------------

_worker: tuple[Any, Settings] | None = None


def _results(todo: list[Path], settings: Settings, workers: int, device: str) -> Iterator[list[Crop] | str]:
    """What `_attempt` gives for every picture, in their order, a few pictures ahead of the reader."""
    if workers <= 1:
        detector = _detector(settings, device) if todo else None
        yield from (_attempt(path, detector, settings) for path in todo)
        return
    yield from in_order(_work, todo, workers, setup=_start, arguments=(settings, device))


def _detector(settings: Settings, device: str) -> Any:
    from sam_age.data.detect import FaceDetector

    return FaceDetector(device, min_face=settings.min_face, min_score=settings.min_score)


def _start(settings: Settings, device: str) -> None:
    """In each worker: its own detector."""
    global _worker
    _worker = _detector(settings, device), settings


def _work(path: Path) -> list[Crop] | str:
    assert _worker is not None  # _start ran
    return _attempt(path, *_worker)


def summary(counts: Counts, output: Path) -> str:
    """The closing line of a run."""
    text = f"{counts.faces} faces from {counts.pictures} pictures into {output}"
    if counts.already:
        text += f"; {counts.already} pictures were done already"
    if counts.failed:
        text += f"; {counts.failed} could not be used, see {output / 'failures.jsonl'}"
    return text
