"""A face growing older and younger as a film: codes between anchor ages, drawn frame by frame.

Between the ages that the model was asked for, w+ moves in straight lines: a frame costs the generator alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sam_age.choices import Which, check_ages
from sam_age.clips import encode, ffmpeg
from sam_age.data.images import read_image
from sam_age.data.storing import write_whole
from sam_age.editing import LifespanPath
from sam_age.errors import InputError

if TYPE_CHECKING:
    from sam_age.pipeline import AgingPipeline

ANCHORS = tuple(range(0, 101, 10))
"""Ages at which the encoder is asked, years."""

LOOPS = ("bounce", "wrap", "once")
SUFFIXES = (".mp4", ".gif", ".webp")
_MOST_FPS = {".mp4": 120, ".gif": 50, ".webp": 60}  # viewers slow GIFs down whose frames last less than 20 ms
_MOST_FRAMES = 1000  # of GIF and WebP, which are held in memory whole
_KEPT = 256  # drawn frames kept for their second showing: 0.8 GB at 1024 pixels


def frame_ages(ages: Sequence[float], frames: int, loop: str = "bounce") -> list[float]:
    """The age of each frame, at an even pace from anchor to anchor.

    Args:
        ages: at least two anchors, years, in the order they are visited.
        frames: how many, at least two.
        loop: "bounce" goes there and back, without showing either end twice in a row, so that the film can be
            repeated; "wrap" goes on from the last anchor to the first; "once" goes there.

    >>> frame_ages([0, 50, 100], 5, "once"), frame_ages([0, 100], 4)
    ([0.0, 25.0, 50.0, 75.0, 100.0], [0.0, 50.0, 100.0, 50.0])
    """
    if loop not in LOOPS:
        raise InputError(f"loop is one of {', '.join(LOOPS)}, not {loop!r}.")
    if len(ages) < 2:
        raise InputError(f"A film goes through at least two ages, not {list(ages)}.")
    if not isinstance(frames, int) or frames < 2:
        raise InputError(f"A film has at least two frames, not {frames!r}.")
    way = list(map(float, ages))
    if loop == "bounce":
        way += way[-2::-1]
    elif loop == "wrap":
        way += way[:1]
    passed = np.concatenate([[0.0], np.abs(np.diff(way)).cumsum()])
    if passed[-1] == 0:
        raise InputError(f"A film goes through different ages, not {list(ages)}.")
    places = np.linspace(0, passed[-1], frames, endpoint=loop == "once")
    return np.interp(places, passed, way).round(6).tolist()


def animate(
    pipeline: AgingPipeline,
    photo: str | Path | bytes | Image.Image,
    path: str | Path,
    ages: Sequence[float] = ANCHORS,
    *,
    seconds: float = 8.0,
    fps: float = 25.0,
    loop: str = "bounce",
    whole: bool = False,
    faces: Which | None = None,
    align: str = "auto",
    region: str = "head",
    caption: bool = False,
    progress: bool | None = None,
) -> Path:
    """Film a face going through its ages.

    Args:
        photo: a path, a file's bytes, or a picture.
        path: what to write: .mp4 (H.264, needs the extra [video]), .gif or .webp.
        ages: anchors, years, in the order they are visited.
        seconds: length of the film.
        fps: frames a second.
        loop: see `frame_ages`; .gif and .webp repeat for ever but with "once".
        whole: the whole photo with its chosen faces aged in their place; else the first chosen face alone.
        faces: as in `AgingPipeline.__call__`; None: of a whole photo all, else the largest. Of several, a film of a
            face alone shows the first.
        align: likewise; for a face alone.
        region: as in `AgingPipeline.photo`; for whole photos.
        caption: write the age into each frame.
        progress: show a progress bar; None: at a terminal.
    Returns:
        The file written.
    Raises:
        InputError: a photo, age, suffix, length or rate that cannot be used; imageio-ffmpeg is not installed.
    """
    path, ages = Path(path), check_ages(ages)
    years = frames_of(path, ages, seconds, fps, loop)
    known = sorted(set(ages))
    faces = ("all" if whole else "largest") if faces is None else faces
    if whole:
        aged = pipeline.photo(photo, known, faces=faces, region=region)
        paths = [_path(known, face.w_plus) for face in aged.faces]
        frames = _photo_frames(pipeline, aged.paster.paste, paths, years)
    else:
        name = str(photo) if isinstance(photo, str | Path) else "the picture"
        (face, _), *_ = pipeline.find_faces(read_image(photo), align=align, faces=faces, name=name)
        frames = _face_frames(pipeline, _path(known, pipeline.edit([face], known)[0]), years)
    if caption:
        frames = (_captioned(frame, f"{age:.0f}") for frame, age in zip(frames, years, strict=True))
    return write_film(path, frames, fps=fps, count=len(years), repeat=loop != "once", progress=progress)


def frames_of(path: Path, ages: Sequence[float], seconds: float, fps: float, loop: str) -> list[float]:
    """The age of each frame of a film; `InputError` for one that cannot be made, before anything is drawn."""
    if not (isinstance(seconds, int | float) and 0 < seconds <= 3600):
        raise InputError(f"seconds is a number above 0 and up to 3600, not {seconds!r}.")
    check_film(path, fps)
    count = max(2, round(seconds * fps))
    _check_count(path, count)
    return frame_ages(ages, count, loop)


def _path(known: list[float], codes: Tensor) -> LifespanPath:
    return LifespanPath(torch.tensor(known), codes, codes[0])


def _face_frames(pipeline: AgingPipeline, path: LifespanPath, years: list[float]) -> Iterator[Image.Image]:
    """Frames in the order of `years`; films that bounce show most ages twice, and have them drawn once."""
    last = {age: number for number, age in enumerate(years)}
    drawn: dict[float, Image.Image] = {}
    for start in range(0, len(years), pipeline.batch_size):
        chunk = years[start : start + pipeline.batch_size]
        new = [age for age in dict.fromkeys(chunk) if age not in drawn]
        if new:
            drawn.update(zip(new, pipeline.synthesize(path.at(new)), strict=True))
        for age in chunk:
            yield drawn[age]
        over = start + len(chunk)
        for age in dict.fromkeys(chunk):
            if last[age] < over or len(drawn) > _KEPT:
                del drawn[age]


def _photo_frames(
    pipeline: AgingPipeline,
    paste: Callable[[list[Image.Image]], Image.Image],
    paths: list[LifespanPath],
    years: list[float],
) -> Iterator[Image.Image]:
    """Whole photos: each face goes its own path through the same ages."""
    for faces in zip(*(_face_frames(pipeline, path, years) for path in paths), strict=True):
        yield paste(list(faces))


def _captioned(frame: Image.Image, text: str) -> Image.Image:
    frame = frame.convert("RGB")
    draw = ImageDraw.Draw(frame)
    size = max(10, min(frame.size) // 10)
    draw.text(
        (size // 2, frame.height - size // 2), text, fill="white", stroke_fill="black", stroke_width=max(1, size // 12),
        font=ImageFont.load_default(size=size), anchor="ls",
    )  # fmt: skip
    return frame


# ---- files -----------------------------------------------------------------------------------------------------------


def check_film(path: Path, fps: float) -> None:
    """Refuse a suffix or a rate before anything is drawn."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"Films are written as {', '.join(SUFFIXES)}, not {path.name}: give it such a suffix.")
    if not (isinstance(fps, int | float) and 1 <= fps <= _MOST_FPS[suffix]):
        raise InputError(f"fps of a {suffix} is a number from 1 to {_MOST_FPS[suffix]}, not {fps!r}.")
    if suffix == ".mp4":
        ffmpeg()


