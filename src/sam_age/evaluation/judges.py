"""How well the judges themselves judge: ages read against ages known, and one person told from another.

Pure functions on tensors, and two torchmetrics around them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from sam_age.data.dataset import FacesDataset, collate, to_unit_range

DECADES = 10  # 0-9, 10-19, ..., 90 and older
NAN = float("nan")


# ---- age ---------------------------------------------------------------------------------------------------


def spearman(a: Tensor, b: Tensor) -> float:
    """Correlation of the ranks of a (N,) and b (N,), equal values sharing their mean rank; NaN where undefined.

    >>> round(spearman(torch.tensor([1., 2., 9.]), torch.tensor([10., 11., 30.])), 6)
    1.0
    """
    if len(a) < 2:
        return NAN
    ranks = torch.stack([_ranks(a), _ranks(b)])
    return torch.corrcoef(ranks)[0, 1].item()


def _ranks(values: Tensor) -> Tensor:
    _, place, count = values.double().unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    return (last - (count - 1) / 2)[place]


class AgeReading(Metric):
    """Ages that a network reads off faces of known age, in years.

    >>> reading = AgeReading()
    >>> reading.update(torch.tensor([12., 16., 50.]), torch.tensor([10., 14., 53.]))
    >>> scores = reading.compute()
    >>> scores["age_mae"], scores["age_bias_10s"], scores["age_bias_50s"]
    (2.333333, 2.0, -3.0)
    """

    full_state_update = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("read", [], dist_reduce_fx="cat")
        self.add_state("true", [], dist_reduce_fx="cat")

    def update(self, read: Tensor, true: Tensor) -> None:
        """Both (N,), years; faces whose age is not known (NaN) are left out."""
        known = ~true.isnan()
        self.read.append(read.detach().float()[known])
        self.true.append(true.float()[known])

    def compute(self) -> dict[str, float]:
        """`age_mae`; `age_bias` (read minus true); `age_spearman`; and `age_bias_10s` for each decade that was seen."""
        read, true = _joined(self.read), _joined(self.true)
        if not len(true):
            return {"age_mae": NAN, "age_bias": NAN, "age_spearman": NAN}
        error = (read - true).double()
        scores = {"age_mae": error.abs().mean().item(), "age_bias": error.mean().item()}
        scores["age_spearman"] = spearman(read, true)
        decade = (true / 10).long().clamp(0, DECADES - 1)
        for number in decade.unique().tolist():
            scores[f"age_bias_{10 * number}s"] = error[decade == number].mean().item()
        return {name: round(value, 6) for name, value in scores.items()}


# ---- identity ----------------------------------------------------------------------------------------------


class Pairs(NamedTuple):
    """Cosines of pairs of faces: of one person, (G,), and of two, (I,)."""

    genuine: Tensor
    impostor: Tensor


def pairs(embeddings: Tensor, person: Tensor, kin: Tensor | None = None) -> Pairs:
    """All pairs of one person's faces, and all pairs of two people of one kind.

    Args:
        embeddings: (N, D), rows of length one.
        person: (N,) who it is.
        kin: (N,) which people are alike enough to be mistaken for each other (one sex and ancestry): to tell
            apart those who differ in either would be too easy. None: everybody.
    """
    cosine = embeddings.double() @ embeddings.double().T  # a GPU would round float32 products to three digits
    once = torch.ones_like(cosine, dtype=torch.bool).triu(1)
    same = person[:, None] == person[None, :]
    comparable = once if kin is None else once & (kin[:, None] == kin[None, :])
    return Pairs(cosine[once & same], cosine[comparable & ~same])


def roc(scores: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    """False match rate, true accept rate and threshold (K,), thresholds falling: accepted is cosine >= threshold.

    Starts at (0, 0, inf), where nothing is accepted, and has a point for each cosine that occurs.
    """
    cosine = torch.cat([scores.genuine, scores.impostor]).double()
    genuine = torch.zeros_like(cosine)
    genuine[: len(scores.genuine)] = 1
    cosine, order = cosine.sort(descending=True)
    accepted = genuine[order].cumsum(0)
    matched = (1 - genuine[order]).cumsum(0)
    last = torch.ones_like(cosine, dtype=torch.bool)
    last[:-1] = cosine[1:] != cosine[:-1]  # equal cosines are accepted together
    zero = cosine.new_zeros(1)
    fmr = torch.cat([zero, matched[last] / len(scores.impostor)])
    tar = torch.cat([zero, accepted[last] / len(scores.genuine)])
    return fmr, tar, torch.cat([zero + torch.inf, cosine[last]])


def verification(scores: Pairs) -> dict[str, float]:
    """Area under the curve; equal error rate; share of genuine pairs accepted at false match rates of 1 % and 0.1 %.

    Rates are shares, 0-1. `threshold_fmr_0.1` is the least cosine that is accepted at 0.1 %; all are NaN without
    pairs of both sorts.

    >>> scores = verification(Pairs(torch.tensor([0.9, 0.8, 0.3]), torch.tensor([0.5, 0.1, 0.0])))
    >>> round(scores["auc"], 3), round(scores["eer"], 3), round(scores["tar_fmr_0.1"], 3)
    (0.889, 0.333, 0.667)
    """
    if not len(scores.genuine) or not len(scores.impostor):
        return dict.fromkeys(("auc", "eer", "tar_fmr_1", "tar_fmr_0.1", "threshold_fmr_0.1"), NAN)
    fmr, tar, threshold = roc(scores)
    found = {"auc": torch.trapezoid(tar, fmr).item()}
    # where the falling rate of false rejections meets the rising one of false matches; between two points, the mean
    place = int(((1 - tar) - fmr).abs().argmin())
    found["eer"] = ((1 - tar[place] + fmr[place]) / 2).item()
    for name, limit in (("1", 1e-2), ("0.1", 1e-3)):
        last = int((fmr <= limit).sum()) - 1
        found[f"tar_fmr_{name}"] = tar[last].item()
        if name == "0.1":
            # where no genuine cosine lies above every impostor's, the threshold is just above the impostors'
            found["threshold_fmr_0.1"] = min(threshold[last].item(), 1.0)
    return found


class Verification(Metric):
    """Whether a network knows a person again, at another age and in another scene."""

    full_state_update = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("embeddings", "person", "kin"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, embeddings: Tensor, person: Tensor, kin: Tensor | None = None) -> None:
        """embeddings (N, D) of length one; person and kin (N,), see `pairs`. A person below 0 is not known."""
        known = person >= 0
        self.embeddings.append(embeddings.detach().float()[known])
        self.person.append(person[known])
        self.kin.append((torch.zeros_like(person) if kin is None else kin)[known])

    def compute(self) -> dict[str, float]:
        """As `verification`, and the mean cosine of either sort, `cosine_same` and `cosine_other`."""
        if not len(self.embeddings):
            return verification(Pairs(torch.empty(0), torch.empty(0)))
        scores = pairs(_joined(self.embeddings), _joined(self.person), _joined(self.kin))
        means = {"cosine_same": scores.genuine.mean().item(), "cosine_other": scores.impostor.mean().item()}
        return {name: round(value, 6) for name, value in (verification(scores) | means).items()}


def _joined(state: Tensor | list[Tensor]) -> Tensor:
    """A state that torchmetrics has gathered from all ranks is a tensor, one that it has not is a list."""
    if isinstance(state, Tensor):
        return state
    return torch.cat(state) if state else torch.empty(0)


# ---- both, on a set of portraits -----------------------------------------------------------------------------


@torch.no_grad()
def score_judges(
    dataset: FacesDataset,
    age: nn.Module | None = None,
    identity: nn.Module | None = None,
    *,
    batch_size: int = 32,
    device: str | torch.device = "cpu",
) -> dict[str, float]:
    """What networks make of portraits whose ages and people are known.

    Args:
        dataset: of a source with `age` and `labels`, such as `LifespanFaces`.
        age: faces -> years; None leaves its scores out.
        identity: faces -> unit embeddings; None likewise.
    Returns:
        Of `AgeReading` and `Verification`; and `accepted_gap_<years>`: of the pairs of one person whose ages lie so
        far apart (to the nearest ten years), the share that is accepted at the threshold of 0.1 %.
    """
    reading, verifying = AgeReading(), Verification()
    ages = []
    for start in range(0, len(dataset), batch_size):
        samples = (dataset[index] for index in range(start, min(start + batch_size, len(dataset))))
        batch = collate(list(samples))
        if not len(batch["faces"]):
            continue
        faces = to_unit_range(batch["faces"].to(device))
        if age is not None:
            reading.update(age(faces).cpu(), batch["age"])
        if identity is not None:
            verifying.update(identity(faces).cpu(), batch["person"], batch["kin"])
        ages.append(batch["age"])
    scores = {} if age is None else reading.compute()
    if identity is not None:
        scores |= verifying.compute()
        scores |= _accepted_by_gap(verifying, torch.cat(ages), scores["threshold_fmr_0.1"])
    return scores


def _accepted_by_gap(verifying: Verification, ages: Tensor, threshold: float) -> dict[str, float]:
    embeddings, person = _joined(verifying.embeddings), _joined(verifying.person)
    once = (person[:, None] == person[None, :]).triu(1)
    accepted = ((embeddings.double() @ embeddings.double().T) >= threshold - 1e-6)[once]  # it was rounded
    gap = (10 * ((ages[:, None] - ages[None, :]).abs() / 10).round())[once]
    return {
        f"accepted_gap_{years:.0f}": accepted[gap == years].double().mean().item() for years in gap.unique().tolist()
    }
