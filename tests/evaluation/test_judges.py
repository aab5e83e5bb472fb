"""Scores of the judges: against counting by brute force, other libraries, and what they must be by definition."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torchmetrics.functional.classification import binary_auroc

from sam_age.data.dataset import FacesDataset
from sam_age.evaluation.judges import AgeReading, Pairs, Verification, pairs, score_judges, spearman, verification
from tests.modules.judges_set import Patterns


def cosines(genuine=300, impostor=4000, seed=0, digits=None):
    rng = np.random.default_rng(seed)
    same, other = rng.normal(0.5, 0.2, genuine), rng.normal(0.0, 0.2, impostor)
    if digits is not None:  # many equal ones
        same, other = same.round(digits), other.round(digits)
    return Pairs(torch.from_numpy(same.clip(-1, 1)), torch.from_numpy(other.clip(-1, 1)))


@pytest.mark.parametrize("digits", [None, 1, 2])
@pytest.mark.parametrize(("name", "limit"), [("tar_fmr_1", 1e-2), ("tar_fmr_0.1", 1e-3)])
def test_accept_rate_is_the_best_over_all_thresholds_that_keep_the_false_match_rate(digits, name, limit):
    scores = cosines(digits=digits)
    best = 0.0
    for threshold in [np.inf, *np.unique(np.concatenate([s.numpy() for s in scores]))]:
        if np.mean(scores.impostor.numpy() >= threshold) <= limit:
            best = max(best, np.mean(scores.genuine.numpy() >= threshold))
    assert verification(scores)[name] == pytest.approx(best, abs=1e-12)


def test_at_its_threshold_the_false_match_rate_holds_and_just_below_it_does_not():
    scores = cosines(digits=3)
    threshold = verification(scores)["threshold_fmr_0.1"]
    assert np.mean(scores.impostor.numpy() >= threshold) <= 1e-3
    lower = max(c for c in torch.cat(list(scores)).tolist() if c < threshold)
    assert np.mean(scores.impostor.numpy() >= lower) > 1e-3


@pytest.mark.parametrize("digits", [None, 1])
def test_area_is_the_share_of_rightly_ordered_pairs_and_torchmetrics(digits):
    scores = cosines(120, 500, digits=digits)
    difference = scores.genuine[:, None] - scores.impostor[None, :]
    share = (difference > 0).double().mean() + (difference == 0).double().mean() / 2
    found = verification(scores)["auc"]
    assert found == pytest.approx(share.item(), abs=1e-12)
    target = torch.cat([torch.ones(120), torch.zeros(500)]).long()
    cosine = (torch.cat(list(scores)) + 1) / 2  # torchmetrics takes what lies outside 0-1 for logits
    assert found == pytest.approx(binary_auroc(cosine, target).item(), abs=1e-5)


def test_equal_error_rate_of_two_gaussians_is_the_normal_integral():
    scores = cosines(200_000, 200_000)
    # means 0.5 apart, deviations 0.2: both errors meet half-way, at 1.25 deviations
    assert verification(scores)["eer"] == pytest.approx(0.10565, abs=3e-3)


def test_perfect_hopeless_and_empty_scores():
    high, low = torch.tensor([0.8, 0.9]), torch.tensor([0.1, 0.2, 0.3])
    perfect = verification(Pairs(high, low))
    assert (perfect["auc"], perfect["eer"], perfect["tar_fmr_1"], perfect["tar_fmr_0.1"]) == (1, 0, 1, 1)
    hopeless = verification(Pairs(low, high))
    assert (hopeless["auc"], hopeless["tar_fmr_0.1"]) == (0, 0)
    assert all(np.isnan(value) for value in verification(Pairs(torch.empty(0), low)).values())


def test_pairs_are_those_of_one_person_and_of_two_of_one_kind_each_once():
    person, kin = torch.tensor([0, 0, 1, 1, 2, 3]), torch.tensor([0, 0, 0, 0, 1, 1])
    embeddings = torch.nn.functional.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    cosine = lambda i, j: float(embeddings[i] @ embeddings[j])  # noqa: E731
    found = pairs(embeddings, person, kin)
    assert sorted(found.genuine.tolist()) == pytest.approx(sorted([cosine(0, 1), cosine(2, 3)]), abs=1e-6)
    wanted = [cosine(i, j) for i, j in ((0, 2), (0, 3), (1, 2), (1, 3), (4, 5))]
    assert sorted(found.impostor.tolist()) == pytest.approx(sorted(wanted), abs=1e-6)
    assert len(pairs(embeddings, person).impostor) == 13  # 15 pairs but for the two of one person


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_verification_in_batches_is_that_of_all_and_leaves_strangers_out():
    rng = torch.Generator().manual_seed(1)
    embeddings = torch.nn.functional.normalize(torch.randn(40, 8, generator=rng), dim=1)
    person, kin = torch.arange(40) // 4, torch.arange(40) // 4 % 2
    metric = Verification()
    for batch in torch.arange(40).split(7):
        metric.update(embeddings[batch], person[batch], kin[batch])
    metric.update(embeddings[:3], torch.full((3,), -1), kin[:3])
    want = verification(pairs(embeddings, person, kin))
    found = metric.compute()
    assert {name: found[name] for name in want} == pytest.approx(want, abs=1e-6)
    metric.reset()
    assert np.isnan(metric.compute()["eer"])


@pytest.mark.parametrize("digits", [0, 3])
def test_spearman_is_scipys_ties_and_all(digits):
    rng = np.random.default_rng(0)
    a = rng.normal(size=200)
    b = (a + rng.normal(size=200)).round(digits)
    assert spearman(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_age_scores_are_plain_means_by_decade_and_leave_unknown_ages_out():
    rng = np.random.default_rng(2)
    true = rng.uniform(0, 100, 500).round(1).astype(np.float32)
    read = (true + rng.normal(1, 5, 500)).astype(np.float32)
    metric = AgeReading()
    metric.update(torch.from_numpy(read[:100]), torch.from_numpy(true[:100]))
    metric.update(torch.from_numpy(read[100:]), torch.from_numpy(true[100:]))
    metric.update(torch.tensor([7.0]), torch.tensor([float("nan")]))
    scores = metric.compute()
    assert scores["age_mae"] == pytest.approx(np.abs(read - true).mean(), abs=1e-5)
    assert scores["age_bias"] == pytest.approx((read - true).mean(), abs=1e-5)
    forties = (true >= 40) & (true < 50)
    assert scores["age_bias_40s"] == pytest.approx((read - true)[forties].mean(), abs=1e-5)
    assert sum(name.startswith("age_bias_") for name in scores) == 10


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_hundred_years_belong_to_the_nineties_and_nothing_is_nan():
    metric = AgeReading()
    metric.update(torch.tensor([96.0, 91.0]), torch.tensor([100.0, 90.0]))
    assert metric.compute()["age_bias_90s"] == pytest.approx(-1.5)
    assert np.isnan(AgeReading().compute()["age_mae"])


class Means(torch.nn.Module):
    """Reads an age off the brightness, and a person off the colours' order."""

    def forward(self, faces):
        return 50 + 50 * faces.mean((1, 2, 3))


