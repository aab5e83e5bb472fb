"""How a training step of SAM scales over the GPUs of one machine: one of them, then several, in one run.

    python -m benchmarks.scaling --devices 2 --batch 16 --fast              on two GPUs
    python -m benchmarks.scaling --devices 1 2 4 8 --batch 16 --fast
    python -m benchmarks.scaling --devices 2 --size tiny --device cpu --steps 3   does it run?

Each is `benchmarks.training_step` in processes of its own; `--batch` is of each device, and what is not named here is
handed on to it. JSON goes to stdout, a table to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import report

MODULE = "benchmarks.scaling"


def main() -> None:
    given, handed_on = _parser().parse_known_args()
    result = measure(given.devices, handed_on)
    report(result, result["rows"])


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        MODULE,
        description=__doc__,
        formatter_class=layout,
        allow_abbrev=False,  # --device is the step's
    )
    parser.add_argument("--devices", type=int, nargs="+", default=[2], help="how many, besides one")
    return parser


def measure(devices: Sequence[int], options: Sequence[str]) -> dict[str, Any]:
    """One device, then each number of them."""
    found = {count: step(count, options) for count in sorted({1, *devices})}
    alone = found[1]["images_per_second"]
    rows = [
        {
            "devices": count,
            "batch of each": result["batch"],
            "ms a step": 1000 * result["step_seconds"]["median"],
            "images/s": result["images_per_second"],
            "times one": result["images_per_second"] / alone,
        }
        for count, result in found.items()
    ]
    return {"benchmark": "scaling", "rows": rows, "runs": found}


def step(count: int, options: Sequence[str]) -> dict[str, Any]:
    """What `benchmarks.training_step` measures on so many devices.

    Raises:
        RuntimeError: it failed; what it said is on stderr.
    """
    command = [sys.executable, "-m", "benchmarks.training_step", f"--devices={count}", "--no-peaks", *options]
    paths = [path for path in (*sys.path, str(Path.cwd())) if path]  # benchmarks/ may be in the wheel
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, encoding="utf-8", check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with exit code {done.returncode}.")
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
