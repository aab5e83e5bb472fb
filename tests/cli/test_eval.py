"""sam-eval on portraits whose people are known: what it writes, what it is told, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from sam_age.cli.eval import evaluate, with_own_defaults
from sam_age.errors import InputError
from sam_age.evaluation.baselines import LatentBaselines, fit
from sam_age.lifespan.folder import Settings
from sam_age.lifespan.making import render_split
from sam_age.models.age import AgeClassifier
from sam_age.models.identity import FaceEmbedder
from sam_age.weights import load, save
from tests.cli.test_infer import config
from tests.cli.test_train import run
from tests.modules.test_aging import tiny_sam

KEYS = {
    "age_mae", "age_bias", "age_spearman", "identity_cosine", "verification_rate", "verification_rate_kin",
    "counterfactual_lpips", "counterfactual_ssim", "counterfactual_psnr", "counterfactual_lpips_face",
    "counterfactual_ssim_face", "counterfactual_psnr_face", "kid", "reconstruction", "cycle", "per_target_age",
    "per_group",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Portraits of few people, and networks of no use, all small."""
    root = tmp_path_factory.mktemp("eval")
    for split, people, ages in (("test", 4, (0, 40, 80)), ("train", 8, None)):
        settings = Settings(split=split, people=people, size=64, ages=ages, format="png")
        render_split(root / "lifespan", settings, workers=1, renderer="tests.lifespan.fake")
    torch.manual_seed(0)
    small = {"widths": (8, 8), "depths": (1, 1), "image_size": 32}
    networks = {"sam": tiny_sam(), "age": AgeClassifier(**small), "identity": FaceEmbedder(**small, embedding_dim=8)}
    for name, network in networks.items():
        save(network, root / f"{name}.safetensors")
    return root


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def scored(output: Path | None, *more: str) -> dict:
    data = ["data=lifespan", "data.train.root=lifespan", "data.num_workers=0", "split=test"]
    judges = ["judges=lifespan", "judges.age.weights=age.safetensors", "judges.identity.weights=identity.safetensors"]
    trainer = ["trainer.accelerator=cpu", "+trainer.enable_progress_bar=false"]
    given = ["checkpoint=sam.safetensors", f"output={output or 'null'}", *data, *judges, *trainer, *more]
    evaluate(config("eval", *given))
    return {} if output is None else json.loads((output / "metrics.json").read_text(encoding="utf-8"))


def test_all_is_measured_for_sam_and_beside_it(here: Path, tmp_path: Path, capsys) -> None:
    results = scored(tmp_path / "out", "target_ages=[0,80]", "source_ages=[40]", "baselines=fit")
    assert (results["faces"], results["outputs"]) == (4, 8)
    assert set(results) >= KEYS | {"judged_by", "seconds", "counterfactual_closed", "counterfactual_below", "baselines"}
    assert set(results["baselines"]) == {"input", "linear", "mean_shift", "ceiling", "truth"}
    for row in results["baselines"].values():
        assert set(row) >= KEYS - {"counterfactual_lpips_face", "counterfactual_ssim_face", "counterfactual_psnr_face"}
        assert list(row["per_target_age"]) == ["0", "80"]
    assert set(results["per_group"]) == {"source_age", "sex", "skin_tone"}
    assert results["judged_by"]["age"] == "AgeClassifier"
    assert results["losses"] is None
    out = capsys.readouterr().out
    assert "linear latent direction" in out
    assert f"{results['age_mae']:.1f}" in out
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert page.count("<img") == 4 * (1 + 5 * 2)  # four people, nobody shown twice: the input, five rows of two ages
    with pytest.raises(InputError, match=r"metrics\.json is already there"):
        scored(tmp_path / "out", "target_ages=[0]")


def test_the_published_lpips_and_the_losses_are_averaged_where_asked(here: Path, tmp_path: Path) -> None:
    idle = [f"losses.{network}.weights=random" for network in ("age_net", "identity_net", "perceptual_net")]
    results = scored(
        tmp_path, "target_ages=[0]", "max_images=2", "losses=smoke", "loss_terms=true", *idle, "baselines=null"
    )
    assert results["losses"]["loss"] > 0
    assert results["losses"]["cycle_loss"] > 0
    assert "linear" not in results["baselines"]
    assert results["counterfactual_below"] is None


