"""Likeness, pairing with the truth, and the figures made of them, against other libraries and brute force."""

import math

import numpy as np
import pytest
import torch
from kornia.metrics import ssim
from scipy.stats import spearmanr

from sam_age.evaluation.counterfactual import Likeness, structural_similarity
from sam_age.evaluation.examples import choose
from sam_age.evaluation.known import Known, age_group, known_of, nothing_known
from sam_age.evaluation.metrics import age_scores, match_threshold, mean, percent_below, share_closed, summarise
from sam_age.lifespan.folder import Settings
from sam_age.lifespan.making import render_split
from sam_age.lifespan.sources import LifespanFaces, LifespanLive
from sam_age.models.identity import face_crop
from sam_age.models.perceptual import FeatureDistance
from tests.evaluation.fakes import Lightness
from tests.modules.test_aging import Colours

FAKE = "tests.lifespan.fake"


def pictures(count: int, size: int = 256, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# ---- likeness ----------------------------------------------------------------------------------------


def test_structural_similarity_is_kornias_and_1_for_equals():
    truth = pictures(2, 64)
    other = (truth + 0.3 * pictures(2, 64, seed=1)).clamp(-1, 1)
    want = ssim(other, truth, window_size=11, max_val=2.0)
    torch.testing.assert_close(structural_similarity(other, truth), want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(structural_similarity(truth, truth), torch.ones(2, 3, 64, 64))


def test_the_distance_is_the_mean_over_networks_whole_and_in_the_face():
    networks = [Lightness().eval(), Colours().eval()]
    likeness = Likeness(networks)
    a, b = pictures(3), pictures(3, seed=1)
    got = likeness.compare(likeness.see(a), likeness.see(b))
    for suffix, crop in (("", lambda x: x), ("_face", face_crop)):
        want = torch.stack([FeatureDistance(network)(crop(a), crop(b)) for network in networks]).mean(0)
        torch.testing.assert_close(got[f"lpips{suffix}"], want)
    again = likeness.compare(likeness.see(a)[torch.tensor([2, 2, 0])], likeness.see(b[[1, 2, 0]]))
    assert again["lpips"][2].item() == pytest.approx(got["lpips"][0].item(), rel=1e-5)
    assert again["lpips"][1].item() == pytest.approx(got["lpips"][2].item(), rel=1e-5)


def test_without_networks_there_are_pixels_and_structure_alone():
    likeness = Likeness()
    got = likeness.compare(likeness.see(pictures(1)), likeness.see(pictures(1)))
    assert set(got) == {"ssim", "psnr", "ssim_face", "psnr_face"}


# ---- who is whose truth ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def portraits(tmp_path_factory):
    """Test people at three ages in one scene, and the same people in two further scenes."""
    root = tmp_path_factory.mktemp("lifespan")
    for split, scenes in (("test", 1), ("test_scenes", 2)):
        settings = Settings(split=split, people=6, size=32, ages=(0, 30, 60), scenes=scenes, format="png")
        render_split(root, settings, workers=1, renderer=FAKE)
    return root


@pytest.mark.parametrize("split", ["test", "test_scenes"])
def test_the_truth_is_the_same_person_in_the_same_scene_at_that_age(portraits, split):
    source = LifespanFaces(portraits, split)
    known = known_of(source)
    faces = torch.arange(len(source)).repeat_interleave(4)
    target = torch.tensor([0.0, 30.0, 60.0, 90.0]).repeat(len(source))
    truths = known.truths(faces, target).tolist()
    for face, age, truth in zip(faces.tolist(), target.tolist(), truths, strict=True):
        if age == 90:
            assert truth == -1
            continue
        mine, true = source.row(face), source.row(truth)
        assert (true["person"], true["scene"], true["age"]) == (mine["person"], mine["scene"], age)


def test_sexes_tones_and_ages_are_those_of_the_people(portraits):
    source = LifespanFaces(portraits, "test")
    known = known_of(source)
    assert set(known.groups) == {"source_age", "sex", "skin_tone"}
    assert known.groups["sex"] == [source.row(i)["sex"] for i in range(len(source))]
    assert set(known.groups["skin_tone"]) <= {"light", "medium", "dark"}
    by_person: dict[str, set[str]] = {}
    for i in range(len(source)):
        by_person.setdefault(source.row(i)["person"], set()).add(known.groups["skin_tone"][i])
    assert all(len(tones) == 1 for tones in by_person.values())
    assert len(set().union(*by_person.values())) > 1
    rendered = LifespanLive("test", people=2, size=32, renderer=FAKE)
    live = known_of(rendered)
    assert live.people
    assert "skin_tone" in live.groups
    assert len(live) == 22


def test_of_photographs_nothing_is_known():
    known = nothing_known(3)
    assert not known.people
    assert known.groups == {}
    assert known.truths(torch.tensor([0, 2]), torch.tensor([10.0, 20.0])).tolist() == [-1, -1]
    aged = Known(torch.tensor([3.0, math.nan]), *[torch.tensor([-1, -1])] * 3, {"source_age": ["0-19", ""]})
    assert aged.truths(torch.tensor([0]), torch.tensor([3.0])).tolist() == [-1]


def test_every_age_from_0_to_100_has_a_group():
    groups = [age_group(years / 10) for years in range(1001)]
    assert all(groups)
    assert sorted(set(groups), key=groups.index) == ["0-19", "20-39", "40-59", "60-100"]


# ---- figures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.001, 0.0005, 0.1, 0.0])
@pytest.mark.parametrize("digits", [2, 6])
def test_the_threshold_is_the_least_that_holds_the_false_match_rate(rate, digits):
    impostor = torch.rand(5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).round(decimals=digits)
    threshold = match_threshold(impostor, rate)
    assert (impostor >= threshold).double().mean() <= rate
    below = impostor[impostor < threshold].max()  # the next lower cosine that occurs, ties and all
    assert (impostor >= below).double().mean() > rate
    assert math.isnan(match_threshold(torch.empty(0)))


def test_ages_are_scored_as_numpy_and_scipy_do():
    rng = np.random.default_rng(0)
    target = rng.choice([0.0, 40.0, 80.0], 300)
    read = target * 0.8 + rng.normal(0, 9, 300)
    got = age_scores(torch.from_numpy(read), torch.from_numpy(target))
    assert got["age_mae"] == pytest.approx(np.abs(read - target).mean(), abs=1e-5)
    assert got["age_bias"] == pytest.approx((read - target).mean(), abs=1e-5)
    assert got["age_spearman"] == pytest.approx(spearmanr(read, target).statistic, abs=1e-5)
    one = age_scores(torch.from_numpy(read[target == 40]), torch.full((int((target == 40).sum()),), 40.0))
    assert "age_spearman" not in one
    assert one["age_p10"] == pytest.approx(np.quantile(read[target == 40], 0.1), abs=1e-4)


def test_what_is_not_known_is_not_counted():
    nan = math.nan
    columns = {"age": torch.tensor([10.0, nan, 40.0]), "cosine": torch.tensor([0.2, 0.9, nan])}
    columns["truth_lpips"] = torch.tensor([nan, nan, 0.5])
    row = summarise(columns, torch.tensor([12.0, 12.0, 41.0]), {"verification_rate": 0.5, "kin": nan})
    assert row["age_mae"] == pytest.approx(1.5)
    assert (row["verification_rate"], row["kin"]) == (0.5, None)
    assert row["counterfactual_lpips"] == 0.5
    assert mean(torch.tensor([nan, nan])) is None
    assert summarise({}, torch.tensor([12.0]), {})["identity_cosine"] is None


def test_shares_and_percents():
    assert share_closed(0.4, 0.4, 0.1) == 0
    assert share_closed(0.4, 0.1, 0.1) == 100
    assert share_closed(0.4, 0.55, 0.1) == -50
    assert share_closed(None, 0.2, 0.1) is None
    assert share_closed(0.33, 0.345, 0.37) is None  # an encoder and generator that blur more than ageing changes
    assert percent_below(0.6, 0.4) == pytest.approx(-50)
    assert percent_below(0.6, None) is None


def test_examples_are_of_different_people_and_in_their_place():
    error = torch.arange(30.0).flip(0)
    person = torch.arange(30) // 3
    chosen = choose(error, person, 2)
    assert [kind for kind, _ in chosen] == ["best", "best", "median", "median", "worst", "worst"]
    assert len({int(person[place]) for _, place in chosen}) == 6
    assert error[chosen[0][1]] == 0
    assert error[chosen[-2][1]] == 29
    assert all(10 <= error[place] <= 20 for kind, place in chosen if kind == "median")
    assert len(choose(torch.tensor([1.0, 2.0]), torch.tensor([-1, -1]), 2)) == 2
