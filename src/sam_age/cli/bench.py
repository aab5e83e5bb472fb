"""sam-bench: how fast this machine is, measured by the programs of benchmarks/."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
FOLDER = next(p for p in (_PACKAGE / "benchmarks", _PACKAGE.parents[1] / "benchmarks") if p.is_dir())
"""benchmarks/ inside the wheel, or at the root of a checkout."""

BENCHMARKS = {
    "all": ("everything", "what is measured on a GPU, part by part, each written to a folder as soon as it is done"),
    "step": ("training_step", "a training step of SAM: images a second, memory, share of the card's peak"),
    "scaling": ("scaling", "a training step on one GPU and on several, in one run"),
    "gan": ("gan_step", "a GAN's step, part by part"),
    "agreement": ("agreement", "does the fast step learn as the plain one: losses of 200 steps of both"),
    "generator": ("generator", "the generator alone: plain and fused, layer by layer, share of the card's peaks"),
    "inference": ("inference", "one face and many at several ages: outputs a second, latency"),
    "inference-cpu": ("inference_cpu", "one face on a processor, stage by stage, and loading the model"),
    "loader": ("loader", "faces a second from folders, zips and shards"),
    "lifespan": ("lifespan", "the portrait renderer: portraits a second, and how well they can be read"),
    "peaks": ("peaks", "what the device can do at most: arithmetic and memory traffic"),
}

USAGE = """usage: sam-bench NAME [options]

Measures on this machine; a table goes to the terminal, JSON to a file if you send it there:

  sam-bench step --batch 16 --precision bf16-mixed > step.json
  sam-bench step --help
  sam-bench all measured --minutes 15

names:
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark that the first argument names; the exit code: 0, or 2 for a name that is none."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    wide = max(map(len, BENCHMARKS))
    usage = USAGE + "".join(f"  {name:<{wide}}  {what}\n" for name, (_, what) in BENCHMARKS.items())
    if not given or given[0] in ("-h", "--help"):
        print(usage, end="")
        return 0
    if given[0] not in BENCHMARKS:
        print(f"sam-bench: there is no benchmark {given[0]!r}; there are {', '.join(BENCHMARKS)}.", file=sys.stderr)
        return 2
    run(BENCHMARKS[given[0]][0], given[1:], prog=f"sam-bench {given[0]}")
    return 0


def run(module: str, arguments: Sequence[str], prog: str | None = None) -> None:
    """`python -m benchmarks.<module> arguments`, from wherever benchmarks/ is."""
    _import_benchmarks()
    program = importlib.import_module(f"benchmarks.{module}")
    before = sys.argv
    sys.argv = [prog or f"benchmarks.{module}", *arguments]
    try:
        program.main()
    finally:
        sys.argv = before


def _import_benchmarks() -> None:
    """The package `benchmarks` is this project's, whatever else is on the path under so plain a name."""
    there = sys.modules.get("benchmarks")
    if there is not None and Path(there.__file__ or "").resolve().parent == FOLDER:
        return
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]
    spec = importlib.util.spec_from_file_location(
        "benchmarks", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules["benchmarks"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--module"]:  # one measurement of a benchmark that gives each a process of its own
        run(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main())
