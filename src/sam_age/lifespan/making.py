"""A plan in, a folder or tar shards of portraits out: what sam-render does.

Workers, on the CPU or on GPUs, render and encode; the parent alone writes, in the plan's order. So the result does not
depend on the number of workers, and what an interruption leaves is a prefix of it that the next run goes on from
(see `sam_age.lifespan.folder`).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from sam_age.data.processes import in_order
from sam_age.data.storing import encode
from sam_age.errors import InputError
from sam_age.lifespan.folder import PortraitFolder, Settings
from sam_age.lifespan.splits import Portrait
from sam_age.lifespan.studio import RENDERER, Studio

Batch = list[tuple[Portrait, str]]
"""Portraits to be rendered at once, each with the file it goes to."""

Job = tuple[Batch, str]
"""A batch, and the device that renders it."""

Made = list[tuple[bytes, dict[str, Any]]]
"""Encoded portraits, each with its line of portraits.jsonl."""

CPU_BATCH, GPU_BATCH = 1, 128
"""Portraits rendered at once, at most. On a CPU more gain nothing and take memory."""

PORTRAIT_BYTES = 1500
"""GPU memory that a portrait takes while it is rendered, bytes for each of its pixels (measured: 1100)."""

ENCODERS = 4  # threads beside a GPU that one process keeps busy

GPU_WORKERS = 3
"""Processes for each GPU, if its memory holds their batches: one waits for its launches half of the time."""


def gpu_batch(device: str, size: int) -> int:
    """Portraits of `size` pixels a side that half of a GPU's memory holds, 128 at most: more gain nothing.

    Of all its memory, not of what is free now, so that a resumed run makes the same batches.
    """
    if not str(device).startswith("cuda"):
        return GPU_BATCH
    memory = torch.cuda.get_device_properties(device).total_memory
    return max(1, min(GPU_BATCH, memory // 2 // (PORTRAIT_BYTES * size**2)))


def gpu_workers(device: str, size: int, batch_size: int) -> int:
    """How many processes render such batches on a GPU, or for "cuda" on all there are."""
    if not str(device).startswith("cuda"):
        return 1
    gpus = _gpus(device)
    memory = min(torch.cuda.get_device_properties(gpu).total_memory for gpu in gpus)
    fit = int(0.75 * memory) // (PORTRAIT_BYTES * size**2 * batch_size)
    return len(gpus) * max(1, min(GPU_WORKERS, fit))


def _gpus(device: str) -> list[str]:
    """The devices that a name stands for: "cuda" for all GPUs."""
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] if str(device) == "cuda" else [str(device)]


class Counts(NamedTuple):
    """What a run of `render_split` did."""

    portraits: int  # written by this run
    already: int  # that an earlier run had written


def render_split(
    output: str | Path,
    settings: Settings | None = None,
    *,
    workers: int | None = None,
    device: str = "cpu",
    batch_size: int | None = None,
    overwrite: bool = False,
    renderer: str = RENDERER,
) -> Counts:
    """Render the portraits of a split that `output` does not hold yet.

    Args:
        output: folder of all splits; this one goes to a folder of its name.
        workers: processes; 0 or 1 works in this one; None takes one per core, or what `gpu_workers` says.
        device: a GPU renders in batches; "cuda" are all GPUs, among which several workers share the batches out.
        batch_size: portraits rendered at once; None: 1 on a CPU, elsewhere what `gpu_batch` says.
        overwrite: start over, whatever `output` holds of this split.
        renderer: module, see `Studio`.
    Raises:
        InputError: settings out of range, or an output that was made with others.
    """
    from tqdm import tqdm

    settings = settings or Settings()
    if workers is not None and (not isinstance(workers, int) or isinstance(workers, bool) or workers < 0):
        raise InputError(f"workers is a whole number from 0, or null for one per core, not {workers!r}.")
    if batch_size is not None and (not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1):
        raise InputError(f"batch_size is a whole number from 1, or null, not {batch_size!r}.")
    on_cpu = str(device).startswith("cpu")
    batch_size = batch_size or (CPU_BATCH if on_cpu else gpu_batch(device, settings.size))
    folder = PortraitFolder(Path(output), settings, overwrite=overwrite)
    todo = set(folder.todo)
    # whole batches of the plan, although some of one may be there: rounding depends on who is rendered together
    batches = [
        batch
        for batch in _batches(folder.files.items(), batch_size, one_person=on_cpu)
        if any(portrait in todo for portrait, _ in batch)
    ]
    studio = Studio(settings.size, device, renderer)
    everyone = {portrait.number: portrait for portrait in folder.files}.values()
    bar = tqdm(
        total=len(folder.files),
        initial=len(folder.rows),
        desc=f"Rendering {settings.split}",
        unit="portrait",
        disable=None,
    )
    with folder, bar:
        if todo:
            folder.begin(studio.person_row(portrait) for portrait in everyone)
        if workers is None:
            workers = (os.cpu_count() or 1) if on_cpu else gpu_workers(device, settings.size, batch_size)
        workers = min(workers, len(batches))
        if workers <= 1:
            results = _here(batches, studio, settings) if on_cpu else _by_device(batches, studio, settings)
        else:
            results = _by_processes(batches, studio, settings, workers)
        for made in results:
            bar.update(sum(folder.add(data, row) for data, row in made))
        if todo:
            folder.finish()
    return Counts(len(todo), len(folder.files) - len(todo))


def _batches(portraits: Iterable[tuple[Portrait, str]], size: int, *, one_person: bool) -> Iterator[Batch]:
    """Consecutive portraits; one_person: of one person each, who is then prepared once and by one process."""
    batch: Batch = []
    for item in portraits:
        if batch and (len(batch) == size or (one_person and batch[-1][0].person != item[0].person)):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _shoot(batch: Batch, studio: Studio) -> Tensor:
    try:
        return studio.shoot([portrait for portrait, _ in batch])
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{len(batch)} portraits at once do not fit into the memory of {studio.device}: run the same "
            f"command again with batch_size={max(1, len(batch) // 2)}, or workers=1; it goes on where it stopped."
        ) from error


def _develop(pixels: Tensor, batch: Batch, studio: Studio, settings: Settings) -> Made:
    """Encoded, with what is written about each."""
    images = [Image.fromarray(image) for image in pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()]
    return [
        (encode(image, settings.kind, settings.quality), studio.portrait_row(portrait, file))
        for image, (portrait, file) in zip(images, batch, strict=True)
    ]


# ---- on a GPU: one process renders, threads encode what it has rendered ----------------------------------------------


def _by_device(batches: list[Batch], studio: Studio, settings: Settings) -> Iterator[Made]:
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(ENCODERS) as threads:  # Pillow encodes, and torch waits, without the interpreter's lock
        for batch in batches:
            pixels = _shoot(batch, studio)
            waiting.append(threads.submit(_develop, pixels, batch, studio, settings))
            if len(waiting) > ENCODERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


# ---- in this process, or in several, each of which renders and encodes -----------------------------------------------

_worker: tuple[dict[str, Studio], Settings] | None = None


def _here(batches: list[Batch], studio: Studio, settings: Settings) -> Iterator[Made]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of many workers has: sums over several threads are rounded otherwise
    try:
        yield from (_develop(_shoot(batch, studio), batch, studio, settings) for batch in batches)
    finally:
        torch.set_num_threads(threads)


def _by_processes(batches: list[Batch], studio: Studio, settings: Settings, workers: int) -> Iterator[Made]:
    devices = _gpus(str(studio.device))
    jobs = ((batch, devices[number % len(devices)]) for number, batch in enumerate(batches))
    return in_order(_work, jobs, workers, setup=_start, arguments=(studio, devices, settings))


def _start(studio: Studio, devices: list[str], settings: Settings) -> None:
    global _worker
    _worker = {device: Studio(studio.size, device, studio.renderer) for device in devices}, settings


def _work(job: Job) -> Made:
    assert _worker is not None  # _start ran
    studios, settings = _worker
    batch, device = job
    return _develop(_shoot(batch, studios[device]), batch, studios[device], settings)


def summary(counts: Counts, folder: Path) -> str:
    """The closing line of a run."""
    text = f"{counts.portraits} portraits into {folder}"
    return text + (f"; {counts.already} were there already" if counts.already else "")
