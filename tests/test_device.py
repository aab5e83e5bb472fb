"""Which device to run on."""

import platform
import subprocess
import sys

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


ALLOCATING = """
import resource, sys, torch
from sam_age.device import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
def touch(): torch.empty(16_000_000).fill_(1)  # 64 MB: 15,625 pages
for _ in range(10): touch()  # until the heap is as large as it gets
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): touch()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc's own")
def test_large_blocks_are_kept_so_that_the_next_need_no_fresh_pages():
    def faults(mode: str) -> list[int]:
        done = subprocess.run([sys.executable, "-c", ALLOCATING, mode], capture_output=True, text=True, check=True)
        return list(map(int, done.stdout.split()))

    kept, few = faults("keep")
    _, many = faults("plain")
    assert kept == 1
    assert few < many / 10