def test_stored_baselines_score_as_those_they_were_stored_from(here: Path, tmp_path: Path) -> None:
    sam = load("sam.safetensors")
    codes = torch.randn(40, *sam.latent_avg.shape, generator=torch.Generator().manual_seed(0))
    save(fit(codes, torch.linspace(0, 100, 40)), tmp_path / "b.safetensors")
    few = ["target_ages=[80]", "source_ages=[0]", "max_images=2"]
    results = scored(tmp_path / "a", *few, f"baselines={tmp_path}/b.safetensors")
    linear = results["baselines"]["linear"]["counterfactual_lpips"]
    assert linear is not None
    below = 100 * (1 - results["counterfactual_lpips"] / linear)
    assert results["counterfactual_below"]["linear"] == pytest.approx(below, abs=0.01)


def test_faces_of_a_folder_have_no_truth_but_the_rest(here: Path, tmp_path: Path) -> None:
    data = ["data=folder", f"data.test={here / 'lifespan/test/00000'}", "split=test", "data.num_workers=0"]
    judges = ["judges=lifespan", "judges.age.weights=age.safetensors", "judges.identity.weights=identity.safetensors"]
    given = ["checkpoint=sam.safetensors", *data, *judges, "target_ages=[20,60]", "trainer.accelerator=cpu"]
    evaluate(config("eval", *given, f"output={tmp_path}"))
    results = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert results["faces"] == 3
    assert results["counterfactual_lpips"] is results["verification_rate"] is results["per_group"] is None
    assert not math.isnan(results["age_mae"] + results["identity_cosine"] + results["kid"])
    assert results["cycle"]["lpips"] > 0
    assert set(results["baselines"]) == {"input"}
    assert "true portrait" not in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["source_ages=[41]"], r"No face of data\.test is of the source_ages \[41\.0\]: there are 0, 40, 80"),
        (["baselines=age.safetensors"], "holds AgeClassifier, not latent baselines"),
        (["baselines=fit", "data.train=null", "data.val=null", "data.test.root=lifespan"], r"needs data\.train"),
        (["batch_size=0"], "batch_size is a whole number"),
        (["loss_terms=maybe"], "loss_terms is true or false"),
        (["second_judge=none"], "judges@second_judge=none"),
    ],
)
def test_what_cannot_be_scored_is_said_in_a_line(here: Path, overrides: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        scored(None, "target_ages=[0]", *overrides)


def test_baselines_of_another_generator_are_refused(here: Path, tmp_path: Path) -> None:
    save(LatentBaselines(4, 8), tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"for codes of \[4, 8\]"):
        scored(None, "target_ages=[0]", f"baselines={tmp_path}/other.safetensors")


def test_the_packages_own_checkpoint_brings_all_that_it_is_scored_with() -> None:
    cfg = with_own_defaults(config("eval", "checkpoint=lifespan"))
    assert (cfg.split, cfg.baselines) == ("test", "lifespan/baselines")
    assert cfg.judges.age.weights == "lifespan/eval_age"
    assert cfg.losses.age_net.weights == "lifespan/age"
    assert cfg.data.test._target_.endswith("BundledPortraits")
    chosen = with_own_defaults(config("eval", "checkpoint=lifespan", "data=lifespan", "judges=none", "baselines=null"))
    assert chosen.data.test.split == "test"
    assert chosen.judges.age is None
    assert chosen.baselines is None
    other = with_own_defaults(config("eval", "checkpoint=sam.ckpt"))
    assert (other.split, other.baselines, other.get("data"), other.get("judges")) == ("val", None, None, None)


@pytest.mark.slow
def test_two_processes_score_as_one(here: Path, tmp_path: Path) -> None:
    data = ["data=lifespan", "data.train.root=lifespan", "data.num_workers=0", "split=test", "target_ages=[0,80]"]
    judges = ["judges=lifespan", "judges.age.weights=age.safetensors", "judges.identity.weights=identity.safetensors"]
    given = ["checkpoint=sam.safetensors", *data, *judges, "baselines=fit", "trainer.accelerator=cpu"]
    found = []
    for devices in (1, 2):
        output = tmp_path / str(devices)
        done = run(here, "eval", *given, f"trainer.devices={devices}", f"output={output}")
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads((output / "metrics.json").read_text(encoding="utf-8")))
    assert_near(*found)


def assert_near(a, b, where: str = "") -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - {"seconds", "outputs_per_second", "checkpoint"}:
            assert_near(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=1e-3, abs=2e-4), where
    else:
        assert a == b, where
