"""What a data set knows of its faces: ages, people, and which portrait is another's true older or younger self."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam_age.data.sources import ImageSource, Subset, labels_of

AGE_GROUPS = (0, 20, 40, 60, 101)  # years; 0-19, 20-39, 40-59, 60-100
TONES = {"light": 0.5, "medium": 1.0, "dark": math.inf}
"""Group of skin tone -> `skin.melanin` of the lifespan people below which it is."""
GROUPS = (*(f"{low}-{high - 1}" for low, high in pairwise(AGE_GROUPS)), *TONES)
"""Groups that have an order."""


@dataclass(frozen=True)
class Known:
    """Of each of N faces, in the source's order.

    Attributes:
        age: (N,) years, NaN where not known.
        person: (N,) a number for each person, -1 where not known.
        kin: (N,) the same number for people who are alike, see `sam_age.data.sources.ImageSource`.
        life: (N,) a number for each person in one scene, -1 where not known.
        groups: kind of group ("source_age", "sex", "skin_tone") -> name of each face's, "" where not known.
    """

    age: Tensor
    person: Tensor
    kin: Tensor
    life: Tensor
    groups: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.age)

    @property
    def people(self) -> bool:
        """Is it known who they are?"""
        return bool((self.person >= 0).any())

    def truths(self, faces: Tensor, target_age: Tensor) -> Tensor:
        """Numbers (J,) of the true portraits of `faces` (J,) at target ages (J,): same person, same scene; or -1."""
        lives, ages = self.life.tolist(), self.age.tolist()
        portraits = {(life, age): i for i, (life, age) in enumerate(zip(lives, ages, strict=True)) if life >= 0}
        asked = zip(faces.tolist(), target_age.tolist(), strict=True)
        return torch.tensor([portraits.get((lives[face], age), -1) for face, age in asked], dtype=torch.long)


def nothing_known(count: int, age: Tensor | None = None) -> Known:
    """Of faces without names; ages (count,) if they are known."""
    unknown = torch.full((count,), -1)
    age = torch.full((count,), math.nan) if age is None else age
    return Known(age, unknown, unknown, unknown, _groups(age, {}))


def known_of(source: ImageSource) -> Known:
    """What a source says of its faces by `age`, `labels` and, as the lifespan set's do, `row`."""
    numbers: Sequence[int] = range(len(source))
    while isinstance(source, Subset):
        numbers, source = [source.indices[number] for number in numbers], source.source
    age = torch.tensor([source.age(n) if hasattr(source, "age") else math.nan for n in numbers], dtype=torch.float32)
    labels = [labels_of(source, number) for number in numbers]
    person, kin = (
        torch.tensor([label.get(key, -1) for label in labels], dtype=torch.long) for key in ("person", "kin")
    )
    if not hasattr(source, "row"):
        return Known(age, person, kin, torch.full_like(person, -1), _groups(age, {}))
    rows = [source.row(number) for number in numbers]
    lives: dict[tuple[Any, Any], int] = {}
    for row in rows:
        lives.setdefault((row["person"], row["scene"]), len(lives))
    life = torch.tensor([lives[row["person"], row["scene"]] for row in rows], dtype=torch.long)
    tones = skin_tones(source, numbers, rows)
    groups = {"sex": [row["sex"] for row in rows], "skin_tone": [tones.get(row["person"], "") for row in rows]}
    return Known(age, person, kin, life, _groups(age, groups))


def _groups(age: Tensor, others: dict[str, list[str]]) -> dict[str, list[str]]:
    groups = {"source_age": [age_group(years) for years in age.tolist()]} | others
    return {kind: names for kind, names in groups.items() if any(names)}


def age_group(years: float) -> str:
    """
    >>> age_group(19.9), age_group(20.0), age_group(100.0), age_group(math.nan)
    ('0-19', '20-39', '60-100', '')
    """
    return next((f"{low}-{high - 1}" for low, high in pairwise(AGE_GROUPS) if low <= years < high), "")


def tone_group(melanin: float) -> str:
    """
    >>> tone_group(0.2), tone_group(0.7), tone_group(1.6)
    ('light', 'medium', 'dark')
    """
    return next(name for name, below in TONES.items() if melanin < below)


def skin_tones(source: Any, numbers: Sequence[int], rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Person -> group of skin tone, from the people's parameters where the source has them."""
    if hasattr(source, "studio"):  # portraits that are rendered as they are read
        first = {row["person"]: source.portraits[number] for number, row in zip(numbers, rows, strict=True)}
        return {person: tone_group(source.studio.person(portrait).skin.melanin) for person, portrait in first.items()}
    try:
        lines = (Path(source.folder) / "people.jsonl").read_text(encoding="utf-8").splitlines()
        people = [json.loads(line) for line in lines]
        return {person["person"]: tone_group(person["parameters"]["skin"]["melanin"]) for person in people}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not there, or not of our renderer
        return {}
