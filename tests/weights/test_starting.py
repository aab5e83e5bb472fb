"""Networks that start from other people's training."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import vgg16

from sam_age.errors import InputError
from sam_age.models.age import DEX, AgeClassifier
from sam_age.models.identity import FaceEmbedder
from sam_age.weights import frozen, frozen_features, save
from sam_age.weights.starting import start_dex, started

SMALL = {"widths": (8, 16), "depths": (1, 1), "image_size": 32}


def test_dex_from_vgg16_sees_what_vgg16_sees(tmp_path):
    torch.manual_seed(0)
    theirs = vgg16(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "vgg16.pth")
    ours = started(DEX(), tmp_path / "vgg16.pth").eval()
    assert all(parameter.requires_grad for parameter in ours.parameters())
    photo = torch.rand(1, 3, 224, 224)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    seen = (photo - mean[:, None, None]) / std[:, None, None]
    want = theirs.features[:2](seen)[..., 1:-1, 1:-1]  # beside the border, where zeros mean another colour
    torch.testing.assert_close(torch.relu(ours.conv1_1(photo * 2 - 1))[..., 1:-1, 1:-1], want, rtol=1e-4, atol=1e-4)
    maps = torch.randn(1, 64, 16, 16)
    torch.testing.assert_close(ours.conv1_2(maps), theirs.features[2](maps))
    torch.testing.assert_close(ours.fc7.weight, theirs.classifier[3].weight)
    want = theirs.features(seen)
    assert torch.corrcoef(torch.stack([ours.features(photo * 2 - 1).flatten(), want.flatten()]))[0, 1] > 0.99


def test_another_networks_tensors_are_no_vgg16(tmp_path):
    with torch.device("meta"):
        dex = DEX()
    with pytest.raises(InputError, match=r"not torchvision's VGG-16 \(features\.2\.weight"):
        start_dex(dex, {"features.0.weight": torch.zeros(64, 3, 3, 3), "features.0.bias": torch.zeros(64)}, tmp_path)


def test_nothing_given_is_what_the_constructor_drew():
    network = AgeClassifier(**SMALL)
    before = network.head.weight.clone()
    for nothing in (None, "random"):
        assert started(network, nothing) is network
        assert torch.equal(network.head.weight, before)
    with pytest.raises(InputError, match="no file at"):
        started(network, "nowhere.safetensors")


@pytest.mark.parametrize("trunk", ["residual", "convnext"])
def test_a_frozen_network_is_rebuilt_from_its_file_alone(tmp_path, trunk):
    embedder = FaceEmbedder(**SMALL, embedding_dim=8, trunk=trunk)
    path = save(embedder, tmp_path / "identity.safetensors")
    again = frozen(weights=path, name="identity")
    assert not any(parameter.requires_grad for parameter in again.parameters())
    faces = torch.rand(2, 3, 64, 64) * 2 - 1
    assert torch.equal(again(faces), embedder(faces))
    with pytest.raises(InputError, match="what its file says"):
        frozen(name="identity")


@pytest.mark.parametrize("trunk", ["residual", "convnext"])
def test_perceptual_distances_look_through_that_file(tmp_path, trunk):
    embedder = FaceEmbedder(**SMALL, embedding_dim=8, trunk=trunk)
    distance = frozen_features(weights=save(embedder, tmp_path / "identity.safetensors"), name="perceptual")
    a = torch.rand(2, 3, 64, 64, requires_grad=True)
    b = torch.rand(2, 3, 64, 64)
    assert torch.equal(distance(b, b), torch.zeros(2))
    found = distance(a * 2 - 1, b)
    found.sum().backward()
    assert (found > 0).all()
    assert a.grad.abs().sum() > 0
    want = 0
    for x, y in zip(embedder.features(a * 2 - 1), embedder.features(b), strict=True):
        want = want + (nn.functional.normalize(x) - nn.functional.normalize(y)).square().sum(1).mean((1, 2)) / 2
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-6)
