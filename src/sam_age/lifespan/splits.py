"""Which portraits there are: whose, at what age, in which scene. Numbers and names alone; nothing is drawn here.

    split        people   portraits of each                                         for
    train        6,000    3 ages, one in each third of 0-100, each in its own scene  training
    judges       3,000    likewise                                                   the evaluation networks
    val          64       likewise                                                   watching a training
    test         128      0, 10, ..., 100, all in one scene                          the counterfactuals
    test_scenes  128      10, 40, 70, each in three further scenes                   the same person, elsewhere

A split's name is part of the key from which its people are drawn, so no person is in two of them, whatever the seeds;
only test_scenes has the people of test. Its scenes and ages are crossed, and the ages are the same for all: so there
are pairs of one person that differ in the scene alone, in the scene and the age, and pairs of two people at one age.
With test, which has the same ages in one scene more, there are pairs that differ in the age alone.

Sexes and leading ancestries go round by the person's number, so that any six people in a row have each of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sam_age.errors import InputError
from sam_age.lifespan.dice import Dice
from sam_age.lifespan.person import ANCESTRIES, SEXES

OLDEST = 100  # years
MOST_PEOPLE = 100_000  # file names have five digits
MOST_AGES = 20  # drawn of a person; more are likelier to be meant as years
NEW = "new"  # as `scenes`: another scene for each age


@dataclass(frozen=True)
class Split:
    """The plan of a split, for each of its people.

    Args:
        people: how many.
        ages: years; or how many, to be drawn, one in each of as many equal parts of 0-100.
        scenes: in how many each age is seen, the same for all ages; or `NEW`.
        first_scene: number of the first.
        whose: the split whose people these are; None is its own.
    """

    people: int
    ages: int | tuple[float, ...] = 3
    scenes: int | str = NEW
    first_scene: int = 0
    whose: str | None = None


SPLITS = {
    "train": Split(people=6000),
    "judges": Split(people=3000),
    "val": Split(people=64),
    "test": Split(people=128, ages=tuple(10.0 * i for i in range(11)), scenes=1),
    "test_scenes": Split(people=128, ages=(10.0, 40.0, 70.0), scenes=3, first_scene=1, whose="test"),
}


@dataclass(frozen=True)
class Portrait:
    """One picture to be rendered; equal ones look alike.

    Args:
        split: that it belongs to.
        whose: the split that its person is drawn for; the same but for test_scenes.
        seed: of the person and the scene.
        number: of the person, within `whose`.
        scene: of the person's scenes.
        age: years, to a tenth.
    """

    split: str
    whose: str
    seed: int
    number: int
    scene: int
    age: float

    @property
    def person(self) -> str:
        """A name of its own for each person of all splits and seeds."""
        return f"{self.whose}-{self.seed}-{self.number:05d}"

    @property
    def person_key(self) -> tuple[int | str, ...]:
        """For `Person.draw`."""
        return self.seed, self.whose, self.number

    @property
    def scene_key(self) -> tuple[int | str, ...]:
        """For `Scene.draw`."""
        return *self.person_key, "scene", self.scene

    @property
    def sex(self) -> str:
        return SEXES[self.number % 2]

    @property
    def ancestry(self) -> str:
        """The leading one; `Person.ancestry` has the shares."""
        return ANCESTRIES[self.number // 2 % 3]

    @property
    def stem(self) -> str:
        """Of its file, which lies in a folder for each person.

        >>> Portrait("train", "train", seed=0, number=17, scene=1, age=34.2).stem
        '00017/00017_a034.2_s1'
        """
        return f"{self.number:05d}/{self.number:05d}_a{self.age:05.1f}_s{self.scene}"


def plan(
    split: str,
    *,
    seed: int = 0,
    people: int | None = None,
    ages: Sequence[float] | int | None = None,
    scenes: int | str | None = None,
) -> list[Portrait]:
    """All portraits of a split, one person after another; the same arguments, the same portraits.

    Args:
        split: a key of `SPLITS`.
        people, ages, scenes: instead of the split's own. ages: years, of every person, or how many, one drawn
            in each of as many equal parts of 0-100; scenes: how many of each age, or "new": another one for each age.
    Raises:
        InputError: an unknown split, or a value that makes no sense.

    >>> [(p.number, p.age, p.scene) for p in plan("test", people=1, ages=[0, 50.5])]
    [(0, 0.0, 0), (0, 50.5, 0)]
    """
    if split not in SPLITS:
        raise InputError(f"There is no split {split!r}; known: {', '.join(SPLITS)}.")
    _whole("seed", seed, least=0, most=2**63 - 1)
    chosen = SPLITS[split]
    people = chosen.people if people is None else _whole("people", people, least=1, most=MOST_PEOPLE)
    years = chosen.ages if ages is None else check_ages(ages)
    scenes = chosen.scenes if scenes is None else scenes
    if scenes != NEW:
        _whole("scenes", scenes, least=1, most=1000, other=f', or "{NEW}" for another scene at each age')
    whose = chosen.whose or split
    portraits = []
    for number in range(people):
        own = draw_ages(years, seed, whose, number) if isinstance(years, int) else years
        for place, age in enumerate(own):
            numbers = [place] if scenes == NEW else range(scenes)
            portraits += [Portrait(split, whose, seed, number, chosen.first_scene + n, age) for n in numbers]
    # by scene: what differs in the age alone lies side by side
    return sorted(portraits, key=lambda portrait: (portrait.number, portrait.scene, portrait.age))


def draw_ages(count: int, *key: object) -> tuple[float, ...]:
    """One age in each of `count` equal parts of 0-100 years, to a tenth, ascending."""
    dice = Dice(*key, "ages", count)
    return tuple(round(OLDEST * (part + dice.uniform(str(part))) / count, 1) for part in range(count))


def check_ages(ages: Any) -> tuple[float, ...] | int:
    """A user's list of ages, ascending; or how many.

    Raises:
        InputError: neither a number of ages nor a list of different numbers from 0 to 100, to a tenth at most.
    """
    if isinstance(ages, int):
        return _whole("ages", ages, least=1, most=MOST_AGES, other=" that are drawn, or a list of years such as [50]")
    if isinstance(ages, str) or not isinstance(ages, Sequence) or not len(ages):
        raise InputError(f"ages is a list of years, such as [0,50,100], not {ages!r}.")
    for age in ages:
        if not isinstance(age, int | float) or isinstance(age, bool) or not 0 <= age <= OLDEST:
            raise InputError(f"ages are years from 0 to {OLDEST}, not {age!r}.")
        if round(age, 1) != age:
            raise InputError(f"ages are in years, to a tenth at most, not {age!r}.")
    years = tuple(sorted(float(age) for age in ages))
    if len(set(years)) < len(years):
        raise InputError(f"ages has one of {', '.join(f'{age:g}' for age in years)} twice.")
    return years


def _whole(key: str, value: Any, *, least: int, most: int, other: str = "") -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InputError(f"{key} is a whole number from {least} to {most}{other}, not {value!r}.")
    return value
