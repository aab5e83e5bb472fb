"""Every sweep in conf/sweep, from W&B's own agent to the config that Hydra makes of its arguments."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sam_age.config import CONF_DIR

wandb_agent = pytest.importorskip("wandb.wandb_agent")
from wandb.sdk.launch.sweeps.utils import load_sweep_config  # noqa: E402

SWEEPS = sorted(path.stem for path in (CONF_DIR / "sweep").glob("*.yaml"))

PARAMETER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
"""What W&B takes for a parameter's name: the JSON schema of its package `sweeps`, 0.3.0."""

LEFT_OUT = {
    "nothing": {},
    "l2": {"losses.l2": 0, "losses.l2_aging": 0},
    "l2_crop": {"losses.l2_crop": 0},
    "lpips": {"losses.lpips": 0, "losses.lpips_aging": 0},
    "lpips_crop": {"losses.lpips_crop": 0},
    "identity": {"losses.identity": 0},
    "identity_weighting": {"losses.weighted_identity": False},
    "age": {"losses.age": 0},
    "w_norm": {"losses.w_norm": 0},
    "cycle": {"module.cycle_weight": 0},
}


def sweep(name: str) -> dict[str, Any]:
    return load_sweep_config(str(CONF_DIR / "sweep" / f"{name}.yaml"))


def trials(name: str) -> list[dict[str, Any]]:
    """Every combination of the values a sweep lists; of a range its two ends, and a number with many digits."""
    parameters = sweep(name)["parameters"]
    values = [
        p["values"] if "values" in p else [p["min"], (p["min"] * p["max"]) ** 0.5, p["max"]]
        for p in parameters.values()
    ]
    combined = itertools.product(*values) if sweep(name)["method"] == "grid" else zip(*values, strict=True)
    return [dict(zip(parameters, chosen, strict=True)) for chosen in combined]


class Launched:
    """Stands in for the agent's child process and keeps what it was to run."""

    def __init__(self, command: list[str], env: dict[str, str], **rest: Any) -> None:
        self.command, self.env = command, env


def launch(name: str, values: dict[str, Any], run_id: str, folder: Path, monkeypatch: Any, command: Any = None) -> Any:
    """Have W&B's agent start a trial, as it does when the server sends one; the process it made."""
    monkeypatch.chdir(folder)
    for variable in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(variable, "before")  # the agent sets them in its own environment: undone with this
    monkeypatch.setenv("WANDB_DIR", str(folder))
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_MODE", "offline")
    agent = wandb_agent.Agent(api=None, queue=None, sweep_id="sweep1")
    agent._sweep_command = command or sweep(name)["command"]
    arguments = {key: {"value": value} for key, value in values.items()}
    response = agent._process_command(
        {"type": "run", "run_id": run_id, "program": sweep(name)["program"], "args": arguments}
    )
    assert "exception" not in response, response
    return agent._run_processes[run_id]


def arguments_of(process: Any) -> list[str]:
    """What follows the program in the command line."""
    return process.command[process.command.index("sam-train") + 1 :]


def composed(process: Any, monkeypatch: Any) -> Any:
    """Hydra's config of the command line and the environment that the agent gave its child."""
    monkeypatch.setenv("WANDB_RUN_ID", process.env["WANDB_RUN_ID"])
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", arguments_of(process))


def chosen_value(cfg: Any, parameter: str, value: Any) -> tuple[Any, Any]:
    """What the config says of a parameter, and what it should: of a group, the `_target_` of the file chosen."""
    file = CONF_DIR / parameter / f"{value}.yaml"
    if file.is_file():
        return cfg[parameter]["_target_"], yaml.safe_load(file.read_text(encoding="utf-8"))["_target_"]
    return OmegaConf.select(cfg, parameter), value


def test_there_are_sweeps_over_losses_optimizers_and_left_out_terms():
    assert SWEEPS == ["ablation", "losses", "optimizer"]


@pytest.mark.parametrize("name", SWEEPS)
def test_parameter_names_are_ones_that_wandb_takes(name):
    assert all(PARAMETER_NAME.fullmatch(parameter) for parameter in sweep(name)["parameters"])


