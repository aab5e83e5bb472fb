"""sam-prepare: photographs in, aligned faces out, as training and evaluation read them; and what training may keep."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path

from omegaconf import DictConfig

from sam_age.cli.app import hydra_app, need_bool
from sam_age.errors import InputError

log = logging.getLogger(__name__)


def prepare(cfg: DictConfig) -> None:
    """Cut the faces out of every picture of `cfg.input`; see conf/prepare.yaml."""
    from sam_age.data.prepare import Settings, prepare_faces, summary
    from sam_age.device import pick_device

    need_bool(cfg, "overwrite")
    device = pick_device(str(cfg.device))  # here: a worker could not say what is wrong
    if cfg.cache is not None:
        keep_what_networks_say(cfg, device)
        return
    settings = Settings(**{field.name: cfg[field.name] for field in fields(Settings)})
    source, output = Path(str(cfg.input)), Path(str(cfg.output))
    counts = prepare_faces(source, output, settings, workers=cfg.workers, overwrite=cfg.overwrite, device=device)
    log.info("%s", summary(counts, output))


def keep_what_networks_say(cfg: DictConfig, device: str) -> None:
    """Write the cache of the training that `cfg.train` describes, to `cfg.cache`."""
    import torch
    from hydra import compose

    from sam_age.cli.train import check_files
    from sam_age.config import build, without_idle_networks
    from sam_age.data.source_cache import FACTS, make_cache

    folder = Path(str(cfg.cache))
    if (folder / FACTS).exists() and not cfg.overwrite:
        raise InputError(f"{folder} holds a cache: overwrite=true makes it anew, cache=... writes elsewhere.")
    training = compose("train", overrides=[str(override) for override in cfg.train])
    if not str(training.module._target_).endswith("AgingModule"):
        raise InputError("A cache is for SAM's own training: train=['+experiment=ffhq_aging'], say.")
    training.losses = without_idle_networks(training.losses)
    check_files(training)
    if "cache" in training.data:
        training.data.cache = None
    torch.manual_seed(training.seed)  # as sam-train, for networks that are made up
    datamodule = build(training.data)
    if datamodule.train_set is None:
        raise InputError("There are no training faces: set data.train among train=[...].")
    module = build(training.module)
    cache = make_cache(folder, datamodule.train_set, module.sam, module.losses, device=device)
    log.info("%d faces, both ways round, in %s: sam-train ... data.cache=%s", cache.facts["faces"], folder, folder)


main = hydra_app("prepare", prepare)

if __name__ == "__main__":
    main()
