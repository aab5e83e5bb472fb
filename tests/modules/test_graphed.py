"""Steps recorded as CUDA graphs are the steps themselves."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.utils._pytree import tree_leaves

from sam_age.errors import InputError
from sam_age.modules.graphed import PATIENCE, WARM_UP, Graphed
from sam_age.modules.memory import ran_out
from sam_age.modules.ranks import RecordedDDP
from sam_age.modules.stage import Stage
from sam_age.optim.ranger import Ranger
from tests.modules.test_aging import fit, tiny_module
from tests.modules.test_gan import fit as fit_gan
from tests.modules.test_gan import tiny_gan
from tests.modules.test_inversion import tiny_inversion

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_on_a_cpu_a_step_is_what_it_was() -> None:
    module = tiny_module(graphed=True)
    fit(module, torch.zeros(2, 3, 256, 256), steps=1)
    assert module.gradients == module.step_gradients


def test_several_processes_are_told_which_strategy_records(monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny_module(graphed=True)
    monkeypatch.setattr(type(module), "device", torch.device("cuda"))
    module._trainer = SimpleNamespace(world_size=2, strategy=DDPStrategy())
    with pytest.raises(InputError, match=r"module\.graphed=true needs strategy=ddp_recorded"):
        module.recorded(module.take_gradients, module.sam.encoder.parameters())
    module._trainer.strategy = RecordedDDP()
    assert isinstance(module.recorded(module.take_gradients, module.sam.encoder.parameters()), Graphed)


def test_shared_batch_statistics_cannot_be_recorded() -> None:
    strategy = RecordedDDP()
    strategy._layer_sync = object()  # as trainer.sync_batchnorm=true sets it
    with pytest.raises(InputError, match=r"trainer\.sync_batchnorm=false"):
        strategy.configure_ddp()


@pytest.mark.parametrize(("kinds", "first"), [(1, WARM_UP), (2, 2 * WARM_UP + 1)])
def test_recording_waits_until_every_kind_is_warm(kinds: int, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    graphed = Graphed(lambda x, *, sign: None, [], kinds)
    replays = SimpleNamespace(replay=lambda tensors: done.append("replay"))
    monkeypatch.setattr(graphed, "_plainly", lambda *args: done.append("plain"))
    monkeypatch.setattr(graphed, "_record", lambda *args: replays)
    for call in range(20):
        graphed(torch.zeros(2), sign=kinds == 2 and call % 2 == 0)
    assert done.index("replay") == first
    assert "plain" not in done[first + 1 :]


def test_a_kind_that_never_comes_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    graphed = Graphed(lambda x: None, [], kinds=2)
    monkeypatch.setattr(graphed, "_plainly", lambda *args: "plain")
    monkeypatch.setattr(graphed, "_record", lambda *args: SimpleNamespace(replay=lambda tensors: "replay"))
    done = [graphed(torch.zeros(2)) for _ in range(PATIENCE + 2)]
    assert done[PATIENCE - 1 :] == ["plain", "replay", "replay"]


def broken_recording(monkeypatch: pytest.MonkeyPatch, error: Exception) -> Graphed:
    """Its function raises when it is recorded; and so does the end of the recording, as CUDA's does."""

    @contextlib.contextmanager
    def graph(*args, **kwargs):
        try:
            yield
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    def function(x: torch.Tensor) -> None:
        raise error

    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    graphed = Graphed(function, [])
    monkeypatch.setattr(graphed, "_plainly", lambda *args: None)
    for _ in range(WARM_UP):
        graphed(torch.zeros(2))
    return graphed


def test_a_step_that_cannot_be_recorded_says_why_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    graphed = broken_recording(monkeypatch, RuntimeError("CUDA error: operation not permitted\nwhen capturing."))
    with pytest.raises(InputError, match=r"operation not permitted\): set module\.graphed=false") as raised:
        graphed(torch.zeros(2))
    assert "during capture" in str(raised.value.__cause__)


def test_a_recording_that_runs_out_of_memory_says_that(monkeypatch: pytest.MonkeyPatch) -> None:
    graphed = broken_recording(monkeypatch, torch.OutOfMemoryError("Tried to allocate 2.00 GiB."))
    with pytest.raises(RuntimeError) as raised:
        graphed(torch.zeros(2))
    assert ran_out(raised.value)


