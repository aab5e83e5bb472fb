"""sam-eval: score a checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from sam_age.cli.app import hydra_app, need_bool, option, quieten_lightning
from sam_age.config import CONF_DIR, build, without_idle_networks
from sam_age.errors import InputError

if TYPE_CHECKING:
    from pytorch_lightning import LightningDataModule, Trainer

    from sam_age.evaluation.baselines import LatentBaselines
    from sam_age.evaluation.instruments import Instruments
    from sam_age.evaluation.known import Known
    from sam_age.losses import AgingLosses
    from sam_age.models.age import AgeNet
    from sam_age.models.sam import SAM

log = logging.getLogger(__name__)

NETWORKS = {"age_net": "dex", "identity_net": "arcface", "perceptual_net": "alexnet"}
"""Network of conf/losses -> its key under `weights`."""

OWN_DEFAULTS = {
    "lifespan": {
        "groups": {"data": "lifespan_demo", "judges": "lifespan", "losses": "lifespan"},
        "split": "test",
        "baselines": "lifespan/baselines",
    }
}
"""Name of a checkpoint -> what it is scored with where nothing else is chosen: options of config groups, and keys."""

METRICS, REPORT = "metrics.json", "report.html"


def evaluate(cfg: DictConfig) -> None:
    """Score `cfg.checkpoint`; see conf/eval.yaml."""
    from sam_age.data.storing import write_whole
    from sam_age.device import keep_freed_memory
    from sam_age.evaluation.examples import examples
    from sam_age.evaluation.protocol import AgingEvaluation
    from sam_age.evaluation.report import report
    from sam_age.evaluation.table import table
    from sam_age.models.sam import SAM
    from sam_age.weights import load

    ages = check(cfg)
    cfg = with_own_defaults(cfg)
    checkpoint = str(cfg.checkpoint)
    folder = check_output(cfg)
    sam = load(checkpoint)
    if not isinstance(sam, SAM):
        raise InputError(f"{checkpoint} holds {type(sam).__name__}: give a checkpoint of a whole SAM.")
    run = run_config(checkpoint)
    datamodule = build(data_config(cfg, run))
    known, inputs = choose_inputs(cfg, datamodule)
    instruments, losses = instruments_of(cfg, run)
    quieten_lightning()
    trainer = build(cfg.trainer)
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
    evaluation = AgingEvaluation(
        sam, instruments, ages, known=known, inputs=inputs, losses=losses, batch_size=cfg.batch_size,
        baselines=baselines_of(cfg, sam, datamodule, trainer, instruments.source_age),
    )  # fmt: skip
    score = trainer.test if cfg.split == "test" else trainer.validate
    score(evaluation, datamodule=datamodule, verbose=False)
    if not trainer.is_global_zero:
        return
    if not evaluation.results["faces"]:
        raise InputError(f"None of the faces of data.{cfg.split} could be read: see above.")
    results = {"checkpoint": checkpoint, "skipped": datamodule.skipped, **evaluation.results}
    print(table(results))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / METRICS, (json.dumps(results, indent=2, allow_nan=False) + "\n").encode())
        write_whole(folder / REPORT, report(results, examples(evaluation)).encode())
        log.info("%s and %s", folder / METRICS, folder / REPORT)


# ---- what was asked for --------------------------------------------------------------------------------


def check(cfg: DictConfig) -> list[float]:
    """The target ages; what cannot be meant is refused before anything is loaded."""
    from sam_age.choices import check_ages

    need_bool(cfg, "overwrite", "loss_terms")
    ages = check_ages(cfg.target_ages)
    if any(age != round(age) for age in ages) or len(set(ages)) < len(ages):
        raise InputError(f"target_ages are whole years, each once, to be scored one by one; got {ages}.")
    if cfg.source_ages is not None:
        check_ages(cfg.source_ages)
    if cfg.split not in (None, "val", "test"):
        raise InputError(f"split is val or test, not {cfg.split!r}.")
    for key, none in (("max_images", "null for all"), ("batch_size", "null"), ("baselines_faces", "")):
        value = cfg[key]
        if (value is None and none) or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
            continue
        raise InputError(f"{key} is a whole number from 1 up{none and f', or {none}'}, not {value!r}.")
    return ages


def check_output(cfg: DictConfig) -> Path | None:
    """The folder to write to, if any."""
    if cfg.output is None:
        return None
    folder = Path(str(cfg.output))
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: give output= a folder.")
    for path in (folder / METRICS, folder / REPORT):
        if path.exists() and not cfg.overwrite:
            raise InputError(f"{path} is already there: overwrite=true replaces it, output=... writes elsewhere.")
    return folder


def with_own_defaults(cfg: DictConfig) -> DictConfig:
    """The config with what belongs to a checkpoint that has a name, where nothing else was chosen."""
    own = OWN_DEFAULTS.get(str(cfg.checkpoint), {})
    cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=False))
    for group, name in own.get("groups", {}).items():
        if cfg.get(group) is None:
            cfg[group] = option("eval", group, name)
    cfg.split = cfg.split or own.get("split", "val")
    if cfg.baselines == "auto":
        cfg.baselines = own.get("baselines")
    return cfg


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


# ---- faces ---------------------------------------------------------------------------------------------


def data_config(cfg: DictConfig, run: dict[str, Any]) -> DictConfig:
    """The data chosen on the command line, else the data of the checkpoint's run."""
    chosen = cfg.get("data") or OmegaConf.create(run.get("data") or {})
    if not chosen:
        raise InputError(f"{cfg.checkpoint} does not say on what data to score it: add data=folder data.val=/my/faces.")
    whole = OmegaConf.create({"data": OmegaConf.to_container(chosen, resolve=False)})
    chosen = OmegaConf.create(OmegaConf.to_container(whole, resolve=True)["data"])
    for split in {"train", "val", "test"} - {cfg.split, "train" if cfg.baselines == "fit" else cfg.split}:
        chosen[split] = None  # not needed, and perhaps not on this machine
    return chosen


