"""sam-train as a user runs it: resuming, refusing, and the paper's numbers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sam_age.cli.train import train
from sam_age.config import CONF_DIR
from sam_age.errors import InputError
from sam_age.weights import save
from tests.cli.inside import inside
from tests.modules.test_aging import tiny_sam

SMALL = [
    "+experiment=smoke", "trainer.max_steps=6", "trainer.val_check_interval=3", "trainer.log_every_n_steps=1",
    "callbacks.checkpoint.every_n_train_steps=2", "callbacks.panels.faces=1", "data.val.count=2",
    "trainer.accelerator=cpu", "model.encoder.depths=[1,1,2,1]", "model.pretrained_encoder.depths=[1,1,2,1]",
]  # fmt: skip


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"sam_age.cli.{name}", *arguments]


def run(folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        command(name, *arguments), cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def config(*overrides: str) -> dict:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return OmegaConf.to_container(compose("train", overrides=list(overrides)), resolve=True)


@pytest.fixture
def noisy_sam(tmp_path: Path) -> Path:
    """Tiny SAM whose generator adds noise, so that a resumed run must also draw the same noise."""
    sam = tiny_sam()
    for layer in (sam.decoder.conv1, *sam.decoder.convs):
        torch.nn.init.constant_(layer.noise.weight, 0.5)
    return save(sam, tmp_path / "noisy.safetensors")


def test_a_run_killed_in_the_middle_goes_on_bit_for_bit(tmp_path: Path, noisy_sam: Path) -> None:
    numbers = {"style_dim": 16, "widths": [8, 8, 16, 16], "tower_width": 8}
    parts = [
        f"model.{part}.{k}={str(v).replace(' ', '')}"
        for part in ("encoder", "pretrained_encoder")
        for k, v in numbers.items()
    ]
    parts += ["model.decoder.style_dim=16", "model.decoder.channel_max=16", f"model.checkpoint={noisy_sam}"]
    arguments = [*SMALL, *parts, "data.num_workers=1", "module.ema_decay=0.9"]

    whole = run(tmp_path, "train", *arguments, "output=whole")
    assert whole.returncode == 0, whole.stderr[-3000:]

    broken = tmp_path / "broken" / "checkpoints"
    victim = subprocess.Popen(
        command("train", *arguments, "output=broken"),
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not (broken / "last.ckpt").exists() and time.monotonic() < deadline and victim.poll() is None:
        time.sleep(0.02)
    victim.kill()
    victim.wait()
    assert (broken / "step_0000002.ckpt").exists()
    assert not (broken / "step_0000006.ckpt").exists(), "killed too late to show anything"

    resumed = run(tmp_path, "train", *arguments, "output=broken", "resume=last")
    assert resumed.returncode == 0, resumed.stderr[-3000:]

    want = torch.load(tmp_path / "whole/checkpoints/last.ckpt", weights_only=True)
    got = torch.load(broken / "last.ckpt", weights_only=True)
    assert want["global_step"] == got["global_step"] == 6
    assert_identical(want["state_dict"], got["state_dict"], "state_dict")
    assert_identical(want["optimizer_states"], got["optimizer_states"], "optimizer")
    assert want["FacesDataModule"] == got["FacesDataModule"]


def assert_identical(a, b, where: str) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_identical(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_identical(x, y, f"{where}.{index}")
    else:
        assert a == b, where


def test_a_run_leaves_checkpoints_panels_logs_and_its_config_and_is_not_overwritten(tmp_path: Path) -> None:
    done = run(tmp_path, "train", *SMALL, "trainer.max_steps=2")
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "runs/smoke"
    for left in ("checkpoints/last.ckpt", "config.yaml", "csv/version_0/metrics.csv"):
        assert (folder / left).is_file(), left
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs"]  # and nothing beside it
    assert "random weights" in done.stderr
    again = run(tmp_path, "train", *SMALL)
    assert again.returncode == 2
    assert "already holds a run" in one_line(again)
    assert "resume=last" in one_line(again)


def one_line(done: subprocess.CompletedProcess) -> str:
    """The only line that a refused command prints."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr[-3000:]
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["+experiment=smoke", "data.batch_sise=3"], "Did you mean data.batch_size?"),
        (["experiment=smoke"], "+experiment=smoke"),
        (["+experiment=no_such"], "Available options"),
        (["+experiment=smoke", "data=folder", "data.train=nowhere"], "nothing at nowhere"),
        (["+experiment=smoke", "data=folder"], "data.train"),
        (["+experiment=smoke", "resume=last"], "No checkpoint at"),
        (["+experiment=ffhq_aging", "data=drawn", "weights.arcface=missing.pth"], "missing.pth"),
        (["+experiment=smoke", "losses.age_net.weights=null"], "has no weights"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(tmp_path: Path, arguments: list, expected: str) -> None:
    done = inside(tmp_path, "train", *arguments)
    assert done.returncode == 2, done.stderr[-3000:]
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("sam-train: ")
    assert list(tmp_path.iterdir()) == []


def test_the_experiment_is_the_papers_run_number_for_number() -> None:
    """Every number here is from METHOD.md, not from conf/."""
    run = config("+experiment=ffhq_aging")
    losses = run["losses"]
    weights = {k: losses[k] for k in ("l2", "l2_aging", "l2_crop", "lpips", "lpips_aging", "lpips_crop")}
    assert weights == {
        "l2": 0.25, "l2_aging": 0.25, "l2_crop": 1.0, "lpips": 0.1, "lpips_aging": 0.1, "lpips_crop": 0.6,
    }  # fmt: skip
    assert (losses["identity"], losses["age"], losses["w_norm"]) == (0.1, 5.0, 0.005)
    assert losses["weighted_identity"] is True
    assert run["module"]["cycle_weight"] == 1.0
    assert run["module"]["same_age_probability"] == pytest.approx(1 / 3)
    assert run["module"]["ema_decay"] is None
    optimizer = run["optimizer"]
    assert optimizer["_target_"].endswith("Ranger")
    assert (optimizer["lr"], optimizer["betas"], optimizer["eps"]) == (1e-4, [0.95, 0.999], 1e-5)
    assert (optimizer["k"], optimizer["alpha"], optimizer["use_gc"]) == (6, 0.5, True)
    assert (run["data"]["batch_size"], run["data"]["flip"], run["data"]["image_size"]) == (6, 0.5, 256)
    assert run["trainer"]["max_steps"] == 60_000
    assert (run["trainer"]["devices"], run["trainer"]["strategy"]) == (1, "auto")
    assert run["trainer"]["precision"] == "32-true"
    model = run["model"]
    assert (model["encoder"]["in_channels"], model["pretrained_encoder"]["in_channels"]) == (4, 3)
    assert model["encoder"]["n_styles"] == model["pretrained_encoder"]["n_styles"] == 18
    assert (model["decoder"]["size"], model["decoder"]["style_dim"]) == (1024, 512)
    nets = [losses[n]["network"]["_target_"].rsplit(".", 1)[-1] for n in ("age_net", "identity_net", "perceptual_net")]
    assert nets == ["DEX", "ArcFace", "LPIPS"]
    assert "ffhq" in run["data"]["train"]
    assert "celeba_hq" in run["data"]["val"]


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes(experiment: str) -> None:
    assert config(f"+experiment={experiment}")["name"]


@pytest.mark.parametrize(
    ("group", "option"),
    [
        (group, option)
        for group in ("model", "losses", "optimizer", "strategy", "data", "logger", "callbacks", "judges")
        for option in options(group)
    ],
)
def test_every_option_of_every_group_composes(group: str, option: str) -> None:
    run = config(f"{group}={option}")
    assert run["trainer"]["_target_"] == "pytorch_lightning.Trainer"


@pytest.mark.parametrize("name", ["train", "eval", "infer", "prepare", "weights"])
def test_help_shows_examples(tmp_path: Path, name: str) -> None:
    done = run(tmp_path, name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"sam-{name} " in done.stdout
    assert "xamples" in done.stdout
    assert list(tmp_path.iterdir()) == []


# ---- what a run may write over, and what it goes on from: in this process, for speed -----------------------


def start(*overrides: str) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", overrides=[*SMALL, "callbacks.progress.refresh_rate=0", *overrides])
    train(cfg)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_overwriting_removes_what_a_run_made_and_nothing_else(here: Path) -> None:
    start("trainer.max_steps=2")
    folder = here / "runs/smoke"
    (folder / "notes.txt").write_text("mine")
    old = (folder / "checkpoints/last.ckpt").stat().st_mtime_ns
    start("trainer.max_steps=2", "overwrite=true")
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "checkpoints/last.ckpt").stat().st_mtime_ns > old


@pytest.mark.parametrize("word", ["no", "maybe", "1"])
def test_overwrite_is_true_or_false(here: Path, word: str) -> None:
    with pytest.raises(InputError, match="overwrite is true or false"):
        start(f"overwrite={word}")


def test_what_is_not_a_run_is_never_written_over(here: Path) -> None:
    project = here / "project"
    project.mkdir()
    (project / "config.yaml").write_text("title: thesis\n")
    with pytest.raises(InputError, match="not a run of sam-train"):
        start("output=project", "overwrite=true")
    with pytest.raises(InputError, match="current folder or above"):
        start("output=.", "overwrite=true")
    assert sorted(p.name for p in here.rglob("*")) == ["config.yaml", "project"]


def test_going_on_from_another_runs_checkpoint_needs_a_free_folder(here: Path) -> None:
    start("trainer.max_steps=2", "output=one")
    start("trainer.max_steps=2", "output=two")
    before = (here / "two/config.yaml").read_bytes()
    with pytest.raises(InputError, match="two already holds a run"):
        start("output=two", "resume=one/checkpoints/last.ckpt")
    assert (here / "two/config.yaml").read_bytes() == before
    start("trainer.max_steps=4", "output=three", "resume=one/checkpoints/last.ckpt")
    assert torch.load(here / "three/checkpoints/last.ckpt", weights_only=True)["global_step"] == 4


def test_last_is_the_last_whatever_was_resumed(here: Path) -> None:
    start("trainer.max_steps=6")
    start("trainer.max_steps=4", "resume=runs/smoke/checkpoints/step_0000002.ckpt")
    names = sorted(p.name for p in (here / "runs/smoke/checkpoints").iterdir())
    assert names == ["last.ckpt", "step_0000002.ckpt", "step_0000004.ckpt", "step_0000006.ckpt"]
    assert torch.load(here / "runs/smoke/checkpoints/last.ckpt", weights_only=True)["global_step"] == 4


def test_a_file_that_cannot_be_resumed_is_refused_before_anything_is_written(here: Path) -> None:
    (here / "junk.ckpt").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"junk\.ckpt"):
        start("resume=junk.ckpt")
    sam = save(tiny_sam(), here / "sam.safetensors")
    with pytest.raises(InputError, match=r"without the optimizer.*weights\.sam="):
        start(f"resume={sam}")
    start("trainer.max_steps=2", "output=one")
    with pytest.raises(InputError, match=r"trained with model\.encoder\.tower_width=16"):
        start("output=two", "resume=one/checkpoints/last.ckpt", "model.encoder.tower_width=8")
    assert not (here / "two").exists()
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.lr=-1"], "optimizer does not take these settings"),
        (["optimizer=schedule_free", "module.ema_decay=0.9"], "averages the weights itself"),
        (["data.batch_size=abc"], "data.datamodule"),
        (["model.encoder.widths=[8,16]"], "four blocks"),
    ],
)
def test_settings_that_do_not_fit_leave_nothing_behind(here: Path, overrides: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        start(*overrides)
    assert list(here.iterdir()) == []


def test_a_run_that_fails_before_its_first_checkpoint_does_not_block_the_next(here: Path, monkeypatch) -> None:
    from sam_age.modules.aging import AgingModule

    with monkeypatch.context() as patch:
        patch.setattr(AgingModule, "training_step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            start()
    assert not (here / "runs/smoke").exists()


def test_networks_whose_terms_weigh_nothing_are_not_needed(here: Path) -> None:
    idle = [f"losses.{term}=0" for term in ("lpips", "lpips_aging", "lpips_crop", "identity")]
    start("trainer.max_steps=1", *idle, "losses.perceptual_net.weights=null", "losses.identity_net.weights=null")


def test_a_run_without_callbacks_trains_and_saves_nothing(here: Path) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", overrides=["+experiment=smoke", "callbacks=none", "trainer.max_steps=1"])
    train(cfg)
    assert not (here / "runs/smoke/checkpoints").exists()


def test_tensorboard_gets_the_curves_and_the_panels(here: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    steps = ["trainer.max_steps=2", "trainer.val_check_interval=2"]
    start(*steps, "logger=tensorboard")
    (folder,) = (here / "runs/smoke/tensorboard").iterdir()
    events = accumulator.EventAccumulator(str(folder)).Reload()
    assert {"train/total", "val/age_mae"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["panels/validation"]
