"""Ranger in few passes against the library's, and what it may not do to a step."""

from __future__ import annotations

import copy

import pytest
import torch
from pytorch_optimizer import Ranger as Published
from torch import nn

from sam_age.errors import InputError
from sam_age.optim.ranger import Ranger, laid_out_as
from tests.modules.test_frozen import needs_half_gradients

SETTINGS = {"lr": 1e-2, "betas": (0.95, 0.999), "eps": 1e-5, "weight_decay": 0.1}


def weights(dtype: torch.dtype = torch.float64, layout: torch.memory_format = torch.contiguous_format) -> list:
    torch.manual_seed(0)
    shapes = ((4, 3, 3, 3), (5, 7), (4,), (6, 8, 1, 1), (3, 300, 3, 3))  # the last is longer than a kernel's block
    made = [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes]
    return [nn.Parameter(x.contiguous(memory_format=layout) if x.ndim == 4 else x) for x in made]


def run(optimizer: torch.optim.Optimizer, parameters: list, steps: range, *, rounded: bool = False) -> None:
    """Gradients laid out as their parameters are; rounded: what bfloat16 holds, whatever type they come in."""
    for step in steps:
        torch.manual_seed(step)
        for parameter in parameters:
            gradient = torch.randn(parameter.shape) + 1
            halves = getattr(parameter, "grad_dtype", parameter.dtype) == torch.bfloat16
            made = gradient.bfloat16() if halves or rounded else gradient
            parameter.grad = torch.empty_like(parameter, dtype=torch.bfloat16 if halves else None).copy_(made)
        optimizer.step()


def published(parameters: list) -> Published:
    return Published(parameters, n_sma_threshold=5, degenerated_to_sgd=True, **SETTINGS)


@pytest.mark.parametrize("fused", [True, False])
def test_it_goes_where_the_published_one_goes(fused: bool) -> None:
    ours, theirs = weights(), weights()
    run(Ranger(ours, fused=fused, **SETTINGS), ours, range(25))
    run(published(theirs), theirs, range(25))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fused", [True, False])
def test_a_run_of_the_published_one_goes_on(fused: bool) -> None:
    """With its weights' channels innermost by now, which its state is not."""
    theirs = weights()
    before = published(theirs)
    run(before, theirs, range(8))
    ours = weights(layout=torch.channels_last)
    with torch.no_grad():
        for mine, other in zip(ours, theirs, strict=True):
            mine.copy_(other)
    after = Ranger(ours, fused=fused, **SETTINGS)
    after.load_state_dict(copy.deepcopy(before.state_dict()))  # loading would share tensors
    assert all(s["exp_avg"].stride() == p.stride() for p, s in after.state.items())
    for optimizer, parameters in ((before, theirs), (after, ours)):
        run(optimizer, parameters, range(8, 20))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


def test_the_fused_kernel_resumes_bit_for_bit() -> None:
    straight = weights(torch.float32)
    first = Ranger(straight, fused=True, **SETTINGS)
    run(first, straight, range(8))
    again = [nn.Parameter(p.detach().clone()) for p in straight]
    resumed = Ranger(again, fused=True, **SETTINGS)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    for optimizer, parameters in ((first, straight), (resumed, again)):
        run(optimizer, parameters, range(8, 16))
    assert all(torch.equal(mine, other) for mine, other in zip(straight, again, strict=True))


@pytest.mark.parametrize("fused", [True, False])
def test_every_step_counts_as_a_change_of_the_weights(fused: bool) -> None:
    """Which PyTorch's fused Adam does not see to: who keeps what was made of weights looks at their version."""
    parameters = weights()
    optimizer = Ranger(parameters, fused=fused, k=1000)
    for step in range(10):  # the kernel comes in with the sixth
        before = [parameter._version for parameter in parameters]
        run(optimizer, parameters, range(step, step + 1))
        assert all(p._version > v for p, v in zip(parameters, before, strict=True))


def test_strides_of_axes_of_length_1_do_not_matter() -> None:
    parameter = torch.randn(6, 8, 1, 1).to(memory_format=torch.channels_last)
    gradient = torch.randn(6, 8, 1, 1)
    assert parameter.stride() != gradient.stride()
    same = laid_out_as(parameter, gradient)
    assert same.stride() == parameter.stride()
    assert torch.equal(same, gradient)
    assert same.data_ptr() == gradient.data_ptr()
    other = torch.randn(6, 8, 3, 3)
    assert laid_out_as(other.to(memory_format=torch.channels_last), other) is other


@pytest.mark.parametrize("wrong", [{"lr": -1}, {"k": 0}, {"betas": (0.9, 1.0)}, {"n_sma_threshold": 3}])
def test_settings_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match="Ranger's"):
        Ranger(weights(), **wrong)


def test_what_no_gradient_reached_stays() -> None:
    parameters = weights()
    before = parameters[0].detach().clone()
    for parameter in parameters[1:]:
        parameter.grad = torch.ones_like(parameter)
    Ranger(parameters).step()
    assert torch.equal(parameters[0], before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("halves", [False, pytest.param(True, marks=needs_half_gradients)])
def test_on_a_gpu_it_goes_where_float64_goes(layout: torch.memory_format, halves: bool) -> None:
    there = [nn.Parameter(p.detach().float().cuda()) for p in weights(layout=layout)]
    here = weights()
    optimizer = Ranger(there, **SETTINGS)
    if halves:
        assert optimizer.takes_half_gradients
        for parameter in there:
            parameter.grad_dtype = torch.bfloat16
    run(optimizer, there, range(25), rounded=halves)
    run(Ranger(here, **SETTINGS), here, range(25), rounded=halves)
    for mine, other in zip(there, here, strict=True):
        torch.testing.assert_close(mine.double().cpu(), other, rtol=1e-4, atol=1e-5)
