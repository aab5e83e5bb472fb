"""All that is measured on a GPU, the most wanted first, each part in a process of its own with a limit of its own.

    python -m benchmarks.everything OUTPUT                        fifteen minutes, as far as they reach
    python -m benchmarks.everything OUTPUT --minutes 20 --parts agreement loader
    python -m benchmarks.everything OUTPUT --size tiny            does it run?

First the training step as conf/experiment/fast.yaml has it. OUTPUT gets, after each part, <part>.json and <part>.txt
(the table, and whatever else it said, such as how far it was), and summary.json: what ends early keeps what it has
measured. A part that fails or takes too long is noted, and the next one goes on; one for which too little time is left,
or too few GPUs are there, makes room for those after it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

from benchmarks.measure import report
from benchmarks.networks import SIZES

MODULE = "benchmarks.everything"
PATIENCE = 2
"""A part may take so many times as long as is expected of it."""
AROUND = 40  # seconds that a part which is told its limit has for beginning and ending


@dataclass(frozen=True)
class Part:
    name: str
    program: str  # of benchmarks/
    options: tuple[str, ...]
    seconds: float  # expected on an H200, the start and the first compilations included
    sized: bool = True  # whether it takes --size
    gpus: int = 0  # that it needs
    limited: bool = False  # whether it takes --seconds, and tells of less where these are short


UNCOMPILED = ("--fast", "--uncompiled", "--no-peaks")
PARTS = (
    Part("step-16", "training_step", ("--batch", "16", "--fast"), 240),
    Part("step-6", "training_step", ("--batch", "6", "--fast", "--no-peaks"), 200),
    Part("inference-graphed", "inference", ("--graphed", "--faces", "1", "4", "--ages", "1", "2", "4", "8", "11"), 60),
    Part("inference", "inference", ("--faces", "1", "4"), 45),
    Part("scaling", "scaling", ("--devices", "2", "--batch", "16", "--fast"), 240, gpus=2),
    Part("agreement", "agreement", (), 330, limited=True),
    Part("step-16-uncompiled", "training_step", ("--batch", "16", *UNCOMPILED), 45),
    Part("step-6-uncompiled", "training_step", ("--batch", "6", *UNCOMPILED), 40),
    *(Part(f"growth-batch-{n}", "training_step", (*UNCOMPILED, "--batch", f"{n}"), 40) for n in (1, 2, 4, 8)),
    *(Part(f"growth-pixels-{n}", "inference", ("--pixels", f"{n}"), 40) for n in (256, 512)),
    Part("generator", "generator", (), 120),
    Part("loader", "loader", (), 60, sized=False),
    Part("gan", "gan_step", ("--pixels", "32", "64", "128", "256"), 60, sized=False),
)
NAMES = [part.name for part in PARTS]
DONE = "measured"


def main() -> None:
    given = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the part that runs is ended too
    given.output.mkdir(parents=True, exist_ok=True)
    result = measure(given)
    report(result, result["parts"])
    if not any(row["outcome"] == DONE for row in result["parts"]):
        raise SystemExit(f"everything: nothing was measured; {given.output} says why.")


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(MODULE, description=__doc__, formatter_class=layout)
    parser.add_argument("output", type=Path, help="folder for what is measured")
    parser.add_argument("--minutes", type=float, default=15, help="for all of it")
    parser.add_argument("--parts", nargs="+", choices=NAMES, default=NAMES, metavar="PART", help=", ".join(NAMES))
    parser.add_argument("--size", choices=SIZES, default="1024", help="conf/model/sam_<size>.yaml")
    return parser


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Every part asked for, in the order of `PARTS`; the summary is written anew after each."""
    end = time.monotonic() + 60 * given.minutes
    rows: list[dict[str, Any]] = []
    result = {"benchmark": "everything", "size": given.size, "parts": rows}  # each part tells of its machine
    for part in PARTS:
        if part.name not in given.parts:
            continue
        start = time.monotonic()
        left = end - start
        if part.gpus > torch.cuda.device_count():
            outcome = f"left out: it needs {part.gpus} GPUs"
        elif left < (part.seconds / 2 if part.limited else part.seconds):
            outcome = f"left out: {max(0.0, left):.0f} s were left, {part.seconds:.0f} are expected"
        else:
            outcome = run(part, given, min(left, PATIENCE * part.seconds))
        rows.append({"part": part.name, "seconds": time.monotonic() - start, "outcome": outcome})
        (given.output / "summary.json").write_text(json.dumps(result, indent=2), encoding="utf-8")
        print(f"{part.name}: {outcome}, {rows[-1]['seconds']:.0f} s", file=sys.stderr, flush=True)
    return result


def run(part: Part, given: argparse.Namespace, limit: float) -> str:
    """One part, its JSON and its tables written to files; what came of it."""
    options = (*part.options, "--size", given.size) if part.sized else part.options
    if part.limited:
        options = (*options, "--seconds", f"{max(1.0, limit - AROUND):.0f}")
    made, said = given.output / f"{part.name}.json", given.output / f"{part.name}.txt"
    begun = made.with_suffix(".part")  # a .json is whole
    with begun.open("w", encoding="utf-8") as out, said.open("w", encoding="utf-8") as err:
        code = in_time([sys.executable, "-m", "sam_age.cli.bench", "--module", part.program, *options], limit, out, err)
    if code != 0:
        begun.unlink()
    if code is None:
        return f"stopped after {limit:.0f} s"
    if code:
        lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"failed with exit code {code}: {''.join(lines[-1:])[:200]}"
    begun.replace(made)
    print(f"\n{said.read_text(encoding='utf-8', errors='replace').strip()}", file=sys.stderr)
    return DONE


def in_time(command: Sequence[str], limit: float, out: TextIO, err: TextIO) -> int | None:
    """The command's exit code; None where it took longer than `limit` seconds and was ended, with all it had begun."""
    process = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            with contextlib.suppress(AttributeError):  # Windows has no groups
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
