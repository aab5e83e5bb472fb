"""SAM's objective against the authors' numbers, term by term."""

import numpy as np
import pytest
import torch
from torch import nn

from sam_age.losses import AgingLosses, Source, age_loss, identity_weight, w_norm
from sam_age.models.age import DEX
from sam_age.models.identity import ArcFace
from tests.golden import Golden, assert_matches, fill_module
from tests.reference import official_terms, reference_losses, reference_sam


def test_identity_weights_match_the_authors() -> None:
    case = Golden()["cosine_weights"]
    difference = case.tensors()["d"] * 100  # they work in centuries
    assert_matches(case, {"weights": identity_weight(torch.zeros_like(difference), difference)})


def test_w_norm_matches_the_authors() -> None:
    case = Golden()["w_norm"]
    inputs = case.tensors()
    got = {
        "offset": w_norm(inputs["latent"], inputs["latent_avg"]),
        "plain": w_norm(inputs["latent"], torch.zeros_like(inputs["latent_avg"])),
    }
    assert_matches(case, got)


def test_identity_loss_matches_the_authors_with_its_gradient() -> None:
    case = Golden()["id_loss"]
    inputs = case.tensors()
    mix = case.params["mix"]
    images = (mix * inputs["y"] + (1 - mix) * inputs["other"]).requires_grad_()
    net = fill_module(ArcFace()).eval()
    targets = 100 * torch.tensor(case.params["age_diffs"])
    with torch.no_grad():
        views = (net(inputs["y"]) * net(inputs["x"])).sum(1)
        to_input = (net(images) * net(inputs["x"])).sum(1)
    got = {}
    for suffix, weighted in (("", False), ("_weighted", True)):
        losses = AgingLosses(BrightnessAge(), net, **only(identity=1.0), weighted_identity=weighted)
        # ages of 0 for the source: the golden case gives differences
        source = Source(inputs["y"], torch.zeros(3), net(inputs["y"]).detach(), None, None)
        loss, terms = losses(images, torch.zeros(3, 1, 1), source, targets, latent_avg=torch.zeros(1, 1), aging=True)
        got[f"loss{suffix}"] = loss
    (got["grad_y_hat"],) = torch.autograd.grad(loss, images)
    similarity = (net(images) * net(inputs["y"])).sum(1)
    # their log of the improvement is not weighted, whichever loss it stands beside
    got["improve"] = got["improve_weighted"] = terms["identity_similarity"] - views.mean()
    got["logs"] = torch.stack([similarity, to_input, views], 1)
    assert_matches(case, got)


def test_age_loss_matches_the_authors_with_its_gradient() -> None:
    case = Golden()["dex_age"]
    x = case.tensors()["x"].requires_grad_()
    net = fill_module(DEX()).eval()
    targets = 100 * torch.tensor(case.params["targets"])
    ages = net(x)
    loss = age_loss(ages, targets)
    (grad,) = torch.autograd.grad(loss, x)
    assert_matches(case, {"ages": ages, "aging_loss": loss, "grad_x": grad})


@pytest.mark.slow
def test_the_objective_matches_the_authors_pass_by_pass() -> None:
    case = Golden()["coach_losses"]
    sam = reference_sam()
    sam.decoder.requires_grad_(True)  # the authors compute its gradients, and the golden norms hold them
    faces = case.tensors()["x"]
    input_ages = torch.tensor(case.params["input_ages"])
    target_ages = torch.tensor([float(age) for age in case.params["target_ages"]])
    paper = reference_losses()
    other = AgingLosses(
        paper.age_net, paper.identity_net, paper.perceptual_net,
        l2_aging=0.5, lpips_aging=0.3, weighted_identity=False,
    )  # fmt: skip
    source = paper.describe(faces)
    source = Source(faces, input_ages, source.identity, source.features, source.crop_features)
    parameters = dict(sam.named_parameters())
    got = {}

    def one_pass(name: str, images: torch.Tensor, w_plus: torch.Tensor, targets: torch.Tensor, aging: bool):
        arguments = {"latent_avg": sam.latent_avg, "aging": aging}
        alternative = 0.5 if name == "cycle" else 1.0  # the golden alternative halves the cycle's weight
        got[f"{name}_loss_alt"] = alternative * other(images, w_plus, source, targets, **arguments)[0]
        loss, terms = paper(images, w_plus, source, targets, **arguments)
        got[f"{name}_loss"] = loss
        got[f"{name}_terms"] = np.array(official_terms(terms, case.notes["terms"]))
        sam.zero_grad()
        loss.backward()
        norms = [parameters[p].grad.norm() for p in case.notes["names"]]
        got[f"{name}_grad_norms"] = torch.stack(norms)

    aged, w_plus = sam(faces, target_ages, return_latents=True)
    one_pass("real_aging", aged, w_plus, target_ages, aging=True)
    got["grad_input_layer"] = parameters["encoder.input_layer.0.weight"].grad.clone()
    got["y_hat"] = aged
    back, w_plus = sam(aged.detach(), input_ages, return_latents=True)
    one_pass("cycle", back, w_plus, input_ages, aging=False)
    got["y_cycle"] = back
    same, w_plus = sam(faces, input_ages, return_latents=True)
    one_pass("real_same", same, w_plus, input_ages, aging=False)
    assert_matches(case, got)


