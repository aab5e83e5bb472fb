"""Gradient centralisation in one pass, in Triton's interpreter: in a process of its own, as it must be asked for before
Triton is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
from sam_age.optim.centralising import centralise, serves

HERE = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.mark.skipif(not HERE, reason="run by test_the_kernel_in_the_interpreter")
@pytest.mark.parametrize("shape", [(3, 5), (4, 130, 3, 3), (2, 8, 1, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_each_output_loses_its_mean(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    gradient = torch.randn(shape) + 3
    gradient = gradient.contiguous(memory_format=layout) if len(shape) == 4 else gradient
    wide = gradient.double()
    want = wide - wide.mean(tuple(range(1, len(shape))), keepdim=True)
    assert serves(gradient)
    centralise(gradient)
    torch.testing.assert_close(gradient.double(), want, rtol=1e-6, atol=1e-6)


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
    assert not serves(torch.randn(6))  # a bias
    assert not serves(torch.randn(6, 4).T)  # an output's numbers lie apart
    assert not serves(torch.randn(6, 4)[:, :3])
    assert not serves(torch.randn(6, 4, dtype=torch.float64))
