"""sam-prepare: photographs in, aligned faces out, as training and evaluation read them."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path

from omegaconf import DictConfig

from sam_age.cli.app import hydra_app, need_bool

log = logging.getLogger(__name__)


def prepare(cfg: DictConfig) -> None:
    """Cut the faces out of every picture of `cfg.input`; see conf/prepare.yaml."""
    from sam_age.data.prepare import Settings, prepare_faces, summary
    from sam_age.device import pick_device

    need_bool(cfg, "overwrite")
    device = pick_device(str(cfg.device))  # here: a worker could not say what is wrong
    settings = Settings(**{field.name: cfg[field.name] for field in fields(Settings)})
    source, output = Path(str(cfg.input)), Path(str(cfg.output))
    counts = prepare_faces(source, output, settings, workers=cfg.workers, overwrite=cfg.overwrite, device=device)
    log.info("%s", summary(counts, output))


main = hydra_app("prepare", prepare)

if __name__ == "__main__":
    main()
