"""sam-eval: score a checkpoint."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sam_age.cli.app import hydra_app, need_bool, quieten_lightning
from sam_age.config import CONF_DIR, build, without_idle_networks
from sam_age.errors import InputError

log = logging.getLogger(__name__)

NETWORKS = {"age_net": "dex", "identity_net": "arcface", "perceptual_net": "alexnet"}
"""Network of conf/losses -> its key under `weights`."""


def evaluate(cfg: DictConfig) -> None:
    """Score `cfg.checkpoint`; see conf/eval.yaml."""
    from sam_age.data.storing import write_whole
    from sam_age.evaluation.protocol import AgingEvaluation, table
    from sam_age.models.sam import SAM
    from sam_age.pipeline import check_ages
    from sam_age.weights import load

    need_bool(cfg, "overwrite")
    ages = check_ages(cfg.target_ages)
    if any(age != round(age) for age in ages) or len(set(ages)) < len(ages):
        raise InputError(f"target_ages are whole years, each once, to be scored one by one; got {ages}.")
    if cfg.split not in ("val", "test"):
        raise InputError(f"split is val or test, not {cfg.split!r}.")
    if cfg.max_images is not None and (not isinstance(cfg.max_images, int) or cfg.max_images < 1):
        raise InputError(f"max_images is a whole number from 1 up, or null for all, not {cfg.max_images!r}.")
    checkpoint = str(cfg.checkpoint)
    metrics = None if cfg.output is None else Path(str(cfg.output)) / "metrics.json"
    if metrics is not None:
        if metrics.parent.exists() and not metrics.parent.is_dir():
            raise InputError(f"{metrics.parent} is a file: give output= a folder.")
        if metrics.exists() and not cfg.overwrite:
            raise InputError(f"{metrics} is already there: overwrite=true replaces it, output=... writes elsewhere.")
    sam = load(checkpoint)
    if not isinstance(sam, SAM):
        raise InputError(f"{checkpoint} holds {type(sam).__name__}: give a checkpoint of a whole SAM.")
    run = run_config(checkpoint)
    datamodule = build(data_config(cfg, run))
    if (datamodule.test_set if cfg.split == "test" else datamodule.val_set) is None:
        raise InputError(f"There are no faces to score: set data.{cfg.split} (with data=folder) to a folder of them.")
    losses = build(losses_config(cfg, run))
    judges = build(cfg.judges)
    evaluation = AgingEvaluation(sam, losses, ages, judges["age"], judges["identity"])
    quieten_lightning()
    trainer = build(cfg.trainer)
    score = trainer.test if cfg.split == "test" else trainer.validate
    score(evaluation, datamodule=datamodule, verbose=False)
    if not trainer.is_global_zero:
        return
    if not evaluation.results["faces"]:
        raise InputError(f"None of the faces of data.{cfg.split} could be read: see above.")
    results = {"checkpoint": checkpoint, "skipped": datamodule.skipped, **evaluation.results}
    print(table(results))
    if metrics is not None:
        metrics.parent.mkdir(parents=True, exist_ok=True)
        write_whole(metrics, (json.dumps(results, indent=2) + "\n").encode())
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
    chosen.train = None  # not needed, and perhaps not on this machine
    if cfg.max_images is not None:
        chosen.max_val_images = cfg.max_images
    return chosen


def losses_config(cfg: DictConfig, run: dict[str, Any]) -> DictConfig:
    """The losses chosen on the command line, else those of the checkpoint's run, else the paper's."""
    given = {key: value for key, value in cfg.weights.items() if value is not None}
    losses = cfg.get("losses") or run.get("losses") or OmegaConf.load(CONF_DIR / "losses/paper.yaml")
    weights = OmegaConf.load(CONF_DIR / "train.yaml").weights
    whole = OmegaConf.create({"weights_dir": cfg.weights_dir, "weights": {**weights, **given}, "losses": losses})
    OmegaConf.resolve(whole)
    for network, key in NETWORKS.items():  # a run's own paths are resolved already, perhaps on another machine
        node = whole.losses.get(network)
        if not node:
            continue
        moved = Path(str(cfg.weights_dir)) / Path(str(node.weights)).name
        if key in given:
            node.weights = given[key]
        elif node.weights not in (None, "random") and not Path(node.weights).exists() and moved.exists():
            node.weights = str(moved)
    return without_idle_networks(whole.losses)


main = hydra_app("eval", evaluate)

if __name__ == "__main__":
    main()