def choose_inputs(cfg: DictConfig, datamodule: LightningDataModule) -> tuple[Known, list[int] | None]:
    """What is known of the data's faces, and which are to be aged; None: all that the data module still has."""
    import torch

    from sam_age.data.sources import Subset
    from sam_age.evaluation.baselines import some
    from sam_age.evaluation.known import known_of

    dataset = datamodule.test_set if cfg.split == "test" else datamodule.val_set
    if dataset is None:
        raise InputError(f"There are no faces to score: set data.{cfg.split} (with data=folder) to a folder of them.")
    known = known_of(dataset.source)
    inputs = list(range(len(known)))
    if cfg.source_ages is not None:
        from sam_age.choices import check_ages

        years = torch.tensor(check_ages(cfg.source_ages))
        inputs = torch.isin(known.age, years).nonzero().flatten().tolist()
        if not inputs:
            there = sorted(set(known.age[~known.age.isnan()].tolist()))
            some = ", ".join(f"{age:g}" for age in there[:12]) + (", ..." if len(there) > 12 else "")
            raise InputError(
                f"No face of data.{cfg.split} is of the source_ages {list(years.tolist())}: "
                f"{f'there are {some}' if there else 'their ages are not known'}."
            )
    inputs = some(inputs, cfg.max_images)
    if known.people or len(inputs) == len(known):
        return known, inputs
    dataset.source = Subset(dataset.source, inputs)  # no others are needed, neither as truth nor as strangers
    return known_of(dataset.source), None


# ---- networks ------------------------------------------------------------------------------------------


