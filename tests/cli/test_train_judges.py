"""sam-train on the judges' experiments, small: what they leave, go on from, and refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from sam_age.cli.train import train
from sam_age.config import CONF_DIR, build
from sam_age.errors import InputError
from sam_age.lifespan.folder import Settings
from sam_age.lifespan.making import render_split
from sam_age.losses import AgingLosses
from sam_age.models.convnext import ConvNeXtTrunk
from sam_age.models.trunk import ResidualTrunk
from sam_age.weights import load
from tests.cli.test_train import assert_identical

FAKE = "tests.lifespan.fake"
SHORT = [
    "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.max_steps=4", "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1", "callbacks.checkpoint.every_n_train_steps=2", "callbacks.progress.refresh_rate=0",
    "callbacks.panels.rows=2", "data.batch_size=4", "data.num_workers=0", "data.image_size=64",
    "module.wear.blur_sigma=[0.3,1.0]",
]  # fmt: skip
NETWORKS = [
    f"module.tasks.{task}.network.network.{key}"
    for task in ("age", "identity")
    for key in ("widths=[8,16]", "depths=[1,1]", "image_size=32")
]


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lifespan")
    for split in ("train", "judges", "val"):
        render_split(root, Settings(split=split, people=4, size=32, format="png"), workers=1, renderer=FAKE)
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def start(portraits: Path, *overrides: str, experiment: str = "lifespan_judges") -> None:
    train(config(f"+experiment={experiment}", f"data.train.root={portraits}", *SHORT, *NETWORKS, *overrides))


@pytest.mark.parametrize(
    ("experiment", "trunk", "people"),
    [("lifespan_judges", ResidualTrunk, "train"), ("lifespan_eval_judges", ConvNeXtTrunk, "judges")],
)
def test_a_run_leaves_both_networks_panels_and_curves(here, portraits, experiment, trunk, people):
    start(portraits, experiment=experiment)
    folder = here / "runs" / experiment
    for name in ("age", "identity"):
        network = load(folder / f"weights/best_{name}.safetensors")
        assert isinstance(network.trunk, trunk)
    assert sorted(p.name for p in (folder / "panels").iterdir()) == ["step_0000002.png", "step_0000004.png"]
    assert Image.open(folder / "panels/step_0000004.png").size[0] > 3 * 256
    header = (folder / "csv/version_0/metrics.csv").read_text().splitlines()[0]
    for curve in ("train/age_cross_entropy", "val/age_age_mae", "val/age_age_spearman", "val/identity_tar_fmr_0.1"):
        assert curve in header
    assert OmegaConf.load(folder / "config.yaml").data.train.split == people


def test_a_resumed_run_ends_as_the_uninterrupted_one(here, portraits):
    start(portraits, "output=whole")
    start(portraits, "output=again", "resume=whole/checkpoints/step_0000002.ckpt")
    whole, again = (torch.load(here / name / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", "again"))
    assert whole["global_step"] == again["global_step"] == 4
    assert_identical(whole["state_dict"], again["state_dict"], "state_dict")
    assert_identical(whole["optimizer_states"], again["optimizer_states"], "optimizer")


def test_a_run_goes_on_from_weights_alone_people_too(here, portraits):
    start(portraits)
    start(portraits, "output=further", "start=runs/lifespan_judges/weights", "trainer.max_steps=1", "optimizer.lr=0")
    before, after = (
        load(here / folder / "weights/ema_identity.safetensors") for folder in ("runs/lifespan_judges", "further")
    )
    for name, tensor in before.state_dict().items():
        # a first step takes most of the average from the network beside it, which two steps had moved by 1e-5
        torch.testing.assert_close(after.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    assert (here / "further/weights/identity_people.safetensors").is_file()


def test_the_losses_and_the_judges_of_sam_are_rebuilt_from_what_the_runs_leave(here, portraits):
    start(portraits)
    start(portraits, experiment="lifespan_eval_judges")
    found = [
        f"{group}.weights=runs/{run}/weights/best_{network}.safetensors"
        for run, groups in (
            ("lifespan_judges", {"age": "losses.age_net", "identity": "losses.identity_net"}),
            ("lifespan_eval_judges", {"age": "judges.age", "identity": "judges.identity"}),
        )
        for network, group in groups.items()
    ]
    run = config("losses=lifespan", "judges=lifespan", *found)
    losses, judges = build(run.losses), build(run.judges)
    assert isinstance(losses, AgingLosses)
    faces = torch.rand(2, 3, 256, 256) * 2 - 1
    source = losses.describe(faces)
    assert source.age.shape == (2,)
    assert torch.equal(source.identity, losses.identity_net(faces))
    assert len(source.features) == 2
    assert torch.equal(losses.perceptual_net.distance(source.features, source.features), torch.zeros(2))
    assert isinstance(judges["age"].trunk, ConvNeXtTrunk)
    torch.testing.assert_close((judges["identity"](faces) ** 2).sum(1), torch.ones(2))


def test_one_network_alone_and_from_a_file(here, portraits):
    start(portraits)
    file = "runs/lifespan_judges/weights/best_age.safetensors"
    start(portraits, "output=age", "module.tasks.identity=null", f"module.tasks.age.network.weights={file}")
    assert sorted(p.stem for p in (here / "age/weights").glob("best_*")) == ["best_age"]


def test_too_many_people_and_foreign_weights_leave_nothing(here, portraits):
    with pytest.raises(InputError, match=r"4 people to learn; set module\.tasks\.identity\.people=4"):
        start(portraits, "module.tasks.identity.people=3")
    with pytest.raises(InputError, match="no file at"):
        start(portraits, "module.tasks.age.network.weights=nowhere.safetensors")
    assert not any((here / "runs").glob("*"))


def test_dex_recipe_takes_ffhqs_labels_and_holds_out_the_last_thousand(here):
    (here / "ffhq").mkdir()
    for number in range(6):
        Image.new("RGB", (64, 64), (40 * number, 90, 200)).save(here / f"ffhq/{number:05d}.png")
    groups = ["0-2", "3-6", "20-29", "70-120", "40-49", "50-69"]
    lines = ["image_number,age_group,age_group_confidence"] + [f"{i},{g},0.9" for i, g in enumerate(groups)]
    (here / "labels.csv").write_text("\n".join(lines) + "\n")
    recipe = config("+experiment=ffhq_age")
    indices = [list(build(recipe.data[part].indices)) for part in ("train", "val")]
    assert (indices[0][0], indices[0][-1], indices[1][0], indices[1][-1]) == (0, 68_999, 69_000, 69_999)
    assert recipe.module.tasks.age.network.network._target_.endswith("DEX")
    small = "{_target_: sam_age.models.age.AgeClassifier, trunk: residual, widths: [8], depths: [1], image_size: 32}"
    arguments = [
        "+experiment=ffhq_age", *SHORT, "data.train.source.where=ffhq", "data.labels=labels.csv",
        "data.train.indices._args_=[0,4]", "data.val.indices._args_=[4,6]", "weights.vgg16=random",
    ]  # fmt: skip
    cfg = config(*arguments)
    cfg.module.tasks.age.network.network = OmegaConf.create(small)
    train(cfg)
    network = load(here / "runs/ffhq_age/weights/best_age.safetensors")
    assert network.config["widths"] == [8]
    with pytest.raises(InputError, match="Picture 6 is wanted of 6"):
        build(config(*arguments, "data.val.indices._args_=[4,9]").data)
