"""A data set that is decoded once and kept, in memory or on the device: for sets that fit, and models that are fast.

A small network on a large GPU takes faces faster than processors decode them. 18,000 faces of 256 pixels are 3.5 GB.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sam_age.data.dataset import FacesDataset
from sam_age.data.sampler import Key
from sam_age.errors import InputError

KEEP = ("memory", "device")
THREADS = min(16, os.cpu_count() or 1)  # Pillow decodes without the interpreter's lock


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
        with ThreadPoolExecutor(THREADS) as pool:
            samples = pool.map(dataset.upright, range(count))
            for row, sample in enumerate(tqdm(samples, total=count, desc="Decoding", unit="face", disable=None)):
                if "faces" in sample:
                    self.pixels[row] = sample.pop("faces")
                known.append(sample)
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
        numbers = self.known["index"][rows].tolist() if len(rows) else []
        mirrored = [self.dataset.mirrored(epoch, number) for (epoch, _), number in zip(keys, numbers, strict=True)]
        batch = {name: values[rows] for name, values in self.known.items()}
        if not batch:  # nothing at all could be read
            batch = {"index": torch.empty(0, dtype=torch.long), "age": torch.empty(0)}
        return (
            batch
            | {"rows": rows, "mirrored": torch.tensor(mirrored, dtype=torch.bool), "kept": self}
            | {"skipped": skipped}
        )


def add_faces(batch: dict[str, Any]) -> dict[str, Tensor]:
    """A batch of `KeptFaces.collate`, on whichever device it is now, with its faces: uint8 (N, 3, size, size)."""
    batch = dict(batch)
    rows, mirrored, pixels = batch.pop("rows"), batch.pop("mirrored"), batch.pop("kept").pixels
    faces = pixels[rows.to(pixels.device)].to(rows.device, non_blocking=True)
    return {"faces": torch.where(mirrored[:, None, None, None], faces.flip(3), faces)} | batch
