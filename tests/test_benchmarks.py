"""The benchmarks run, and measure what they say."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import measure, networks
from sam_age.models.sam import SAM
from tests.golden import manifest

ROOT = Path(__file__).resolve().parents[1]


def run(program: list[str], **environment: str) -> subprocess.CompletedProcess:
    """A process of its own, from the root of the repository, on one core."""
    done = subprocess.run(
        [sys.executable, *program],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_the_examples_in_the_helpers_are_true():
    assert doctest.testmod(measure).failed == 0


def test_peak_memory_counts_what_was_held_and_keeps_it_once_freed():
    program = (
        "from benchmarks.measure import peak_memory\n"
        "before = peak_memory()\n"
        "held = bytearray(b'x') * 300_000_000\n"
        "del held\n"
        "print(before, peak_memory())\n"
    )
    before, after = map(int, run(["-c", program]).stdout.split())
    assert after - before == pytest.approx(300e6, rel=0.02)


def test_a_child_does_not_inherit_the_peak_memory_of_its_parent():
    held = bytearray(b"x") * 600_000_000
    del held
    program = "from benchmarks.measure import peak_memory; print(peak_memory())"
    assert int(run(["-c", program]).stdout) < 300_000_000 < measure.peak_memory()


def test_the_model_that_is_measured_has_the_tensors_of_the_authors_file():
    with torch.device("meta"):
        state = networks.random_sam("1024").state_dict()
    official = {name: shape for name, (shape, _) in manifest("sam1024")["state_dict"].items()}
    ours = {name: list(tensor.shape) for name, tensor in state.items() if name != "latent_avg"}
    assert ours == official


def test_the_objective_that_is_measured_has_the_papers_weights():
    losses = networks.random_losses("tiny")
    # METHOD: L2 0.25, crop 1, LPIPS 0.1, crop 0.6, identity 0.1, age 5, w-norm 0.005
    assert losses.weights == {
        "l2": 0.25,
        "l2_aging": 0.25,
        "l2_crop": 1.0,
        "lpips": 0.1,
        "lpips_aging": 0.1,
        "lpips_crop": 0.6,
        "identity": 0.1,
        "age": 5.0,
        "w_norm": 0.005,
    }
    assert losses.weighted_identity


def test_stages_are_timed_while_the_block_runs_and_sam_is_left_as_it_was():
    from benchmarks.inference_cpu import stage_times

    sam = networks.random_sam("tiny")
    with stage_times(sam) as stages:
        inversion = sam.encode(torch.zeros(1, 3, 256, 256))
        sam.edit(torch.zeros(1, 3, 256, 256), torch.tensor([30.0]), inversion)
    assert {name: len(values) for name, values in stages.items()} == {"encode": 1, "edit": 1, "synthesize": 0}
    assert "encode" not in vars(sam)
    assert sam.encode.__func__ is SAM.encode


@pytest.mark.slow
def test_the_inference_benchmark_measures_loading_and_ageing():
    arguments = ["--size", "tiny", "--ages", "2", "--repeats", "1", "--load-repeats", "1", "--threads", "1"]
    result = json.loads(run(["-m", "benchmarks.inference_cpu", *arguments]).stdout)
    assert set(result["loading"]) == {"authors", "float32", "float16", "authors, torch.load"}
    # bytes a number: 4 and 2; the JSON metadata and the 1-D tensors left at 4 come on top
    assert 4 < result["loading"]["float32"]["file_bytes"] / result["parameters"] < 4.3
    assert 2 < result["loading"]["float16"]["file_bytes"] / result["parameters"] < 2.3
    aging = result["aging"]["2"]
    assert aging["seconds"]["count"] == 1
    stages = [stage["median"] for stage in aging["stage_seconds"].values()]
    assert 0 < sum(stages) <= aging["seconds"]["median"]  # one call: its parts are within the whole


WITHOUT = (
    "import sys, importlib.abc\n"
    "class Absent(importlib.abc.MetaPathFinder):\n"
    "    names = {'hydra', 'omegaconf', 'kornia', 'lpips', 'facenet_pytorch', 'wandb', 'pytorch_optimizer'}\n"
    "    def find_spec(self, name, path=None, target=None):\n"
    "        if name.partition('.')[0] in self.names:\n"
    "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
    "sys.meta_path.insert(0, Absent())\n"
    "sys.argv = ['training_step', *sys.argv[1:]]\n"
    "from benchmarks.training_step import main\n"
    "main()\n"
)
STEP = ["--size", "tiny", "--device", "cpu", "--batch", "2", "--steps", "2", "--warmup", "1"]


@pytest.mark.slow
def test_the_training_benchmark_runs_with_torch_and_lightning_alone():
    done = run(["-W", "ignore", "-c", WITHOUT, *STEP])
    result = json.loads(done.stdout)
    assert "Adam instead of ranger" in done.stderr
    assert result["optimizer"] == "adam"
    assert result["step_seconds"]["count"] == 2
    # two steps of two images, and the time between them
    assert result["images_per_second"] == pytest.approx(2 / result["step_seconds"]["median"], rel=0.5)


@pytest.mark.slow
def test_the_host_reads_nothing_back_in_a_step_but_its_own_draw():
    result = json.loads(run(["-W", "ignore", "-m", "benchmarks.training_step", *STEP, "--steps", "1"]).stdout)
    assert result["host_reads"] == ["aging.py: draw"]  # a number of a generator that lives on the host
