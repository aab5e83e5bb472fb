"""Learning to read ages: DEX's classes under soft labels, and the age as their expectation.

Sources: Rothe et al. 2018, "Deep expectation of real and apparent age from a single image"; Gao et al. 2018, "Age
Estimation Using Expectation of Label Distribution Learning", for soft labels and the error of the expectation as a
term of its own; Pan et al. 2018, "Mean-Variance Loss", for the variance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sam_age.data.sources import ImageSource
from sam_age.errors import InputError
from sam_age.evaluation.judges import AgeReading
from sam_age.models.age import CLASSES
from sam_age.models.ops import at_least_float32


@runtime_checkable
class AgeClasses(Protocol):
    """A network with a class for each whole year from 0 to 100, such as `AgeClassifier` and `DEX`."""

    def logits(self, faces: Tensor) -> Tensor:
        """faces: (N, 3, H, W) RGB in [-1, 1] -> (N, 101)."""
        ...


def soft_classes(sigma: float) -> Tensor:
    """For each whole year, a distribution over the 101 years whose mean is exactly that year: (101, 101), float64.

    A Gaussian of `sigma` years cut off at 0 and 100 would have its mean too far inside, by 0.8 sigma at the ends, and
    a network would learn that nobody is newborn. So the Gaussian is moved outwards until the mean is right; at 0 and
    100 nothing is left but the class itself.
    """
    if sigma <= 0:
        return torch.eye(CLASSES, dtype=torch.float64)
    years = torch.arange(CLASSES, dtype=torch.float64)
    inner = years[1:-1]
    # at 1 and 99 the centre lies outside by at most sigma^2 and a little: there neighbours' shares fall by e a year
    low, high = inner - 10 * sigma**2 - 10, inner + 10 * sigma**2 + 10
    for _ in range(100):  # halvings: to the last digit
        centre = (low + high) / 2
        mean = (_gaussians(centre, sigma) * years).sum(1)
        low, high = torch.where(mean < inner, centre, low), torch.where(mean < inner, high, centre)
    table = torch.eye(CLASSES, dtype=torch.float64)
    table[1:-1] = _gaussians((low + high) / 2, sigma)
    return table


def _gaussians(centre: Tensor, sigma: float) -> Tensor:
    years = torch.arange(CLASSES, dtype=torch.float64)
    return (-((years - centre[:, None]) ** 2) / (2 * sigma**2)).softmax(1)


def soft_labels(age: Tensor, table: Tensor) -> Tensor:
    """Distributions over the classes with mean `age`: between two years, a mixture of both years' distributions.

    Args:
        age: (N,) years, 0 to 100; beyond them is taken as the end.
        table: (101, 101), see `soft_classes`.
    Returns:
        (N, 101), rows of sum 1.

    >>> labels = soft_labels(torch.tensor([0.0, 20.25, 100.0]), soft_classes(2.0))
    >>> (labels * torch.arange(101)).sum(1).tolist()
    [0.0, 20.25, 100.0]
    """
    age = age.to(table.dtype).clamp(0, CLASSES - 1)
    below = age.floor().clamp(max=CLASSES - 2)
    share = (age - below)[:, None]
    row = below.long()
    return (1 - share) * table[row] + share * table[row + 1]


class AgeTask(nn.Module):
    """An age network and what it learns by: cross-entropy to soft labels, and terms on their mean and spread.

    Args:
        network: see `AgeClasses`.
        sigma: of the soft labels, years; 0: the nearest year alone, as in DEX.
        expectation: weight of the mean absolute error of the expected age, per year.
        variance: weight of the predicted distribution's variance, per square year.
    """

    score, higher_is_better = "age_mae", False

    def __init__(
        self, network: nn.Module, *, sigma: float = 2.0, expectation: float = 0.1, variance: float = 0.0
    ) -> None:
        super().__init__()
        if not isinstance(network, AgeClasses):
            raise InputError(
                f"{type(network).__name__} has no logits(faces): an age network has a class for each year."
            )
        if min(sigma, expectation, variance) < 0:
            raise InputError(f"sigma {sigma}, expectation {expectation} and variance {variance} are at least 0.")
        self.network = network
        self.expectation, self.variance = expectation, variance
        self.reading = AgeReading()
        self.register_buffer("table", soft_classes(sigma).float(), persistent=False)
        self.register_buffer("years", torch.arange(CLASSES, dtype=torch.float32), persistent=False)

    def check(self, source: ImageSource) -> None:
        """Whether the training set knows ages at all.

        Raises:
            InputError: it does not.
        """
        if not hasattr(source, "age"):
            raise InputError(
                f"{source.name(0)}: nobody says how old this is. Set data.labels to FFHQ-Aging's CSV, or train on "
                "data=lifespan."
            )

    def loss(self, faces: Tensor, batch: Mapping[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective, a scalar, and its terms for the log. Faces whose age is not known count for nothing.

        faces: (N, 3, H, W) RGB in [-1, 1]; batch["age"]: (N,) years, NaN where unknown.
        """
        known = ~batch["age"].isnan()
        age = batch["age"].nan_to_num(0.0)
        logits = at_least_float32(self.network.logits(faces))
        probability = logits.softmax(1)
        expected = (probability * self.years).sum(1)
        terms = {
            "cross_entropy": -(soft_labels(age, self.table) * logits.log_softmax(1)).sum(1),
            "expectation": (expected - age).abs(),
            "variance": (probability * (self.years - expected[:, None]) ** 2).sum(1),
        }
        terms = {name: (term * known).sum() / known.sum().clamp_min(1) for name, term in terms.items()}
        loss = terms["cross_entropy"] + self.expectation * terms["expectation"] + self.variance * terms["variance"]
        return loss, {name: term.detach() for name, term in terms.items()} | {"loss": loss.detach()}

    def observe(self, network: nn.Module, faces: Tensor, batch: Mapping[str, Tensor]) -> None:
        """Validation: what `network`, this task's own or its average, reads. faces as they are, unworn."""
        self.reading.update(network(faces), batch["age"])

    def scores(self) -> dict[str, float]:
        """Of all faces observed since the last call, over all ranks; see `AgeReading`."""
        scores = self.reading.compute()
        self.reading.reset()
        return scores

    def describe(self, network: nn.Module, faces: Tensor, batch: Mapping[str, Tensor]) -> list[str]:
        """A caption for each face of a panel."""
        ages = zip(batch["age"].tolist(), network(faces).tolist(), strict=True)
        return [f"{true:.0f} years, read {read:.0f}" for true, read in ages]

    def companions(self) -> dict[str, nn.Module]:
        """Nothing else learns."""
        return {}
