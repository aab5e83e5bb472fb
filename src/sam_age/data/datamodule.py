"""FacesDataModule: sources of aligned faces as Lightning wants them, deterministic and exactly resumable."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from sam_age.data.dataset import FacesDataset, collate, to_unit_range
from sam_age.data.kept import KEEP, KeptFaces, add_faces
from sam_age.data.labels import Labelled
from sam_age.data.loader import batches
from sam_age.data.sampler import Counting, InOrder, ShuffledStream
from sam_age.data.source_cache import SourceCache
from sam_age.data.sources import ImageSource, Subset, open_source
from sam_age.errors import InputError

log = logging.getLogger("sam_age")

Where = str | Path | ImageSource


class FacesDataModule(pl.LightningDataModule):
    """Aligned faces for training, validation and testing.

    A batch is {"faces": float (N, 3, image_size, image_size) in [-1, 1], "index": (N,), "age": (N,) years,
    NaN where unknown} and the source's `labels` (N,), if it has any; it travels to the device as uint8.

    Args:
        train, val, test: where the faces are: a folder, a zip, tar shards (see `open_source`), or a source.
            val and test may be None.
        batch_size: faces a step, on each device.
        val_batch_size: the same for validation and test.
        num_workers: loader processes on each device.
        keep: "memory" or "device": decode every face once, before the first step, and keep it there (see `KeptFaces`);
            None decodes them as they come, in the loader's processes.
        image_size: side in pixels.
        flip: probability of mirroring a training face.
        seed: of order and mirroring.
        on_error: "skip" or "stop", at a picture that cannot be read.
        max_val_images: validate and test on the first so many; None on all.
        shard_window: tar shards mixed with each other at a time, which keeps reads local on many machines;
            None shuffles freely over all shards.
        labels: FFHQ-Aging's CSV with the ages of the training faces, see `sam_age.data.labels`.
        cache: folder that `sam-prepare cache=` made of the training faces: batches gain its `KNOWN`.
        truths: training batches gain "truth", the same people at other ages, and "truth_age" (N,) years, see `Truths`.
        val_labels: the same for validation and test: a key of its own, since CelebA-HQ's numbers would find
            FFHQ's rows too.

    Raises:
        InputError: at once, when a path holds nothing usable.
    """

    def __init__(
        self,
        train: Where | None = None,
        val: Where | None = None,
        test: Where | None = None,
        *,
        batch_size: int = 6,
        val_batch_size: int = 6,
        num_workers: int = 4,
        keep: str | None = None,
        image_size: int = 256,
        flip: float = 0.5,
        seed: int = 0,
        on_error: str = "skip",
        max_val_images: int | None = None,
        shard_window: int | None = None,
        labels: str | Path | None = None,
        val_labels: str | Path | None = None,
        cache: str | Path | None = None,
        truths: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"batch_size": batch_size, "val_batch_size": val_batch_size, "image_size": image_size}
        for key, value in sizes.items():
            if value < 1:
                raise InputError(f"data.{key} is at least 1, not {value}.")
        if num_workers < 0 or (shard_window is not None and shard_window < 1):
            raise InputError("data.num_workers is at least 0, and data.shard_window at least 1 or null.")
        self.batch_size, self.val_batch_size, self.num_workers = batch_size, val_batch_size, num_workers
        if keep is not None and keep not in KEEP:
            raise InputError(f"data.keep is {', '.join(KEEP)} or null, not {keep!r}.")
        self.keep, self._kept = keep, {}
        self.seed, self.shard_window = seed, shard_window
        self.skipped = 0  # pictures that could not be read, in this process's batches
        self._start = 0  # position at which this run began: samples over all ranks
        self._batches_before: int | None = None  # that the trainer had done by then; None until training begins

        def dataset(
            where: Where | None,
            csv: str | Path | None,
            *,
            flip: float = 0.0,
            limit: int | None = None,
            replace: bool = False,  # a score must not count another face twice
            truths: bool = False,
        ) -> FacesDataset | None:
            if where is None:
                return None
            source = open_source(where)
            if csv is not None:
                source = Labelled(source, csv)
            if limit is not None and limit < len(source):
                source = Subset(source, range(limit))
            return FacesDataset(
                source, size=image_size, flip=flip, seed=seed, on_error=on_error, replace=replace, truths=truths
            )

        self.train_set = dataset(train, labels, flip=flip, replace=True, truths=truths)
        if cache is not None and self.train_set is not None:
            if keep is not None or getattr(self.train_set.source, "endless", False):
                raise InputError("data.cache is for faces that are read as they come: set data.keep=null.")
            self.train_set.cache = SourceCache(cache)
            self.train_set.cache.check_faces(self.train_set)
        self.val_set = dataset(val, val_labels, limit=max_val_images)
        self.test_set = dataset(test, val_labels, limit=max_val_images)

    # ---- loaders -----------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader:
        """Endless; begins where the checkpoint left off, and goes on where `limit_train_batches` ends an epoch."""
        if self.train_set is None:
            raise InputError("There is nothing to train on: give data.train= a folder, a zip or shards of faces.")
        self._start, self._batches_before = self.position(), self._batches_done()
        return self._loader(self.train_set, self._stream(self.train_set.source), self.batch_size)

    def _stream(self, source: ImageSource) -> Sampler:
        where = {
            "rank": self.trainer.global_rank,
            "world": self.trainer.world_size,
            "start": self.position,  # a method: asked again by every new iteration
        }
        if getattr(source, "endless", False):
            return Counting(**where)
        blocks = getattr(source, "blocks", None) if self.shard_window else None
        return ShuffledStream(len(source), seed=self.seed, blocks=blocks, window=self.shard_window or 1, **where)

    def val_dataloader(self) -> DataLoader | list:
        return self._in_order(self.val_set)

    def test_dataloader(self) -> DataLoader | list:
        return self._in_order(self.test_set)

    def predict_dataloader(self) -> DataLoader | list:
        return self._in_order(self.test_set)

    def _in_order(self, dataset: FacesDataset | None) -> DataLoader | list:
        if dataset is None:
            return []
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if len(dataset) < world:  # a rank with nothing to report would keep the others waiting
            raise InputError(f"{len(dataset)} faces to score cannot be shared out to {world} processes: use fewer.")
        return self._loader(dataset, InOrder(len(dataset), rank=rank, world=world), self.val_batch_size)

    def _loader(self, dataset: FacesDataset, sampler: Sampler, batch_size: int) -> DataLoader:
        if self.keep is not None and not getattr(dataset.source, "endless", False):
            kept = self._keep(dataset)  # its batches take no time, so no processes
            return DataLoader(kept, batch_size=batch_size, sampler=sampler, collate_fn=kept.collate)
        return batches(
            dataset,
            collate,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )

    def _keep(self, dataset: FacesDataset) -> KeptFaces:
        """A data set decoded: once, however often its loader is asked for."""
        if id(dataset) not in self._kept:
            on_device = self.keep == "device" and self.trainer is not None
            self._kept[id(dataset)] = KeptFaces(dataset, self.trainer.strategy.root_device if on_device else "cpu")
        return self._kept[id(dataset)]

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        self.skipped += batch.pop("skipped")
        return batch

    def teardown(self, stage: str) -> None:
        if self.skipped:
            log.warning("%d times a picture could not be read: see above for their names.", self.skipped)

    def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        if "kept" in batch:
            batch = add_faces(batch)
        return batch | {name: to_unit_range(batch[name]) for name in ("faces", "truth") if name in batch}

    # ---- resuming ----------------------------------------------------------------------------------

    @property
    def _length(self) -> int:
        return 0 if self.train_set is None else len(self.train_set)

    def _batches_done(self) -> int:
        """Training batches of the whole run; not steps, which gradient accumulation and GANs count otherwise."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed

    def position(self) -> int:
        """Samples over all ranks that training has consumed: trained on, not merely prefetched."""
        if self._batches_before is None or self.trainer is None:
            return self._start
        batches = self._batches_done() - self._batches_before
        return self._start + batches * self.batch_size * self.trainer.world_size

    def state_dict(self) -> dict[str, Any]:
        """Where training is in the stream."""
        return {"position": self.position(), "length": self._length, "seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint; another batch size or number of processes goes on at the same sample."""
        self._start, self._batches_before = state_dict["position"], None
        now = {"length": self._length, "seed": self.seed}
        changed = [f"{k} was {state_dict[k]}, is {v}" for k, v in now.items() if state_dict[k] != v]
        if self.train_set is not None and changed:
            log.warning(
                "The training data changed since the checkpoint (%s): the run goes on at sample %d, but not "
                "with the faces it would have seen.",
                "; ".join(changed),
                self._start,
            )
