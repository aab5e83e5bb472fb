"""Does the fast step learn as the plain one does? Losses of both from one start, beside what chance alone changes.

    python -m benchmarks.agreement --svg agreement.svg > agreement.json      three runs of 200 steps, minutes on a GPU
    python -m benchmarks.agreement --size tiny --device cpu --steps 12       does it run?

Three runs from the same weights on the same faces in the same order: plain float32 (no TF32, plain generator, nothing
recorded), the same with other draws of ages and noise, and conf/experiment/fast.yaml with the first one's draws. The
distance of two runs is that of the logarithms of their losses, each averaged over a window of steps; the total's
decides. Weights are made up unless --start gives those of a run; faces are drawn ones, or pictures of a folder. JSON
goes to stdout, a table to stderr.
"""

from __future__ import annotations

import argparse
import copy
import gc
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from benchmarks.measure import machine, report
from benchmarks.networks import SIZES, config, random_losses, random_sam
from benchmarks.training_step import optimizer_factory, pick_device
from sam_age.data.dataset import FacesDataset, to_unit_range
from sam_age.data.drawn import DrawnFaces
from sam_age.data.sources import open_source
from sam_age.modules.aging import AgingModule
from sam_age.modules.stage import take_weights

MODULE = "benchmarks.agreement"
PLAIN, CHANCE, FAST = "plain float32", "plain float32, other draws", "fast"
COLOURS = {PLAIN: "#1f77b4", CHANCE: "#9a9a9a", FAST: "#d95f02"}
WIDTH, HEIGHT, MARGIN = 720, 400, 56


def main() -> None:
    given = _parser().parse_args()
    result = measure(given)
    if given.svg is not None:
        given.svg.write_text(picture(result["losses"], result["window"]), encoding="utf-8")
    report(result, result["table"])


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(MODULE, description=__doc__, formatter_class=layout)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=6, help="faces a step")
    parser.add_argument("--size", choices=SIZES, default="1024", help="conf/model/sam_<size>.yaml")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--faces", help="folder, zip or shards of aligned faces; drawn ones if not given")
    parser.add_argument("--start", help="folder weights/ of a run, for the age encoder")
    parser.add_argument("--window", type=int, default=20, help="steps that are averaged")
    parser.add_argument("--svg", type=Path, help="where to write the curves")
    return parser


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The three runs, and how far they are from each other."""
    device = pick_device(given.device)
    torch.manual_seed(0)
    sam, losses = random_sam(given.size), random_losses(given.size)
    batches = Batches(FacesDataset(open_source(given.faces) if given.faces else DrawnFaces()), given.batch, given.steps)
    fast = config("experiment", "fast")
    found: dict[str, dict[str, list[float]]] = {}
    for name, seed in ((PLAIN, 0), (CHANCE, 1), (FAST, 0)):
        options = fast["module"] if name == FAST else {}
        precision = fast["trainer"]["precision"] if name == FAST else "32-true"
        found[name] = run(copy.deepcopy(sam), losses, batches, given, device, precision, seed, options, name == FAST)
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    window = min(given.window, max(1, given.steps // 2))
    rows = [compared(term, found, window) for term in found[PLAIN] if term == "total" or given.steps >= 2 * window]
    return {
        "benchmark": "agreement",
        "machine": machine(),
        "device": device,
        "size": given.size,
        "batch": given.batch,
        "steps": given.steps,
        "window": window,
        "fast": fast,
        "losses": {name: terms["total"] for name, terms in found.items()},
        "terms": found,
        "within_chance": next(row for row in rows if row["term"] == "total")["fast of chance"] <= 1,
        "table": rows,
    }


def run(
    sam: Any, losses: Any, batches: Batches, given: argparse.Namespace, device: str, precision: str, seed: int,
    options: dict[str, Any], fast: bool,
) -> dict[str, list[float]]:  # fmt: skip
    """Train, and give every term of the loss at each step."""
    torch.set_float32_matmul_precision("high" if fast else "highest")
    torch.backends.cudnn.allow_tf32 = fast
    sam.decoder.fused = "auto" if fast else False
    optimizer, _ = optimizer_factory("ranger")
    module = Listening(sam, losses, optimizer, seed=seed, **options)
    if given.start is not None:
        take_weights(module, given.start)
    trainer = pl.Trainer(
        accelerator={"cuda": "gpu"}.get(device, device), devices=1, precision=precision, max_steps=given.steps,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        log_every_n_steps=1,  # every step is heard
    )  # fmt: skip
    trainer.fit(module, train_dataloaders=batches)
    module.cpu()
    return {name: torch.stack([step[name] for step in module.heard]).tolist() for name in module.common()}


class Listening(AgingModule):
    """The training stage, which keeps what it logs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heard: list[dict[str, Tensor]] = []

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
        size = len(dataset)
        kept = min(size, batch * count, 256)
        pixels = torch.stack([dataset[index]["faces"] for index in range(kept)])
        order = [torch.arange(start, start + batch) % kept for start in range(0, batch * count, batch)]
        self.batches = [(to_unit_range(pixels[rows]), rows) for rows in order]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return ({"faces": faces, "index": rows} for faces, rows in self.batches)


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
