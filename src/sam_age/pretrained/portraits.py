"""The portraits that come with the package: twelve people who never lived and who are in no training."""

from __future__ import annotations

from pathlib import Path

from sam_age import pretrained
from sam_age.errors import InputError
from sam_age.lifespan.folder import PORTRAITS
from sam_age.lifespan.sources import LifespanFaces

NAME = "lifespan"
"""What sam-infer's input= calls them."""

SPLIT = "test"
PEOPLE = 12
"""The first so many of sam-render's split test."""


class BundledPortraits(LifespanFaces):
    """An image source, as `LifespanFaces`: each person at 0, 10, ..., 100 years in one scene.

    Args:
        one_each: one portrait of each person instead, at `input_age`.

    Raises:
        InputError: this copy of the package has none.
    """

    def __init__(self, one_each: bool = False) -> None:
        listed = folder() / PORTRAITS
        if not listed.is_file():
            raise InputError(f"This copy of the package has no portraits ({listed}): {pretrained.HOW_TO_MAKE}.")
        super().__init__(pretrained.FOLDER, SPLIT)
        if one_each:
            self.rows = [row for row in self.rows if row["age"] == input_age(row["number"])]


def folder() -> Path:
    """Where they are."""
    return pretrained.FOLDER / SPLIT


def input_age(person: int) -> float:
    """At how many years a person is shown where there is one portrait of each.

    From 10 to 80, neighbours far apart.

    >>> [int(input_age(person)) for person in range(12)]
    [10, 40, 70, 20, 50, 80, 30, 60, 10, 40, 70, 20]
    """
    return 10.0 * (1 + 3 * person % 8)


def inputs() -> list[Path]:
    """The file of one portrait of each person."""
    source = BundledPortraits(one_each=True)
    return [Path(source.name(index)) for index in range(len(source))]
