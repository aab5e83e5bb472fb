"""What sam-eval measures, against other libraries and direct computation."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.utils.data import DataLoader

from sam_age.evaluation.baselines import LatentBaselines, fit
from sam_age.evaluation.charts import Chart
from sam_age.evaluation.counterfactual import likeness
from sam_age.evaluation.examples import examples
from sam_age.evaluation.instruments import Instruments
from sam_age.evaluation.known import Known, age_group
from sam_age.evaluation.methods import WHAT
from sam_age.evaluation.metrics import AgeError, MeanByAge
from sam_age.evaluation.protocol import AgingEvaluation
from sam_age.evaluation.report import report
from sam_age.evaluation.table import table
from sam_age.losses import AgingLosses
from sam_age.models.perceptual import FeatureDistance
from tests.evaluation.fakes import Lightness, Pattern, Thumbnails, life
from tests.modules.test_aging import Brightness, Colours, tiny_sam


def test_likeness_agrees_with_scikit_image() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(-1, 1, (1, 3, 48, 48)).astype(np.float32)
    image = np.clip(truth + rng.normal(0, 0.1, truth.shape), -1, 1).astype(np.float32)
    got = likeness(torch.from_numpy(image), torch.from_numpy(truth))
    assert got["psnr"].item() == pytest.approx(peak_signal_noise_ratio(truth, image, data_range=2), rel=1e-5)
    _, per_pixel = structural_similarity(
        truth[0], image[0], data_range=2, channel_axis=0, gaussian_weights=True,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    inner = per_pixel[:, 6:-6, 6:-6].mean()  # borders are padded differently
    ours = likeness(torch.from_numpy(image), torch.from_numpy(truth))["ssim"].item()
    assert ours == pytest.approx(inner, abs=5e-3)
    assert likeness(torch.from_numpy(truth), torch.from_numpy(truth))["ssim"].item() == pytest.approx(1)


def test_age_error_equals_numpy_however_the_batches_fall() -> None:
    rng = np.random.default_rng(1)
    predicted = torch.from_numpy(rng.uniform(0, 100, 60).astype(np.float32))
    target = torch.from_numpy(rng.choice([0.0, 10.0, 90.0], 60).astype(np.float32))
    error = AgeError()
    for start, stop in ((0, 7), (7, 40), (40, 60)):
        error.update(predicted[start:stop], target[start:stop])
    got = error.compute()
    difference = (predicted - target).numpy()
    assert got["age_mae"] == pytest.approx(np.abs(difference).mean(), rel=1e-5)
    assert got["age_bias"] == pytest.approx(difference.mean(), rel=1e-4)
    tens = difference[target.numpy() == 10]
    assert got["per_target_age"][10]["age_mae"] == pytest.approx(np.abs(tens).mean(), rel=1e-5)
    assert got["per_target_age"][10]["age_mean"] == pytest.approx(10 + tens.mean(), rel=1e-5)


def test_nothing_seen_is_not_a_number() -> None:
    assert np.isnan(MeanByAge().compute()["mean"])


def test_every_face_is_scored_at_every_age() -> None:
    faces = torch.randint(0, 256, (3, 3, 256, 256), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    rows = [{"faces": face, "index": torch.tensor(i)} for i, face in enumerate(faces)]
    sam = tiny_sam().eval()
    losses = AgingLosses(Brightness(), Colours(), Colours())
    judge = Brightness()
    instruments = Instruments(judge, losses.identity_net, own=("identity",))
    evaluation = AgingEvaluation(sam, instruments, [0, 50, 100], losses=losses, batch_size=4)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.test(evaluation, DataLoader(rows, batch_size=2), verbose=False)
    results = evaluation.results
    assert (results["faces"], results["outputs"]) == (3, 9)
    assert list(results["per_target_age"]) == ["0", "50", "100"]
    with torch.no_grad():
        ages = torch.tensor([0.0, 50.0, 100.0]).repeat_interleave(3)
        aged = sam(faces.repeat(3, 1, 1, 1), ages)
        mae = (judge(aged.clamp(-1, 1)) - ages).abs().mean().item()
        l2 = (aged - faces.repeat(3, 1, 1, 1)).square().mean().item()
    assert results["age_mae"] == pytest.approx(mae, rel=1e-4)
    assert results["losses"]["l2"] == pytest.approx(l2, rel=1e-4)
    assert results["judged_by"]["age"] == "Brightness"
    assert "loss's own network" in results["judged_by"]["identity"]
    assert results["counterfactual_lpips"] is None
    assert results["per_group"] is None
    assert "SAM" in table(results)


# ---- a world where every answer is known ---------------------------------------------------------------

AGES = [0.0, 40.0, 80.0]


def world(people: int = 4, ages: list[float] = AGES) -> tuple[list[dict], Known]:
    """Everybody's portraits at all ages, as batches want them, and what is known of them."""
    faces = torch.cat([life(person, ages) for person in range(people)])
    rows = [{"faces": face, "index": torch.tensor(i)} for i, face in enumerate(faces)]
    person = torch.arange(people).repeat_interleave(len(ages))
    sexes = ["female" if who % 2 else "male" for who in person.tolist()]
    groups = {"source_age": [age_group(years) for years in ages * people], "sex": sexes}
    return rows, Known(torch.tensor(ages * people), person, person % 2, person, groups)