def _check_count(path: Path, frames: int) -> None:
    if path.suffix.lower() != ".mp4" and frames > _MOST_FRAMES:
        raise InputError(f"A {path.suffix} of {frames} frames is too long, {_MOST_FRAMES} at most: write an .mp4.")


def write_film(
    path: str | Path,
    frames: Iterable[Image.Image],
    *,
    fps: float = 25.0,
    count: int | None = None,
    repeat: bool = True,
    progress: bool | None = None,
) -> Path:
    """Write pictures of one size as a film; an interruption leaves the old file or the new one.

    Args:
        path: .mp4, .gif or .webp.
        frames: drawn while they are written.
        count: how many there are, for the progress bar.
        repeat: play for ever; .gif and .webp alone can say so.
        progress: show a progress bar; None: at a terminal.
    """
    from tqdm import tqdm

    path = Path(path)
    check_film(path, fps)
    count = len(frames) if count is None and isinstance(frames, Sequence) else count
    if count is not None:
        _check_count(path, count)
    bar = tqdm(frames, desc=f"Writing {path.name}", total=count, unit="frame", disable=_disabled(progress))
    pictures = _of_one_size(bar)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".mp4":
            _write_mp4(path, pictures, fps)
        else:
            _write_looping(path, list(pictures), fps, repeat)
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror or error}.") from None
    return path


def _disabled(progress: bool | None) -> bool | None:
    return None if progress is None else not progress


def _of_one_size(frames: Iterable[Image.Image]) -> Iterator[Image.Image]:
    """RGB, transparent parts on white."""
    size = None
    for frame in frames:
        size = size or frame.size
        if frame.size != size:
            raise InputError(f"A film's frames have one size: found {frame.size} after {size}.")
        yield read_image(frame)
    if size is None:
        raise InputError("A film needs frames: there are none.")


def _write_mp4(path: Path, frames: Iterator[Image.Image], fps: float) -> None:
    first = next(frames)
    rate = Fraction(fps).limit_denominator(100_000)
    encode(path, (np.asarray(frame) for frame in chain([first], frames)), first.size, rate)


def _write_looping(path: Path, frames: list[Image.Image], fps: float, repeat: bool) -> None:
    """GIF or WebP. Frames end at the nearest moment the format can say, so that rounding does not add up."""
    kind = path.suffix.lower()[1:]
    step = 10 if kind == "gif" else 1  # milliseconds
    ends = [round(number * 1000 / fps / step) * step for number in range(len(frames) + 1)]
    options = {"quality": 90, "method": 4} if kind == "webp" else {"optimize": False}
    if kind == "gif":
        frames = _one_palette(frames)
    if kind == "webp":
        options["loop"] = 0 if repeat else 1  # times to play, 0 for ever
    elif repeat:
        options["loop"] = 0  # left out, a GIF plays once
    file = BytesIO()
    frames[0].save(
        file, format=kind.upper(), save_all=True, append_images=frames[1:],
        duration=np.diff(ends).tolist(), **options,
    )  # fmt: skip
    write_whole(path, file.getvalue())


def _one_palette(frames: list[Image.Image]) -> list[Image.Image]:
    """The same 256 colours for all frames: a palette for each would flicker."""
    some = frames[:: max(1, len(frames) // 16)]
    side = 128  # pixels: enough to say which colours there are
    strip = Image.new("RGB", (side * len(some), side))
    for number, frame in enumerate(some):
        strip.paste(frame.resize((side, side), Image.Resampling.BOX), (number * side, 0))
    palette = strip.quantize(256, Image.Quantize.MEDIANCUT)
    return [frame.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for frame in frames]
