"""How soon the package's own model answers: python tools/time_lifespan.py [--threads 2] [--repeats 5] [--photo FILE]

Fresh processes, each from its start to the first picture, then warm: one age, a further age, eleven at once. Medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

CHILD = """
import json, sys, time
from sam_age import AgingPipeline
loading = time.time()
sam = AgingPipeline.from_pretrained("lifespan", device="cpu")
asking = time.time()
if sys.argv[1]:
    (aged, *_) = sam(sys.argv[1], ages=[70])
else:
    from sam_age.pretrained import portraits
    (aged,) = sam(portraits.inputs()[0], ages=[70], align="never")
first = time.time()

def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start

once = sorted(seconds(lambda: sam.age_faces([aged.face], [70])) for _ in range(5))[2]
all_ages = sorted(seconds(lambda: sam.age_faces([aged.face], range(0, 101, 10))) for _ in range(3))[1]
print(json.dumps({"imports": loading, "load": asking, "first": first, "once": once, "eleven": all_ages}))
"""


def measure(threads: int, photo: str) -> dict[str, float]:
    """One process; seconds."""
    start = time.time()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, photo], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    at = json.loads(done.stdout)
    return {
        "from the process's start to the first picture": at["first"] - start,
        "of it, imports (PyTorch's, mostly)": at["imports"] - start,
        "of it, loading the model": at["load"] - at["imports"],
        "warm: one age, encoded, drawn, both ages read": at["once"],
        "each further age": (at["eleven"] - at["once"]) / 10,
        "eleven ages": at["eleven"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="%(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="processes; %(default)s")
    parser.add_argument("--photo", default="", help="find the face in it first; else a portrait of the package's")
    given = parser.parse_args()
    runs = [measure(given.threads, given.photo) for _ in range(given.repeats)]
    for name in runs[0]:
        times = sorted(run[name] for run in runs)
        print(f"{name:48} {statistics.median(times):6.2f} s   ({times[0]:.2f} to {times[-1]:.2f})")


if __name__ == "__main__":
    main()
