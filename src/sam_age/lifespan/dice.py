"""Random numbers that are the same on every machine, one by name and many by index.

Neither numpy nor torch promises its random streams across versions and devices, and a stream shifts as soon as one
more number is drawn. Here every number is a hash of what it is for, so that a new parameter moves no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from statistics import NormalDist
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
_NORMAL = NormalDist()
_MASK = 0xFFFFFFFF


class Dice:
    """The random numbers of one seed, each by its name.

    >>> Dice(7).uniform("nose") == Dice(7).uniform("nose") != Dice(7).uniform("chin")
    True
    """

    def __init__(self, *key: object) -> None:
        self.key = "/".join(map(str, key))

    def of(self, name: object) -> Dice:
        """The dice of a part, whose names cannot clash with those of another part."""
        return Dice(self.key, name)

    def number(self, name: str) -> int:
        """A whole number in [0, 2^31): the seed of a hash below."""
        return self._bits(name) >> 33

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * (self._bits(name) + 0.5) / 2**64

    def normal(self, name: str, mean: float = 0.0, sd: float = 1.0, limit: float = 2.0) -> float:
        """Normal, clipped at `limit` standard deviations."""
        return mean + sd * max(-limit, min(limit, _NORMAL.inv_cdf(self.uniform(name))))

    def chance(self, name: str, probability: float) -> bool:
        return self.uniform(name) < probability

    def choice(self, name: str, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
        weights = weights or [1.0] * len(options)
        at = self.uniform(name) * sum(weights)
        for option, weight in zip(options, weights, strict=True):
            at -= weight
            if at < 0:
                return option
        return options[-1]

    def _bits(self, name: str) -> int:
        digest = hashlib.blake2b(f"{self.key}/{name}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big")


def uniforms(seed: Tensor, index: Tensor, stream: int) -> Tensor:
    """Float32 in [0, 1), one for each (seed, index, stream), alike on every device.

    Args:
        seed, index: int64, of shapes that broadcast; below 2^31.
        stream: which of the numbers of this seed and index.

    Integer arithmetic only: the finaliser of MurmurHash3 over the three words.
    """
    x = _mix(seed.long() + 0x9E3779B9 * (stream + 1) & _MASK)
    return (_mix(x ^ _mix(index.long() + 0x7F4A7C15)) >> 8).float() * (1.0 / (1 << 24))


def normals(seed: Tensor, index: Tensor, stream: int) -> Tensor:
    """Standard normal, clipped at about 5; uses one stream."""
    u = uniforms(seed, index, stream).clamp(2**-22, 1 - 2**-22)
    return torch.erfinv(2 * u - 1) * 2**0.5


def _mix(x: Tensor) -> Tensor:
    x = x & _MASK
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & _MASK
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & _MASK
    return x ^ (x >> 16)
