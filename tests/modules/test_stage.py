"""What stages share: weights written and taken."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sam_age.errors import InputError
from sam_age.modules.stage import move_average, take_weights, write_weights
from tests.modules.test_aging import tiny_module


def test_weights_that_were_written_are_taken_and_still_learn(tmp_path: Path) -> None:
    module, twin = tiny_module(ema_decay=0.9), tiny_module(ema_decay=0.9)
    for network in module.networks().values():
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter)
    paths = write_weights(module, tmp_path, half=False)
    assert sorted(path.name for path in paths) == ["ema_encoder.safetensors", "encoder.safetensors"]
    take_weights(twin, tmp_path)
    for name, network in module.networks().items():
        taken = twin.networks()[name].state_dict()
        assert all(torch.equal(tensor, taken[key]) for key, tensor in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in twin.sam.encoder.parameters())
    assert not any(parameter.requires_grad for parameter in twin.ema_encoder.parameters())


def test_missing_weights_are_named(tmp_path: Path) -> None:
    write_weights(tiny_module(), tmp_path, half=True)
    with pytest.raises(InputError, match=r"lacks ema_encoder\.safetensors: give the folder weights/"):
        take_weights(tiny_module(ema_decay=0.9), tmp_path)


def test_an_average_moves_by_its_share_and_copies_statistics() -> None:
    average, trained = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    torch.nn.init.constant_(trained.weight, 3.0)
    trained.running_mean += 5
    move_average(average, trained, 0.75)
    assert average.weight.tolist() == [1.5, 1.5]
    assert average.running_mean.tolist() == [5.0, 5.0]