class Colour(torch.nn.Module):
    def forward(self, faces):
        return torch.nn.functional.normalize(faces.mean((2, 3)) - faces.mean((1, 2, 3))[:, None], dim=1)


def test_scores_of_networks_are_those_of_their_answers_and_of_pairs_by_age_gap():
    dataset = FacesDataset(Patterns(8), size=32)
    faces = torch.stack([dataset[i]["faces"] for i in range(24)]).float() / 127.5 - 1
    rows = [dataset[i] for i in range(24)]
    ages = torch.stack([row["age"] for row in rows])
    person, kin = (torch.tensor([row[key] for row in rows]) for key in ("person", "kin"))
    scores = score_judges(dataset, Means(), Colour(), batch_size=7)
    assert scores["age_mae"] == pytest.approx((Means()(faces) - ages).abs().mean().item(), abs=1e-4)
    embeddings = Colour()(faces)
    want = verification(pairs(embeddings, person, kin))
    assert scores["eer"] == pytest.approx(want["eer"], abs=1e-6)
    accepted = {}
    for i in range(24):
        for j in range(i + 1, 24):
            if person[i] == person[j]:
                gap = round(abs(float(ages[i] - ages[j])) / 10) * 10
                accepted.setdefault(gap, []).append(
                    float(embeddings[i] @ embeddings[j]) >= want["threshold_fmr_0.1"] - 1e-6
                )
    found = {int(name.rsplit("_", 1)[1]): value for name, value in scores.items() if name.startswith("accepted_gap")}
    assert found == pytest.approx({gap: np.mean(values) for gap, values in accepted.items()})
    assert "eer" not in score_judges(dataset, Means())
