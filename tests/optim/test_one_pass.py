"""Ranger's one pass, in Triton's interpreter: see `tests.models.test_fused`."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")
from sam_age.optim import one_pass
from sam_age.optim.ranger import Ranger
from tests.models.test_fused import in_the_interpreter
from tests.modules.test_frozen import needs_half_gradients
from tests.optim.test_ranger import SETTINGS, run, weights


@in_the_interpreter
@pytest.mark.parametrize("halves", [False, pytest.param(True, marks=needs_half_gradients)])
@pytest.mark.parametrize(
    ("layout", "more"),
    [
        (torch.contiguous_format, {}),
        (torch.channels_last, {"use_gc": False}),
        (torch.channels_last, {"k": 4, "weight_decay": 0.0}),
    ],
)
def test_it_goes_where_float64_goes(layout: torch.memory_format, halves: bool, more: dict) -> None:
    """Through the first steps, which do not adapt, and meetings with the slow weights."""
    ours, wide = weights(torch.float32, layout), weights(torch.float64, layout)
    optimizers = [Ranger(some, fused=some is ours, **SETTINGS | more) for some in (ours, wide)]
    assert optimizers[0].takes_half_gradients == hasattr(torch.Tensor, "grad_dtype")
    for parameter in ours if halves else ():
        parameter.grad_dtype = torch.bfloat16
    for optimizer, some in zip(optimizers, (ours, wide), strict=True):
        run(optimizer, some, range(8), rounded=halves)
    for mine, other in zip(ours, wide, strict=True):
        torch.testing.assert_close(mine.double(), other, rtol=1e-5, atol=1e-6)
        for name, state in optimizers[0].state[mine].items():
            torch.testing.assert_close(state.double(), optimizers[1].state[other][name], rtol=1e-5, atol=1e-6)


@in_the_interpreter
def test_every_step_counts_as_a_change_of_the_weights() -> None:
    ours = weights(torch.float32)
    optimizer = Ranger(ours, fused=True)
    before = [parameter._version for parameter in ours]
    run(optimizer, ours, range(1))
    assert all(parameter._version > version for parameter, version in zip(ours, before, strict=True))


def test_it_leaves_what_it_cannot_do() -> None:
    some = torch.randn(6, 4)
    assert one_pass.serves(some, some, some, some, some)
    assert one_pass.serves(some, some.bfloat16(), some, some, some)
    assert not one_pass.serves(some.T, some.T, some.T)  # an output's numbers lie apart
    assert not one_pass.serves(some[:, :3], some[:, :3])
    assert not one_pass.serves(some.double(), some.double())
    assert not one_pass.serves(some, torch.randn(4, 6).T)  # not in the weights' order
