"""sam-render: portraits of people who never lived, at every age of their lives."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from sam_age.cli.app import hydra_app, need_bool

log = logging.getLogger(__name__)


def render(cfg: DictConfig) -> None:
    """Render the split that `cfg` (conf/render.yaml) describes."""
    from sam_age.device import pick_device
    from sam_age.lifespan.folder import Settings
    from sam_age.lifespan.making import render_split, summary
    from sam_age.lifespan.report import save_report, save_sheets, table

    need_bool(cfg, "overwrite", "sheets")
    given = OmegaConf.to_container(cfg, resolve=True)
    settings = Settings(**{field.name: given[field.name] for field in fields(Settings)})
    device, output = pick_device(str(cfg.device)), Path(str(cfg.output))
    counts = render_split(
        output, settings, workers=cfg.workers, device=device, batch_size=cfg.batch_size, overwrite=cfg.overwrite
    )
    print(table(save_report(output, settings)))
    if cfg.sheets:
        for path in save_sheets(output, settings):
            log.info("%s", path)
    log.info("%s", summary(counts, output / settings.split))


main = hydra_app("render", render)

if __name__ == "__main__":
    main()
