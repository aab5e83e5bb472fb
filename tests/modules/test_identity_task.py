"""Learning who is who: the margin softmax against its formula in angles, and what it must do to a network."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sam_age.errors import InputError
from sam_age.modules.identity import IdentityTask, with_margin
from tests.data.faces import Colours


class Given(nn.Module):
    """Embeds nothing: says what it was given."""

    config = {"embedding_dim": 6}  # noqa: RUF012

    def __init__(self, embeddings):
        super().__init__()
        self.embeddings = nn.Parameter(embeddings)

    def forward(self, faces):
        return F.normalize(self.embeddings)


def task(people=5, count=4, **settings):
    rng = torch.Generator().manual_seed(0)
    made = IdentityTask(Given(torch.randn(count, 6, generator=rng, dtype=torch.float64)), people, **settings).double()
    made.directions.weight.data = torch.randn(people, 6, generator=rng, dtype=torch.float64)
    return made


FACES = torch.empty(4, 3, 1, 1)


@pytest.mark.parametrize(("angle", "gap"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.35), (0.3, 0.2)])
def test_the_loss_is_the_combined_margin_formula_in_float64(angle, gap):
    identity = task(scale=20.0, angle=angle, gap=gap)
    person = torch.tensor([2, 0, 4, 2])
    loss, _ = identity.loss(FACES, {"person": person}, step=0)
    want = 0.0
    for x, own in zip(identity.network.embeddings.detach(), person.tolist(), strict=True):
        theta = [math.acos(float(x @ c / (x.norm() * c.norm()))) for c in identity.directions.weight.detach()]
        assert theta[own] + angle < math.pi  # where the formula is the paper's own
        mine = math.exp(20 * (math.cos(theta[own] + angle) - gap))
        others = sum(math.exp(20 * math.cos(t)) for k, t in enumerate(theta) if k != own)
        want -= math.log(mine / (mine + others))
    assert loss.item() == pytest.approx(want / 4, rel=1e-10)


def test_the_margin_falls_all_the_way_from_one_to_minus_one_without_a_jump():
    cosine = torch.linspace(-1, 1, 100_001, dtype=torch.float64)[:, None]
    lowered = with_margin(cosine, torch.zeros(len(cosine), dtype=torch.long), angle=0.5, gap=0.0)[:, 0]
    assert (lowered.diff() > 0).all()
    assert lowered.diff().max() < 0.01  # the sine's slope is steep at the very end
    assert (lowered <= cosine[:, 0]).all()


def test_gradients_are_finite_even_on_top_of_a_direction_or_opposite_to_it():
    cosine = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.3, 0.2]], requires_grad=True)
    with_margin(cosine, torch.tensor([0, 0, 1]), angle=0.5, gap=0.1).sum().backward()
    assert cosine.grad.isfinite().all()
    assert (cosine.grad > 0).all()


def test_faces_of_nobody_known_count_for_nothing():
    identity = task()
    whole, _ = identity.loss(FACES, {"person": torch.tensor([1, 3, -1, -1])}, step=0)
    whole.backward()
    assert (identity.network.embeddings.grad[2:] == 0).all()
    identity.network.embeddings = nn.Parameter(identity.network.embeddings.detach()[:2])
    part, _ = identity.loss(FACES[:2], {"person": torch.tensor([1, 3])}, step=0)
    assert whole.item() == pytest.approx(part.item(), rel=1e-12)
    none, _ = identity.loss(FACES[:2], {"person": torch.tensor([-1, -1])}, step=0)
    assert none.item() == 0


def test_the_margin_grows_over_its_first_steps():
    grown, still = task(angle=0.5, margin_steps=100), task(angle=0.25)
    batch = {"person": torch.tensor([0, 1, 2, 3])}
    assert grown.loss(FACES, batch, step=50)[0].item() == still.loss(FACES, batch, step=0)[0].item()
    assert grown.loss(FACES, batch, step=500)[0].item() == task(angle=0.5).loss(FACES, batch, step=0)[0].item()


def test_training_parts_people_by_more_than_the_margin():
    identity = task(people=4, count=8, scale=16.0, angle=0.5)
    batch = {"person": torch.arange(8) % 4}
    optimizer = torch.optim.Adam(identity.parameters(), lr=0.05)
    for step in range(200):
        optimizer.zero_grad()
        identity.loss(torch.empty(8, 3, 1, 1), batch, step)[0].backward()
        optimizer.step()
    angles = torch.acos(identity.directions(identity.network(None))).detach()
    own = F.one_hot(batch["person"]).bool()
    assert (angles[own] + 0.5 < angles.masked_fill(own, torch.inf).amin(1)).all()


class Named(Colours):
    def __init__(self, people):
        super().__init__(4)
        self.people = people

    def labels(self, index):
        return {"person": index % self.people, "kin": 0}


def test_a_training_set_without_names_or_with_too_many_people_is_refused():
    with pytest.raises(InputError, match="nobody says who this is"):
        task().check(Colours(3))
    with pytest.raises(InputError, match=r"module\.tasks\.identity\.people=7"):
        task().check(Named(7))
    task().check(Named(5))


@pytest.mark.parametrize("bad", [{"people": 1}, {"scale": 0.0}, {"angle": 1.6}, {"gap": -0.1}])
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        task(**bad)
    with pytest.raises(InputError, match="embedding_dim"):
        IdentityTask(nn.Linear(2, 2), 5)
