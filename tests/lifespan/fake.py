"""A renderer that takes no time: portraits of one colour and some noise, decided by person, age and scene."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from hashlib import blake2b
from random import Random

import torch


@dataclass(frozen=True)
class Skin:
    melanin: float


@dataclass(frozen=True)
class Person:
    key: tuple
    sex: str
    ancestry: tuple[float, float, float]
    skin: Skin

    @classmethod
    def draw(cls, *key, sex=None, ancestry=None):
        rng = Random(f"person {key}")
        lead = ("african", "asian", "european").index(ancestry)
        return cls(key, sex, tuple(0.8 if i == lead else 0.1 for i in range(3)), Skin(rng.random()))


@dataclass(frozen=True)
class Scene:
    key: tuple
    light: float

    @classmethod
    def draw(cls, *key):
        return cls(key, Random(f"scene {key}").random())


def render(people, ages, scenes, size=256, device="cpu"):
    assert len(people) == len(ages) == len(scenes)
    time.sleep(float(os.environ.get("FAKE_SECONDS", "0")) * len(people))
    return torch.stack([_one(*parts, size) for parts in zip(people, ages, scenes, strict=True)]).to(device)


def _one(person, age, scene, size):
    number = int.from_bytes(blake2b(repr((person, age, scene)).encode(), digest_size=7).digest(), "big")
    return torch.randint(0, 256, (3, size, size), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
