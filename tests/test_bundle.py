"""What comes with the package: made by tools/build_bundle.py, found by name, used without a network."""

from __future__ import annotations

import json
import shutil
import socket
from io import BytesIO
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from sam_age import pretrained
from sam_age.cli.infer import infer
from sam_age.config import CONF_DIR, build
from sam_age.data.storing import encode
from sam_age.errors import InputError
from sam_age.evaluation.baselines import LatentBaselines
from sam_age.lifespan.folder import Settings
from sam_age.lifespan.making import render_split
from sam_age.lifespan.sources import LifespanFaces, LifespanLive
from sam_age.lifespan.splits import plan
from sam_age.models.age import AgeClassifier
from sam_age.models.encoder import GradualStyleEncoder
from sam_age.models.identity import FaceEmbedder
from sam_age.models.sam import SAM
from sam_age.models.stylegan2 import Generator
from sam_age.pipeline import AgingPipeline
from sam_age.pretrained.portraits import BundledPortraits, inputs
from sam_age.weights import BUNDLE, load, save
from sam_age.weights.files import open_file
from sam_age.weights.known import resolve
from tests.tool import load_tool

ROOT = Path(__file__).resolve().parents[1]
KINDS = {
    "lifespan": SAM,
    "lifespan/age": AgeClassifier,
    "lifespan/identity": FaceEmbedder,
    "lifespan/eval_age": AgeClassifier,
    "lifespan/eval_identity": FaceEmbedder,
    "lifespan/baselines": LatentBaselines,
}
GENERATOR = {"size": 32, "style_dim": 32, "n_mlp": 2, "channel_multiplier": 0.0625, "channel_max": 32}
ENCODER = {"n_styles": 8, "style_dim": 32, "widths": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "tower_width": 16}
JUDGE = {"widths": [8, 16], "depths": [1, 1], "image_size": 32}
METRICS = {
    "faces": 12, "target_ages": [0.0, 50.0], "judged_by": {"age": "AgeClassifier"}, "age_mae": 3.25, "age_bias": -0.5,
    "counterfactual_closed": 61.0, "counterfactual_below": {"linear": 35.0}, "reconstruction": None, "cycle": None,
    "baselines": {"input": {"age_mae": 29.75}, "linear": {"age_mae": 11.5}},
    "per_target_age": {"0": {"age_mae": 1.5}, "50": {"age_mae": 5.0}},
}  # fmt: skip


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("build_bundle")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Made-up networks where the experiments leave theirs, and portraits of noise."""
    folder = tmp_path_factory.mktemp("project")
    torch.manual_seed(0)
    generator = Generator(**GENERATOR)
    generator.latent_avg.copy_(generator.mean_latent(64)[0])
    baselines = LatentBaselines(8, 32)
    baselines.means.normal_()
    for path, network in {
        "lifespan_finishing/weights/generator_ema": generator,
        "lifespan_tuning/weights/psp": GradualStyleEncoder(3, **ENCODER),
        "lifespan_aging/weights/encoder": GradualStyleEncoder(4, **ENCODER),
        "lifespan_aging/weights/ema_encoder": GradualStyleEncoder(4, **ENCODER),
        "lifespan_judges/weights/best_age": AgeClassifier(**JUDGE),
        "lifespan_judges/weights/best_identity": FaceEmbedder(**JUDGE),
        "lifespan_eval_judges/weights/best_age": AgeClassifier(**JUDGE),
        "lifespan_eval_judges/weights/best_identity": FaceEmbedder(**JUDGE),
        "baselines": baselines,
    }.items():
        save(network, folder / "runs" / f"{path}.safetensors", facts={"step": "60"})
    settings = Settings(split="test", people=12)
    render_split(folder / "portraits", settings, workers=1, renderer="tests.lifespan.fake")
    return folder


def made(tool: ModuleType, runs: Path, output: Path, *more: str) -> Path:
    there = Path.cwd()
    given = ["--baselines", "runs/baselines.safetensors", "--portraits", "portraits", "--output", str(output)]
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(runs)
            tool.main(["networks", *given, *more])
    finally:
        assert Path.cwd() == there
    return output


@pytest.fixture(scope="module")
def bundle(tool: ModuleType, runs: Path, tmp_path_factory) -> Path:
    return made(tool, runs, tmp_path_factory.mktemp("package") / "lifespan")


@pytest.fixture
def installed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package with the made-up bundle in it."""
    monkeypatch.setattr(pretrained, "FOLDER", bundle)
    return bundle


