"""sam-eval: score a checkpoint."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sam_age.cli.app import hydra_app, quieten_lightning
from sam_age.config import CONF_DIR, build
from sam_age.errors import InputError

log = logging.getLogger(__name__)

NETWORKS = {"age_net": "dex", "identity_net": "arcface", "perceptual_net": "alexnet"}
"""Network of conf/losses -> its key under `weights`."""


def evaluate(cfg: DictConfig) -> None:
    """Score `cfg.checkpoint`; see conf/eval.yaml."""
    from sam_age.evaluation.protocol import AgingEvaluation, table
    from sam_age.models.sam import SAM
    from sam_age.pipeline import check_ages
    from sam_age.weights import load

    ages = check_ages(cfg.target_ages)
    if cfg.split not in ("val", "test"):
        raise InputError(f"split is val or test, not {cfg.split!r}.")
    metrics = None if cfg.output is None else Path(cfg.output) / "metrics.json"
    if metrics is not None and metrics.exists() and not cfg.overwrite:
        raise InputError(f"{metrics} is already there: overwrite=true replaces it, output=... writes elsewhere.")
    sam = load(cfg.checkpoint)
    if not isinstance(sam, SAM):
        raise InputError(f"{cfg.checkpoint} holds {type(sam).__name__}, not a whole SAM: give a SAM checkpoint.")
    run = run_config(cfg.checkpoint)
    datamodule = build(data_config(cfg, run))
    losses = build(losses_config(cfg, run))
    judges = build(cfg.judges)
    evaluation = AgingEvaluation(sam, losses, ages, judges["age"], judges["identity"])
    quieten_lightning()
    trainer = build(cfg.trainer)
    score = trainer.test if cfg.split == "test" else trainer.validate
    score(evaluation, datamodule=datamodule, verbose=False)
    if not trainer.is_global_zero:
        return
    results = {"checkpoint": str(cfg.checkpoint), **evaluation.results}
    print(table(results))
    if metrics is not None:
        metrics.parent.mkdir(parents=True, exist_ok=True)
        part = metrics.with_suffix(".part")
        part.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        part.replace(metrics)
        log.info("%s", metrics)


def run_config(checkpoint: str) -> dict[str, Any]:
    """The config of the run that made a checkpoint; empty for files that hold none."""
    import torch

    path = Path(checkpoint)
    if path.suffix == ".safetensors" or not path.is_file():
        return {}
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # load() has accepted the file, so it is one that has no config of ours
        return {}
    config = content.get("config") if isinstance(content, dict) else None
    return config if isinstance(config, dict) else {}


def data_config(cfg: DictConfig, run: dict[str, Any]) -> DictConfig:
    """The data chosen on the command line, else the data of the checkpoint's run."""
    chosen = cfg.get("data") or OmegaConf.create(run.get("data") or {})
    if not chosen:
        raise InputError(f"{cfg.checkpoint} does not say on what data to score it: add data=folder data.val=/my/faces.")
    chosen = OmegaConf.create(OmegaConf.to_container(chosen, resolve=True))
    if cfg.max_images is not None:
        chosen.max_val_images = cfg.max_images
    return chosen


def losses_config(cfg: DictConfig, run: dict[str, Any]) -> DictConfig:
    """The losses chosen on the command line, else those of the checkpoint's run, else the paper's."""
    given = {key: value for key, value in cfg.weights.items() if value is not None}
    losses = cfg.get("losses") or run.get("losses") or OmegaConf.load(CONF_DIR / "losses/paper.yaml")
    weights = OmegaConf.load(CONF_DIR / "train.yaml").weights
    whole = OmegaConf.create({"weights_dir": cfg.weights_dir, "weights": {**weights, **given}, "losses": losses})
    for network, key in NETWORKS.items():  # a run's own paths are resolved already: replace them
        if key in given and network in whole.losses:
            whole.losses[network].weights = given[key]
    OmegaConf.resolve(whole)
    return whole.losses


main = hydra_app("eval", evaluate)

if __name__ == "__main__":
    main()
