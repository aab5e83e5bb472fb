"""tools/weigh_losses.py: where a model that ages truly would stop."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.networks import random_losses
from sam_age.data.dataset import to_unit_range
from sam_age.losses import identity_weight
from tests.tool import load_tool


@pytest.fixture(scope="module")
def tool():
    return load_tool("weigh_losses")


@pytest.mark.parametrize(("slope", "weight"), [(0.002, 5.0), (0.01, 20.0)])
def test_what_holds_back_evenly_stops_where_the_slopes_are_equal(tool, slope: float, weight: float) -> None:
    gaps = [0, 20, 60, 100]
    stops = tool.too_early(60, gaps, [slope * gap for gap in gaps], weight)
    assert stops == pytest.approx(slope * 1e4 / (2 * weight), abs=0.1)  # 2 weight x / 100^2 = slope
    assert tool.too_early(60, gaps, [0.0] * 4, weight) == 0


def test_terms_are_those_between_a_persons_true_portraits(tool) -> None:
    draws = torch.Generator().manual_seed(0)
    portraits = [(0, 10.0), (0, 40.0), (1, 10.0), (1, 40.0)]  # person, age
    faces = [torch.randint(0, 256, (3, 256, 256), generator=draws, dtype=torch.uint8) for _ in portraits]
    rows = [{"person": person, "age": age, "faces": face} for (person, age), face in zip(portraits, faces, strict=True)]
    costs = tool.measured(random_losses("tiny"), rows)
    assert sorted(costs) == [0.0, 30.0]
    assert costs[0.0]["l2"] == 0
    one, two = (to_unit_range(torch.stack(faces[start::2])) for start in (0, 1))
    assert costs[30.0]["l2"] == pytest.approx(F.mse_loss(one, two).item(), rel=1e-5)


@torch.no_grad()
def test_terms_are_those_of_the_losses(tool) -> None:
    losses = random_losses("tiny")
    source, truth = torch.rand(2, 1, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    target, codes = torch.tensor([70.0]), torch.zeros(1, 2, 4)
    _, want = losses(truth, codes, losses.describe(source), target, latent_avg=codes[0], aging=True)
    got = tool.terms(losses, losses.describe(source), losses.describe(truth), target.item())
    assert got.keys() == set(tool.HOLDING)
    firmness = identity_weight(losses.age_net(source), target).item()
    assert got.pop("identity") == pytest.approx(firmness * (1 - want["identity_similarity"].item()), rel=1e-4)
    assert got == pytest.approx({name: want[name].item() for name in got}, rel=1e-4)
