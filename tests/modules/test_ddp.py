"""Distributed training does the work of one process with the joined batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.modules import ddp_run

ROOT = Path(__file__).resolve().parents[2]
ALONE = ["aging.dynamic", "inversion.dynamic", "judges"]
TOGETHER = [
    "aging.dynamic", "aging.static", "aging.recorded", "aging.statistics", "inversion.dynamic", "inversion.recorded",
    "judges", "gan",
]  # fmt: skip


def run(accelerator: str, devices: int, folder: Path, *jobs: str) -> Path:
    """The folder, with what the jobs left there."""
    command = [sys.executable, "-m", "tests.modules.ddp_run", accelerator, str(devices), str(folder), *jobs]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def left(folder: Path, name: str) -> dict:
    return torch.load(folder / f"{name}.pt", weights_only=True)


def assert_same(together: dict, alone: dict, rounding: float = 1e-5) -> None:
    losses, expected = torch.tensor(together["losses"]), torch.tensor(alone["losses"])
    torch.testing.assert_close(losses[0], expected[0], rtol=1e-6, atol=0)  # before any update
    torch.testing.assert_close(losses, expected, rtol=rounding, atol=0)
    for name, weight in alone["weights"].items():
        got = together["weights"][name]
        assert (got - weight).double().norm() <= 10 * rounding * weight.double().norm().clamp_min(0.1), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """What one process, this one, makes of the joined batches."""
    folder = tmp_path_factory.mktemp("alone")
    ddp_run.main("cpu", 1, folder, ALONE)
    return folder


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """What two processes make of halves of them, and all else that takes two."""
    return run("cpu", 2, tmp_path_factory.mktemp("together"), *TOGETHER)


@pytest.mark.parametrize("job", ["aging.dynamic", "aging.static", "aging.recorded"])
def test_two_processes_equal_one_with_the_joined_batch(alone: Path, together: Path, job: str) -> None:
    assert_same(left(together, job), left(alone, "aging.dynamic"))


@pytest.mark.parametrize("job", ["inversion.dynamic", "inversion.recorded"])
def test_two_processes_invert_as_one_with_the_joined_batch(alone: Path, together: Path, job: str) -> None:
    assert_same(left(together, job), left(alone, "inversion.dynamic"))


def test_statistics_that_ranks_learn_for_themselves_are_the_same_on_all(alone: Path, together: Path) -> None:
    found = left(together, "aging.statistics")  # a run that looks at each step
    name = "input_layer.1.running_mean"
    assert not torch.equal(found["weights"][name], left(alone, "aging.dynamic")["weights"][name])


def test_two_processes_judge_as_one(alone: Path, together: Path) -> None:
    one, two = left(alone, "judges"), left(together, "judges")
    for name, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weight, rtol=1e-4, atol=1e-5, msg=name)
    # fifteen faces: the ranks' shares differ in length
    assert {"val/age_age_spearman", "val/identity_eer", "val/identity_cosine_same"} <= set(one["scores"])
    assert two["scores"] == pytest.approx(one["scores"], abs=1e-3, nan_ok=True)


def test_a_gan_on_two_processes_shares_gradients_and_keeps_the_same_weights(together: Path) -> None:
    one, two = (left(together, f"gan_rank{rank}") for rank in (0, 1))
    assert one["steps"] == two["steps"] == 3
    assert len(one["exchanged"]) == 3 + 2 + 3 + 2  # both losses, R1 and path lengths at steps 0 and 2
    for (mine, after), (theirs, too) in zip(one["exchanged"], two["exchanged"], strict=True):
        assert not torch.equal(mine, theirs)  # other faces, codes and noise
        torch.testing.assert_close(after, (mine + theirs) / 2)
        assert torch.equal(after, too)
    for name, tensor in one["state"].items():
        assert torch.equal(tensor, two["state"][name]), name
    assert one["state"]["progress.images"] == 12
    assert torch.equal(one["kid"], two["kid"])


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("stage", ["aging", "inversion"])
@pytest.mark.parametrize("graph", ["dynamic", "static"])
def test_two_gpus_equal_one_with_the_joined_batch_and_shared_statistics(graph: str, stage: str, tmp_path: Path) -> None:
    job = f"{stage}.{graph}"
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, devices in ((one, 1), (two, 2)):
        folder.mkdir()
        run("gpu", devices, folder, job)
    # cuDNN convolves batches of two and of four by other algorithms
    assert_same(left(two, job), left(one, job), rounding=1e-4)
