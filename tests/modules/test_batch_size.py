"""The finder of batch sizes, on made-up memories."""

from __future__ import annotations

import pytest

from sam_age.errors import InputError
from sam_age.modules.batch_size import MOST, find_batch_size, largest
from tests.cli.test_train import config


@pytest.mark.parametrize(("base", "each"), [(100, 10), (0, 1), (500, 399), (100, 37)])
@pytest.mark.parametrize("curved", [False, True])
def test_it_finds_what_fits_and_tried_it(base: int, each: int, curved: bool) -> None:
    tried = {}

    def memory(batch: int) -> int | None:
        taken = base + each * batch + (batch // 7 if curved else 0)
        tried[batch] = taken
        return taken if taken <= 1000 else None

    found = largest(memory, 900)
    assert tried[found] <= 900
    best = max(batch for batch in range(1, MOST + 1) if base + each * batch + (batch // 7 if curved else 0) <= 900)
    assert best - found <= max(1, found // 16)
    assert len(tried) <= 10


def test_what_cannot_fit_is_said() -> None:
    with pytest.raises(InputError, match="Not even one face"):
        largest(lambda batch: None, 900)


def test_it_is_for_a_gpu() -> None:
    from omegaconf import OmegaConf

    with pytest.raises(InputError, match=r"data\.batch_size=auto measures a GPU's memory"):
        find_batch_size(OmegaConf.create(config("+experiment=smoke", "trainer.accelerator=cpu")))
