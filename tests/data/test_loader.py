"""Loaders' processes start, fail and end as those of a program should."""

import time

import pytest
import torch

from sam_age.data.loader import batches
from sam_age.errors import InputError


class Slow:
    """What a loader's thread takes a second to send, all of it in and out of torch's C++."""

    def __reduce__(self):
        until = time.monotonic() + 1
        while time.monotonic() < until:
            torch.zeros(64).share_memory_()
        return Slow, ()


class Rows:
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if isinstance(self.rows[index], str):
            raise InputError(self.rows[index])
        return self.rows[index]


def as_they_are(samples):
    return samples


def test_a_loader_stopped_while_its_process_is_sending_ends_without_an_error():
    """Where a process takes itself apart under the thread that sends, it is aborted, and so is the training run."""
    loader = batches(Rows([0, Slow(), Slow()]), as_they_are, num_workers=1, persistent_workers=True)
    assert next(iter(loader)) == [0]
    (process,) = loader._iterator._workers
    time.sleep(0.2)  # the second is on its way
    loader._iterator._shutdown_workers()
    process.join(60)
    assert process.exitcode == 0


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_comes_in_its_turn_as_it_was_raised(num_workers):
    loader = iter(batches(Rows([0, 1, 2, "Broken: mend it."]), as_they_are, batch_size=2, num_workers=num_workers))
    assert next(loader) == [0, 1]
    with pytest.raises(InputError, match=r"^Broken: mend it\.$"):
        next(loader)
