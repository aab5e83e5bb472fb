"""Which device to run on."""

import pytest
import torch

from sam_age.device import pick_device
from sam_age.errors import InputError


def test_auto_is_a_device_that_works():
    assert torch.ones(2, device=pick_device("auto")).sum().item() == 2
    assert pick_device("cpu") == "cpu"


@pytest.mark.parametrize("device", ["banana", "cuda:99", ""])
def test_a_device_that_is_not_there_is_one_line(device):
    with pytest.raises(InputError, match="cannot be used here") as error:
        pick_device(device)
    assert "\n" not in str(error.value)
