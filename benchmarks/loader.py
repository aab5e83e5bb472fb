"""Faces a second that the loader gives to a training step: decoded, resized to 256 pixels, mirrored, in batches.

    python -m benchmarks.loader                          every kind of file, all cores
    python -m benchmarks.loader png-1024 --workers 4

The files are made first: faces drawn with ellipses under noise that falls off as photographs' does, their PNGs
of 1.8 MB, where FFHQ's have 1.3. They are read from the page cache, so the disk is not measured. A step that trains on
N faces a second wants twice N here. JSON goes to stdout, a table to stderr.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import machine, report, spread

MADE = 32  # different pictures of each kind
SHARD = 16  # pictures in a tar
KINDS = {  # side in pixels, Pillow's format and options, and whether they lie in tars
    "png-1024": (1024, "PNG", {}, False),
    "jpeg-1024": (1024, "JPEG", {"quality": 90}, True),
    "webp-1024": (1024, "WEBP", {"quality": 90}, True),
    "jpeg-256": (256, "JPEG", {"quality": 95}, True),
    "webp-256": (256, "WEBP", {"quality": 90}, True),
}
WHAT = {False: "folder", True: "tar shards"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[[], *KINDS], help=f"some of {', '.join(KINDS)}; all by default")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="loader processes; a core each")
    parser.add_argument("--batch", type=int, default=16, help="faces a batch")
    parser.add_argument("--seconds", type=float, default=6, help="how long each is measured")
    given = parser.parse_args()
    if min(given.workers, given.batch - 1, given.seconds) < 0:
        raise SystemExit("loader: --workers is at least 0, --batch at least 1, --seconds more than 0.")
    result = {"benchmark": "loader", "machine": machine(), "workers": given.workers, "batch": given.batch, "kinds": {}}
    with tempfile.TemporaryDirectory(prefix="sam-age-") as folder:
        for kind in given.kinds or KINDS:
            where = make(kind, Path(folder, kind))
            result["kinds"][kind] = measure(kind, where, given)
    report(result, [row(kind, found) for kind, found in result["kinds"].items()])


def make(kind: str, folder: Path) -> Path:
    """Write a kind's files; what to give to the data module."""
    side, suffix, options, in_tars = KINDS[kind]
    folder.mkdir()
    files = []
    for number in range(MADE):
        buffer = io.BytesIO()
        photograph(number, side).save(buffer, format=suffix, **options)
        files.append((f"{number:05d}.{suffix.lower()}", buffer.getvalue()))
    if not in_tars:
        for name, data in files:
            folder.joinpath(name).write_bytes(data)
        return folder
    for start in range(0, MADE, SHARD):
        with tarfile.open(folder / f"faces-{start // SHARD:04d}.tar", "w") as tar:
            for name, data in files[start : start + SHARD]:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return folder


def photograph(number: int, side: int) -> Image.Image:
    """A drawn face under noise whose spectrum falls off with frequency, and some that does not, as a sensor's."""
    from sam_age.data.drawn import DrawnFaces

    rng = np.random.default_rng(number)
    with Image.open(io.BytesIO(DrawnFaces(count=number + 1, size=256).read(number))) as face:
        pixels = np.asarray(face.convert("RGB").resize((side, side), Image.Resampling.BICUBIC), np.float32)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    spectrum = np.fft.rfft2(rng.standard_normal((side, side))) / np.maximum(frequency, 1 / side) ** 1.2
    texture = np.fft.irfft2(spectrum, (side, side))
    noisy = pixels + (texture / texture.std() * 20)[..., None] + rng.standard_normal((side, side, 3)) * 0.7
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def measure(kind: str, where: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Read batches for so long, the workers running already."""
    import pytorch_lightning as pl

    from sam_age.data.datamodule import FacesDataModule

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)  # what devices it found
    data = FacesDataModule(str(where), batch_size=given.batch, num_workers=given.workers)
    data.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    batches = iter(data.train_dataloader())
    ahead = 2 * max(given.workers, 1)  # what the workers had ready before the clock started
    for _ in range(ahead):
        next(batches)
    rates, faces = [], 0
    begin = last = time.perf_counter()
    while last - begin < given.seconds:
        before = last
        for _ in range(max(given.workers, 1)):  # they come in rounds
            faces += len(next(batches)["faces"])
        last = time.perf_counter()
        rates.append(max(given.workers, 1) * given.batch / (last - before))
    files = [path for path in where.rglob("*") if path.is_file()]
    return {
        "file_bytes": sum(path.stat().st_size for path in files) / MADE,
        "faces_per_second": faces / (last - begin),
        "rounds": spread(rates),
        "faces_per_second_and_core": faces / (last - begin) / max(given.workers, 1),
    }


def row(kind: str, found: dict[str, Any]) -> dict[str, Any]:
    return {
        "files": kind,
        "in": WHAT[KINDS[kind][3]],
        "kB each": found["file_bytes"] / 1000,
        "faces/s": found["faces_per_second"],
        "a core": found["faces_per_second_and_core"],
        "slowest round": found["rounds"]["min"],
        "fastest": found["rounds"]["max"],
    }


if __name__ == "__main__":
    main()
