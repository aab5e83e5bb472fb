"""Distributed training does the work of one process with the joined batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def run(accelerator: str, devices: int, graph: str, output: Path, stage: str = "aging") -> dict:
    command = [sys.executable, "-m", "tests.modules.ddp_run", accelerator, str(devices), graph, str(output), stage]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(output, weights_only=True)


def assert_same(together: dict, alone: dict, rounding: float = 1e-5) -> None:
    losses, expected = torch.tensor(together["losses"]), torch.tensor(alone["losses"])
    torch.testing.assert_close(losses[0], expected[0], rtol=1e-6, atol=0)  # before any update
    torch.testing.assert_close(losses, expected, rtol=rounding, atol=0)
    for name, weight in alone["weights"].items():
        got = together["weights"][name]
        assert (got - weight).double().norm() <= 10 * rounding * weight.double().norm().clamp_min(0.1), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict:
    return run("cpu", 1, "dynamic", tmp_path_factory.mktemp("ddp") / "one.pt")


@pytest.mark.parametrize("graph", ["dynamic", "static", "recorded"])
def test_two_processes_equal_one_with_the_joined_batch(alone: dict, graph: str, tmp_path: Path) -> None:
    assert_same(run("cpu", 2, graph, tmp_path / "two.pt"), alone)


def test_two_processes_invert_as_one_with_the_joined_batch(tmp_path: Path) -> None:
    alone, together = (run("cpu", n, "dynamic", tmp_path / f"{n}.pt", "inversion") for n in (1, 2))
    assert_same(together, alone)
    assert_same(run("cpu", 2, "recorded", tmp_path / "recorded.pt", "inversion"), alone)


def test_statistics_that_ranks_learn_for_themselves_are_the_same_on_all(alone: dict, tmp_path: Path) -> None:
    together = run("cpu", 2, "statistics", tmp_path / "two.pt")  # which looks at each step
    name = "input_layer.1.running_mean"
    assert not torch.equal(together["weights"][name], alone["weights"][name])


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("stage", ["aging", "inversion"])
@pytest.mark.parametrize("graph", ["dynamic", "static"])
def test_two_gpus_equal_one_with_the_joined_batch_and_shared_statistics(graph: str, stage: str, tmp_path: Path) -> None:
    one = run("gpu", 1, graph, tmp_path / "one.pt", stage)
    # cuDNN convolves batches of two and of four by other algorithms
    assert_same(run("gpu", 2, graph, tmp_path / "two.pt", stage), one, rounding=1e-4)
