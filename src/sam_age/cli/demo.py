"""sam-demo: the web page."""

from __future__ import annotations

import logging
import threading

from omegaconf import DictConfig

from sam_age.cli.app import hydra_app, need_bool
from sam_age.errors import InputError

log = logging.getLogger(__name__)


def demo(cfg: DictConfig) -> None:
    """Serve the page until it is interrupted; see conf/demo.yaml."""
    from sam_age.demo.serve import LOCAL, need_gradio, note_of, running
    from sam_age.demo.studio import Limits, Studio, samples_of
    from sam_age.device import keep_freed_memory
    from sam_age.pipeline import AgingPipeline

    need_gradio()
    need_bool(cfg, "open_browser")
    limits = Limits(**{name: number_above_0(cfg, name) for name in ("megabytes", "megapixels", "photo_side")})
    queue_size, sessions = number_above_0(cfg, "queue_size"), number_above_0(cfg, "sessions")
    port = None if cfg.port is None else number_above_0(cfg, "port")
    samples = samples_of(cfg.samples)
    pipeline = AgingPipeline.from_pretrained(str(cfg.checkpoint), device=cfg.device, precision=cfg.precision)
    if pipeline.device.type == "cpu":
        keep_freed_memory()
    studio = Studio(pipeline, samples, limits)
    log.info("A picture takes %.2f s on %s.", studio.warm_up(), pipeline.device)
    with running(
        studio, note_of(str(cfg.checkpoint)), host=str(cfg.host), port=port, queue_size=queue_size, sessions=sessions,
        open_browser=cfg.open_browser,
    ) as address:  # fmt: skip
        if str(cfg.host) not in LOCAL:
            log.warning("host=%s answers everyone who can reach this machine.", cfg.host)
        log.info("The page is at %s - Ctrl+C ends it.", address)
        until_interrupted()


def until_interrupted() -> None:
    threading.Event().wait()


def number_above_0(cfg: DictConfig, key: str) -> float | int:
    """A setting that has to be a positive number."""
    value = cfg[key]
    whole = key not in ("megabytes", "megapixels")
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or value <= 0:
        raise InputError(f"{key} is a {'whole ' if whole else ''}number above 0, not {value!r}.")
    return value


main = hydra_app("demo", demo)

if __name__ == "__main__":
    main()