@pytest.mark.parametrize("name", ["losses", "optimizer"])
def test_every_trial_composes_to_its_parameters(name, tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_agent, "AgentProcess", Launched)
    for number, values in enumerate(trials(name)):
        cfg = composed(launch(name, values, f"run{number}", tmp_path, monkeypatch), monkeypatch)
        for parameter, value in values.items():
            found, wanted = chosen_value(cfg, parameter, value)
            assert found == wanted, (values, parameter)


def test_every_ablation_changes_what_it_says_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_agent, "AgentProcess", Launched)
    configs = {}
    for values in trials("ablation"):
        process = launch("ablation", values, "run1", tmp_path, monkeypatch)
        configs[values["sweep"].removeprefix("without/")] = composed(process, monkeypatch)
    assert configs.keys() == LEFT_OUT.keys()
    for name, changes in LEFT_OUT.items():
        wanted = configs["nothing"].copy()
        for key, value in changes.items():
            assert OmegaConf.select(wanted, key) not in (None, value)
            OmegaConf.update(wanted, key, value)
        assert configs[name] == wanted, name


def test_the_ablation_leaves_out_every_weight_of_the_objective():
    paper = yaml.safe_load((CONF_DIR / "losses" / "paper.yaml").read_text(encoding="utf-8"))
    weights = {f"losses.{key}" for key, value in paper.items() if isinstance(value, int | float) and value}
    left_out = set().union(*LEFT_OUT.values())
    assert left_out == weights | {"module.cycle_weight"}


@pytest.mark.parametrize("name", SWEEPS)
def test_every_trial_writes_to_a_folder_of_its_own_and_logs_to_wandb_alone(name, tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_agent, "AgentProcess", Launched)
    outputs = set()
    for run_id in ("8fj2k1", "p0e4xz"):
        cfg = composed(launch(name, trials(name)[0], run_id, tmp_path, monkeypatch), monkeypatch)
        assert list(cfg.logger) == ["wandb"]
        assert cfg.output.endswith(run_id)
        assert cfg.logger.wandb.save_dir == cfg.output
        outputs.add(cfg.output)
    assert len(outputs) == 2


@pytest.mark.parametrize("name", SWEEPS)
def test_no_argument_is_the_word_none(name, tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_agent, "AgentProcess", Launched)
    for values in trials(name):
        process = launch(name, values, "run1", tmp_path, monkeypatch)
        assert not [a for a in arguments_of(process) if a.partition("=")[2] in ("", "None")]


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEPS)
def test_a_trial_runs_offline_and_logs_the_sweeps_metric(name, tmp_path, monkeypatch):
    scripts = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join([scripts, os.environ["PATH"]]))
    if shutil.which("sam-train") is None:
        pytest.skip("sam-train is not installed beside this interpreter")
    small = ["trainer.max_steps=2", "trainer.val_check_interval=1", "callbacks.checkpoint.every_n_train_steps=2"]
    small += ["trainer.accelerator=cpu", "trainer.limit_val_batches=1"]
    command = [c.replace("ffhq_aging", "smoke") for c in sweep(name)["command"]] + small
    process = launch(name, trials(name)[-1], "trial1", tmp_path, monkeypatch, command)
    assert process.wait(timeout=600) == 0
    run = tmp_path / "runs" / f"sweep_{name}" / "trial1"
    assert (run / "checkpoints" / "last.ckpt").is_file()
    log = next(run.glob("wandb/offline-run-*/*.wandb"))  # records of protocol buffers: names stand there as they are
    assert sweep(name)["metric"]["name"].encode() in log.read_bytes()


@pytest.mark.slow
def test_a_run_that_logs_elsewhere_does_not_import_wandb(tmp_path):
    program = (
        "import sys; from sam_age.cli.train import main\n"
        "sys.argv = ['sam-train', '+experiment=smoke', 'logger=csv', 'trainer.accelerator=cpu',\n"
        "            'trainer.max_steps=1', 'trainer.val_check_interval=1', 'trainer.limit_val_batches=1']\n"
        "main()\n"
        "print('wandb' in sys.modules, 'pytorch_lightning' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["False", "True"]
