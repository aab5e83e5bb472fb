"""The judges' stage: what learns, what is averaged, what a resumed run repeats, and what is left behind."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from sam_age.callbacks.judging import BestJudges, JudgePanels
from sam_age.data.datamodule import FacesDataModule
from sam_age.data.wear import Wear
from sam_age.errors import InputError
from sam_age.evaluation.judges import pairs, verification
from sam_age.models.age import AgeClassifier
from sam_age.modules.stage import take_weights, write_weights
from sam_age.weights import load
from sam_age.weights.starting import started
from tests.data.faces import Colours
from tests.modules.judges_set import SMALL, Patterns, tiny_judges


def data(**settings) -> FacesDataModule:
    settings = {"batch_size": 4, "val_batch_size": 5, "num_workers": 0, "image_size": 32} | settings
    return FacesDataModule(Patterns(), Patterns(first=10), **settings)


def trainer(folder: Path, steps: int, *callbacks: pl.Callback, every: int | None = None) -> pl.Trainer:
    save = pl.callbacks.ModelCheckpoint(
        folder, "{step}", auto_insert_metric_name=False, every_n_train_steps=1, save_top_k=-1
    )
    return pl.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, num_sanity_val_steps=0, callbacks=[save, *callbacks], default_root_dir=folder,
        val_check_interval=every, check_val_every_n_epoch=None, limit_val_batches=1.0 if every else 0,
    )  # fmt: skip


def fit(
    folder: Path, steps: int, *callbacks: pl.Callback, every: int | None = None, resume=None, faces=None, **settings
):
    module = tiny_judges(**settings)
    runner = trainer(folder, steps, *callbacks, every=every)
    runner.fit(module, datamodule=faces or data(), ckpt_path=resume, weights_only=True)
    return module


def weights(module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same(a, b) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    worn = {"wear": Wear(), "warmup_steps": 2}
    whole = fit(tmp_path / "whole", 6, **worn)
    again = fit(tmp_path / "again", 6, **worn)
    assert_same(weights(whole), weights(again))
    torch.randn(5)  # whatever else is drawn in between
    resumed = fit(tmp_path / "resumed", 6, resume=tmp_path / "whole/3.ckpt", **worn)
    assert_same(weights(whole), weights(resumed))
    assert not torch.equal(fit(tmp_path / "other", 6, seed=1, **worn).last_loss, whole.last_loss)


def test_each_network_learns_as_it_would_alone(tmp_path):
    """The sum of two losses over separate weights has the gradients of each."""
    plain = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1)}
    both = fit(tmp_path / "both", 3, **plain)
    for task, other in (("age", "identity"), ("identity", "age")):
        alone = fit(tmp_path / task, 3, tasks={other: None}, **plain)
        assert list(alone.tasks) == [task]
        for name, tensor in alone.tasks[task].state_dict().items():
            torch.testing.assert_close(both.tasks[task].state_dict()[name], tensor, rtol=1e-5, atol=1e-7)


def test_the_learning_rate_rises_and_falls_to_nothing_at_the_last_step(tmp_path):
    rates = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit(tmp_path, 10, Watch(), warmup_steps=3, optimizer=lambda p: torch.optim.SGD(p, lr=0.5))
    want = [0.5 * rise for rise in (1 / 4, 2 / 4, 3 / 4)]
    want += [0.25 * (1 + math.cos(math.pi * k / 7)) for k in range(7)]
    assert rates == pytest.approx(want)


def test_the_averages_follow_their_definition(tmp_path):
    path = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            path.append(module.tasks["age"].network.head.weight.detach().clone())

    start = tiny_judges().tasks["age"].network.head.weight.detach().clone()
    module = fit(tmp_path, 3, Watch(), ema_decay=0.25)
    for step, weight in enumerate(path, 1):
        decay = min(0.25, (1 + step) / (10 + step))  # 2/11, then 1/4
        start = decay * start + (1 - decay) * weight
    torch.testing.assert_close(module.averages["age"].head.weight, start)


def test_it_learns_ages_and_people(tmp_path):
    best = BestJudges(str(tmp_path / "best"), half=False)
    many = FacesDataModule(Patterns(12), Patterns(6, first=50), batch_size=12, num_workers=0, image_size=32, flip=0.0)
    module = fit(tmp_path, 120, best, every=40, faces=many, people=12)
    assert module.latest["age"] < 12  # ages are spread over 0-100: knowing nothing is 25
    assert module.latest["identity"] < 0.35  # and here 0.5


def test_validation_scores_are_those_of_the_averaged_networks_on_all_faces(tmp_path):
    module = fit(tmp_path, 2)
    faces = data()
    scores = trainer(tmp_path, 2, every=1).validate(module, faces, verbose=False)[0]
    rows = [faces.val_set[i] for i in range(len(faces.val_set))]
    images = torch.stack([row["faces"] for row in rows]).float() / 127.5 - 1
    ages = torch.stack([row["age"] for row in rows])
    module.eval()
    with torch.no_grad():
        error = (module.averages["age"](images) - ages).abs().mean().item()
        embeddings = module.averages["identity"](images)
    person, kin = (torch.tensor([row[key] for row in rows]) for key in ("person", "kin"))
    assert scores["val/age_age_mae"] == pytest.approx(error, abs=1e-4)
    want = verification(pairs(embeddings, person, kin))
    assert scores["val/identity_eer"] == pytest.approx(want["eer"], abs=1e-5)
    assert scores["val/identity_tar_fmr_0.1"] == pytest.approx(want["tar_fmr_0.1"], abs=1e-5)


def test_the_best_weights_are_files_that_load_and_answer_the_same(tmp_path):
    best, panels = BestJudges(str(tmp_path / "best"), half=False), JudgePanels(str(tmp_path / "panels"), rows=2)
    module = fit(tmp_path, 4, best, panels, every=4)
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    for name in ("age", "identity"):
        network = load(tmp_path / f"best/best_{name}.safetensors")
        assert network.config == module.tasks[name].network.config
        assert torch.equal(network(images), module.averages[name].eval()(images))
    assert [p.name for p in (tmp_path / "panels").iterdir()] == ["step_0000004.png"]


def test_half_precision_halves_the_file_and_hardly_moves_the_answer(tmp_path):
    for kind, half in (("half", True), ("full", False)):
        module = fit(tmp_path / kind, 4, BestJudges(str(tmp_path / kind), half=half), every=4)
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    sizes = [(tmp_path / kind / "best_identity.safetensors").stat().st_size for kind in ("half", "full")]
    assert sizes[0] < 0.7 * sizes[1]
    want = module.averages["age"].eval()(images)
    torch.testing.assert_close(load(tmp_path / "half/best_age.safetensors")(images), want, rtol=0, atol=0.2)


def test_only_a_better_score_replaces_the_best_and_a_resumed_run_remembers_it(tmp_path):
    module = tiny_judges()
    best = BestJudges(str(tmp_path), half=False)

    class Now:
        sanity_checking, is_global_zero = False, True

    def validated(step: int, age: float) -> bytes:
        Now.global_step, module.latest = step, {"age": age, "identity": 0.5}
        torch.nn.init.constant_(module.averages["age"].head.bias, age)
        best.on_validation_end(Now, module)
        return (tmp_path / "best_age.safetensors").read_bytes()

    first = validated(1, 9.0)
    assert validated(2, 9.5) == first
    assert validated(3, math.nan) == first
    other = validated(4, 8.0)
    assert other != first
    state = best.state_dict()
    best = BestJudges(str(tmp_path), half=False)
    best.load_state_dict(state)
    assert validated(5, 8.5) == other


def test_a_network_goes_on_from_its_file(tmp_path):
    fit(tmp_path, 2, BestJudges(str(tmp_path), half=False), every=2)
    again = started(AgeClassifier(**SMALL), tmp_path / "best_age.safetensors")
    assert all(parameter.requires_grad for parameter in again.parameters())
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(again.eval()(images), load(tmp_path / "best_age.safetensors")(images))
    with pytest.raises(InputError, match="FaceEmbedder"):
        started(AgeClassifier(**SMALL), tmp_path / "best_identity.safetensors")


def test_a_run_starts_from_the_weights_of_another_its_people_and_averages_too(tmp_path):
    module = fit(tmp_path, 3)
    files = write_weights(module, tmp_path / "weights", half=False)
    assert {path.stem for path in files} == {"age", "ema_age", "identity", "ema_identity", "identity_people"}
    twin = tiny_judges()
    take_weights(twin, tmp_path / "weights")
    assert_same(weights(module), weights(twin))


def test_data_without_names_or_ages_is_refused_before_the_first_step(tmp_path):
    nameless = FacesDataModule(Colours(4), batch_size=2, num_workers=0, image_size=32)
    with pytest.raises(InputError, match="nobody says who this is"):
        fit(tmp_path, 1, faces=nameless, tasks={"age": None})
    with pytest.raises(InputError, match="nobody says how old this is"):
        fit(tmp_path, 1, faces=nameless, tasks={"identity": None})
    with pytest.raises(InputError, match="nothing to learn"):
        tiny_judges(tasks={"age": None, "identity": None})


def test_a_checkpoint_is_plain_and_loads_strictly(tmp_path):
    module = fit(tmp_path, 2)
    checkpoint = torch.load(tmp_path / "2.ckpt", weights_only=True)
    assert checkpoint["network"]["identity_people"] == {"people": 4, "embedding_dim": 8}
    assert checkpoint["network"]["ema_age"] == module.tasks["age"].network.config
    tiny_judges().load_state_dict(checkpoint["state_dict"], strict=True)
    assert not [name for name in checkpoint["state_dict"] if "table" in name or "wear" in name]
