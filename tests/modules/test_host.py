"""A step leaves the host alone: nothing on the GPU waits for it, and a CUDA graph can record all of it."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from benchmarks.networks import random_losses, random_sam
from sam_age.models.sam import with_age
from sam_age.modules.aging import AgingModule
from sam_age.modules.frozen import CastForAStep, CastOnce
from sam_age.optim.ranger import Ranger
from tests.modules.fake_gpu import on_a_gpu
from tests.modules.test_aging import ranger, tiny_module
from tests.modules.test_inversion import tiny_inversion

MOST_LAUNCHES = 6800
"""Operations that run on the device in the forward work of a full-size step: 6,633 on 2026-11-23, torch 2.15."""


@pytest.mark.parametrize("aging", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_an_aging_step_asks_nothing_of_the_host(aging: bool, channels_last: bool, monkeypatch) -> None:
    module = tiny_module(channels_last=channels_last).train()
    with on_a_gpu(module, monkeypatch) as work:
        faces, age = torch.empty(2, 3, 256, 256, device="cuda"), torch.empty(2, device="cuda")
        total, _ = module.take_gradients(faces, age, aging=aging)
        assert total.device.type == "cuda"
    assert work.seen == []


@pytest.fixture
def full_size() -> AgingModule:
    """The paper's networks themselves, with nothing in them but shapes."""
    with torch.device("meta"):
        sam, losses = random_sam("1024"), random_losses("1024")
    return AgingModule(sam, losses, ranger, channels_last=True, cast_once=True).train()


def test_a_step_of_the_full_size_asks_nothing_of_the_host(full_size: AgingModule, monkeypatch) -> None:
    with on_a_gpu(full_size, monkeypatch) as work:
        full_size.frozen = CastOnce((full_size.sam.pretrained_encoder, full_size.losses), torch.bfloat16)
        full_size.learning = CastForAStep(full_size.sam.encoder, torch.bfloat16)
        faces, age = torch.empty(2, 3, 256, 256, device="cuda"), torch.empty(2, device="cuda")
        for aging in (True, False):
            full_size.step_gradients(faces, age, aging=aging)
    assert work.seen == []


def test_a_step_of_the_full_size_runs_each_network_as_often_as_the_method_and_no_more(
    full_size: AgingModule, monkeypatch
) -> None:
    """Counted, so that a step cannot become slower unseen: convolutions of two passes, of three pictures looked at."""
    sam, losses = full_size.sam, full_size.losses
    with on_a_gpu(full_size, monkeypatch) as work:
        full_size.frozen = CastOnce((sam.pretrained_encoder, losses), torch.bfloat16)
        full_size.learning = CastForAStep(full_size.sam.encoder, torch.bfloat16)
        faces, age = torch.empty(2, 3, 256, 256, device="cuda"), torch.empty(2, device="cuda")
        codes = torch.empty(2, sam.decoder.n_latent, sam.decoder.style_dim, device="cuda")

        def launched(step) -> Counter[str]:
            work.launched.clear()
            step()
            return work.launched.copy()

        def convolutions(step) -> int:
            return launched(step)["convolution"]

        passes = (
            convolutions(lambda: sam.encoder(with_age(faces, age)))
            + convolutions(lambda: sam.encode(faces))  # the source, and the aged face on its way back
            + convolutions(lambda: sam.decoder.synthesize(codes))
        )
        looks = (  # at the source, at the aged and at the recovered face
            convolutions(lambda: losses.age_net(faces))
            + convolutions(lambda: losses.identity_net(faces))
            + 2 * convolutions(lambda: losses.perceptual_net.features(faces))  # whole and cropped
        )
        for aging in (True, False):
            step = launched(lambda aging=aging: full_size.step_gradients(faces, age, aging=aging))
            assert step["convolution"] == 2 * passes + 3 * looks
            assert step.total() < MOST_LAUNCHES


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
