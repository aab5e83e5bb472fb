"""Training with no files at all: portraits are rendered as they are needed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from sam_age.data.datamodule import FacesDataModule
from sam_age.data.dataset import FacesDataset
from sam_age.data.sampler import Key
from sam_age.data.sources import labels_of
from sam_age.errors import InputError
from sam_age.lifespan.sources import LifespanLive

RENDER_ON = ("auto", "loader", "device")


class LifespanLiveModule(FacesDataModule):
    """`FacesDataModule` for sources that render, above all `LifespanLive`.

    On a CPU the loader's processes render, each portrait when it is read. On CUDA the loader hands out numbers
    only, and a batch is rendered at once on the device that trains. Batches are the same, but for what rounding
    differs between devices.

    Args:
        render_on: "loader" or "device"; "auto" is the device where that is a GPU.
        settings: of `FacesDataModule`. Portraits are not mirrored unless flip= is given: no scene comes twice.
    """

    def __init__(self, *sources: Any, render_on: str = "auto", flip: float = 0.0, **settings: Any) -> None:
        if render_on not in RENDER_ON:
            raise InputError(f"data.render_on is one of {', '.join(RENDER_ON)}, not {render_on!r}.")
        super().__init__(*sources, flip=flip, **settings)
        self.render_on = render_on

    def _on_device(self, dataset: FacesDataset) -> bool:
        where = self.render_on
        if where == "auto":
            where = "device" if self.trainer.strategy.root_device.type == "cuda" else "loader"
        renders = isinstance(dataset.source, LifespanLive) and dataset.source.studio.size == dataset.size
        return where == "device" and renders

    def _loader(self, dataset: FacesDataset, sampler: Sampler, batch_size: int) -> DataLoader:
        if not self._on_device(dataset):
            return super()._loader(dataset, sampler, batch_size)
        numbers = Numbers(dataset)  # they take no time, so no processes
        return DataLoader(numbers, batch_size=batch_size, sampler=sampler, collate_fn=numbers.collate)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Tensor]:
        if "faces" not in batch:
            source, mirrored, index = batch.pop("source"), batch.pop("mirrored"), batch["index"]
            faces = source.render(index.tolist(), index.device)
            batch = {"faces": torch.where(mirrored[:, None, None, None], faces.flip(3), faces)} | batch
        return super().on_after_batch_transfer(batch, dataloader_idx)


class Numbers(Dataset[dict[str, Any]]):
    """What a data set's samples are, but for their pixels."""

    def __init__(self, dataset: FacesDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, index = key
        age = torch.tensor(self.dataset.source.age(index), dtype=torch.float32)
        known = {"index": index, "age": age, "mirrored": self.dataset.mirrored(epoch, index)}
        return known | labels_of(self.dataset.source, index)

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        return {**default_collate(samples), "source": self.dataset.source, "skipped": 0}
