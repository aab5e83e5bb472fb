"""Steps recorded as CUDA graphs are the steps themselves."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sam_age.errors import InputError
from sam_age.modules.graphed import PATIENCE, WARM_UP, Graphed
from tests.modules.test_aging import fit, tiny_module
from tests.modules.test_inversion import tiny_inversion

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_on_a_cpu_a_step_is_what_it_was() -> None:
    module = tiny_module(graphed=True)
    fit(module, torch.zeros(2, 3, 256, 256), steps=1)
    assert module.gradients == module.step_gradients


def test_several_processes_are_told_to_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny_module(graphed=True)
    monkeypatch.setattr(type(module), "device", torch.device("cuda"))
    module._trainer = SimpleNamespace(world_size=2)
    with pytest.raises(InputError, match=r"module\.graphed=true is for one process"):
        module.recorded(module.take_gradients, module.sam.encoder.parameters())


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


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("make", [tiny_module, tiny_inversion])
def test_a_graphed_run_ends_where_a_plain_one_does(make) -> None:
    faces = torch.rand(16, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ends = []
    for graphed in (False, True):
        module = make(graphed=graphed)
        fit(module, faces, steps=4 * (WARM_UP + 2), accelerator="gpu")
        ends.append(module.state_dict())
    for name, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][name], tensor, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.gpu
@needs_gpu
def test_a_recorded_run_with_weights_cast_once_ends_where_a_plain_one_does() -> None:
    faces = torch.rand(16, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ends = []
    for fast in (False, True):
        module = tiny_module(graphed=fast, cast_once=fast)
        fit(module, faces, steps=4 * (WARM_UP + 2), accelerator="gpu", precision="bf16-mixed")
        ends.append(module.state_dict())
    for name, tensor in ends[0].items():
        assert ends[1][name].dtype == tensor.dtype
        torch.testing.assert_close(ends[1][name], tensor, rtol=1e-2, atol=5e-4, msg=name)
