"""What a command sets for its whole process is put back after each test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def as_a_process_begins() -> Iterator[None]:
    """Commands called in a test's own process choose how float32 products are done, and seed (Lightning keeps that in
    the environment): tests that follow would compute otherwise, depending on their order."""
    products, seeds = torch.get_float32_matmul_precision(), ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    before = {name: os.environ.get(name) for name in seeds}
    yield
    torch.set_float32_matmul_precision(products)
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
