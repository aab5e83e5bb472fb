"""Does the fast step learn as the plain one does? Losses of both from one start, beside what chance alone changes.

    python -m benchmarks.agreement --svg agreement.svg > agreement.json    three runs of 200 steps: five minutes
    python -m benchmarks.agreement --uncompiled                            two minutes: nothing is compiled
    python -m benchmarks.agreement --batch 6 --one-by-one                  the paper's batch: a quarter of an hour
    python -m benchmarks.agreement --size tiny --device cpu --steps 12     does it run?

Three runs from the same weights on the same faces in the same order: plain float32 (no TF32, plain generator, nothing
recorded), the same with other draws of ages and noise, and conf/experiment/fast.yaml with the first one's draws. The
distance of two runs is that of the logarithms of their losses, each averaged over a window of steps; the total's
decides. Weights are made up unless --start gives those of a run; faces are drawn ones, or pictures of a folder.

Each run is a process of its own, all at once and on all GPUs there are: a plain step of few faces takes as long as its
kernels take to be launched, and the GPU has room. Few faces have noisier losses, so that chance allows for more: the
batch and how far chance alone leads belong to any result. With --seconds each run ends in time, and the steps that all
of them have taken are compared. JSON goes to stdout, how far they are and a table to stderr.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from benchmarks.measure import machine, report
from benchmarks.networks import SIZES, config, fast_step, random_losses, random_sam
from benchmarks.training_step import optimizer_factory, pick_device
from sam_age.data.dataset import FacesDataset, to_unit_range
from sam_age.data.drawn import DrawnFaces
from sam_age.data.sources import open_source
from sam_age.device import let_segments_grow
from sam_age.modules.aging import AgingModule
from sam_age.modules.stage import take_weights

MODULE = "benchmarks.agreement"
PLAIN, CHANCE, FAST = "plain float32", "plain float32, other draws", "fast"
RUNS = {"plain": PLAIN, "chance": CHANCE, "fast": FAST}
TOLD = 25  # steps from one line of how far a run is to the next
COLOURS = {PLAIN: "#1f77b4", CHANCE: "#9a9a9a", FAST: "#d95f02"}
WIDTH, HEIGHT, MARGIN = 720, 400, 56


def main() -> None:
    given = _parser().parse_args()
    if given.only is not None:
        print(json.dumps(run(given)))
        return
    result = measure(given)
    if given.svg is not None:
        given.svg.write_text(picture(result["losses"], result["window"]), encoding="utf-8")
    report(result, result["table"])


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(MODULE, description=__doc__, formatter_class=layout)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=2, help="faces a step")
    parser.add_argument("--size", choices=SIZES, default="1024", help="conf/model/sam_<size>.yaml")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--faces", help="folder, zip or shards of aligned faces; drawn ones if not given")
    parser.add_argument("--start", help="folder weights/ of a run, for the age encoder")
    parser.add_argument("--uncompiled", action="store_true", help="the fast run without module.compiled")
    parser.add_argument("--window", type=int, default=20, help="steps that are averaged")
    parser.add_argument("--seconds", type=float, help="runs end after so long, however far they are")
    parser.add_argument("--one-by-one", action="store_true", help="one run after the other: a third of the memory")
    parser.add_argument("--only", choices=RUNS, help="one of the runs, in this process: its losses as JSON")
    parser.add_argument("--svg", type=Path, help="where to write the curves")
    return parser


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The three runs, and how far they are from each other."""
    made = all_runs(given)
    steps = min(len(part["terms"]["total"]) for part in made.values())
    if not steps:
        raise SystemExit("agreement: no step was taken by each run in time: give --seconds more.")
    if steps < given.steps:
        print(f"Compared are {steps} steps, which all runs have taken, of {given.steps}.", file=sys.stderr)
    found = {RUNS[key]: {n: values[:steps] for n, values in part["terms"].items()} for key, part in made.items()}
    window = min(given.window, max(1, steps // 2))
    rows = [compared(term, found, window) for term in found[PLAIN] if term == "total" or steps >= 2 * window]
    return {
        "benchmark": "agreement",
        "machine": machine(),
        "device": pick_device(given.device),
        "size": given.size,
        "batch": given.batch,
        "steps": steps,
        "window": window,
        "fast": config("experiment", "fast"),
        "uncompiled": given.uncompiled,
        "seconds": {RUNS[key]: part["seconds"] for key, part in made.items()},
        "losses": {name: terms["total"] for name, terms in found.items()},
        "terms": found,
        "within_chance": next(row for row in rows if row["term"] == "total")["fast of chance"] <= 1,
        "table": rows,
    }


def all_runs(given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What each run found, in a process of its own, whose GPU is the next one.

    Raises:
        RuntimeError: one of them failed; the others are ended.
    """
    names = ("steps", "batch", "size", "device", "faces", "start", "seconds")
    options = [f"--{name}={getattr(given, name)}" for name in names if getattr(given, name) is not None]
    options += ["--uncompiled"] if given.uncompiled else []
    gpus = visible_gpus() if pick_device(given.device) == "cuda" else []
    begun: dict[str, subprocess.Popen[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = {key: Path(folder, f"{key}.json") for key in RUNS}
        try:
            for number, key in enumerate(RUNS):
                environment = os.environ | ({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {})
                command = [
                    sys.executable,
                    "-m",
                    "sam_age.cli.bench",
                    "--module",
                    "agreement",
                    f"--only={key}",
                    *options,
                ]
                with made[key].open("w", encoding="utf-8") as out:
                    begun[key] = subprocess.Popen(command, env=environment, stdout=out)
                if given.one_by_one:
                    wait_for(begun)
            wait_for(begun)
        finally:
            for process in begun.values():
                process.kill()
                process.wait()
        return {key: json.loads(path.read_text(encoding="utf-8").splitlines()[-1]) for key, path in made.items()}


def wait_for(begun: Mapping[str, subprocess.Popen[str]]) -> None:
    """Until all have ended, or one of them has failed."""
    while True:
        codes = {key: process.poll() for key, process in begun.items()}
        for key, code in codes.items():
            if code:
                hint = "if memory was short: --one-by-one, or a smaller --batch"
                raise RuntimeError(f"The run {RUNS[key]!r} failed with exit code {code}; {hint}.")
        if None not in codes.values():
            return
        time.sleep(0.1)


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Train, and give every term of the loss at each step."""
    begun = time.monotonic()
    let_segments_grow()  # as sam-train does
    device, fast = pick_device(given.device), given.only == "fast"
    settings = config("experiment", "fast")
    torch.manual_seed(0)
    with torch.device(device):  # the same numbers in each process
        sam, losses = random_sam(given.size), random_losses(given.size)
    batches = Batches(FacesDataset(open_source(given.faces) if given.faces else DrawnFaces()), given.batch, given.steps)
    torch.set_float32_matmul_precision("high" if fast else "highest")
    torch.backends.cudnn.allow_tf32 = fast
    sam.decoder.fused = "auto" if fast else False
    optimizer, _ = optimizer_factory("ranger")
    options = fast_step(uncompiled=given.uncompiled) if fast else {}
    module = Listening(sam, losses, optimizer, seed=1 if given.only == "chance" else 0, **options)
    module.name, module.begun, module.seconds = RUNS[given.only], begun, given.seconds
    if given.start is not None:
        take_weights(module, given.start)
    trainer = pl.Trainer(
        accelerator={"cuda": "gpu"}.get(device, device), devices=1,
        precision=settings["trainer"]["precision"] if fast else "32-true", max_steps=given.steps, max_epochs=1,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        log_every_n_steps=1,  # every step is heard
    )  # fmt: skip
    trainer.fit(module, train_dataloaders=batches)
    terms = {name: torch.stack([step[name] for step in module.heard]).tolist() for name in module.common()}
    return {"run": given.only, "seconds": time.monotonic() - begun, "terms": terms}


class Listening(AgingModule):
    """The training stage, which keeps what it logs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heard: list[dict[str, Tensor]] = []
        self.name, self.begun = "", time.monotonic()
        self.seconds: float | None = None  # after which it ends

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        gone, steps = time.monotonic() - self.begun, len(self.heard)
        self.trainer.should_stop = self.seconds is not None and gone > self.seconds
        if self.trainer.should_stop or steps % TOLD == 0:
            print(f"[{gone:.0f} s] {self.name}: {steps} of {self.trainer.max_steps} steps", file=sys.stderr, flush=True)

    def log_dict(self, dictionary: dict[str, Tensor], *args: Any, **kwargs: Any) -> None:
        # copies: a recorded step writes where the one before it did
        step = {name.removeprefix("train/"): value.detach().clone() for name, value in dictionary.items()}
        self.heard.append(step)

    def common(self) -> list[str]:
        """Names of what every step logged."""
        return [name for name in self.heard[0] if name != "lr" and all(name in step for step in self.heard)]


class Batches:
    """The data set's faces over and over, the same for every run."""

    def __init__(self, dataset: FacesDataset, batch: int, count: int) -> None:
        self.batch, self.count = batch, count
        kept = min(len(dataset), batch * count, 256)
        self.pixels = torch.stack([dataset[index]["faces"] for index in range(kept)])

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for step in range(self.count):
            rows = torch.arange(step * self.batch, (step + 1) * self.batch) % len(self.pixels)
            yield {"faces": to_unit_range(self.pixels[rows]), "index": rows}


def compared(term: str, found: dict[str, dict[str, list[float]]], window: int) -> dict[str, Any]:
    """A row of the table: where a term ends in each run, and distances from the plain one."""
    curves = {name: smoothed(terms[term], window) for name, terms in found.items()}
    chance, fast = (distance(curves[name], curves[PLAIN]) for name in (CHANCE, FAST))
    last = {name: sum(terms[term][-window:]) / window for name, terms in found.items()}
    return {
        "term": term,
        "plain, last": last[PLAIN],
        "other draws, last": last[CHANCE],
        "fast, last": last[FAST],
        "distance by chance": chance,
        "distance of fast": fast,
        "fast of chance": fast / chance if chance else math.inf,
    }


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Means over each `window` successive values.

    >>> smoothed([1.0, 3.0, 5.0], 2)
    [2.0, 4.0]
    """
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    return [(end - start) / window for start, end in zip(sums, sums[window:], strict=False)]


def distance(a: Sequence[float], b: Sequence[float]) -> float:
    """Mean absolute difference of logarithms; of the values themselves where one is not positive.

    >>> round(distance([1.0, 2.0], [1.0, 1.0]), 3)
    0.347
    """
    positive = min(*a, *b) > 0
    pairs = [(math.log(x), math.log(y)) if positive else (x, y) for x, y in zip(a, b, strict=True)]
    return sum(abs(x - y) for x, y in pairs) / len(pairs)


def picture(losses: dict[str, list[float]], window: int) -> str:
    """The runs' total losses as an SVG: smoothed, on a logarithmic scale."""
    curves = {name: smoothed(values, window) for name, values in losses.items()}
    logs = [math.log10(max(value, 1e-9)) for values in curves.values() for value in values]
    low, high = min(logs), max(logs) + 1e-6
    longest = max(len(values) for values in curves.values())

    def place(step: int, value: float) -> tuple[float, float]:
        up = (math.log10(max(value, 1e-9)) - low) / (high - low)
        return MARGIN + step / max(1, longest - 1) * (WIDTH - 1.5 * MARGIN), HEIGHT - MARGIN - up * (
            HEIGHT - 2 * MARGIN
        )

    parts = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    marks = [low + (high - low) * part / 4 for part in range(5)]
    for mark in marks:
        y = place(0, 10**mark)[1]
        parts.append(f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN / 2}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{10**mark:.3g}</text>')
    for number, (name, values) in enumerate(curves.items()):
        points = [place(step, value) for step, value in enumerate(values)]
        lines = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{lines}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        parts.append(
            f'<text x="{WIDTH - MARGIN / 2}" y="{MARGIN + 18 * number}" text-anchor="end" '
            f'fill="{COLOURS[name]}">{name}</text>'
        )
    for at in sorted({0, longest // 2, longest - 1}):
        x = place(at, 1)[0]
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - MARGIN + 20}" text-anchor="middle">{at + window}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">steps</text>')
    parts.append(f'<text x="{MARGIN}" y="{MARGIN - 18}">loss of both ways, mean of {window} steps</text>')
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>' + "".join(parts) + "</svg>\n"


if __name__ == "__main__":
    main()
