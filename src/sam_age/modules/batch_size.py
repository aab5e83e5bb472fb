"""The largest batch that fits: data.batch_size=auto."""

from __future__ import annotations

import gc
import itertools
import logging
from collections.abc import Callable
from typing import Any

from sam_age.errors import InputError
from sam_age.modules.memory import ran_out

log = logging.getLogger("sam_age")

SHARE = 0.9
"""Of the GPU's memory, for what training takes: validation, pictures and fragments need the rest."""
STEPS = 24  # of a trial: recordings are made by then, and optimizers have their states
MOST = 1024


def find_batch_size(cfg: Any) -> int:
    """Train a few steps at a few sizes, as `cfg` (conf/train.yaml) says, each with networks of its own.

    Raises:
        InputError: there is no GPU, there are several processes, or not even one face fits.
    """
    import torch

    if not torch.cuda.is_available() or cfg.trainer.accelerator == "cpu":
        raise InputError("data.batch_size=auto measures a GPU's memory, and there is none: set a number.")
    if cfg.trainer.get("devices", 1) not in (1, "1") or cfg.trainer.get("num_nodes", 1) != 1:
        raise InputError("data.batch_size=auto is for one GPU: try with trainer.devices=1, then set what it found.")
    total = torch.cuda.get_device_properties(0).total_memory
    log.info("Looking for the largest batch: a few trials of %d steps each.", STEPS)
    found = _search(cfg, int(SHARE * total))
    gc.collect()
    torch.cuda.empty_cache()
    log.info("data.batch_size=%d: the largest that takes at most %.0f %% of the GPU's memory.", found, 100 * SHARE)
    return found


def _search(cfg: Any, budget: int) -> int:
    """`largest`, with one data module for all trials: faces that it keeps are decoded once, not for each."""
    from sam_age.config import build

    data = build(cfg.data, batch_size=1)
    return largest(lambda batch: _trial(cfg, data, batch), budget)


def largest(memory: Callable[[int], int | None], budget: int) -> int:
    """The largest batch within a budget, by few trials: memory grows evenly with the batch, and the guess is tried.

    Args:
        memory: batch -> bytes it takes, or None: more than there is.
        budget: bytes.
    Returns:
        a batch that was tried and found within the budget.
    Raises:
        InputError: one face is too much.
    """
    seen: dict[int, int | None] = {}

    def fits(batch: int) -> bool:
        if batch not in seen:
            seen[batch] = memory(batch)
        taken = seen[batch]
        return taken is not None and taken <= budget

    if not fits(1):
        raise InputError("Not even one face fits on the GPU: try trainer.precision=bf16-mixed or another model.")
    good, bad = 1, MOST + 1
    guess = 4
    while bad - good > max(1, good // 16):
        if fits(guess):
            good = max(good, guess)
        else:
            bad = min(bad, guess)
        guess = _guess(seen, budget, good, bad)
    return good


def _guess(seen: dict[int, int | None], budget: int, good: int, bad: int) -> int:
    """Between what fits and what does not: along the line through the two largest that were measured."""
    known = sorted((batch, taken) for batch, taken in seen.items() if taken is not None)[-2:]
    middle = (good + bad) // 2 if bad <= MOST else 4 * good
    if len(known) == 2 and known[1][1] > known[0][1]:
        (few, less), (many, more) = known
        line = int(few + (budget - less) * (many - few) / (more - less))
        middle = line if good < line < bad else middle
    return min(max(middle, good + 1), bad - 1)


def _trial(cfg: Any, data: Any, batch: int) -> int | None:
    """Bytes that training takes at this batch; None where they are not to be had."""
    import pytorch_lightning as pl
    import torch

    from sam_age.config import build

    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        data.batch_size = batch
        trainer = pl.Trainer(
            accelerator="gpu", devices=1, precision=cfg.trainer.precision, max_steps=STEPS, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            limit_val_batches=0, num_sanity_val_steps=0, benchmark=cfg.trainer.get("benchmark", False),
        )  # fmt: skip
        module = build(cfg.module)
        if getattr(module, "compiled", False):
            module.compiled = type(module.compiled)()  # minutes for each batch; and compiled, a step takes less memory
        take_turns(module)
        trainer.fit(module, datamodule=data)
        taken = torch.cuda.max_memory_reserved()
    except RuntimeError as error:
        if not ran_out(error):
            raise
        taken = None
    module = trainer = data.trainer = None  # what they hold on the device is not the next trial's
    log.info("  batch %d: %s", batch, "too much" if taken is None else f"{taken / 2**30:.1f} GiB")
    return taken


def take_turns(module: Any) -> None:
    """Have steps that age and steps that keep the age take turns: by chance a kind might come too seldom in a trial to
    be recorded, and its memory would be missing. Stages with one kind of step are left as they are."""
    if not 0 < getattr(module, "same_age_probability", 0) < 1:
        return
    draw, aging = module.draw, itertools.cycle((True, False))
    module.draw = lambda batch: (next(aging), draw(batch)[1])