class BrightnessAge(nn.Module):
    """An age network for tests that are not about age: the mean brightness in years."""

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        return 50 + 50 * faces.mean((1, 2, 3))


def only(**kept: float) -> dict[str, float]:
    names = ("l2", "l2_aging", "l2_crop", "lpips", "lpips_aging", "lpips_crop", "identity", "age", "w_norm")
    return dict.fromkeys(names, 0.0) | kept


class Counting(nn.Module):
    """Stands for a frozen network and counts the images it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        self.seen += len(faces)
        return torch.nn.functional.normalize(faces.mean((2, 3)))

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        self.seen += len(images)
        return [images]

    def distance(self, a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
        return (a[0] - b[0]).square().mean((1, 2, 3))


def run(losses: AgingLosses, aging: bool = True) -> tuple[torch.Tensor, dict]:
    torch.manual_seed(0)
    faces, images = torch.rand(2, 3, 256, 256), torch.rand(2, 3, 256, 256)
    w_plus, ages = torch.randn(2, 8, 4), torch.tensor([20.0, 70.0])
    return losses(images, w_plus, losses.describe(faces), ages, latent_avg=torch.zeros(8, 4), aging=aging)


def test_a_weight_of_zero_skips_the_terms_work() -> None:
    identity, perceptual = Counting(), Counting()
    _, terms = run(AgingLosses(BrightnessAge(), identity, perceptual, **only(age=5.0)))
    assert set(terms) == {"age", "age_error", "loss"}
    assert identity.seen == perceptual.seen == 0


def test_the_sources_features_are_computed_once_for_both_passes() -> None:
    identity, perceptual = Counting(), Counting()
    losses = AgingLosses(BrightnessAge(), identity, perceptual)
    run(losses)
    assert identity.seen == 2 + 2  # source, result
    assert perceptual.seen == 2 * (2 + 2)  # whole and crop of each


def test_codes_are_drawn_to_where_they_are_expected() -> None:
    losses = AgingLosses(BrightnessAge(), **only(age=1.0), code=3.0)
    faces, ages, w_plus = torch.rand(2, 3, 256, 256), torch.tensor([20.0, 70.0]), torch.randn(2, 8, 4)
    source, settings = losses.describe(faces), {"latent_avg": torch.zeros(8, 4), "aging": True}
    without, terms = losses(faces, w_plus, source, ages, **settings)
    assert "code" not in terms
    loss, terms = losses(faces, w_plus, source, ages, **settings, expected=torch.zeros(2, 8, 4))
    torch.testing.assert_close(loss - without, 3 * w_plus.square().mean())
    torch.testing.assert_close(terms["code"], w_plus.square().mean())


def test_ageing_passes_have_weights_of_their_own() -> None:
    losses = AgingLosses(BrightnessAge(), **only(l2=1.0, l2_aging=3.0))
    keeping, _ = run(losses, aging=False)
    ageing, _ = run(losses, aging=True)
    torch.testing.assert_close(ageing, 3 * keeping)


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    losses = AgingLosses(BrightnessAge(), Counting(), Counting())
    loss, terms = run(losses)
    weights = {
        "l2": 0.25,
        "l2_crop": 1,
        "lpips": 0.1,
        "lpips_crop": 0.6,
        "identity": 0.1,
        "age": 5,
        "w_norm": 0.005,
    }
    torch.testing.assert_close(loss, sum(weight * terms[name] for name, weight in weights.items()))


@pytest.mark.parametrize("aging", [True, False])
def test_the_reported_terms_are_those_announced(aging: bool) -> None:
    for weights in ({}, only(l2=1.0, age=1.0), only(lpips_aging=1.0, w_norm=1.0)):
        losses = AgingLosses(BrightnessAge(), Counting(), Counting(), **weights)
        assert list(run(losses, aging)[1]) == losses.term_names(aging=aging)


def test_missing_networks_and_negative_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="no identity_net"):
        AgingLosses(BrightnessAge(), None, Counting())
    with pytest.raises(ValueError, match="no perceptual_net"):
        AgingLosses(BrightnessAge(), Counting(), None)
    with pytest.raises(ValueError, match="negative: age"):
        AgingLosses(BrightnessAge(), Counting(), Counting(), age=-1)
    with pytest.raises(ValueError, match="nothing to learn"):
        run(AgingLosses(BrightnessAge(), **only()))
