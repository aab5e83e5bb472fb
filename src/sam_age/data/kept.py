"""A data set that is decoded once and kept, in memory or on the device: for sets that fit, and models that are fast.

A small network on a large GPU takes faces faster than processors decode them. 18,000 faces of 256 pixels are 3.5 GB.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sam_age.data.dataset import FacesDataset
from sam_age.data.sampler import Key
from sam_age.errors import InputError

KEEP = ("memory", "device")
WORKERS = min(16, os.cpu_count() or 1)
TOGETHER = 64  # faces that come from a worker, and go to the device, at a time
PROCESSES_FROM = 4096  # faces: below, starting processes takes longer than they save


class KeptFaces(Dataset[Key]):
    """All faces of a data set in one uint8 tensor (N, 3, size, size), with what is known of each.

    Its samples are their keys alone; `collate` makes a batch without pixels of them, to which `add_faces` adds these
    when it has arrived on the device.

    Args:
        dataset: read whole, once; pictures that cannot be read are replaced or left out as it would do.
        device: where the tensor is kept.
    Raises:
        InputError: it does not fit there.
    """

    def __init__(self, dataset: FacesDataset, device: str | torch.device = "cpu") -> None:
        from tqdm import tqdm

        self.dataset = dataset
        count, side = len(dataset), dataset.size
        try:
            self.pixels = torch.empty(count, 3, side, side, dtype=torch.uint8, device=device)
        except (RuntimeError, MemoryError) as error:
            raise InputError(
                f"{count} faces of {side} pixels are {3 * side**2 * count / 1e9:.1f} GB and do not fit on {device}: "
                "set data.keep=memory, or null to decode them as they come."
            ) from error
        known: list[dict[str, Any]] = []
        with tqdm(total=count, desc="Decoding", unit="face", disable=None) as bar:
            for pixels, there, samples in _decoded(dataset):
                if there:
                    self.pixels[torch.tensor(there, device=device) + len(known)] = pixels.to(device)
                known += samples
                bar.update(len(samples))
        self.skipped = torch.tensor([sample.pop("skipped") for sample in known])
        self.there = torch.tensor([bool(sample) for sample in known])
        names = next((list(sample) for sample in known if sample), [])
        blank = {name: 0 for name in names}
        self.known = {name: torch.tensor([(sample or blank)[name] for sample in known]) for name in names}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key | int) -> Key:
        return key if isinstance(key, tuple) else (0, key)

    def collate(self, keys: Sequence[Key]) -> dict[str, Any]:
        """What `sam_age.data.dataset.collate` gives, but the rows of the pixels and whether they are mirrored in the
        place of the faces."""
        rows = torch.tensor([index for _, index in keys])
        skipped = int(self.skipped[rows].sum())
        there = self.there[rows]
        keys = [key for key, kept in zip(keys, there.tolist(), strict=True) if kept]
        rows = rows[there]
        numbers = self.known["index"][rows].numpy() if len(rows) else np.empty(0, np.int64)
        mirrored = np.zeros(len(keys), bool)
        if self.dataset.flip > 0:
            mirrored = chances(self.dataset.seed, [epoch for epoch, _ in keys], numbers) < self.dataset.flip
        batch = {name: values[rows] for name, values in self.known.items()}
        if not batch:  # nothing at all could be read
            batch = {"index": torch.empty(0, dtype=torch.long), "age": torch.empty(0)}
        return batch | {"rows": rows, "mirrored": torch.from_numpy(mirrored), "kept": self} | {"skipped": skipped}


def _decoded(dataset: FacesDataset) -> Iterator[tuple[Tensor, list[int], list[dict[str, Any]]]]:
    """All faces in their order, some at a time, see `_join`.

    Threads share Pillow's decoding, which leaves the interpreter alone, but not what is around it, half of a small
    face's time; processes share all of it, and take seconds to start.
    """
    count = len(dataset)
    if count < PROCESSES_FROM or WORKERS == 1:
        with ThreadPoolExecutor(WORKERS) as pool:
            for start in range(0, count, TOGETHER):
                yield _join(list(pool.map(dataset.upright, range(start, min(start + TOGETHER, count)))))
        return
    loader = DataLoader(
        _Upright(dataset), batch_size=TOGETHER, num_workers=WORKERS, collate_fn=_join_or_error,
        multiprocessing_context="spawn",  # forked workers deadlock with CUDA and threads
    )  # fmt: skip
    for joined in loader:
        if isinstance(joined, InputError):
            raise joined
        yield joined


class _Upright(Dataset[Any]):
    """What `FacesDataset.upright` gives, or the error that it raises: on its way from a worker it would become one of
    the loader's."""

    def __init__(self, dataset: FacesDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any] | InputError:
        try:
            return self.dataset.upright(index)
        except InputError as error:
            return error


