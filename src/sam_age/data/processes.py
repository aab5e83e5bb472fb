"""Work shared out to processes, its results in order: by `in_order`, or by a DataLoader with `loader_processes`."""

from __future__ import annotations

import atexit
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


def loader_processes(count: int) -> dict[str, Any]:
    """What a DataLoader is to be told for so many processes; none, and it loads in its own.

    They are spawned: forked ones deadlock with CUDA and threads, and differ between systems.
    """
    if count == 0:
        return {"num_workers": 0}
    return {"num_workers": count, "multiprocessing_context": "spawn", "worker_init_fn": _leave_at_once}


def _leave_at_once(worker: int) -> None:
    """A loader that stops early leaves each process a thread that is still sending batches.

    Python until 3.13 ends such a thread where it next wants the interpreter, and inside torch's C++ that aborts the
    process. The trainer then hears of a worker "killed by signal: Aborted", and a run that was finished ends as an
    error. So the process leaves before Python takes itself apart: nobody waits for what it was sending, and whatever
    is waited for has been sent by then (multiprocessing joins the thread unless the loader said that it is done).
    """
    atexit.register(os._exit, 0)


def _end_with_parent() -> None:
    """A killed parent cannot tell its workers, which would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
