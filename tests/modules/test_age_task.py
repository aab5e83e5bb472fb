"""Learning to read ages: labels whose mean is the age, and a loss that is its formula."""

import math

import pytest
import torch
from torch import nn

from sam_age.errors import InputError
from sam_age.models.age import AgeClassifier
from sam_age.modules.age import AgeTask, soft_classes, soft_labels

YEARS = torch.arange(101, dtype=torch.float64)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0, 5.0])
def test_soft_labels_sum_to_one_and_their_mean_is_the_age_even_at_the_ends(sigma):
    ages = torch.cat([torch.tensor([0.0, 0.1, 0.5, 1.0, 1.3, 99.0, 99.9, 100.0]), torch.linspace(0, 100, 301)]).double()
    labels = soft_labels(ages, soft_classes(sigma))
    assert (labels >= 0).all()
    torch.testing.assert_close(labels.sum(1), torch.ones_like(ages), rtol=0, atol=1e-12)
    torch.testing.assert_close((labels * YEARS).sum(1), ages, rtol=0, atol=1e-9)


def test_far_from_the_ends_they_are_the_gaussian_itself():
    (label,) = soft_labels(torch.tensor([50.0]).double(), soft_classes(2.0))
    gaussian = torch.exp(-((YEARS - 50) ** 2) / 8) / math.sqrt(8 * math.pi)
    torch.testing.assert_close(label, gaussian, rtol=0, atol=1e-9)


def test_without_a_width_they_are_the_two_nearest_years():
    (label,) = soft_labels(torch.tensor([34.25]).double(), soft_classes(0.0))
    assert {i: label[i].item() for i in label.nonzero()[:, 0].tolist()} == {34: 0.75, 35: 0.25}


class Logits(nn.Module):
    """Says what it was given."""

    def __init__(self, logits):
        super().__init__()
        self.given = nn.Parameter(logits)

    def logits(self, faces):
        return self.given


def test_the_loss_is_its_formula_in_float64():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 101, generator=rng, dtype=torch.float64)
    ages = torch.tensor([3.0, 47.5, float("nan"), 100.0])
    task = AgeTask(Logits(logits), sigma=2.0, expectation=0.3, variance=0.05)
    task.table, task.years = soft_classes(2.0), YEARS
    loss, terms = task.loss(torch.empty(4, 3, 1, 1), {"age": ages.double()}, step=0)
    want = 0.0
    for row in (0, 1, 3):
        p = torch.exp(logits[row]) / torch.exp(logits[row]).sum()
        q = soft_labels(ages[row : row + 1].double(), soft_classes(2.0))[0]
        mean = (p * YEARS).sum()
        spread = (p * YEARS**2).sum() - mean**2
        want += -(q * p.log()).sum() + 0.3 * (mean - ages[row]).abs() + 0.05 * spread
    torch.testing.assert_close(loss, want / 3)
    loss.backward()
    gradient = task.network.given.grad
    assert (gradient[2] == 0).all()
    assert (gradient[[0, 1, 3]] != 0).any(1).all()
    assert set(terms) == {"cross_entropy", "expectation", "variance", "loss"}


def test_a_batch_of_unknown_ages_is_no_loss_and_no_gradient():
    task = AgeTask(Logits(torch.zeros(2, 101)))
    loss, _ = task.loss(torch.empty(2, 3, 1, 1), {"age": torch.full((2,), float("nan"))}, step=0)
    loss.backward()
    assert loss.item() == 0
    assert (task.network.given.grad == 0).all()


def test_the_best_logits_under_soft_labels_read_the_age_itself():
    task = AgeTask(Logits(torch.zeros(3, 101)), sigma=2.0)
    ages = torch.tensor([0.5, 40.2, 98.0])
    optimizer = torch.optim.Adam(task.parameters(), lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        task.loss(torch.empty(3, 3, 1, 1), {"age": ages}, step=0)[0].backward()
        optimizer.step()
    read = (task.network.given.detach().softmax(1) * task.years).sum(1)
    torch.testing.assert_close(read, ages, rtol=0, atol=0.15)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(InputError, match="no logits"):
        AgeTask(nn.Linear(2, 2))
    with pytest.raises(InputError, match="sigma -1"):
        AgeTask(AgeClassifier((8,), (1,), 32), sigma=-1)
