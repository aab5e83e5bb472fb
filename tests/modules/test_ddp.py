"""Distributed training does the work of one process with the joined batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sam_age.modules.frozen import CastForAStep
from sam_age.modules.ranks import average_over_ranks, average_what_a_step_left
from tests.modules import ddp_run
from tests.modules.test_frozen import needs_half_gradients

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


@pytest.fixture
def other_rank(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Two ranks in one process: the other one has twice what this one sends. What was sent."""
    sent: list[torch.Tensor] = []

    def all_reduce(tensor: torch.Tensor) -> None:
        sent.append(tensor.clone())
        tensor.mul_(3)

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    return sent


def test_an_average_over_ranks_is_one_whatever_the_layouts(other_rank: list[torch.Tensor]) -> None:
    tensors = [
        torch.randn(3, 4, 2, 2).contiguous(memory_format=torch.channels_last), torch.randn(5),
        torch.randn(4, 6)[:, ::2], torch.tensor(2.0), torch.randn(4, 3, 1, 1),
    ]  # fmt: skip
    kept = [tensor.clone() for tensor in tensors]
    average_over_ranks(tensors)
    for tensor, before in zip(tensors, kept, strict=True):
        torch.testing.assert_close(tensor, 1.5 * before)
    assert len(other_rank) == 1
    assert other_rank[0][:48].equal(kept[0].permute(0, 2, 3, 1).flatten())  # sent as it lies in memory


@pytest.mark.parametrize("halves", [False, pytest.param(True, marks=needs_half_gradients)])
def test_gradients_made_in_half_precision_are_exchanged_in_it(other_rank: list[torch.Tensor], halves: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    cast = CastForAStep(network, torch.bfloat16, halves=halves)
    with cast.in_use(), torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(2, 3, 8, 8)).float().square().sum().backward()
    kept = [parameter.grad.clone() for parameter in network.parameters()]
    average_what_a_step_left(network, cast)
    assert [tensor.dtype for tensor in other_rank] == [torch.bfloat16, torch.float32]
    sent = torch.cat([gradient.float().flatten() for gradient in kept[:2]])
    assert other_rank[0].float().equal(sent)  # nothing is lost on the way
    for parameter, before in zip(network.parameters(), kept, strict=True):
        assert parameter.grad.dtype == before.dtype
        torch.testing.assert_close(parameter.grad.float(), 1.5 * before.float(), rtol=2**-7, atol=0)
    assert kept[0].dtype == (torch.bfloat16 if halves else torch.float32)
