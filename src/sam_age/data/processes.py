"""Work shared out to processes, its results in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

from sam_age.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    *,
    setup: Callable[..., None],
    arguments: tuple[Any, ...] = (),
) -> Iterator[Result]:
    """`work` of every item by so many processes, in the items' order, a few items ahead of the reader.

    Args:
        work, setup: functions of a module, which the processes import.
        setup: called once in each process, with `arguments`; there torch uses one thread.
    Raises:
        InputError: a process was ended from outside.
    """
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),  # the same on every system, and safe with threads and CUDA
        initializer=_start,
        initargs=(setup, arguments),
    )
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise InputError(
            "A worker process was ended from outside, most often for lack of memory: run the same command again "
            f"with fewer workers (now {workers}); it goes on where it stopped."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(setup: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent alone has something to say
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    setup(*arguments)


def _end_with_parent() -> None:
    """A killed parent cannot tell its workers, which would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
