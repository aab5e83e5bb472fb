"""sam-train: compose the config, build what it names, fit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from sam_age.cli.app import hydra_app, need_bool, quieten_lightning
from sam_age.cli.run_folder import check_free, check_same_network, checkpoint_to_resume, clear
from sam_age.config import build, without_idle_networks
from sam_age.errors import InputError

if TYPE_CHECKING:
    from sam_age.modules.stage import Stage  # brings Lightning, which --help can do without

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> None:
    """Run the training, of any stage, that `cfg` (conf/train.yaml and what overrides it) describes."""
    import pytorch_lightning as pl
    import torch
    from pytorch_lightning.utilities import rank_zero_only

    from sam_age.device import let_segments_grow
    from sam_age.modules.batch_size import find_batch_size
    from sam_age.modules.stage import take_weights

    need_bool(cfg, "overwrite")
    let_segments_grow()
    first_process = rank_zero_only.rank == 0
    output = Path(str(cfg.output))
    checkpoint = checkpoint_to_resume(cfg.resume, output)
    goes_on = checkpoint is not None and checkpoint.parent.resolve() == (output / "checkpoints").resolve()
    if first_process and not goes_on:
        check_free(output, overwrite=cfg.overwrite)

    cfg.losses = without_idle_networks(cfg.losses)
    check_files(cfg)
    quieten_lightning()
    torch.set_float32_matmul_precision("high")  # TF32 for float32 matrix products, where the card has it
    if cfg.data.get("batch_size") == "auto":
        cfg.data.batch_size = find_batch_size(cfg)
    # without Lightning's seeding of loader processes, for which each would import Lightning (seconds, and hundreds of
    # MB): what a data set draws is a function of the seed and of a face's number, whoever loads it
    pl.seed_everything(cfg.seed, verbose=False)
    datamodule = build(cfg.data)  # first: a wrong path shows in a second, before gigabytes are read
    if datamodule.train_set is None:
        raise InputError("There are no training faces: set data.train to a folder, zip or shards of them.")
    module = build(cfg.module)
    check_optimizer(module)
    if checkpoint is not None:
        check_same_network(checkpoint, module.network_config())
    elif cfg.start is not None:
        take_weights(module, cfg.start)
    no_shared_statistics_on_cpu(cfg)
    module.run_config = OmegaConf.to_container(cfg, resolve=True)
    callbacks = {name: node for name, node in cfg.callbacks.items() if node and "_target_" in node}
    loggers = [build(node) for node in cfg.logger.values()]
    trainer = build(
        cfg.trainer,
        logger=loggers or False,
        callbacks=[build(node) for node in callbacks.values()],
        enable_checkpointing="checkpoint" in callbacks,
        enable_progress_bar="progress" in callbacks,
        enable_model_summary=False,
        default_root_dir=str(output),
    )
    if first_process:
        if not goes_on:
            clear(output)
        output.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, output / "config.yaml", resolve=True)
        _announce(module, trainer, output, checkpoint)
    try:
        for logger in trainer.loggers:
            logger.log_hyperparams(module.run_config)
        trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
    except Exception:
        if first_process and not goes_on and not any(output.glob("checkpoints/*")):
            clear(output)  # nothing was learnt: the next try need not be told to overwrite it
        raise
    log.info("Done: %s", output)


def check_optimizer(module: Stage) -> None:
    """Try the optimizer's settings on one number, before anything is written."""
    import torch

    try:
        optimizer = module.optimizer_factory([torch.nn.Parameter(torch.zeros(1))])
    except Exception as error:  # optimizer libraries have exceptions of their own for it
        raise InputError(f"The optimizer does not take these settings ({error}): see optimizer.* in --help.") from error
    if hasattr(optimizer, "eval") and module.averages_weights:
        raise InputError(
            "A schedule-free optimizer averages the weights itself: set module.ema_decay=null, or choose another."
        )


def no_shared_statistics_on_cpu(cfg: DictConfig) -> None:
    """Batch norm can be synchronised on GPUs only: where there are none, say so and leave it out."""
    import torch

    on_cpu = cfg.trainer.accelerator == "cpu" or (cfg.trainer.accelerator == "auto" and not torch.cuda.is_available())
    if on_cpu and cfg.trainer.get("sync_batchnorm"):
        log.warning("On CPUs each process's batch norm sees its own faces: trainer.sync_batchnorm is off.")
        with open_dict(cfg):
            cfg.trainer.sync_batchnorm = False


def check_files(cfg: DictConfig) -> None:
    """Look for the weights that the model and the losses will want, before anything large is built."""
    from sam_age.weights.known import resolve

    model = cfg.model or {}
    whole = model.get("checkpoint")
    wanted = [whole] if whole else [model.get(part) for part in ("trunk", "psp", "stylegan2")]
    networks = [node for node in [*cfg.losses.values(), *cfg.module.values()] if isinstance(node, DictConfig)]
    for weights in [*wanted, *(network.get("weights") for network in networks)]:
        if weights not in (None, "random"):
            resolve(weights)


def _announce(module: Stage, trainer: Any, output: Path, checkpoint: str | None) -> None:
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
