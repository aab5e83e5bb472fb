"""Age calibration: which target age to set, so that an age network reads the age asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sam_age.errors import InputError

YOUNGEST, OLDEST = 0.0, 100.0  # years that can be set

Reader = Callable[[list[int], list[float]], Sequence[float]]
"""Faces by number, and the target age set for each -> the ages read off the results, years."""


@dataclass(frozen=True)
class Calibrated:
    """What to set for one face and one age."""

    face: int  # its number
    asked: float  # years
    set: float  # target age to give the model, years
    read: float  # what the age network then reads, years
    plain: float  # what it reads where the age asked for is set as it is, years
    reached: bool  # read is as close to asked as was wanted

    @property
    def error(self) -> float:
        """Years by which the reading misses what was asked; positive where it is too old."""
        return self.read - self.asked


class _Search:
    """For one face and age: the best setting so far, and the two between which the reading passes the age."""

    def __init__(self, face: int, asked: float, read: float, tolerance: float) -> None:
        self.face, self.asked, self.tolerance = face, asked, tolerance
        self.plain = read - asked
        self.best = (asked, self.plain)
        self.low: tuple[float, float] | None = None  # setting and how far its reading is off: too young
        self.high: tuple[float, float] | None = None  # too old
        self.halve = self.given_up = False
        self.note(asked, self.plain)

    @property
    def done(self) -> bool:
        return self.given_up or abs(self.best[1]) <= self.tolerance

    def note(self, setting: float, off: float) -> None:
        if abs(off) < abs(self.best[1]):
            self.best = (setting, off)
        if self.low is not None and self.high is not None:
            before = abs(self.high[0] - self.low[0])
            end = "low" if off < 0 else "high"
            setattr(self, end, (setting, off))
            # a secant that moves one end by little is followed by a bisection
            self.halve = not self.halve and abs(self.high[0] - self.low[0]) > before / 2
        elif off < 0:
            self.low = (setting, off)
        else:
            self.high = (setting, off)

    def next(self) -> float | None:
        """The setting to try; None where there is none left."""
        if self.low is None or self.high is None:
            end = OLDEST if self.high is None else YOUNGEST
            tried = (self.low or self.high)[0]
            self.given_up = tried == end  # the model does not get there
            return None if self.given_up else end
        (low, below), (high, above) = self.low, self.high
        if self.halve:
            return (low + high) / 2
        return low + (high - low) * (below / (below - above))


def calibrate(
    read: Reader, faces: int, ages: Sequence[float], *, tolerance: float = 0.5, rounds: int = 8
) -> list[Calibrated]:
    """For each face and age the target age to set, by secants and bisections in between.

    First the age itself is set; where the reading is too young, 100 is tried next, where it is too old, 0; then the
    age at which a line between the two nearest readings passes what was asked, or the middle between them where
    that was slow. All faces and ages go through each round together, and no setting is tried twice for a face. The
    reading need not rise everywhere with the target age. An age that lies beyond both ends cannot be reached: the
    closest setting that was tried is reported, `reached` False.

    Args:
        read: sets ages and reads them, for many at once.
        faces: how many.
        ages: asked for each of them, years.
        tolerance: close enough, years.
        rounds: at most so many readings for each face and age.
    Returns:
        Face by face, in the order of `ages`.
    """
    if tolerance <= 0 or rounds < 1:
        raise InputError(f"tolerance (years) and rounds have to be positive, found {tolerance} and {rounds}.")
    known: dict[tuple[int, float], float] = {}

    def readings(wanted: list[tuple[int, float]]) -> None:
        new = [job for job in dict.fromkeys(wanted) if job not in known]
        if new:
            found = read([face for face, _ in new], [setting for _, setting in new])
            known.update(zip(new, (float(age) for age in found), strict=True))

    pairs = [(face, float(age)) for face in range(faces) for age in ages]
    readings(pairs)
    searches = [_Search(face, age, known[face, age], tolerance) for face, age in pairs]
    for _ in range(rounds - 1):
        tries = [(search, search.next()) for search in searches if not search.done]
        tries = [(search, setting) for search, setting in tries if setting is not None]
        if not tries:
            break
        readings([(search.face, setting) for search, setting in tries])
        for search, setting in tries:
            search.note(setting, known[search.face, setting] - search.asked)
    return [
        Calibrated(
            s.face, s.asked, s.best[0], s.best[1] + s.asked, s.plain + s.asked, abs(s.best[1]) <= tolerance
        )
        for s in searches
    ]  # fmt: skip
