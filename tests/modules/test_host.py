"""A step leaves the host alone: nothing on the GPU waits for it, and a CUDA graph can record all of it."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from benchmarks.networks import random_losses, random_sam
from sam_age.modules.aging import AgingModule
from sam_age.modules.frozen import CastOnce
from sam_age.optim.ranger import Ranger
from tests.modules.fake_gpu import on_a_gpu
from tests.modules.test_aging import ranger, tiny_module
from tests.modules.test_inversion import tiny_inversion


@pytest.mark.parametrize("aging", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_an_aging_step_asks_nothing_of_the_host(aging: bool, channels_last: bool, monkeypatch) -> None:
    module = tiny_module(channels_last=channels_last).train()
    with on_a_gpu(module, monkeypatch) as work:
        faces, age = torch.empty(2, 3, 256, 256, device="cuda"), torch.empty(2, device="cuda")
        total, _ = module.take_gradients(faces, age, aging=aging)
        assert total.device.type == "cuda"
    assert work.seen == []


def test_a_step_of_the_full_size_asks_nothing_of_the_host(monkeypatch) -> None:
    """The paper's networks themselves, with nothing in them but shapes."""
    with torch.device("meta"):
        sam, losses = random_sam("1024"), random_losses("1024")
    module = AgingModule(sam, losses, ranger, channels_last=True, cast_once=True).train()
    with on_a_gpu(module, monkeypatch) as work:
        module.frozen = CastOnce((sam.pretrained_encoder, losses), torch.bfloat16)
        faces, age = torch.empty(2, 3, 256, 256, device="cuda"), torch.empty(2, device="cuda")
        for aging in (True, False):
            module.step_gradients(faces, age, aging=aging)
    assert work.seen == []


def test_rangers_steps_ask_nothing_of_the_host(monkeypatch) -> None:
    module = tiny_module(optimizer=Ranger, ema_decay=0.9)
    with on_a_gpu(module, monkeypatch) as work:
        optimizer = module.configure_optimizers()
        for _ in range(12):  # plain and rectified steps, and two meetings of slow and fast weights
            for parameter in module.sam.encoder.parameters():
                parameter.grad = torch.empty_like(parameter)
            optimizer.step()
            module.update_average()
    assert work.seen == []


def test_an_inversion_step_asks_nothing_of_the_host(monkeypatch) -> None:
    module = tiny_inversion(sampled_share=0.5).train()
    with on_a_gpu(module, monkeypatch) as work:
        module.take_gradients(torch.empty(4, 3, 256, 256, device="cuda"))
    assert work.seen == []


@pytest.mark.parametrize("ask", [lambda x: x.sum().item(), lambda x: x[x > 0]])
def test_what_waits_for_a_value_cannot_pass(ask, monkeypatch) -> None:
    with (
        on_a_gpu(tiny_inversion(), monkeypatch),
        pytest.raises((DataDependentOutputException, DynamicOutputShapeException)),
    ):
        ask(torch.empty(2, device="cuda"))


def test_what_comes_from_the_host_is_seen(monkeypatch) -> None:
    with on_a_gpu(tiny_inversion(), monkeypatch) as work:
        torch.empty(2, device="cuda") + torch.tensor([1.0, 2.0]).to("cuda")
    assert work.seen
