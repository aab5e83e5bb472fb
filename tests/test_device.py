"""Which device to run on."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from sam_age.device import compile_options, let_segments_grow, pick_device, pictures_at_once
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


def test_the_compiler_knows_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile refuses names that it does not know at once, before anything is compiled."""
    options = compile_options()
    torch.compile(torch.nn.Linear(2, 2), **options)
    assert options["dynamic"] is False
    assert options["options"] == {"triton.coalesce_tiling_analysis": False}
    with pytest.raises(RuntimeError, match="coalesce"):
        torch.compile(torch.nn.Linear(2, 2), options={"triton.coalesce": False})
    monkeypatch.delattr("torch._inductor.config.triton.coalesce_tiling_analysis")  # as in torch 2.5
    assert compile_options() == {"dynamic": False, "options": None}


@pytest.mark.skipif(sys.platform != "linux", reason="what it asks for is Linux's alone")
def test_segments_grow_unless_someone_has_said_how_memory_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    let_segments_grow()
    assert os.environ.pop("PYTORCH_CUDA_ALLOC_CONF") == "expandable_segments:True"
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    let_segments_grow()
    assert "PYTORCH_CUDA_ALLOC_CONF" not in os.environ


def test_as_many_pictures_at_once_as_fit_the_memory_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pictures_at_once(torch.device("cpu"), 1024) == 1
    assert pictures_at_once(torch.device("mps"), 1024) == 8

    def on_cuda(free: float, size: int) -> int:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free), int(2 * free)))
        return pictures_at_once(torch.device("cuda"), size)

    assert on_cuda(140e9, 1024) == on_cuda(140e9, 256) == 48  # a large one makes 4 faces at 11 ages at once
    assert on_cuda(10e9, 1024) == 8
    assert on_cuda(10e9, 512) == 33
    assert on_cuda(0.1e9, 1024) == 1  # and may run out then, but it is asked
