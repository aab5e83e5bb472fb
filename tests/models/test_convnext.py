"""The evaluation networks' trunk: its block against the reference implementation, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.convnext import CNBlock

from sam_age.errors import InputError
from sam_age.models.age import AgeClassifier
from sam_age.models.convnext import ConvNeXtTrunk, _Block
from sam_age.models.trunk import build_trunk


def test_a_block_is_torchvisions():
    torch.manual_seed(0)
    ours, theirs = _Block(16), CNBlock(16, layer_scale=0.1, stochastic_depth_prob=0.0)
    spatial, _, norm, expand, _, reduce, _ = theirs.block
    state = {
        "spatial.weight": spatial.weight, "spatial.bias": spatial.bias,
        "norm.weight": norm.weight, "norm.bias": norm.bias,
        "expand.weight": expand.weight[:, :, None, None], "expand.bias": expand.bias,
        "reduce.weight": reduce.weight[:, :, None, None], "reduce.bias": reduce.bias,
        "scale": theirs.layer_scale,
    }  # fmt: skip
    ours.load_state_dict(state)
    x = torch.randn(2, 16, 9, 9)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_maps_start_at_a_quarter_of_the_side_and_halve():
    trunk = build_trunk("convnext", (8, 16, 24), (1, 2, 1), 64)
    assert isinstance(trunk, ConvNeXtTrunk)
    assert [tuple(x.shape) for x in trunk(torch.rand(2, 3, 256, 256))] == [(2, 8, 16, 16), (2, 16, 8, 8), (2, 24, 4, 4)]


def test_every_parameter_learns():
    network = AgeClassifier((8, 16), (1, 1), 32, trunk="convnext")
    network(torch.rand(2, 3, 64, 64) * 2 - 1).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet", (8,), (1,), 32), "known: residual, convnext"),
        (("convnext", (8, 12), (1, 1), 32), "multiple of 8"),
        (("convnext", (8, 16), (1,), 32), "for each stage"),
        (("convnext", (8, 16), (1, 1), 36), "multiple of 8"),
    ],
)
def test_what_makes_no_trunk_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        build_trunk(*arguments)
