"""What may be asked for, checked: target ages, and which faces of a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from sam_age.errors import InputError

ALIGN = ("auto", "always", "never")
FACES = ("largest", "all")
Which = str | int | Sequence[int]
"""Faces of a picture: "largest", "all", or their numbers, counted from 0 at the largest."""


def check_ages(ages: Iterable[Any] | Any) -> list[float]:
    """Target ages as numbers, in the order given; a single age is a list of one.

    Raises:
        InputError: none at all, not a number, or outside 0-100.

    >>> check_ages([5, "30", 62.5])
    [5.0, 30.0, 62.5]
    """
    checked = []
    for age in [ages] if isinstance(ages, str) or not isinstance(ages, Iterable) else ages:
        try:
            years = float(age)
        except (TypeError, ValueError):
            years = math.nan
        if not 0 <= years <= 100 or isinstance(age, bool):  # NaN fails this too
            raise InputError(f"Target age {age!r} is not a number from 0 to 100: give ages in years.")
        checked.append(years)
    if not checked:
        raise InputError("No target ages: give at least one, from 0 to 100 years.")
    return checked


def choose(which: Which, count: int, name: str = "the picture") -> list[int]:
    """The numbers of the faces to take of `count`, in the order given, each once.

    Raises:
        InputError: not a choice, or a number that no face has.

    >>> choose("all", 3), choose([2, 0], 3), choose(1, 3)
    ([0, 1, 2], [2, 0], [1])
    """
    if isinstance(which, str) and which in FACES:
        return list(range(count if which == "all" else min(count, 1)))
    numbers = [which] if isinstance(which, int) else which
    whole = not isinstance(numbers, str) and all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
    if not whole or not len(numbers):
        raise InputError(f"faces is one of {', '.join(FACES)}, or numbers of faces such as [0, 2], not {which!r}.")
    for number in numbers:
        if not 0 <= number < count:
            there = f"faces 0 to {count - 1}, the largest first" if count > 1 else "one face, number 0"
            raise InputError(f"There is no face {number} in {name}, which has {there}.")
    return list(dict.fromkeys(numbers))
