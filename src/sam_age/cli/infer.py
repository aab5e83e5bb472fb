"""sam-infer: photographs in, the same faces at other ages out."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from sam_age.cli.app import hydra_app, need_bool
from sam_age.errors import InputError

if TYPE_CHECKING:
    from sam_age.data.loader import Loader
    from sam_age.inference.inputs import Inputs
    from sam_age.inference.modes import Mode
    from sam_age.inference.record import Record
    from sam_age.inference.running import Runner

log = logging.getLogger(__name__)

MANY = 32
"""Pictures from which starting processes to read them pays."""


@dataclass(frozen=True)
class Job:
    """What a run is to do, the same in every rank."""

    cfg: DictConfig
    mode: Mode
    inputs: Inputs
    options: dict[str, Any]  # that results depend on
    todo: list[int]  # pictures that are not done
    output: Path
    device: str
    ranks: int

    def runner(self, device: str, rank: int = 0) -> Runner:
        """The pipeline on a device, and what it works with."""
        from sam_age.device import keep_freed_memory
        from sam_age.inference.running import Runner
        from sam_age.pipeline import AgingPipeline

        if device == "cpu":
            keep_freed_memory()
        pipeline = AgingPipeline.from_pretrained(
            str(self.cfg.checkpoint), device=device, precision=self.cfg.precision, batch_size=self.cfg.batch_size,
            graphed=self.cfg.graphed, compiled=self.cfg.compiled,
        )  # fmt: skip
        return Runner(self.mode, pipeline, self.inputs, self.record(rank), quiet=self.ranks > 1)

    def record(self, rank: int = 0) -> Record:
        """That of one rank; it reads all ranks'."""
        from sam_age.inference.record import Record

        return Record(self.output, self.options, rank)

    def share(self, rank: int) -> Sequence[int]:
        """The pictures of one rank."""
        from sam_age.inference.inputs import shares

        return shares(self.todo, self.ranks)[rank]

    def loader(self, rank: int = 0) -> Loader:
        """They in batches, read ahead."""
        from sam_age.inference.inputs import loader

        share, on_cpu = self.share(rank), self.device == "cpu"
        workers = self.cfg.workers
        if workers is None:
            workers = 0 if on_cpu or len(share) < MANY else 4
        pictures = (self.cfg.batch_size or (1 if on_cpu else 8)) if self.mode.in_batches else 1
        return loader(self.inputs, share, self.mode.takes, pictures, workers)


def infer(cfg: DictConfig) -> None:
    """Make what `cfg.mode` says of every picture of `cfg.input`; see conf/infer.yaml."""
    job = plan(cfg)
    if cfg.dry_run:
        print(said(job))
        return
    if not job.todo:
        log.info("%d of %d done before, nothing is left to do.", len(job.inputs), len(job.inputs))
        return
    first = int(os.environ.get("LOCAL_RANK", 0)) == int(os.environ.get("NODE_RANK", 0)) == 0
    if first and (skipped := len(job.inputs) - len(job.todo)):
        log.info("%d of %d done before are skipped; overwrite=true makes them anew.", skipped, len(job.inputs))
    if first and str(cfg.checkpoint) == "lifespan" and not _own(cfg):
        log.info("checkpoint=lifespan knows rendered portraits; for photographs see `sam-weights list`.")
    if job.ranks > 1:
        from sam_age.cli.predicting import predict

        if predict(job, cfg):
            _finish(job, None)
        return
    from tqdm import tqdm

    batches = iter(job.loader())  # its processes start while the networks are loaded
    runner = job.runner(job.device)
    with tqdm(total=len(job.todo), desc="Ageing", unit="clip" if job.mode.takes == "path" else "picture",
              disable=None) as bar:  # fmt: skip
        for batch in batches:
            runner.write(runner.make(batch))
            bar.update(len(batch))
    _finish(job, runner.failures)


