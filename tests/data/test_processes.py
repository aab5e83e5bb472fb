"""Work shared out to processes comes back in order, and their end is not waited for."""

import os
import signal
import time

import pytest
import torch

from sam_age.data.processes import in_order
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