@pytest.fixture
def absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package as it was before there was a bundle."""
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "nothing")
    return tmp_path


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (256, 256, 3), np.uint8))


# ---- names -------------------------------------------------------------------------------------------


def test_every_name_is_a_network_of_its_kind(installed: Path) -> None:
    assert set(BUNDLE) == set(KINDS)
    for name, kind in KINDS.items():
        assert resolve(name).parent == installed
        assert type(load(name)) is kind


def test_a_file_or_folder_of_the_same_name_does_not_take_its_place(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lifespan").mkdir()
    Path("lifespan/age").write_text("mine")
    assert resolve("lifespan/age") == installed / "age.safetensors"
    assert resolve("lifespan") == installed / "sam.safetensors"
    assert resolve("./lifespan/age").read_text() == "mine"
    assert resolve(Path("lifespan/age")).read_text() == "mine"


@pytest.mark.parametrize("name", list(KINDS))
def test_where_there_is_no_bundle_it_is_said_what_makes_it(absent: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"no '{name}'.*tools/build_bundle\.py"):
        load(name)
    with pytest.raises(InputError, match=r"no portraits.*tools/build_bundle\.py"):
        BundledPortraits()


# ---- what the tool makes -----------------------------------------------------------------------------


def test_float16_changes_the_pictures_by_rounding_alone(installed: Path, runs: Path) -> None:
    parts = {
        "encoder": "lifespan_aging/weights/ema_encoder",
        "pretrained_encoder": "lifespan_tuning/weights/psp",
        "decoder": "lifespan_finishing/weights/generator_ema",
    }
    exact = AgingPipeline(SAM(*(load(runs / "runs" / f"{path}.safetensors") for path in parts.values())))
    bundled = AgingPipeline.from_pretrained("lifespan", device="cpu")
    faces, ages = [noise(0), noise(1)], [0.0, 40.0, 100.0]
    for want, got in zip(exact.age(faces, ages)[0], bundled.age(faces, ages)[0], strict=True):
        assert (want - got).abs().max() < 2**-9 * want.abs().max()  # float16 keeps 11 bits; a few roundings in a row
    pictures = zip(exact.age(faces, ages)[1], bundled.age(faces, ages)[1], strict=True)
    for want, got in ((a, b) for pair in pictures for a, b in zip(*pair, strict=True)):
        assert np.abs(np.asarray(want, float) - np.asarray(got, float)).max() <= 2


def test_the_files_hold_half_precision_and_where_they_are_from(installed: Path) -> None:
    contents = open_file(resolve("lifespan"))
    assert contents.metadata["made_from"].startswith("runs/lifespan_aging; runs/lifespan_tuning/weights/psp")
    assert {tensor.dtype for tensor in contents.tree.values() if tensor.ndim > 2} == {torch.float16}
    assert open_file(resolve("lifespan/age")).metadata["step"] == "60"


def test_a_whole_sam_takes_the_place_of_its_parts(
    tool: ModuleType, runs: Path, installed: Path, tmp_path: Path
) -> None:
    whole = save(load("lifespan"), tmp_path / "whole.safetensors")
    again = made(tool, runs, tmp_path / "again", "--aging", str(whole), "--psp", "nowhere", "--generator", "nowhere")
    first, second = (load(folder / "sam.safetensors").state_dict() for folder in (installed, again))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_more_than_32_mb_is_refused_and_leaves_the_old_bundle(
    tool: ModuleType, runs: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tool.MOST_BYTES == 32_000_000
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    monkeypatch.setattr(tool, "MOST_BYTES", size - 1)
    old = tmp_path / "old"
    old.mkdir()
    (old / "sam.safetensors").write_text("precious")
    with pytest.raises(SystemExit, match="1 too many"):
        made(tool, runs, old)
    assert [path.name for path in tmp_path.rglob("*")] == ["old", "sam.safetensors"]
    assert (old / "sam.safetensors").read_text() == "precious"
    monkeypatch.setattr(tool, "MOST_BYTES", size)
    made(tool, runs, old)
    assert type(load(old / "sam.safetensors")) is SAM


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--psp", "runs/lifespan_aging/weights/encoder.safetensors"), "not an encoder with 3 input channels"),
        (("--generator", "runs/lifespan_judges/weights/best_age.safetensors"), "holds AgeClassifier, not a generator"),
        (("--baselines", "runs/lifespan_judges/weights/best_age.safetensors"), "not LatentBaselines"),
        (("--aging", "runs/lifespan_gan"), "neither weights/ema_encoder"),
        (("--judges", "nowhere"), "no file at nowhere"),
        (("--portraits", "runs"), "not sam-render's"),
    ],
)
def test_files_in_the_wrong_place_are_named(
    tool: ModuleType, runs: Path, tmp_path: Path, change: tuple, message: str
) -> None:
    with pytest.raises(SystemExit, match=message):
        made(tool, runs, tmp_path / "new", *change)
    assert not (tmp_path / "new" / "sam.safetensors").exists()


def test_portraits_of_other_settings_are_refused(tool: ModuleType, runs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    render_split(other, Settings(split="test", people=2), workers=1, renderer="tests.lifespan.fake")
    with pytest.raises(SystemExit, match=r"other settings \(people\)"):
        made(tool, runs, tmp_path / "new", "--portraits", str(other))


def test_baselines_are_fitted_where_none_are_given(tool: ModuleType, runs: Path, tmp_path: Path) -> None:
    train = Settings(split="train", people=4)
    render_split(tmp_path, train, workers=1, renderer="tests.lifespan.fake")
    sam = load(runs / "runs/lifespan_finishing/weights/generator_ema.safetensors")
    sam = SAM(GradualStyleEncoder(4, **ENCODER), GradualStyleEncoder(3, **ENCODER), sam).eval()
    fitted = tool.fitted(sam, tmp_path, runs / "runs/lifespan_judges/weights/best_age.safetensors")
    assert fitted.normal.norm() == pytest.approx(1, abs=1e-4)
    ages = LifespanFaces(tmp_path, "train")
    assert fitted.means.std(0).max() > 0, f"{len(ages)} faces of different ages have one mean code"


# ---- the card ----------------------------------------------------------------------------------------


def test_the_cards_figures_are_those_of_the_file(tool: ModuleType, bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    metrics, judges = tmp_path / "metrics.json", tmp_path / "judges.json"
    metrics.write_text(json.dumps(METRICS))
    judges.write_text(json.dumps({"age_mae": 1.23, "age_spearman": 0.9981, "auc": 0.98765, "tar_fmr_0.1": 0.9012}))
    given = ["--metrics", str(metrics), "--judges", str(judges), str(judges)]
    tool.main(["card", *given, "--output", str(tmp_path / "bundle")])
    card = (tmp_path / "bundle/README.md").read_text(encoding="utf-8")
    assert "Not measured yet" not in card
    for cell in ("| 3.2 |", "| 29.8 |", "| 11.5 |", "| 1.23 |", "| 0.9877 |", "| 90.1% |"):
        assert cell in card
    assert "35 % nearer than the linear" in card
    tool.main(["card", *given, "--output", str(tmp_path / "bundle")])
    assert (tmp_path / "bundle/README.md").read_text(encoding="utf-8") == card


def test_a_card_without_a_place_and_files_of_something_else_are_refused(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# mine\n")
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS))
    (tmp_path / "other.json").write_text("{}")
    output = ["--output", str(tmp_path)]
    with pytest.raises(SystemExit, match="no place"):
        tool.main(["card", "--metrics", str(tmp_path / "metrics.json"), *output])
    with pytest.raises(SystemExit, match=r"not a metrics\.json"):
        tool.main(["card", "--metrics", str(tmp_path / "other.json"), *output])
    assert (tmp_path / "README.md").read_text() == "# mine\n"


# ---- what is done with it ----------------------------------------------------------------------------


def config(name: str, *overrides: str):
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose(name, overrides=list(overrides))


def test_sam_infer_ages_the_portraits_by_default(installed: Path, tmp_path: Path) -> None:
    infer(config("infer", "input=lifespan", f"output={tmp_path}", "device=cpu", "target_ages=[5,80]"))
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert len(written) == 12 * 3 + 1
    assert written[:3] == [
        "00000/00000_a010.0_s0_005.png",
        "00000/00000_a010.0_s0_080.png",
        "00000/00000_a010.0_s0_sheet.png",
    ]
    assert "sheet.png" in written


def test_a_folder_named_as_the_portraits_is_a_path_when_written_as_one(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lifespan").mkdir()
    noise(3).save("lifespan/mine.png")
    ages = ["device=cpu", "target_ages=[5]", "sheet=false", "align=never"]
    infer(config("infer", "input=./lifespan", "output=a", *ages))
    assert [path.name for path in Path("a").rglob("*.png")] == ["mine_005.png"]
    with caplog.at_level("WARNING"):
        infer(config("infer", "input=lifespan", "output=b", *ages))
    assert len(list(Path("b").rglob("*.png"))) == 12
    assert "input=./lifespan" in caplog.text


def test_the_demo_trains_on_the_portraits_and_the_packages_networks(installed: Path) -> None:
    cfg = config("train", "+experiment=[lifespan_aging,demo]")
    assert (cfg.model.psp, cfg.model.stylegan2, cfg.model.trunk) == ("lifespan",) * 3
    assert cfg.trainer.max_steps == 60
    data = build(cfg.data)
    assert (len(data.train_set), len(data.val_set)) == (132, 12)
    assert data.train_set.source.row(0)["person"] == "test-0-00000"
    assert all(len(others) == 10 for others in data.train_set.truths.others)


def test_the_inputs_are_one_portrait_of_each_person(installed: Path) -> None:
    chosen = inputs()
    assert len({path.parent for path in chosen}) == len(chosen) == 12
    assert all(path.is_file() for path in chosen)


# ---- the real one, once it has been made ----------------------------------------------------------------

real = pytest.mark.skipif(BUNDLE["lifespan"].find() is None, reason="the bundle has not been made yet")


@real
def test_the_package_ages_a_portrait_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network is not to be used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    sam = AgingPipeline.from_pretrained("lifespan", device="cpu")
    (aged,) = sam(inputs()[1], ages=[5, 80], align="never")
    young, old = (np.asarray(image, float) for image in aged.images)
    assert young.shape == (256, 256, 3)
    assert np.abs(young - old).mean() > 2  # levels of 255: something has aged


@real
def test_what_is_shipped_is_whole_and_small() -> None:
    for name, kind in KINDS.items():
        assert type(load(name)) is kind
    size = sum(path.stat().st_size for path in pretrained.FOLDER.rglob("*") if path.is_file())
    assert size <= 32_000_000


@real
def test_the_card_has_its_figures() -> None:
    card = (pretrained.FOLDER / "README.md").read_text(encoding="utf-8")
    assert "Not measured yet" not in card
    for part in ("## Data", "## Training", "## Measured quality", "## Limits", "## Licence"):
        assert part in card


@real
def test_the_portraits_are_what_the_renderer_draws() -> None:
    shipped = BundledPortraits()
    chosen = 57  # a man of 20
    (pixels,) = LifespanLive("test").render([chosen])
    fresh = encode(Image.fromarray(pixels.permute(1, 2, 0).numpy()), "webp", 90)
    one, other = (np.asarray(Image.open(BytesIO(data)), float) for data in (fresh, shipped.read(chosen)))
    assert np.abs(one - other).mean() < 1  # levels of 255; nothing, unless torch or libwebp round otherwise


@real
def test_nobody_in_the_portraits_was_in_a_training() -> None:
    people = {row["person"] for row in BundledPortraits().rows}
    assert len(people) == 12
    for split in ("train", "judges", "val"):
        assert not people & {portrait.person for portrait in plan(split)}