def plan(cfg: DictConfig) -> Job:
    """What there is to do, after everything was checked that can be without loading a network."""
    from sam_age.choices import ALIGN, FACES, check_ages, choose
    from sam_age.device import pick_device
    from sam_age.inference.inputs import open_inputs
    from sam_age.inference.modes import MODES
    from sam_age.inference.record import Record, check_free
    from sam_age.inference.running import OVERVIEW
    from sam_age.weights.known import resolve

    need_bool(cfg, "overwrite", "sheet", "dry_run", "graphed", "compiled")
    if cfg.align not in ALIGN:
        raise InputError(f"align is one of {', '.join(ALIGN)}, not {cfg.align!r}.")
    if cfg.workers is not None and (not isinstance(cfg.workers, int) or cfg.workers < 0):
        raise InputError(f"workers is a whole number, or null, not {cfg.workers!r}.")
    if cfg.batch_size is not None and (not isinstance(cfg.batch_size, int) or cfg.batch_size < 1):
        raise InputError(f"batch_size is a whole number from 1 up, or null, not {cfg.batch_size!r}.")
    options = OmegaConf.to_container(cfg.mode, resolve=True)
    name, own_ages = options.pop("name"), options.pop("ages")
    ages = check_ages(own_ages if cfg.target_ages is None else cfg.target_ages)
    if len(set(ages)) < len(ages) and name not in ("animate", "video"):
        raise InputError(f"target_ages has an age twice: {ages}. Give each once.")
    faces = OmegaConf.to_container(cfg)["faces"]
    if faces is None:
        faces = "all" if name in ("photo", "video") or options.get("whole") is True else "largest"
    if faces not in FACES:  # a mistyped one is said here, not of every picture; how many there are, no one knows yet
        choose(faces, 1 << 30)
    align = "never" if _own(cfg) and cfg.align == "auto" else cfg.align  # made aligned: nothing to look for
    mode = MODES[name](name, options, ages, align, faces, cfg.sheet)
    output = Path(str(cfg.output))
    given = OmegaConf.to_container(cfg)["input"]
    inputs = open_inputs(given if isinstance(given, list) else str(given), output, clips=name == "video")
    device = pick_device(cfg.device)
    ranks = _ranks(cfg, device)
    weights = _file(resolve(str(cfg.checkpoint)))
    means = {"mode": name, **options, "ages": ages, "align": align, "faces": faces, "sheet": mode.sheet,
             "precision": cfg.precision, "checkpoint": weights}  # fmt: skip
    for key in ("references", "direction", "having", "lacking"):  # what they are files of may change
        if options.get(key) and Path(str(options[key])).exists():
            means[f"{key}_files"] = _file(Path(str(options[key])))
    record = Record(output, means)
    todo = list(range(len(inputs)))
    if not cfg.overwrite:
        done = record.done()
        todo = [n for n in todo if (row := done.get(inputs.keys[n])) is None or row.get("stamp") != inputs.stamp(n)]
        wanted = ((inputs.stems[n], mode.endings(inputs.keys[n])) for n in todo)  # of a million: one at a time
        overview = (
            [("sheet", [".png"])] if todo and len(inputs) > 1 and mode.sheet and name in ("ages", "sheet") else []
        )
        assert OVERVIEW == "sheet.png"
        check_free(output, itertools.chain(wanted, overview), record.files())
    if 0 < len(todo) < ranks:  # Lightning's ranks wait for each other, and one without work would not
        if cfg.num_nodes > 1:
            raise InputError(f"{ranks} ranks for the {len(todo)} left to do: give num_nodes=1.")
        ranks = 1
    return Job(cfg, mode, inputs, means, todo, output, device, ranks)


def _own(cfg: DictConfig) -> bool:
    """Is the input the package's own portraits?"""
    from sam_age.pretrained import portraits

    return str(cfg.input) == portraits.NAME


def _file(path: Path) -> list[Any]:
    """What tells a file, or a folder's list of files, from others, without reading it."""
    stat = path.stat()
    return [path.resolve().as_posix(), stat.st_size, stat.st_mtime_ns]


def _ranks(cfg: DictConfig, device: str) -> int:
    import torch

    devices = cfg.devices
    if devices == "auto":
        devices = max(1, torch.cuda.device_count()) if device.startswith("cuda") else 1
    if OmegaConf.is_list(devices):
        devices = len(devices)
    for key, value in (("devices", devices), ("num_nodes", cfg.num_nodes)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(
                f"{key} is a whole number from 1 up{' or auto' if key == 'devices' else ''}, not {value!r}."
            )
    if device.startswith("cuda") and devices > torch.cuda.device_count():
        raise InputError(f"devices={devices}, but there are {torch.cuda.device_count()} GPUs here.")
    return devices * cfg.num_nodes


def said(job: Job) -> str:
    """The plan, for dry_run=true."""
    inputs, mode = job.inputs, job.mode
    lines = [
        f"mode={mode.name}, ages {', '.join(f'{age:g}' for age in mode.ages)}; {len(inputs)} inputs, "
        f"{len(inputs) - len(job.todo)} done before, {len(job.todo)} to do"
    ]
    if inputs.shards:
        lines.append(f"{len(inputs.shards)} shards: {inputs.shards[0]}" + (" ..." if len(inputs.shards) > 1 else ""))
    for rank in range(job.ranks):
        share = job.share(rank)
        text = f"rank {rank} of {job.ranks}: {len(share)} inputs"
        if share:
            text += f", {inputs.keys[share[0]]} to {inputs.keys[share[-1]]}"
        if share and inputs.shards:
            text += f", in {len({inputs.file(index) for index in share})} shards"
        lines.append(text)
    files = sum(len(mode.endings(inputs.keys[index])) for index in job.todo)
    each = " for each face" if mode.in_batches and mode.faces != "largest" else ""
    lines.append(f"{files} files below {job.output}{each}" + (", such as" if job.todo else ""))
    if job.todo:
        first = job.todo[0]
        lines += [f"  {job.output / (inputs.stems[first] + ending)}" for ending in mode.endings(inputs.keys[first])]
    return "\n".join(lines)


def _finish(job: Job, failures: list[str] | None) -> None:
    """The overview, and what went wrong; failures: None where several ranks left them in their records."""
    from sam_age.inference.running import overview

    record = job.record()
    if failures is None:
        latest = record.latest()
        rows = [latest.get(job.inputs.keys[index], {}) for index in job.todo]
        failures = [row.get("error", "not reached") for row in rows if row.get("state") != "done"]
    if failures and len(failures) == len(job.inputs):
        count = len(failures)
        raise InputError(failures[0] if count == 1 else f"None of the {count} could be used; the first: {failures[0]}")
    if job.mode.sheet and (path := overview(job.inputs, record)):
        log.info("The first faces on one sheet: %s", path)
    log.info("%d of %d written to %s", len(job.todo) - len(failures), len(job.todo), job.output)
    if failures:
        log.warning("%d of %d could not be used, see above.", len(failures), len(job.todo))


main = hydra_app("infer", infer)

if __name__ == "__main__":
    main()
