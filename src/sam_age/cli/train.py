"""sam-train: compose the config, build what it names, fit."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sam_age.cli.app import hydra_app, quieten_lightning
from sam_age.config import build
from sam_age.errors import InputError

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> None:
    """Run the training that `cfg` (conf/train.yaml and what overrides it) describes."""
    import pytorch_lightning as pl
    import torch

    output = Path(cfg.output)
    first_process = int(os.environ.get("LOCAL_RANK", 0)) == 0 and int(os.environ.get("NODE_RANK", 0)) == 0
    checkpoint = resume_from(cfg.resume, output)
    if first_process and checkpoint is None:
        check_free(output, overwrite=cfg.overwrite)

    check_files(cfg)
    quieten_lightning()
    torch.set_float32_matmul_precision("high")  # TF32 for float32 matrix products, where the card has it
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    datamodule = build(cfg.data)  # first: a wrong path shows in a second, before gigabytes are read
    if datamodule.train_set is None:
        raise InputError("There are no training faces: set data.train to a folder, zip or shards of them.")
    module = build(cfg.module)
    module.run_config = OmegaConf.to_container(cfg, resolve=True)
    trainer = build(
        cfg.trainer,
        logger=list(build(cfg.logger).values()) or False,
        callbacks=list(build(cfg.callbacks).values()),
        enable_checkpointing="checkpoint" in cfg.callbacks,
        enable_progress_bar="progress" in cfg.callbacks,
        enable_model_summary=False,
        default_root_dir=str(output),
    )
    if first_process:
        if checkpoint is None and output.exists():
            shutil.rmtree(output)  # an empty folder, or a run that overwrite=true gives up
        output.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, output / "config.yaml", resolve=True)
        _announce(module, trainer, output, checkpoint)
    for logger in trainer.loggers:
        logger.log_hyperparams(module.run_config)
    trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
    log.info("Done: %s", output)


def resume_from(resume: str | None, output: Path) -> str | None:
    """The checkpoint that `resume` names: None, "last" of this run, or a path."""
    if resume is None:
        return None
    path = newest(output / "checkpoints") if resume == "last" else Path(resume)
    if not path.is_file():
        hint = "there is nothing to go on from; leave resume out to start" if resume == "last" else "check resume"
        raise InputError(f"No checkpoint at {path}: {hint}.")
    return str(path)


def newest(checkpoints: Path) -> Path:
    """last.ckpt, or, where the run was killed before it wrote one, the latest checkpoint there is."""
    last = checkpoints / "last.ckpt"
    others = sorted(checkpoints.glob("step_*.ckpt"))
    return others[-1] if others and not last.exists() else last


def check_files(cfg: DictConfig) -> None:
    """Look for the weights that the model and the losses will want, before anything large is built."""
    from sam_age.weights.known import resolve

    whole = cfg.model.get("checkpoint")
    wanted = [whole] if whole else [cfg.model.get(part) for part in ("trunk", "psp", "stylegan2")]
    networks = [node for node in cfg.losses.values() if isinstance(node, DictConfig)]
    for weights in [*wanted, *(network.get("weights") for network in networks)]:
        if weights not in (None, "random"):
            resolve(weights)


def check_free(output: Path, *, overwrite: bool) -> None:
    """Refuse to write over an earlier run unless told to, and over anything else always."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / "config.yaml").is_file():
        raise InputError(f"{output} holds something that is not a run of sam-train: choose another output.")
    if not overwrite:
        raise InputError(
            f"{output} already holds a run: resume=last goes on with it, overwrite=true starts again, "
            "name=... writes elsewhere."
        )


def _announce(module: Any, trainer: Any, output: Path, checkpoint: str | None) -> None:
    learning = sum(p.numel() for p in module.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in module.parameters() if not p.requires_grad)
    log.info(
        "%s: %.1f M parameters learn, %.1f M are frozen; %d steps in %s%s",
        output,
        learning / 1e6,
        frozen / 1e6,
        trainer.max_steps,
        trainer.precision,
        f", from {checkpoint}" if checkpoint else "",
    )


main = hydra_app("train", train)

if __name__ == "__main__":
    main()
