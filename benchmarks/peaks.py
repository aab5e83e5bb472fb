"""What the device can do at most: arithmetic and memory traffic, to hold other figures against.

    python -m benchmarks.peaks                 the GPU, or the processor where there is none

The largest of several repetitions each: a bfloat16 and a float32 matrix product of random numbers (of zeros it would be
faster: the chip draws less power), and copying within the device's memory, bytes read and bytes written counted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

from benchmarks.measure import machine, report

TERA, GIGA = 1e12, 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    given = parser.parse_args()
    device = given.device if given.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    found = measured(device)
    report({"benchmark": "peaks", "machine": machine(), "device": device, **found}, [row(found)])


@lru_cache
def measured(device: str) -> dict[str, float]:
    """FLOP/s of matrix products and bytes/s of copying; a second on a GPU, asked for once a process.

    Returns:
        `bfloat16_flops`, `float32_flops` (TF32 where PyTorch is set to it) and `memory_bytes`, each a second.
    """
    cuda = torch.device(device).type == "cuda"
    side, copied = (8192, 2**30) if cuda else (2048, 2**27)
    found = {}
    for dtype in (torch.bfloat16, torch.float32):
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        seconds = best(lambda left=left, right=right: left @ right, device)
        found[f"{str(dtype).removeprefix('torch.')}_flops"] = 2 * side**3 / seconds
    source = torch.randint(0, 255, (copied,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found["memory_bytes"] = 2 * copied / best(lambda: target.copy_(source), device)
    return found


def best(work: Callable[[], Any], device: str, repeats: int = 10) -> float:
    """Seconds of the fastest of some calls."""
    for _ in range(3):
        work()
    if torch.device(device).type != "cuda":
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        return min(seconds)
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in marks:
        start.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return min(start.elapsed_time(end) for start, end in marks) / 1000


def row(found: dict[str, float]) -> dict[str, Any]:
    return {
        "bfloat16 TFLOP/s": found["bfloat16_flops"] / TERA,
        "float32 TFLOP/s": found["float32_flops"] / TERA,
        "memory GB/s": found["memory_bytes"] / GIGA,
    }


if __name__ == "__main__":
    main()