def score(sam: Thumbnails, rows: list[dict], known: Known | None, second=None, **settings) -> AgingEvaluation:
    instruments = Instruments(Lightness(), Pattern(), second_age=second, realism=Pattern())
    evaluation = AgingEvaluation(sam, instruments, AGES, known=known, **settings)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.test(evaluation, DataLoader(rows, batch_size=5), verbose=False)
    return evaluation


def fitted(rows: list[dict], known: Known) -> LatentBaselines:
    faces = torch.stack([row["faces"] for row in rows])
    return fit(Thumbnails(32).encode(faces), known.age)


def test_who_ages_as_the_truth_does_is_at_the_ceiling_and_who_does_nothing_is_where_it_began() -> None:
    rows, known = world()
    perfect, idle = (score(Thumbnails(strength=s), rows, known).results for s in (1.0, 0.0))
    assert perfect["outputs"] == 4 * 3 * 3
    assert perfect["baselines"]["ceiling"]["counterfactual_lpips"] == pytest.approx(0, abs=1e-9)
    assert perfect["baselines"]["ceiling"]["counterfactual_ssim"] == pytest.approx(1, abs=1e-6)
    assert perfect["counterfactual_closed"] == pytest.approx(100, abs=1)
    assert perfect["age_mae"] < 1
    assert perfect["age_spearman"] == pytest.approx(
        (1 - 1 / 9) ** 0.5, abs=0.03
    )  # three targets, no ties in what is read
    assert perfect["identity_cosine"] == pytest.approx(1, abs=1e-3)
    assert perfect["verification_rate"] == perfect["verification_rate_kin"] == 1
    assert perfect["cycle"]["l2"] < 1e-4
    assert perfect["reconstruction"]["ssim"] > 0.99
    assert idle["counterfactual_closed"] == pytest.approx(0, abs=1)
    assert idle["age_mae"] == pytest.approx(np.abs(np.subtract.outer(AGES, AGES)).mean(), abs=1)
    assert idle["counterfactual_lpips"] == pytest.approx(idle["baselines"]["input"]["counterfactual_lpips"], rel=0.01)


def test_baselines_that_know_the_law_are_as_near_as_can_be_at_their_size() -> None:
    rows, known = world()
    results = score(Thumbnails(32, strength=0.0), rows, known, baselines=fitted(rows, known)).results
    ceiling = results["baselines"]["ceiling"]["counterfactual_lpips"]
    assert ceiling > 1e-6  # 32 pixels are not enough for the edges
    for name in ("linear", "mean_shift"):
        assert results["baselines"][name]["counterfactual_lpips"] == pytest.approx(ceiling, rel=0.1)
        assert results["baselines"][name]["age_mae"] < 2
        error = results["counterfactual_lpips"] / results["baselines"][name]["counterfactual_lpips"]
        assert results["counterfactual_below"][name] == pytest.approx(100 * (1 - error), abs=0.1)
        assert results["counterfactual_below"][name] < 0


def test_every_slice_is_a_mean_of_the_same_outputs() -> None:
    rows, known = world()
    evaluation = score(Thumbnails(strength=0.6), rows, known)
    results = evaluation.results
    for key in ("age_mae", "identity_cosine", "counterfactual_lpips", "counterfactual_ssim_face"):
        for slices in (results["per_target_age"], *results["per_group"].values()):
            total = sum(row[key] * row["outputs"] for row in slices.values()) / results["outputs"]
            assert total == pytest.approx(results[key], abs=2e-6), key
    assert list(results["per_group"]["source_age"]) == ["0-19", "40-59", "60-100"]
    # one output by hand: person 2 at 40, made 80
    with torch.no_grad():
        face, truth = life(2, [40.0]), life(2, [80.0])
        made = evaluation.sam.synthesize(evaluation.sam.edit(face, torch.tensor([80.0])))
        place = next(j for j in range(36) if evaluation.scored.face[j] == 7 and evaluation.scored.target_age[j] == 80)
        columns = evaluation.scored.columns["sam"]
        assert columns["truth_lpips"][place].item() == pytest.approx(FeatureDistance(Lightness())(made, truth).item())
        assert columns["age"][place].item() == pytest.approx(Lightness()(made).item(), abs=1e-3)


