"""Ranger's one pass, in Triton's interpreter: in a process of its own, as it must be asked for before Triton is
imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("triton")
from sam_age.optim import one_pass
from sam_age.optim.ranger import Ranger

HERE = os.environ.get("TRITON_INTERPRET") == "1"
HALVES = hasattr(torch.Tensor, "grad_dtype")
SETTINGS = {"lr": 1e-2, "betas": (0.95, 0.999), "eps": 1e-5, "weight_decay": 0.1}
SHAPES = ((4, 3, 3, 3), (3, 300, 3, 3), (5, 7), (6, 8, 1, 1), (9,))


def weights(dtype: torch.dtype, layout: torch.memory_format) -> list[nn.Parameter]:
    torch.manual_seed(0)
    made = [torch.randn(shape) for shape in SHAPES]
    return [nn.Parameter(x.to(dtype).contiguous(memory_format=layout) if x.ndim == 4 else x.to(dtype)) for x in made]


def run(optimizer: Ranger, parameters: list[nn.Parameter], halves: torch.dtype, steps: int = 8) -> None:
    """Gradients that `halves` holds, whatever type they come in."""
    for step in range(steps):
        torch.manual_seed(step)
        for parameter in parameters:
            gradient = (torch.randn(parameter.shape) + 1).to(halves)
            keeps = getattr(parameter, "grad_dtype", torch.float32) == halves
            parameter.grad = torch.empty_like(parameter, dtype=halves if keeps else parameter.dtype).copy_(gradient)
        optimizer.step()


@pytest.mark.skipif(not HERE, reason="run by test_the_kernel_in_the_interpreter")
@pytest.mark.parametrize("halves", [torch.float32, torch.bfloat16] if HALVES else [torch.float32])
@pytest.mark.parametrize(
    ("layout", "more"),
    [
        (torch.contiguous_format, {}),
        (torch.channels_last, {"use_gc": False}),
        (torch.channels_last, {"k": 4, "weight_decay": 0.0}),
    ],
)
def test_it_goes_where_float64_goes(layout: torch.memory_format, halves: torch.dtype, more: dict) -> None:
    """Through the first steps, which do not adapt, and meetings with the slow weights."""
    ours, wide = weights(torch.float32, layout), weights(torch.float64, layout)
    optimizers = [Ranger(some, fused=some is ours, **SETTINGS | more) for some in (ours, wide)]
    assert optimizers[0].takes_half_gradients == HALVES
    for parameter in ours if HALVES else ():
        parameter.grad_dtype = halves
    for optimizer, some in zip(optimizers, (ours, wide), strict=True):
        run(optimizer, some, halves)
    for mine, other in zip(ours, wide, strict=True):
        torch.testing.assert_close(mine.double(), other, rtol=1e-5, atol=1e-6)
        for name, state in optimizers[0].state[mine].items():
            torch.testing.assert_close(state.double(), optimizers[1].state[other][name], rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not HERE, reason="run by test_the_kernel_in_the_interpreter")
def test_every_step_counts_as_a_change_of_the_weights() -> None:
    ours = weights(torch.float32, torch.contiguous_format)
    optimizer = Ranger(ours, fused=True)
    before = [parameter._version for parameter in ours]
    run(optimizer, ours, torch.float32, steps=1)
    assert all(parameter._version > version for parameter, version in zip(ours, before, strict=True))


@pytest.mark.skipif(HERE, reason="the process that it starts is this one")
def test_the_kernel_in_the_interpreter() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore", __file__]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, encoding="utf-8", check=False)
    if "only 0-dimensional arrays can be converted" in done.stdout:
        pytest.skip("this Triton's interpreter has no loops with this numpy (3.6 with 2.4 and later)")
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout, done.stdout[-500:]


def test_it_leaves_what_it_cannot_do() -> None:
    some = torch.randn(6, 4)
    assert one_pass.serves(some, some, some, some, some)
    assert one_pass.serves(some, some.bfloat16(), some, some, some)
    assert not one_pass.serves(some.T, some.T, some.T)  # an output's numbers lie apart
    assert not one_pass.serves(some[:, :3], some[:, :3])
    assert not one_pass.serves(some.double(), some.double())
    assert not one_pass.serves(some, torch.randn(4, 6).T)  # not in the weights' order
