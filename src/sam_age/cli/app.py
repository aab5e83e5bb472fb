"""What every `sam-*` Hydra app shares: config mistakes and bad input end in one clear line, exit code 2."""

from __future__ import annotations

import contextlib
import difflib
import functools
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from sam_age.cli.help import show_help
from sam_age.config import CONF_DIR
from sam_age.errors import InputError

BAD_INPUT = 2


def hydra_app(config_name: str, task: Callable[[DictConfig], None]) -> Callable[[], None]:
    """The console script `sam-<config_name>`: composes conf/<config_name>.yaml and runs `task` on it.

    A mistyped key, a missing value or an InputError is printed as one line on stderr and ends the process
    with exit code 2; anything else is a bug and keeps its traceback.
    """
    name = f"sam-{config_name}"

    @functools.wraps(task)
    def guarded(cfg: DictConfig) -> None:
        with _plain_errors(name, config_name):  # inside the job: Hydra adds lines of its own to what leaves it
            task(cfg)

    run = hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=config_name)(guarded)

    def main() -> None:
        # Hydra would report config mistakes in its own words and leave with code 1; let them through to us.
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        with _plain_errors(name, config_name):
            if {"--help", "-h"} & set(sys.argv[1:]):
                show_help(run, config_name)
            else:
                from tqdm.contrib.logging import logging_redirect_tqdm

                with logging_redirect_tqdm():  # above the bars that are drawn just then, ours and Lightning's
                    run()

    return main


@contextlib.contextmanager
def _plain_errors(name: str, config_name: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        _stop(name, str(error))
    except MissingMandatoryValue as error:
        key = error.full_key or "a value"
        _stop(name, f"{key} is needed: {name} {key}=... ({name} --help shows examples)")
    except (HydraException, OmegaConfBaseException) as error:
        _stop(name, _explain(str(error), config_name))
    except OSError as error:
        if error.filename is None:  # not about a file of the user's
            raise
        _stop(name, f"{error.filename}: {error.strerror}. Check the path, and that it can be written.")
    except KeyboardInterrupt:
        _stop(name, "interrupted", code=130)


def need_bool(cfg: DictConfig, *keys: str) -> None:
    """Refuse what is neither true nor false: Hydra reads `no` and `maybe` as words, and words count as true."""
    for key in keys:
        if not isinstance(cfg[key], bool):
            raise InputError(f"{key} is true or false, not {cfg[key]!r}.")


def option(config_name: str, group: str, name: str) -> dict[str, Any]:
    """An option of a config group as `sam-<config_name> group=name` would compose it, interpolations unresolved."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return OmegaConf.to_container(compose(config_name, overrides=[f"{group}={name}"]), resolve=False)[group]


def _stop(name: str, message: str, code: int = BAD_INPUT) -> None:
    print(f"{name}: {_one_line(message)}", file=sys.stderr)
    sys.exit(code)


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _explain(message: str, config_name: str) -> str:
    """Hydra's complaint in one line, with the nearest key that does exist."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    lines = [line for line in lines if not re.match(r"(full_key|object_type|reference_type|See http)", line)]
    text = " ".join(lines).partition(" Config search path:")[0]
    if re.search(r"(mismatched|extraneous) input|token recognition error|no viable alternative", text):
        return (
            f"{lines[0]} Arguments are key=value; a value with spaces, commas or brackets is quoted twice: "
            """'input="my photo (1).jpg"'."""
        )
    wrong = re.search(r"Could not override '([^']+)'", text)
    if wrong is None:
        return text
    key = wrong.group(1)
    group = key.split(".")[0]
    base = _base(config_name)
    if "." in key and (CONF_DIR / group).is_dir() and group not in base:
        options = ", ".join(sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml")))
        return f"Could not override '{key}': choose {group}= one of {options} first."
    if owners := _owners(key):
        return f"Could not override '{key}': it is an option of {' and '.join(owners)}."
    if near := _nearest(key, list(_keys(base))):
        text += f" Did you mean {near}?"
    return text


def _base(config_name: str) -> dict[str, Any]:
    """The config as it is without overrides."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return OmegaConf.to_container(compose(config_name), resolve=False)


def _owners(key: str) -> list[str]:
    """Which options of a group have a key of it: mode.seconds is mode=animate's."""
    group, _, name = key.partition(".")
    files = sorted((CONF_DIR / group).glob("*.yaml")) if name.isidentifier() else []
    return [f"{group}={file.stem}" for file in files if name in (OmegaConf.load(file) or {})]


def _nearest(key: str, known: list[str]) -> str | None:
    by_tail = {k.rsplit(".", 1)[-1]: k for k in reversed(known)}
    if near := difflib.get_close_matches(key, known, n=1, cutoff=0.75):
        return near[0]
    tail = difflib.get_close_matches(key.rsplit(".", 1)[-1], list(by_tail), n=1, cutoff=0.75)
    return by_tail[tail[0]] if tail else None


def _keys(config: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")


def quieten_lightning() -> None:
    """Leave out what Lightning says about things that are as they should be here."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        ".*in eval mode at the start of training.*",  # the frozen networks
        ".*pre-optimization state.*",  # checkpoints are of the weights after the step, as wanted
        ".*does not have many workers.*",
        ".*treespec, LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", message)
