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
from torch.utils.data import Dataset

from sam_age.data.dataset import FacesDataset
from sam_age.data.draws import chances
from sam_age.data.loader import batches
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
        if self.dataset.truths is not None and len(rows):
            batch |= self._truths([epoch for epoch, _ in keys], rows, numbers)
        if not batch:  # nothing at all could be read
            batch = {"index": torch.empty(0, dtype=torch.long), "age": torch.empty(0)}
        return batch | {"rows": rows, "mirrored": torch.from_numpy(mirrored), "kept": self} | {"skipped": skipped}

    def _truths(self, epochs: list[int], rows: Tensor, numbers: np.ndarray) -> dict[str, Tensor]:
        """Where the portraits are that ageing is to lead to, see `FacesDataset._truth`."""
        chosen = torch.tensor(self.dataset.truths.choose(self.dataset.seed, epochs, numbers.tolist()))
        there = self.there[chosen] & (self.known["index"][chosen] == chosen)
        chosen = torch.where(there, chosen, rows)
        return {"truth_rows": chosen, "truth_age": self.known["age"][chosen]}


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
    yield from batches(_Upright(dataset), _join, batch_size=TOGETHER, num_workers=WORKERS)


class _Upright(Dataset[Any]):
    """What `FacesDataset.upright` gives."""

    def __init__(self, dataset: FacesDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.dataset.upright(index)


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
    mirrored, pixels = batch.pop("mirrored")[:, None, None, None], batch.pop("kept").pixels
    for name, where in (("faces", "rows"), ("truth", "truth_rows")):
        if where in batch:
            rows = batch.pop(where)
            faces = pixels[rows.to(pixels.device)].to(rows.device, non_blocking=True)
            batch[name] = torch.where(mirrored, faces.flip(3), faces)
    return batch