def instruments_of(cfg: DictConfig, run: dict[str, Any]) -> tuple[Instruments, AgingLosses | None]:
    """The judges, and the losses if their terms are asked for. Where a judge is missing, the loss's network judges."""
    from sam_age.evaluation.instruments import Instruments
    from sam_age.models.perceptual import LPIPS
    from sam_age.weights import frozen

    judges = build(cfg.judges) if cfg.get("judges") else {"age": None, "identity": None}
    missing = tuple(name for name in ("age", "identity") if judges[name] is None)
    losses = build(losses_config(cfg, run)) if cfg.loss_terms else None
    own = own_networks(cfg, run, losses, missing)
    if isinstance(cfg.second_judge, str):
        name = cfg.second_judge
        raise InputError(f"second_judge is one of conf/judges, which is chosen so: judges@second_judge={name}")
    second = optional_network(cfg.second_judge and cfg.second_judge.age, "second age judge")
    if type(second) is type(judges["age"]):
        second = None
    alexnet = cfg.weights.alexnet
    instruments = Instruments(
        own["age"] if judges["age"] is None else judges["age"],
        own["identity"] if judges["identity"] is None else judges["identity"],
        second_age=second,
        source_age=own["age"],
        realism=optional_network(REALISM, "kernel distance"),
        lpips=None if alexnet is None else frozen(LPIPS(), alexnet, name="perceptual"),
        own=missing,
    )
    return instruments, losses


REALISM = OmegaConf.create(
    {
        "_target_": "sam_age.weights.frozen",
        "name": "kernel distance",
        "network": {"_target_": "sam_age.models.onet.ONetFeatures"},
    }
)


def optional_network(config: Any, what: str) -> Any:
    """A network that is done without where it cannot be had; a line says so."""
    if not config:
        return None
    try:
        return build(config)
    except (InputError, ImportError) as error:
        log.warning("Without the %s: %s", what, error)
        return None


def own_networks(
    cfg: DictConfig, run: dict[str, Any], losses: AgingLosses | None, missing: Sequence[str]
) -> dict[str, Any]:
    """The age and identity networks of the losses: where a judge is missing; the age network also wherever it can be
    had, since it is what tells SAM, and should tell the baselines, how old an input looks."""
    if losses is not None:
        return {"age": losses.age_net, "identity": losses.identity_net}
    found: dict[str, Any] = {"age": None, "identity": None}
    if not missing and not (cfg.get("losses") or run.get("losses")):
        return found
    config = losses_config(cfg, run)
    for name in found:
        node = config.get(f"{name}_net")
        if node and name in missing:
            found[name] = build(node)
        elif node and name == "age":
            found[name] = optional_network(node, "losses' age network: the judge reads the inputs, too")
    return found


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


def baselines_of(
    cfg: DictConfig, sam: SAM, datamodule: LightningDataModule, trainer: Trainer, age_net: AgeNet
) -> LatentBaselines | None:
    """The latent baselines asked for; the age network measures the linear one's step."""
    from sam_age.evaluation.baselines import LatentBaselines, fit_on_faces
    from sam_age.weights import load

    if cfg.baselines is None:
        return None
    if cfg.baselines != "fit":
        found = load(str(cfg.baselines))
        if not isinstance(found, LatentBaselines):
            raise InputError(f"{cfg.baselines} holds {type(found).__name__}, not latent baselines: try baselines=fit.")
        if found.normal.shape != sam.latent_avg.shape:
            raise InputError(
                f"{cfg.baselines} is for codes of {list(found.normal.shape)}, {cfg.checkpoint} has "
                f"{list(sam.latent_avg.shape)}: take baselines=fit."
            )
        return found
    if datamodule.train_set is None:
        raise InputError("baselines=fit needs data.train, faces of known age: set it, or baselines=null.")
    dataset = datamodule.train_set
    dataset.flip = 0.0
    device = trainer.strategy.root_device
    size = cfg.batch_size or (64 if device.type == "cuda" else 8)
    return fit_on_faces(
        sam, dataset, cfg.baselines_faces, age_net=age_net, device=device, batch_size=size,
        num_workers=datamodule.num_workers,
    )  # fmt: skip


main = hydra_app("eval", evaluate)

if __name__ == "__main__":
    main()
