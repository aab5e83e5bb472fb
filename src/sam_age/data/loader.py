"""PyTorch's DataLoader as everything here uses it: processes that start, fail and end as those of a program should."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from torch.utils.data import DataLoader, Dataset

from sam_age.errors import InputError


class Loader(DataLoader[Any]):
    """A DataLoader that raises the `InputError` it comes upon among its batches, in their order; see `batches`."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return _raised(super().__iter__())  # not a generator itself: processes start now, not with the first batch


def batches(
    dataset: Dataset[Any], collate: Callable[[list[Any]], Any], *, num_workers: int = 0, **settings: Any
) -> Loader:
    """Batches of a data set, loaded here or by processes.

    They are spawned: forked ones deadlock with CUDA and threads, and differ between systems. An `InputError` in one of
    them arrives as it was raised, not wrapped into a traceback. Its `dataset` is at `.dataset.dataset`.

    Args:
        collate: samples -> batch; like the data set something that travels to processes.
        num_workers: processes; 0 loads in this one.
        settings: what else DataLoader takes.
    """
    if num_workers:
        settings |= {"multiprocessing_context": "spawn", "worker_init_fn": _leave_at_once}
    told = partial(_collate_or_error, collate)
    return Loader(_Told(dataset), collate_fn=told, num_workers=num_workers, **settings)


class _Told(Dataset[Any]):
    """A data set that gives an `InputError` where it would raise one."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except InputError as error:
            return error


def _collate_or_error(collate: Callable[[list[Any]], Any], samples: list[Any]) -> Any:
    return next((sample for sample in samples if isinstance(sample, InputError)), None) or collate(samples)


def _raised(loaded: Iterable[Any]) -> Iterator[Any]:
    for batch in loaded:
        if isinstance(batch, InputError):
            raise batch
        yield batch


def _leave_at_once(worker: int) -> None:
    """A loader that stops early leaves each process a thread that is still sending batches.

    Python until 3.13 ends such a thread where it next wants the interpreter, and inside torch's C++ that aborts the
    process. The trainer then hears of a worker "killed by signal: Aborted", and a run that was finished ends as an
    error. So the process leaves before Python takes itself apart: nobody waits for what it was sending, and whatever
    is waited for has been sent by then (multiprocessing joins the thread unless the loader said that it is done).
    It leaves with 0 whatever happened: a process that breaks off is told by its absence.
    """
    atexit.register(os._exit, 0)