def _join_or_error(samples: list[Any]) -> Any:
    return next((sample for sample in samples if isinstance(sample, InputError)), None) or _join(samples)


def _join(samples: list[dict[str, Any]]) -> tuple[Tensor, list[int], list[dict[str, Any]]]:
    """Pixels (N, 3, size, size) uint8 of those that could be read, which of the samples these are, and what else is
    known of all of them, as plain numbers."""
    there = [row for row, sample in enumerate(samples) if "faces" in sample]
    pixels = torch.stack([samples[row]["faces"] for row in there]) if there else torch.empty(0, dtype=torch.uint8)
    plain = [
        {
            name: value.item() if isinstance(value, Tensor) else value
            for name, value in sample.items()
            if name != "faces"
        }
        for sample in samples
    ]
    return pixels, there, plain


def add_faces(batch: dict[str, Any]) -> dict[str, Tensor]:
    """A batch of `KeptFaces.collate`, on whichever device it is now, with its faces: uint8 (N, 3, size, size)."""
    batch = dict(batch)
    rows, mirrored, pixels = batch.pop("rows"), batch.pop("mirrored"), batch.pop("kept").pixels
    faces = pixels[rows.to(pixels.device)].to(rows.device, non_blocking=True)
    return {"faces": torch.where(mirrored[:, None, None, None], faces.flip(3), faces)} | batch


def chances(seed: int, epochs: Sequence[int], numbers: np.ndarray) -> np.ndarray:
    """The first number that `default_rng([seed, epoch, number])` draws for each face, (N,) in [0, 1): all at once, as
    making a generator takes 24 us, and the draws of 256 faces as long as a step of a small network.

    Args:
        epochs, numbers: N each, below 2**32.

    Sources: numpy's SeedSequence (O'Neill 2015, "Developing a seed_seq Alternative") and PCG64 (O'Neill 2014, XSL RR
    128/64); numpy keeps both as they are.

    >>> bool(chances(3, [1], np.array([2]))[0] == np.random.default_rng([3, 1, 2]).random())
    True
    """
    if not len(numbers):
        return np.empty(0)
    words = [np.full(len(numbers), word, np.uint32) for word in _words(seed)]
    words += [np.asarray(epochs).astype(np.uint32), np.asarray(numbers).astype(np.uint32)]
    return np.array([_first(*state) for state in _states(words).tolist()])


def _words(number: int) -> list[int]:
    """A whole number in words of 32 bits, the lowest first; of 0 one."""
    return [number >> shift & 0xFFFFFFFF for shift in range(0, max(1, number.bit_length()), 32)]


def _states(entropy: list[np.ndarray]) -> np.ndarray:
    """SeedSequence(entropy).generate_state(4, uint64) of N entropies: words of (N,) uint32 -> (N, 4) uint64."""
    constant = 0x43B0D7E5

    def scatter(value: np.ndarray, factor: int) -> np.ndarray:
        nonlocal constant
        value = value ^ np.uint32(constant)
        constant = constant * factor & 0xFFFFFFFF
        value = value * np.uint32(constant)
        return value ^ value >> np.uint32(16)

    def mixed(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        other = scatter(other, 0x931E8875)
        result = one * np.uint32(0xCA01F9DD) - other * np.uint32(0x4973F715)
        return result ^ result >> np.uint32(16)

    nothing = np.zeros_like(entropy[0])
    pool = [scatter(word, 0x931E8875) for word in (entropy + 4 * [nothing])[:4]]
    for source in range(4):
        for target in range(4):
            if source != target:
                pool[target] = mixed(pool[target], pool[source])
    for word in entropy[4:]:
        pool = [mixed(part, word) for part in pool]
    constant = 0x8B51F9DD
    halves = np.stack([scatter(pool[place % 4], 0x58F38DED) for place in range(8)], 1).astype(np.uint64)
    return halves[:, 0::2] | halves[:, 1::2] << np.uint64(32)


def _first(*state: int) -> float:
    """The first number in [0, 1) of a PCG64 that begins with these four 64-bit words."""
    factor, all_bits = 0x2360ED051FC65DA44385DF649FCCF645, (1 << 128) - 1
    odd = ((state[2] << 64 | state[3]) << 1 | 1) & all_bits
    now = odd + (state[0] << 64 | state[1])
    now = (now * factor + odd) * factor + odd & all_bits
    turn, word = now >> 122, (now >> 64 ^ now) & 0xFFFFFFFFFFFFFFFF
    turned = (word >> turn | word << 64 - turn) & 0xFFFFFFFFFFFFFFFF
    return (turned >> 11) * 2.0**-53
