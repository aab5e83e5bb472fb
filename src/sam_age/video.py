"""Clips aged frame by frame: faces followed, places and codes steadied, everything else as it was.

Frames that are aged one by one flicker: a detector's points tremble by a pixel or two, and sensor noise goes through
the encoder. So the clip is read three times. First for the faces: they are followed from frame to frame, scene by
scene, and their places smoothed. Then twice at once: one reader runs ahead and has each face encoded, the other comes
after by as much as codes are smoothed over, and has it drawn and put back. Held in memory are the codes of a few
seconds and a few frames, however long the clip.

Smoothing looks both ways in time (nothing lags) and never across a cut. What ageing adds to a face, `edit` minus
`encode`, belongs to the person and is steadied over more than a second; the face's own code, which holds expression
and pose, hardly at all: lips go on speaking.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sam_age.choices import Which, check_ages, choose
from sam_age.clips import Clip, check_target, copies_audio, open_clip, write_clip
from sam_age.data.align import align
from sam_age.errors import InputError
from sam_age.models.sam import FACE_SIZE
from sam_age.photos import REGIONS, Paster
from sam_age.sheets import Cell, sheet
from sam_age.tracking import Track, Tracker, kernel

if TYPE_CHECKING:
    from sam_age.pipeline import AgingPipeline

log = logging.getLogger("sam_age")

# Standard deviations of the weights in time, seconds
_PLACES = 0.12  # heads nod at 1 to 2 Hz, detectors tremble at every frequency
_OWN_CODE = 0.06  # lips open and close 4 times a second
_AGEING = 0.4  # a person's age does not change within seconds
_FADE = 0.2  # seconds over which an aged face comes up, or goes, within a scene


class Cast(NamedTuple):
    """Who is in a clip."""

    tracks: list[Track]  # the largest first: the numbers that `faces=` takes
    cuts: list[int]  # numbers of the frames with which a scene begins, but the first
    frames: int


@dataclass(frozen=True)
class AgedVideo:
    """What was written, and what was found on the way."""

    path: Path
    clip: Clip
    cast: Cast
    chosen: list[int]  # numbers of the tracks that were aged
    aged: int  # frames with at least one aged face


def age_video(
    pipeline: AgingPipeline,
    clip: str | Path,
    path: str | Path,
    ages: float | Sequence[float],
    *,
    faces: Which = "all",
    region: str = "head",
    match_colours: bool = True,
    smoothing: float = 1.0,
    cast: Cast | None = None,
    progress: bool | None = None,
) -> AgedVideo:
    """Age the faces of a clip; frames without one stay as they are, audio is kept.

    Args:
        clip: a film that ffmpeg reads; needs the extra [video].
        path: what to write: .mp4, .mov or .mkv.
        ages: one target age in years, or several that are passed through at an even pace from the first frame to the
            last: [20, 80] grows older.
        faces: "all", "largest" (one in each frame at most), or numbers of tracks, see `find_cast`.
        region, match_colours: as in `AgingPipeline.photo`.
        smoothing: how long times are smoothed over, against what was found best; 0: each frame for itself.
        cast: of this clip, if already at hand.
        progress: show progress bars; None: at a terminal.
    Raises:
        InputError: no clip, no face in it, or a wish that cannot be met.
    """
    ages, path = check_ages(ages), Path(path)
    if region not in REGIONS:
        raise InputError(f"region is one of {', '.join(REGIONS)}, not {region!r}.")
    if not (isinstance(smoothing, int | float) and 0 <= smoothing <= 10):
        raise InputError(f"smoothing is a number from 0 to 10, not {smoothing!r}.")
    film = open_clip(clip)
    check_target(path, film)
    _say(film, path)
    cast = find_cast(pipeline, film, progress=progress) if cast is None else cast
    if not cast.tracks:
        raise InputError(f"No face found in {clip} ({cast.frames} frames of {film.size[0]} x {film.size[1]}).")
    chosen = choose_tracks(faces, cast, str(clip))
    drawn = AgedFrames(
        pipeline, film, cast, chosen, ages, region=region, match_colours=match_colours, smoothing=smoothing
    )
    bar = tqdm(drawn, f"Ageing {film.path.name}", cast.frames, unit="frame", disable=_disabled(progress))
    write_clip(path, bar, film)
    return AgedVideo(path, film, cast, chosen, drawn.aged)


def find_cast(pipeline: AgingPipeline, clip: str | Path | Clip, *, progress: bool | None = None) -> Cast:
    """The first reading: the faces of each frame, followed from one to the next."""
    film = clip if isinstance(clip, Clip) else open_clip(clip)
    tracker = Tracker(float(film.fps))
    bar = tqdm(
        film.frames(), f"Finding faces in {film.path.name}", film.count, unit="frame", disable=_disabled(progress)
    )
    for frame in bar:
        image = Image.fromarray(frame)
        tracker.add(image, [face.quad for face in pipeline.detector.detect(image)])
    if film.count is not None and tracker.frames < 0.9 * film.count - 2:
        log.warning("%s ends after %d of about %d frames: it is damaged.", film.path, tracker.frames, film.count)
    return Cast(tracker.finish(), tracker.cuts, tracker.frames)


def cast_sheet(clip: str | Path | Clip, cast: Cast, cell: int = 160) -> Image.Image:
    """The face of each track, with its number and its time: what `faces=` may be."""
    film = clip if isinstance(clip, Clip) else open_clip(clip)
    middles = {number: _middle(track) for number, track in enumerate(cast.tracks)}
    cells: dict[int, Cell] = {}
    for frame, pixels in enumerate(film.frames()):
        for number in [number for number, middle in middles.items() if middle == frame]:
            track = cast.tracks[number]
            face = align(Image.fromarray(pixels), track.found[frame - track.start], FACE_SIZE)
            begin, end = (float(at / film.fps) for at in (track.start, track.stop))
            cells[number] = (face, f"{number}\n{begin:.1f}-{end:.1f} s")
        if frame >= max(middles.values(), default=0):
            break
    faces = [cells[number] for number in sorted(cells)]
    return sheet([faces[start : start + 8] for start in range(0, len(faces), 8)], cell)


def _middle(track: Track) -> int:
    """The number of the frame in the middle of those where it was found."""
    seen = np.flatnonzero(np.isfinite(track.found).all((1, 2)))
    return track.start + int(seen[len(seen) // 2])


def choose_tracks(which: Which, cast: Cast, name: str = "the clip") -> list[int]:
    """Numbers of tracks; of "largest" those of whom no larger is in the same frames."""
    if which != "largest":
        return choose(which, len(cast.tracks), name)
    taken: list[int] = []
    for number, track in enumerate(cast.tracks):
        others = (cast.tracks[other] for other in taken)
        if all(track.stop <= other.start or other.stop <= track.start for other in others):
            taken.append(number)
    return taken


def _say(film: Clip, path: Path) -> None:
    if film.variable:
        log.info("%s has a variable rate: laid out at %.6g frames a second.", film.path, film.fps)
    if not copies_audio(film, path.suffix.lower()):
        log.info("%s takes no %s: audio becomes AAC (an .mkv would keep it).", path.suffix, ", ".join(film.audio))


def _disabled(progress: bool | None) -> bool | None:
    return None if progress is None else not progress


# ---- drawing ---------------------------------------------------------------------------------------------------------


@dataclass
class _Person:
    """A track that is to be aged."""

    track: Track
    quads: np.ndarray  # (T, 4, 2), steady
    own: dict[int, Tensor] = field(default_factory=dict)  # codes by the number of the frame, (n_styles, D)
    ageing: dict[int, Tensor] = field(default_factory=dict)  # what ageing adds to them

    def code(self, frame: int, own: float, ageing: float) -> Tensor:
        """The smoothed code; own, ageing: standard deviations, frames."""
        return _smoothed(self.own, frame, own, 2) + _smoothed(self.ageing, frame, ageing, 1)

    def forget(self, before: int) -> None:
        for codes in (self.own, self.ageing):
            for frame in [frame for frame in codes if frame < before]:
                del codes[frame]


def _smoothed(codes: dict[int, Tensor], frame: int, sigma: float, degree: int) -> Tensor:
    reach = int(np.ceil(3 * sigma))
    near = [number for number in range(frame - reach, frame + reach + 1) if number in codes]
    weights = torch.from_numpy(kernel(frame, near, sigma, degree)).float()
    return torch.einsum("t,t...->...", weights, torch.stack([codes[number] for number in near]))


class AgedFrames:
    """The frames of a clip with faces aged, in order, (height, width, 3) uint8: what `age_video` writes.

    Arguments are those of `age_video`; chosen: numbers of tracks.
    """

    def __init__(
        self,
        pipeline: AgingPipeline,
        clip: Clip,
        cast: Cast,
        chosen: Sequence[int],
        ages: Sequence[float],
        *,
        region: str = "head",
        match_colours: bool = True,
        smoothing: float = 1.0,
    ) -> None:
        self.pipeline, self.clip, self.cast = pipeline, clip, cast
        self.region, self.match_colours = region, match_colours
        fps = float(clip.fps)
        self._own, self._ageing, self._fade = (seconds * fps * smoothing for seconds in (_OWN_CODE, _AGEING, _FADE))
        self._reach = int(np.ceil(3 * max(self._own, self._ageing)))
        anchors = np.linspace(0, max(cast.frames - 1, 1), len(ages))
        self._years = np.interp(np.arange(cast.frames), anchors, ages)
        steady = [track.quads(_PLACES * fps * smoothing) for track in cast.tracks]
        self._people = [_Person(cast.tracks[number], steady[number]) for number in chosen]
        self._others = [
            _Person(track, quads)
            for number, (track, quads) in enumerate(zip(cast.tracks, steady, strict=True))
            if number not in chosen
        ]
        self.aged = 0  # frames with an aged face, so far

    def __iter__(self) -> Iterator[np.ndarray]:
        waiting: list[tuple[np.ndarray, int]] = []  # frames whose faces are drawn together
        ahead, trailing = self.clip.frames(), self.clip.frames()
        encoded = self._encode(ahead)
        try:
            known = 0  # codes are there of frames before this
            for number, frame in enumerate(trailing):
                if number >= self.cast.frames:
                    raise InputError(f"{self.clip.path} has more frames than its cast: that is another clip's.")
                while known <= min(number + self._reach, self.cast.frames - 1):
                    known = next(encoded, self.cast.frames)
                waiting.append((frame, number))
                if sum(len(self._in(number)) for _, number in waiting) >= self.pipeline.batch_size or (
                    len(waiting) >= self.pipeline.batch_size
                ):
                    yield from self._draw(waiting)
                    waiting = []
                for person in self._people:
                    person.forget(number - self._reach - len(waiting))
            yield from self._draw(waiting)
        finally:
            for reader in (encoded, ahead, trailing):
                reader.close()

    def _in(self, frame: int) -> list[_Person]:
        return [person for person in self._people if frame in person.track]

    def _encode(self, frames: Iterator[np.ndarray]) -> Iterator[int]:
        """Codes of all frames, `batch_size` faces at a time; yields the number of the first frame not done yet."""
        crops: list[tuple[_Person, int, Image.Image]] = []
        for number, frame in enumerate(frames):
            here = self._in(number)
            image = Image.fromarray(frame) if here else None
            for person in here:
                crops.append((person, number, align(image, person.quads[number - person.track.start], FACE_SIZE)))
            if len(crops) >= self.pipeline.batch_size or not crops:
                self._keep(crops)
                crops = []
                yield number + 1
        self._keep(crops)

    def _keep(self, crops: list[tuple[_Person, int, Image.Image]]) -> None:
        if not crops:
            return
        faces = [crop for _, _, crop in crops]
        own = self.pipeline.encode(faces)
        aged = self.pipeline.edit(faces, [[float(self._years[number])] for _, number, _ in crops], own)[:, 0]
        for (person, number, _), code, change in zip(crops, own, aged - own, strict=True):
            person.own[number], person.ageing[number] = code, change

    def _draw(self, waiting: list[tuple[np.ndarray, int]]) -> Iterator[np.ndarray]:
        codes = [
            person.code(number, self._own, self._ageing) for _, number in waiting for person in self._in(number)
        ]  # fmt: skip
        pictures = self.pipeline.synthesize(torch.stack(codes)) if codes else []
        for frame, number in waiting:
            here = self._in(number)
            faces, pictures = pictures[: len(here)], pictures[len(here) :]
            yield self._put_back(frame, number, here, faces) if here else frame

    def _put_back(
        self, frame: np.ndarray, number: int, here: list[_Person], faces: list[Image.Image]
    ) -> np.ndarray:  # fmt: skip
        others = [person for person in self._others if number in person.track]
        quads, theirs = (
            [person.quads[number - person.track.start] for person in people] for people in (here, others)
        )  # fmt: skip
        paster = Paster(
            Image.fromarray(frame), quads, others=theirs, region=self.region, match_colours=self.match_colours
        )
        self.aged += 1
        return np.asarray(paster.paste(faces, [person.track.strength(number, self._fade) for person in here]))


# ---- measuring -------------------------------------------------------------------------------------------------------


def flicker(frames: Iterable[np.ndarray], quads: Sequence[np.ndarray]) -> float:
    """How restless a face is: the mean absolute second difference over time of its pixels, in levels of 255.

    The face is cut out along its quads first, so that motion does not count; a steady change, a slow ageing for
    instance, hardly does either. Camera noise does: compare with the same figure of the clip that was aged.

    Args:
        frames: (height, width, 3) uint8 each, in order.
        quads: (4, 2), one a frame: where the face really is, or the smoothed places of its track.
    """
    crops = (
        np.asarray(align(Image.fromarray(frame), quad, FACE_SIZE), np.float32)[48:232, 48:208]  # the face alone
        for frame, quad in zip(frames, quads, strict=False)
    )
    steps = (after - before for before, after in pairwise(crops))
    bends = [float(np.abs(after - before).mean()) for before, after in pairwise(steps)]
    if not bends:
        raise InputError("Flicker is measured over at least three frames.")
    return float(np.mean(bends))
