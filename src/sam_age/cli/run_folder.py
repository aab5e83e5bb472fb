"""The folder a training run writes to: when it may be used, what may be removed from it, where to go on from."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sam_age.errors import InputError

if TYPE_CHECKING:
    from sam_age.weights.files import Contents

MADE_BY_A_RUN = ("checkpoints", "weights", "panels", "csv", "tensorboard", "wandb", "config.yaml")
"""What sam-train writes, and all that overwrite=true may remove."""


def check_free(output: Path, *, overwrite: bool) -> None:
    """Refuse to write over an earlier run unless told to, and over anything else always."""
    here = Path.cwd().resolve()
    if output.resolve() in (here, *here.parents):
        raise InputError(f"output={output} is the current folder or above it: give a run a folder of its own.")
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not _is_run(output):
        raise InputError(f"{output} holds something that is not a run of sam-train: choose another output.")
    if not overwrite:
        raise InputError(
            f"{output} already holds a run: resume=last goes on with it, overwrite=true starts again, "
            "name=... writes elsewhere."
        )


def _is_run(folder: Path) -> bool:
    try:
        config = OmegaConf.load(folder / "config.yaml")
    except (OSError, ValueError, OmegaConfBaseException):
        return False
    return all(key in config for key in ("module", "trainer", "losses"))


def clear(output: Path) -> None:
    """Remove what a run made, and nothing else."""
    for name in MADE_BY_A_RUN:
        path = output / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if output.is_dir() and not any(output.iterdir()):
        output.rmdir()


def checkpoint_to_resume(resume: Any, output: Path) -> Path | None:
    """The checkpoint that `resume` names: None, "last" of this run, or a path.

    Raises:
        InputError: there is none, or the file is not a whole checkpoint of sam-train.
    """
    if resume is None:
        return None
    path = _newest(output / "checkpoints") if resume == "last" else Path(str(resume))
    if not path.is_file():
        raise InputError(f"No checkpoint at {path} to resume from; leave resume out to start afresh.")
    from sam_age.weights.files import open_file

    contents = open_file(path)
    if not isinstance(contents.tree, Mapping) or "optimizer_states" not in contents.tree:
        raise InputError(_not_resumable(contents))
    return path


def _not_resumable(contents: Contents) -> str:
    """Why a file is no checkpoint to resume, and what to do with what it is."""
    from sam_age.weights.recognise import recognise

    path, found = contents.path, recognise(contents)
    how = f"set weights.sam={path}" if found.kind == "SAM" else "give start= the folder that it is in"
    return (
        f"{path} holds {found.looks_like}, without the optimizer that a run goes on with: resume takes a .ckpt "
        f"of sam-train; to start from these weights {how}."
    )


def _newest(checkpoints: Path) -> Path:
    """last.ckpt, or, where the run was killed before it wrote one, the latest checkpoint there is."""
    last = checkpoints / "last.ckpt"
    others = sorted(checkpoints.glob("step_*.ckpt"))
    return others[-1] if others and not last.exists() else last


def check_same_network(checkpoint: Path, network: dict[str, Any]) -> None:
    """Refuse to resume a run of another stage or architecture.

    network: `Stage.network_config()` of the stage that is to go on.
    """
    from sam_age.weights.files import open_file

    stored = open_file(checkpoint).tree.get("network", {})
    if stored and not set(stored) & set(network):
        raise InputError(
            f"{checkpoint} is of another stage, which trained {', '.join(stored)} and not {', '.join(network)}: resume "
            "with the run's own experiment."
        )
    for part, arguments in network.items():
        for name, value in arguments.items():
            was = stored.get(part, {}).get(name, value)
            if was != value:
                raise InputError(
                    f"{checkpoint} was trained with model.{part}.{name}={was}, the config asks for {value}: resume "
                    "with the run's own config, or start another run."
                )
