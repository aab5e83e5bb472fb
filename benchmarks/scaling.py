"""How a training step of SAM scales over the GPUs of one machine: several of them, then one, in one run.

    python -m benchmarks.scaling --devices 2 --batch 16 --fast              on two GPUs; four minutes, most to compile
    python -m benchmarks.scaling --devices 2 --batch 16 --fast --uncompiled on two GPUs; under a minute
    python -m benchmarks.scaling --devices 2 4 8 --batch 16 --fast
    python -m benchmarks.scaling --devices 2 --size tiny --device cpu --steps 3   does it run?

Each number of devices is `benchmarks.training_step` in processes of its own, one a device, begun together. When all
have taken their steps the first takes as many by itself and exchanges nothing: what is recorded once serves both.
`--batch` is of each device, and what is not named here is handed on. JSON goes to stdout, how far it is and a table to
stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import report

MODULE = "benchmarks.scaling"
PATIENCE = 30  # seconds that the first process has to come to its end when another has failed


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
    """Each number of devices, beside the first of them alone."""
    found = {count: step(count, options) for count in sorted({*devices} - {1})}
    if not found:
        raise SystemExit("scaling: --devices names how many there are besides one, such as 2.")
    alone = next(iter(found.values()))["alone"]
    rows = [_row(1, next(iter(found.values())), alone, alone)]
    rows += [_row(count, result, result, result["alone"]) for count, result in found.items()]
    return {"benchmark": "scaling", "rows": rows, "runs": found}


def _row(count: int, result: dict[str, Any], timed: dict[str, Any], alone: dict[str, Any]) -> dict[str, Any]:
    reserved, share = result["memory_reserved_bytes"], timed["share_of_peak"]
    return {
        "devices": count,
        "batch of each": result["batch"],
        "ms a step": 1000 * timed["step_seconds"]["median"],
        "images/s": timed["images_per_second"],
        "times one": timed["images_per_second"] / alone["images_per_second"],
        "TFLOP/s of each": timed["flops_per_second"] / count / 1e12,
        "of peak": "" if share is None else f"{share:.0%}",
        "reserved GB of the first": "" if reserved is None else reserved / 1e9,
    }


def step(count: int, options: Sequence[str]) -> dict[str, Any]:
    """What `benchmarks.training_step` measures on so many devices, its processes begun at once: left to Lightning,
    the others begin when the first has made its networks.

    Raises:
        RuntimeError: it failed; what it said is on stderr.
    """
    module = ["-m", "benchmarks.training_step", f"--devices={count}", "--alone"]
    command = [sys.executable, *module, *options]
    paths = [path for path in (*sys.path, str(Path.cwd())) if path]  # benchmarks/ may be in the wheel
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    processes = [
        subprocess.Popen(
            command,
            env=environment | {"LOCAL_RANK": str(rank), "RANK": str(rank), "NODE_RANK": "0"},
            stdout=subprocess.DEVNULL if rank else subprocess.PIPE,
            encoding="utf-8",
        )
        for rank in range(count)
    ]
    end = None  # one that fails leaves the others waiting for it, unless the first is alone by then
    try:
        while processes[0].poll() is None and (end is None or time.monotonic() < end):
            if end is None and any(process.poll() for process in processes):
                end = time.monotonic() + PATIENCE
            time.sleep(0.1)
        if processes[0].poll() != 0:
            codes = ", ".join(str(process.poll()) for process in processes)
            raise RuntimeError(f"{' '.join(command)} failed: exit codes {codes}.")
        return json.loads(processes[0].stdout.read())
    finally:
        for process in processes:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    main()
