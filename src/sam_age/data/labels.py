"""Ages of FFHQ's faces: the labels of FFHQ-Aging, matched by number.

Source: Or-El et al. 2020 (Lifespan Age Transformation Synthesis); ffhq_aging_labels.csv has a line per picture of
FFHQ with the columns image_number, age_group, age_group_confidence, gender, gender_confidence, head_pitch, head_roll,
head_yaw, left_eye_occluded, right_eye_occluded, glasses. People on the web chose the group from the picture, so these
are apparent ages.
"""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path, PurePath
from typing import NamedTuple

from sam_age.data.sources import ImageSource
from sam_age.errors import InputError


class AgeBin(NamedTuple):
    """One age group: first and last whole year in it."""

    first: int
    last: int

    @property
    def name(self) -> str:
        """As the CSV writes it."""
        return f"{self.first}-{self.last}"

    @property
    def years(self) -> float:
        """The age that stands for the group: its middle, where the last group is taken to end at 100.

        >>> AgeBin(30, 39).years, AgeBin(70, 120).years
        (34.5, 85.0)
        """
        return (self.first + min(self.last, 100)) / 2


AGE_BINS = (
    AgeBin(0, 2),
    AgeBin(3, 6),
    AgeBin(7, 9),
    AgeBin(10, 14),
    AgeBin(15, 19),
    AgeBin(20, 29),
    AgeBin(30, 39),
    AgeBin(40, 49),
    AgeBin(50, 69),
    AgeBin(70, 120),
)
"""FFHQ-Aging's ten groups."""

_BY_NAME = {group.name: group for group in AGE_BINS}


def bin_of(age: float) -> int:
    """The group, as its number in `AGE_BINS`, that an age in years falls into; a group lasts to the next one's start.

    >>> bin_of(2.9), bin_of(3), bin_of(100)
    (0, 1, 9)
    """
    if math.isnan(age) or age < 0:
        raise InputError(f"{age} is no age: give years from 0.")
    return max(number for number, group in enumerate(AGE_BINS) if group.first <= age)


class Labelled:
    """Another source's pictures, with ages from FFHQ-Aging's CSV.

    A picture belongs to the line with the number that its file name ends in: 00012.png, img00000012.png, and, as
    sam-prepare writes them, 00012_face0.png.

    Args:
        source: the pictures.
        path: the CSV.
        min_confidence: labels that fewer people agreed on (share, 0-1) count as unknown.

    Raises:
        InputError: not such a CSV, or none of the pictures is in it.
    """

    def __init__(self, source: ImageSource, path: str | Path, *, min_confidence: float = 0.0) -> None:
        self.source, self.groups = source, read_labels(path, min_confidence=min_confidence)
        if not any(self.group(index) is not None for index in range(len(source))):
            raise InputError(
                f"None of the {len(source)} pictures, the first {source.name(0)}, is in {path}: file names must end "
                "in FFHQ's numbers (00012.png)."
            )

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def read(self, index: int) -> bytes:
        return self.source.read(index)

    @property
    def blocks(self) -> list[int] | None:
        """Of the source, where it has any: lengths of its shards."""
        return getattr(self.source, "blocks", None)

    def group(self, index: int) -> AgeBin | None:
        """The picture's age group; None where unknown."""
        number = picture_number(self.source.name(index))
        return None if number is None else self.groups.get(number)

    def age(self, index: int) -> float:
        """Years, the middle of the group; NaN where unknown."""
        group = self.group(index)
        return math.nan if group is None else group.years


def picture_number(name: str) -> int | None:
    """The number that a file name ends in.

    >>> picture_number("ffhq/00000/00012.png"), picture_number("00012_face1.png"), picture_number("me.jpg")
    (12, 12, None)
    """
    stem = re.sub(r"_face\d+$", "", PurePath(name).stem)
    digits = re.search(r"\d+$", stem)
    return int(digits.group()) if digits else None


def read_labels(path: str | Path, *, min_confidence: float = 0.0) -> dict[int, AgeBin]:
    """FFHQ-Aging's CSV -> picture number to age group.

    Raises:
        InputError: not readable, or not that CSV.
    """
    groups = {}
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if missing := {"image_number", "age_group"} - set(rows.fieldnames or ()):
                raise InputError(
                    f"{path} is not FFHQ-Aging's CSV: it has no column {' or '.join(sorted(missing))}. Give "
                    "ffhq_aging_labels.csv."
                )
            for row in rows:
                if float(row.get("age_group_confidence") or 1) >= min_confidence:
                    groups[int(row["image_number"])] = _BY_NAME[row["age_group"].strip()]
    except OSError as error:
        raise InputError(f"Cannot read {path} ({error.strerror}): give FFHQ-Aging's ffhq_aging_labels.csv.") from error
    except (KeyError, ValueError, AttributeError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} has a line that is not FFHQ-Aging's ({error}): copy the file again.") from error
    return groups
