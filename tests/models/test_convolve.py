"""Convolutions that take their own gradients: PyTorch's values, first and second gradients."""

import pytest
import torch
import torch.nn.functional as F

from sam_age.models import convolve
from sam_age.models.convolve import conv2d, conv_transpose2d, weights_left_out
from sam_age.models.ops import Upsample


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only GPUs need, here too."""
    monkeypatch.setattr(convolve, "_differentiates_itself", lambda x: True)
    monkeypatch.setattr(convolve, "_fills_up", lambda x: True)


CASES = [
    (conv2d, F.conv2d, (3, 5, 1, 1, 0), 8),
    (conv2d, F.conv2d, (5, 3, 3, 1, 1), 8),
    (conv2d, F.conv2d, (8, 16, 6, 2, 2), 9),  # an odd side: the way back is short of a row
    (conv2d, F.conv2d, (4, 6, 4, 2, 1), 8),
    (conv_transpose2d, F.conv_transpose2d, (4, 6, 6, 2, 2), 5),
    (conv_transpose2d, F.conv_transpose2d, (5, 3, 3, 2, 0), 4),
]


@pytest.mark.parametrize(("ours", "theirs", "shape", "side"), CASES)
def test_values_and_both_gradients_are_pytorchs(ours, theirs, shape: tuple[int, ...], side: int) -> None:
    inputs, outputs, kernel, stride, padding = shape
    torch.manual_seed(0)
    channels = (inputs, outputs) if ours is conv_transpose2d else (outputs, inputs)
    weight = torch.randn(*channels, kernel, kernel, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, inputs, side, side, dtype=torch.float64, requires_grad=True)
    found = []
    for convolution in (ours, theirs):
        y = convolution(x, weight, stride=stride, padding=padding).tanh()
        first = torch.autograd.grad(y.square().sum(), (x, weight), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, weight))
        found.append([y, *first, *second])
    for mine, pytorchs in zip(*found, strict=True):
        torch.testing.assert_close(mine, pytorchs, rtol=1e-9, atol=1e-9)


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    x, weight = torch.randn(1, 3, 6, 6, requires_grad=True), torch.randn(2, 3, 3, 3)
    conv2d(x, weight, torch.ones(2), padding=1).sum().backward()
    assert x.grad is not None
    assert weight.grad is None


def test_enlarging_by_products_is_the_filters_enlarging() -> None:
    torch.manual_seed(0)
    enlarge, x = Upsample((1, 2, 4, 3)).double(), torch.randn(2, 3, 5, 7, dtype=torch.float64)
    rows, columns = (enlarge._enlarging(side, x) for side in x.shape[2:])
    torch.testing.assert_close(rows @ x @ columns.T, enlarge(x), rtol=1e-5, atol=1e-6)  # taps are float32


def test_gradients_of_weights_can_be_left_out_of_the_first_and_come_with_the_second() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    found = []
    for convolution in (conv2d, F.conv2d):
        made = convolution(x, weight, padding=1).tanh().sum()
        with weights_left_out():
            (slope,) = torch.autograd.grad(made, x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), weight)[0])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)
    with weights_left_out():
        made = conv2d(x, weight, padding=1).sum()
        assert torch.autograd.grad(made, (x, weight), allow_unused=True)[1] is None
