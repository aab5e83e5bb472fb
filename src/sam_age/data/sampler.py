"""Which picture comes when: an endless shuffled stream that is a pure function of (seed, position).

Position p counts samples over all ranks since the run began. It lies in epoch p // length, and within the
epoch in that epoch's own permutation. Rank r of n takes the positions with p % n == r, so the ranks' batches
of size b together are the batch that one process of batch size n * b would take. Nothing has to be stored to
go on from any position, and neither workers nor prefetching can change what comes next.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

Key = tuple[int, int]
"""(epoch, index): what the data set needs to make one sample."""


class ShuffledStream(Sampler[Key]):
    """Endless, shuffled anew each epoch; for training.

    Args:
        length: pictures in the source.
        seed: of the shuffle.
        rank, world: this process and how many there are.
        start: position to begin at, samples over all ranks; a function is asked at each iteration.
        blocks: lengths of consecutive runs of pictures that are read best together (tar shards); None shuffles
            freely. With blocks, shards come in random order and pictures are shuffled within a window of shards.
        window: shards that are mixed with each other.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        start: int | Callable[[], int] = 0,
        blocks: Sequence[int] | None = None,
        window: int = 4,
    ) -> None:
        if length < 1:
            raise ValueError("There is nothing to sample from.")
        if not 0 <= rank < world:
            raise ValueError(f"Rank {rank} of {world} processes does not exist.")
        if blocks is not None and sum(blocks) != length:
            raise ValueError(f"The blocks hold {sum(blocks)} pictures, the source {length}.")
        self.length, self.seed, self.rank, self.world, self.start = length, seed, rank, world, start
        self.blocks, self.window = None if blocks is None else list(blocks), window

    def order(self, epoch: int) -> np.ndarray:
        """The permutation of an epoch, (length,)."""
        rng = np.random.default_rng([self.seed, epoch])
        if self.blocks is None:
            return rng.permutation(self.length)
        starts = np.concatenate([[0], np.cumsum(self.blocks)[:-1]])
        shards = rng.permutation(len(self.blocks))
        parts = []
        for first in range(0, len(shards), self.window):
            group = shards[first : first + self.window]
            indices = np.concatenate([starts[s] + np.arange(self.blocks[s]) for s in group])
            parts.append(rng.permutation(indices))
        return np.concatenate(parts)

    def __iter__(self) -> Iterator[Key]:
        position = (self.start() if callable(self.start) else self.start) + self.rank
        epoch, order = -1, np.empty(0, np.int64)
        while True:
            if position // self.length != epoch:
                epoch = position // self.length
                order = self.order(epoch)
            yield epoch, int(order[position % self.length])
            position += self.world


class Counting(Sampler[Key]):
    """0, 1, 2, ...: for a source without end, whose pictures are random in the order they have.

    Args:
        rank, world, start: as of `ShuffledStream`.
    """

    def __init__(self, *, rank: int = 0, world: int = 1, start: int | Callable[[], int] = 0) -> None:
        self.rank, self.world, self.start = rank, world, start

    def __iter__(self) -> Iterator[Key]:
        first = (self.start() if callable(self.start) else self.start) + self.rank
        return ((0, position) for position in itertools.count(first, self.world))


class InOrder(Sampler[Key]):
    """Every picture once, in the source's order, every world-th of them; for validation and prediction."""

    def __init__(self, length: int, *, rank: int = 0, world: int = 1) -> None:
        self.indices = range(rank, length, world)

    def __iter__(self) -> Iterator[Key]:
        return ((0, index) for index in self.indices)

    def __len__(self) -> int:
        return len(self.indices)
