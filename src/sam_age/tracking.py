"""Faces of a clip from frame to frame: who is who, where one scene ends, and steady places to cut faces out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from sam_age.data.align import quad_side

# Seconds
_GAP = 0.5  # a face not found for longer than this is gone, and what comes then is another track
_SHORTEST = 0.2  # what is found for less is a detector's mistake more often than a face

_REACH = 0.3  # sides: how far the corners of a face may lie from where they were expected, on average
# A cut: the mean change of a small grey picture, in levels, at once and against the usual change before it
_CUT, _CUT_TIMES, _CUT_MEMORY, _CUT_SIDE = 10.0, 6.0, 12, 48
_DOUBT = 6.0  # a place this many times the usual distance from the smooth one counts no more


@dataclass(frozen=True)
class Track:
    """One face in consecutive frames of one scene."""

    start: int  # number of its first frame
    found: np.ndarray  # (T, 4, 2) quads in pixels, as `sam_age.data.align` has them; NaN where the detector saw none
    opens: bool = False  # it comes up within a scene, not with its first frame
    closes: bool = False  # it goes before the scene does
    scene: int = 0

    @property
    def stop(self) -> int:
        """The number of the frame after its last."""
        return self.start + len(self.found)

    @property
    def area(self) -> float:
        """Of its quads, summed over its frames, square pixels."""
        return float(sum(quad_side(quad) ** 2 for quad in self.found if np.isfinite(quad).all()))

    def __contains__(self, frame: int) -> bool:
        return self.start <= frame < self.stop

    def quads(self, sigma: float) -> np.ndarray:
        """Its places, (T, 4, 2): smooth, and filled in where the face was not found.

        A parabola is fitted around each frame, to what was found before and after it: unlike an average it flattens
        no turning points, and unlike a filter that looks back only, it does not lag. Places far from the rest, where
        a detector slipped, count little.

        Args:
            sigma: standard deviation of the weights around a frame, frames; 0: as found.
        """
        rows = self.found.reshape(len(self.found), 8)
        times = np.flatnonzero(np.isfinite(rows).all(1))
        known, every = rows[times], np.arange(len(rows))
        if sigma <= 0:
            filled = [np.interp(every, times, column) for column in known.T]
            return np.stack(filled, -1).reshape(-1, 4, 2)
        trust = np.ones(len(times))
        for again in (True, False):
            smooth = np.stack([_fitted(at, times, known, trust, sigma) for at in every])
            if again:
                off = np.linalg.norm(known - smooth[times], axis=1)
                usual = max(float(np.median(off)), 1e-3 * quad_side(known[0].reshape(4, 2)))
                trust = np.clip(1 - (off / (_DOUBT * usual)) ** 2, 1e-6, 1) ** 2
        return smooth.reshape(-1, 4, 2)

    def strength(self, frame: int, fade: float) -> float:
        """How much of the aged face shows, in (0, 1]: it comes and goes gradually unless a cut does it."""
        coming = (frame - self.start + 1) / (fade + 1) if self.opens else 1.0
        going = (self.stop - frame) / (fade + 1) if self.closes else 1.0
        return min(1.0, coming, going)


def _fitted(at: int, times: np.ndarray, known: np.ndarray, trust: np.ndarray, sigma: float) -> np.ndarray:
    near = np.abs(times - at) <= max(3 * sigma, np.abs(times - at).min() + 2)
    return kernel(at, times[near], sigma, degree=2, trust=trust[near]) @ known[near]


def kernel(
    at: float, times: Sequence[float] | np.ndarray, sigma: float, degree: int, trust: np.ndarray | float = 1.0
) -> np.ndarray:
    """What values at `times` count at the time `at`: those of a polynomial fitted to them with Gaussian weights.

    They sum to one, and give back any polynomial of the degree, at the ends of a track too.

    Args:
        sigma: standard deviation of the weights.
        degree: of the polynomial; lower where there are too few values.
        trust: further weights, one a value.

    >>> round(float(kernel(0.0, [0, 1, 2], 1.0, degree=1) @ [5, 7, 9]), 6)
    5.0
    """
    away = (np.asarray(times, float) - at) / max(sigma, 1e-9)
    weights = np.sqrt(np.exp(-(away**2) / 2) * trust)
    powers = away[:, None] ** np.arange(min(degree, len(away) - 1) + 1)
    return np.linalg.pinv(powers * weights[:, None])[0] * weights


# ---- who is who ------------------------------------------------------------------------------------------------------


@dataclass
class _Open:
    """A track that may go on."""

    scene: int
    scene_start: int
    quads: dict[int, np.ndarray] = field(default_factory=dict)  # by the number of the frame

    @property
    def last(self) -> int:
        return max(self.quads)

    def expected(self, frame: int) -> np.ndarray:
        """Where it will be, if it goes on as it did."""
        *before, last = list(self.quads)[-2:]
        quad = self.quads[last]
        return quad if not before else quad + (quad - self.quads[before[0]]) * (frame - last) / (last - before[0])


class Tracker:
    """Puts together what was found frame by frame.

    Args:
        fps: frames a second.
    """

    def __init__(self, fps: float) -> None:
        self.gap, self.shortest = max(1, round(_GAP * fps)), max(1, round(_SHORTEST * fps))
        self.cuts: list[int] = []  # numbers of the frames with which a scene begins, the first left out
        self.frames = 0
        self._open: list[_Open] = []
        self._done: list[Track] = []
        self._thumbnail: np.ndarray | None = None
        self._changes: list[float] = []

    def add(self, image: Image.Image, quads: Sequence[np.ndarray]) -> None:
        """The next frame and its faces."""
        number = self.frames
        self.frames += 1
        if self._is_cut(image):
            self._close(self._open, number, cut=True)
            self.cuts.append(number)
        gone = [track for track in self._open if number - track.last > self.gap]
        self._close(gone, number)
        fresh = set(range(len(quads)))
        for track, found in self._pairs(number, quads):
            track.quads[number] = quads[found]
            fresh.discard(found)
        start = self.cuts[-1] if self.cuts else 0
        self._open += [_Open(len(self.cuts), start, {number: quads[found]}) for found in sorted(fresh)]

    def finish(self) -> list[Track]:
        """All tracks, the largest first; those that are too short to be faces are left out."""
        self._close(self._open, self.frames, cut=True)
        return sorted(self._done, key=lambda track: -track.area)

    def _pairs(self, number: int, quads: Sequence[np.ndarray]) -> list[tuple[_Open, int]]:
        """Which track goes on with which face: the least distance over all."""
        if not self._open or not len(quads):
            return []
        from scipy.optimize import linear_sum_assignment

        far = np.empty((len(self._open), len(quads)))
        for row, track in enumerate(self._open):
            there, side = track.expected(number), quad_side(track.quads[track.last])
            far[row] = [np.hypot(*(quad - there).T).mean() / side for quad in quads]
        pairs = zip(*linear_sum_assignment(np.minimum(far, 10 * _REACH)), strict=True)
        return [(self._open[row], int(column)) for row, column in pairs if far[row, column] < _REACH]

    def _close(self, tracks: list[_Open], now: int, cut: bool = False) -> None:
        for track in list(tracks):
            self._open.remove(track)
            start, stop = min(track.quads), track.last + 1
            whole_scene = cut and start == track.scene_start and stop == now
            if len(track.quads) < self.shortest and not whole_scene:
                continue
            found = np.full((stop - start, 4, 2), np.nan)
            for number, quad in track.quads.items():
                found[number - start] = quad
            closes = stop < now
            self._done.append(Track(start, found, start > track.scene_start, closes, track.scene))

    def _is_cut(self, image: Image.Image) -> bool:
        small = image.convert("L").resize((_CUT_SIDE, _CUT_SIDE), Image.Resampling.BOX)
        before, self._thumbnail = self._thumbnail, np.asarray(small, np.float32)
        if before is None:
            return False
        change = float(np.abs(self._thumbnail - before).mean())
        usual = float(np.median(self._changes)) if self._changes else 0.0
        self._changes = [*self._changes, change][-_CUT_MEMORY:]
        if change > max(_CUT, _CUT_TIMES * usual):
            self._changes = []
            return True
        return False
