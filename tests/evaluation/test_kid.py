"""The kernel distance against torchmetrics', and what it must say of equal and of different sets."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchmetrics.image.kid import KernelInceptionDistance

from sam_age.evaluation.kid import KernelDistance, embed, kernel_distance
from sam_age.models.identity import FaceEmbedder
from sam_age.models.onet import ONetFeatures
from sam_age.weights import frozen


class Flat(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def test_it_is_torchmetrics_kid_with_one_subset_of_everything() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(40, 12), torch.randn(40, 12) + 0.3
    theirs = KernelInceptionDistance(Flat(), subsets=1, subset_size=40)
    theirs.update(real.view(40, 3, 2, 2), real=True)
    theirs.update(fake.view(40, 3, 2, 2), real=False)
    assert kernel_distance(real, fake).item() == pytest.approx(theirs.compute()[0].item(), rel=1e-4)


def test_it_is_unbiased_for_equal_distributions_and_sees_a_shift() -> None:
    torch.manual_seed(0)
    same = torch.stack([kernel_distance(torch.randn(20, 4), torch.randn(30, 4)) for _ in range(400)])
    assert abs(same.mean()) < 4 * same.std() / 20  # no more than chance, whatever the sizes
    assert kernel_distance(torch.randn(200, 4), torch.randn(200, 4) + 1) > 10 * same.std()


def test_the_metric_gathers_batches_and_is_nan_without_them() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(9, 3), torch.randn(6, 3)
    metric = KernelDistance()
    assert metric.compute().isnan()
    for rows in real.split(4):
        metric.update(rows, real=True)
    for rows in fake.split(5):
        metric.update(rows, real=False)
    assert metric.compute().item() == pytest.approx(kernel_distance(real, fake).item(), rel=1e-5)


@torch.no_grad()
def test_features_come_from_any_network() -> None:
    faces = torch.rand(2, 3, 64, 64) * 2 - 1
    small = FaceEmbedder(widths=(8, 16), depths=(1, 1), image_size=64)
    assert torch.equal(embed(small, faces), small.features(faces)[-1].mean((2, 3)))
    assert torch.equal(embed(Flat(), faces), faces.flatten(1))


@torch.no_grad()
def test_onet_gives_the_features_that_facenet_pytorchs_own_goes_on_from() -> None:
    from facenet_pytorch.models.mtcnn import ONet

    network = frozen(ONetFeatures(), None, name="KID")
    theirs, seen = ONet(), []
    theirs.dense6_1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    crops = torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    theirs(crops)
    torch.testing.assert_close(network._features(crops), seen[0])
    assert embed(network, torch.zeros(2, 3, 256, 256)).shape == (2, 1280)