@pytest.mark.gpu
@needs_gpu
def test_a_recording_computes_what_the_function_does() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).cuda()
    twin = copy.deepcopy(network)

    def gradients(of: nn.Module, x: torch.Tensor, sign: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = of(x).square().mean() * (1 if sign else -1)
        loss.backward()
        return loss.detach(), {"size": x.norm()}

    recorded = Graphed(lambda x, *, sign: gradients(network, x, sign), network.parameters())
    for call in range(4 * (WARM_UP + 2)):
        x, sign = torch.randn(5, 4, device="cuda"), call % 3 > 0
        for one in (network, twin):
            one.zero_grad()
        loss, terms = recorded(x, sign=sign)
        want, _ = gradients(twin, x, sign)
        torch.testing.assert_close(loss, want)
        torch.testing.assert_close(terms["size"], x.norm())
        for mine, theirs in zip(network.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad)
            with torch.no_grad():
                mine -= 0.1 * mine.grad
                theirs -= 0.1 * theirs.grad
    assert len(recorded.recordings) == 2
    places = [{grad.data_ptr() for _, grad in one.gradients} for one in recorded.recordings.values()]
    assert places[0] == places[1]


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 as it is, by the same algorithms in every run."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Moves weights as far as gradients differ; optimizers that divide by a gradient's size turn rounding around 0 into
    whole steps."""
    return torch.optim.SGD(parameters, lr=1e-3)


def ranger(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """So far from 0 that it hardly divides; it takes gradients in half precision."""
    return Ranger(parameters, lr=1e-3, eps=10.0)


def trained(make: Callable[..., Stage], precision: str = "32-true", **settings: Any) -> tuple[torch.Tensor, int]:
    """What the stage has learnt after some steps, and how many recordings they were made with."""
    faces = torch.rand(16, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    module = make(**{"optimizer": sgd} | settings)
    fit(module, faces.repeat(4, 1, 1, 1), steps=6 * (WARM_UP + 2), accelerator="gpu", precision=precision)
    return learnt(module), len(getattr(module.gradients, "recordings", ()))


def learnt(module: Stage) -> torch.Tensor:
    """What learns, in one vector, float64."""
    return torch.cat([p.detach().double().flatten().cpu() for p in module.parameters() if p.requires_grad])


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(
    ("make", "fast", "kinds"),
    [
        (tiny_module, {}, 2),
        (tiny_module, {"cast_once": True}, 2),
        (tiny_module, {"cast_once": True, "optimizer": ranger}, 2),
        (tiny_module, {"side_by_side": 3}, 2),
        (tiny_module, {"side_by_side": 3, "cast_once": True, "compiled": ["encoders", "judges"]}, 2),
        (tiny_inversion, {}, 1),
    ],
    ids=["aging", "cast once", "halves", "side by side", "fast", "inversion"],
)
def test_a_recorded_run_ends_where_a_plain_one_does(
    make: Callable[..., Stage], fast: dict[str, Any], kinds: int, precision: str, exact: None
) -> None:
    """As near as plain runs end to each other, as sums on a GPU have no order, or to a hundredth of their way; in half
    precision a twentieth, or as near to where float32 ends: a compiler leaves out some of a plain run's roundings."""
    start = learnt(make())
    fast = {"optimizer": sgd} | fast
    ends = [trained(make, precision, optimizer=fast["optimizer"])[0] for _ in range(3)]
    recorded, recordings = trained(make, precision, graphed=True, **fast)
    assert recordings == kinds
    way = (ends[0] - start).norm()
    apart = max((ends[0] - end).norm() for end in ends[1:])
    rounding = 1e-2 if precision == "32-true" else 5e-2
    assert way > 0
    distance = (recorded - ends[0]).norm()
    told = f"{distance / way:.4f} of the way from a plain run, which are {apart / way:.4f} apart"
    if precision != "32-true" and distance > max(4 * apart, rounding * way):
        exactly = trained(make, optimizer=fast["optimizer"])[0]
        distance, apart = (recorded - exactly).norm(), (ends[0] - exactly).norm() / 4
        told += f"; from float32 {distance / way:.4f}, a plain run {4 * apart / way:.4f}"
        rounding = 0
    assert distance <= max(4 * apart, rounding * way), told


class Replayed:
    """As recordings answer: always with the first call's containers and tensors, which hold the latest values until
    one that was recorded earlier runs again, in the same memory."""

    def __init__(self, function: Callable[..., Any], *_: Any) -> None:
        self.function, self.results = function, {}

    def __call__(self, *tensors: torch.Tensor, **constants: Any) -> Any:
        result = self.function(*tensors, **constants)
        first = self.results.setdefault(str(constants), result)
        for later in list(self.results.values())[list(self.results).index(str(constants)) + 1 :]:
            for leaf in tree_leaves(later):
                if leaf is not None:
                    leaf.detach().fill_(torch.nan)
        for mine, latest in zip(tree_leaves(first), tree_leaves(result), strict=True):
            if mine is not None:
                mine.detach().copy_(latest.detach())
        return first


def test_a_gan_uses_the_results_of_its_parts_while_they_last_and_leaves_them_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faces = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    ends = []
    for replayed in (False, True):
        module = tiny_gan(graphed=True, r1_every=2, path_every=2)
        if replayed:
            monkeypatch.setattr(Stage, "recorded", lambda self, function, *_, **__: Replayed(function))
        fit_gan(module, faces, steps=6)
        ends.append((learnt(module), module.lazy))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]
    assert ends[0][1].keys() == {"r1", "path_length", "path_penalty"}


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_recorded_gan_ends_where_a_plain_one_does(precision: str, exact: None) -> None:
    """Both losses and both regularisations, as near as plain runs end to each other or to a part of their way."""
    faces = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def trained_gan(**settings: Any) -> tuple[torch.Tensor, int]:
        module = tiny_gan(optimizer=lambda p: torch.optim.SGD(p, lr=1e-3), r1_every=2, path_every=3, **settings)
        fit_gan(module, faces.repeat(8, 1, 1, 1), steps=30, accelerator="gpu", precision=precision)
        return learnt(module), len(getattr(module.part, "recordings", ()))

    start = learnt(tiny_gan())
    ends = [trained_gan()[0] for _ in range(3)]
    recorded, recordings = trained_gan(graphed=True)
    assert recordings == 4
    way = (ends[0] - start).norm()
    apart = max((ends[0] - end).norm() for end in ends[1:])
    assert way > 0
    assert (recorded - ends[0]).norm() <= max(4 * apart, (1e-2 if precision == "32-true" else 5e-2) * way)
