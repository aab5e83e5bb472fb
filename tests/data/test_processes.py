"""Work shared out to processes comes back in order, and they end as they should."""

import os
import signal
import time

import pytest
import torch
from torch.utils.data import DataLoader

from sam_age.data.processes import in_order, loader_processes
from sam_age.errors import InputError

factor = 0


def setup(number):
    global factor
    factor = number


def work(item):
    time.sleep(0.02 * (item % 3))
    return factor * item, torch.get_num_threads(), os.getpid()


def die(item):
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_results_come_in_the_items_order_from_processes_of_one_thread():
    results = list(in_order(work, range(20), 2, setup=setup, arguments=(10,)))
    assert [value for value, _, _ in results] == [10 * item for item in range(20)]
    assert {threads for _, threads, _ in results} == {1}
    assert os.getpid() not in {pid for _, _, pid in results}


def test_a_process_that_is_ended_from_outside_is_one_line():
    with pytest.raises(InputError, match=r"fewer workers \(now 2\); it goes on where it stopped") as error:
        list(in_order(die, range(10), 2, setup=setup, arguments=(1,)))
    assert "\n" not in str(error.value)


def test_a_mistake_in_the_work_is_not_hidden():
    with pytest.raises(TypeError):
        list(in_order(work, ["text"], 1, setup=setup, arguments=(1,)))


class Slow:
    """What a loader's thread takes a second to send, all of it in and out of torch's C++."""

    def __reduce__(self):
        until = time.monotonic() + 1
        while time.monotonic() < until:
            torch.zeros(64).share_memory_()
        return Slow, ()


class Sent:
    """The first item arrives at once, those after it do not."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return Slow() if index else "first"


def test_a_loader_stopped_while_its_process_is_sending_ends_without_an_error():
    """Where a process takes itself apart under the thread that sends, it is aborted, and so is the training run."""
    batches = iter(DataLoader(Sent(), batch_size=None, **loader_processes(1)))
    assert next(batches) == "first"
    (process,) = batches._workers
    time.sleep(0.2)  # the second is on its way
    batches._shutdown_workers()
    process.join()
    assert process.exitcode == 0


def test_a_loader_without_processes_needs_no_more():
    assert list(DataLoader(range(3), **loader_processes(0))) == [torch.tensor([i]) for i in range(3)]