def test_scores_do_not_depend_on_the_batch() -> None:
    rows, known = world(4)
    sam, baselines = Thumbnails(32, strength=0.6), fitted(rows, known)
    want, *others = (score(sam, rows, known, baselines=baselines, batch_size=size).scored for size in (9, 1, 7))
    for got in others:
        assert torch.equal(got.face, want.face)
        for method, columns in want.columns.items():
            for name, values in columns.items():
                torch.testing.assert_close(got.columns[method][name], values, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_a_truth_that_is_not_there_is_not_counted_and_strangers_come_from_all_the_data() -> None:
    rows, known = world()
    whole = score(Thumbnails(strength=0.6), rows, known, inputs=[1, 7])
    assert whole.results["faces"] == 2
    assert set(whole.scored.face.tolist()) == {1, 7}
    missing = [row for row in rows if row["index"] != 2]  # person 0 at 80
    evaluation = score(Thumbnails(strength=0.6), missing, known, inputs=[1, 7])
    columns = evaluation.scored.columns
    assert evaluation.scored.truth.tolist() == [0, 1, -1, 6, 7, 8]
    for method in ("sam", "input", "ceiling"):
        assert columns[method]["truth_ssim"].isnan().tolist() == [False, False, True, False, False, False]
    assert columns["truth"]["age"].isnan().tolist() == [False, False, True, False, False, False]
    assert not columns["sam"]["age"].isnan().any()
    person = torch.arange(12) // 3
    cosine = Pattern()(torch.stack([row["faces"] for row in rows])).double()
    impostor = (cosine @ cosine.T)[person[:, None] < person[None, :]]
    assert whole.scored.thresholds["verification_rate"] == pytest.approx(impostor.max().item(), abs=1e-6)


def test_honest_ageing_is_recognised_by_other_pictures_than_the_input_itself() -> None:
    rows, known = world()
    truth = score(Thumbnails(), rows, known).scored.columns["truth"]["cosine"]
    assert truth.isnan().sum() == 12  # each input at its own age


def test_the_report_is_one_file_that_shows_every_method_and_asks_for_nothing() -> None:
    rows, known = world()
    evaluation = score(Thumbnails(32, strength=0.6), rows, known, baselines=fitted(rows, known))
    results = {"checkpoint": "<b>mine & yours</b>", "skipped": 0, **evaluation.results}
    shown = examples(evaluation, each=1)
    page = report(results, shown)
    assert [example.kind for example in shown] == ["best", "median", "worst"]
    assert page.count("data:image/webp;base64,") == 3 * (1 + 5 * len(AGES))  # three faces: the input, and five rows
    assert not re.search(r"(src|href)=[\"'](?!data:)|url\(|@import|<script", page)
    assert "&lt;b&gt;mine &amp; yours&lt;/b&gt;" in page
    for what in WHAT.values():
        assert what in page
    assert page.count("<svg") == 6
    svg = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert all(ElementTree.fromstring(drawing).tag == "svg" for drawing in svg)
    assert f"{results['age_mae']:.1f}" in page


class Flattering(Lightness):
    """Reads everybody ten years too young."""

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        return super().forward(faces) - 10


def test_what_the_second_judge_finds_stands_beside_what_it_finds_of_the_truth() -> None:
    rows, known = world()
    results = {"checkpoint": "mine", "skipped": 0, **score(Thumbnails(strength=0.0), rows, known, Flattering()).results}
    (line,) = [line for line in table(results).splitlines() if line.startswith("Second judge")]
    assert re.fullmatch(
        r"Second judge: MAE (3\d\.\d), bias -10\.0, Spearman .*; on the true portraits MAE 10\.0, bias -10\.0, .*", line
    )
    assert "Flattering, which knows photographs alone and errs by 10.0 on true portraits" in report(results, [])


def test_curves_go_through_the_values() -> None:
    chart = Chart([0, 50, 100], {"sam": [0.0, None, 1.0]}, "share", {"sam": "SAM"})
    drawing = ElementTree.fromstring(chart.svg())
    x, y = zip(*[(float(c.get("cx")), float(c.get("cy"))) for c in drawing.iter("circle")], strict=True)
    ticks = {float(t.text): float(t.get("y")) - 3.5 for t in drawing.iter("text") if t.get("text-anchor") == "end"}
    ages = {t.text: float(t.get("x")) for t in drawing.iter("text") if t.get("text-anchor") == "middle"}
    assert y == pytest.approx((ticks[0.0], ticks[1.0]), abs=0.11)
    assert x == pytest.approx((ages["0"], ages["100"]), abs=0.11)
    assert Chart([0, 50], {"sam": [None, None]}, "share", {}).svg() == ""
