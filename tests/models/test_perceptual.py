"""LPIPS against the authors' numbers and the lpips package; distances over any network's features."""

import copy

import lpips as package
import pytest
import torch
import torchvision
from torch import nn

from sam_age.errors import InputError
from sam_age.models import perceptual
from sam_age.models.identity import FaceEmbedder, face_crop
from sam_age.models.perceptual import LPIPS, FeatureDistance, PerceptualNet
from tests.golden import Golden, assert_matches, fill, fill_module, manifest

CASE = Golden()["lpips"]
SHAPES = manifest("lpips_alex")


@pytest.fixture(scope="module")
def lpips():
    network = LPIPS()
    network.load_parts(fill(SHAPES["alexnet"]), fill(SHAPES["lin"]))
    return network.eval().requires_grad_(False)


def test_lpips_matches_the_authors_values_and_gradient(lpips):
    inputs = CASE.tensors()
    x, y = inputs["x"].requires_grad_(), inputs["y"]
    each = lpips(x, y)
    (gradient,) = torch.autograd.grad(each.mean(), x)
    crop = lpips(face_crop(x), face_crop(y))
    assert_matches(CASE, {"full": each.mean(), "single": each, "crop": crop.mean(), "grad_x": gradient})


def test_lpips_equals_the_lpips_package_with_the_same_numbers(lpips):
    torch.manual_seed(0)
    theirs = package.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
    alexnet = {  # the package keeps torchvision's layers in five slices, under their old numbers
        f"net.slice{piece}.{number}.{kind}": (number, kind)
        for piece, number in ((1, 0), (2, 3), (3, 6), (4, 8), (5, 10))
        for kind in ("weight", "bias")
    }
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.startswith("lin"):
                parameter.abs_()
            elif name in alexnet:
                parameter.normal_(0, 0.05)
    state = theirs.state_dict()
    ours = LPIPS().eval()
    ours.load_parts(
        {f"features.{number}.{kind}": state[name] for name, (number, kind) in alexnet.items()},
        {name: t for name, t in state.items() if name.startswith("lin") and not name.startswith("lins")},
    )
    x, y = CASE.tensors().values()
    with torch.no_grad():
        torch.testing.assert_close(ours(x, y), theirs(x, y).flatten(), rtol=1e-5, atol=1e-7)


def test_features_computed_once_serve_several_comparisons(lpips):
    x, y = CASE.tensors().values()
    features = lpips.features(y)
    assert torch.equal(lpips.distance(lpips.features(x), features), lpips(x, y))
    assert (lpips.distance(features, features) == 0).all()


def test_gradient_is_finite_where_a_feature_map_is_dead(lpips):
    """A flat region can silence every channel; the published root of squares has gradient NaN there."""
    silent = LPIPS().eval()
    silent.load_state_dict(lpips.state_dict())
    nn.init.constant_(silent.alexnet[8].bias, -1e6)  # the fourth map is 0 everywhere
    x, y = CASE.tensors().values()
    (gradient,) = torch.autograd.grad(silent(x.requires_grad_(), y).sum(), x)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_lpips_reads_torchvisions_file_and_the_packages_linear_layers(tmp_path, lpips):
    torch.manual_seed(1)
    alexnet = torchvision.models.alexnet(weights=None)
    torch.save(alexnet.state_dict(), tmp_path / "alexnet.pth")
    network = LPIPS()
    network.load_weights_file(tmp_path / "alexnet.pth")
    published = package.LPIPS(net="alex", pretrained=True, pnet_rand=True, verbose=False)
    for ours, theirs in zip(network.linear, published.lins, strict=True):
        assert torch.equal(ours, theirs.model[1].weight)
    x = CASE.tensors()["x"]
    last = nn.functional.normalize(alexnet.features[:12]((x - network.mean) / network.std), dim=1, eps=1e-10)
    torch.testing.assert_close(network.features(x)[-1], last, rtol=1e-5, atol=1e-6)


def test_missing_foreign_and_unreachable_weights_are_explained_in_one_line(tmp_path, monkeypatch):
    network = LPIPS()
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "damaged.pth").write_bytes(b"PK\x03\x04 cut off")
    for name in ("other.pth", "list.pth", "damaged.pth", "none.pth"):
        with pytest.raises(InputError, match="alexnet-owt-7be5be79") as error:
            network.load_weights_file(tmp_path / name)
        assert "\n" not in str(error.value)

    def unreachable(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    with pytest.raises(InputError, match="could not be downloaded"):
        network.load_weights_file()
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), tmp_path / "a.pth")
    with pytest.raises(InputError, match="pip install lpips"):
        network.load_weights_file(tmp_path / "a.pth")


def test_feature_distance_is_twice_one_minus_the_cosine():
    network = FeatureDistance(fill_module(FaceEmbedder()).eval())
    x, y = CASE.tensors().values()
    with torch.no_grad():
        maps = zip(network.network.features(x), network.network.features(y), strict=True)
        cosines = [nn.functional.cosine_similarity(a, b, dim=1).mean((1, 2)) for a, b in maps]
        expected = 2 * (1 - torch.stack(cosines).mean(0))
        torch.testing.assert_close(network(x, y), expected, rtol=1e-4, atol=1e-5)
        assert network(x, x).abs().max() == 0
    with pytest.raises(InputError, match="features"):
        FeatureDistance(nn.Identity())


@pytest.mark.parametrize("name", ["lpips", "feature_distance"])
def test_every_network_keeps_the_protocol(name, lpips):
    embedder = fill_module(FaceEmbedder()).eval().requires_grad_(False)
    network = lpips if name == "lpips" else FeatureDistance(embedder)
    assert isinstance(network, PerceptualNet)
    x, y = CASE.tensors().values()
    exact = network(x.requires_grad_(), y)
    (gradient,) = torch.autograd.grad(exact.sum(), x)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        coarse = network(x, y)
    assert (coarse.dtype, coarse.shape) == (torch.float32, (2,))
    torch.testing.assert_close(coarse, exact.detach(), rtol=0.05, atol=0)
    try:
        with torch.no_grad():
            double = network.double()(x.double(), y.double())
    finally:
        network.float()
    torch.testing.assert_close(double.float(), exact.detach(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("side", [256, 188, 61])
def test_the_first_convolution_in_blocks_is_the_convolution(lpips, side):
    """A GPU's way in half precision; 256 and 188 are the losses' sizes, 61 leaves a rest."""
    layer = copy.deepcopy(lpips.alexnet[0]).double()
    x = torch.randn(2, 3, side, side, dtype=torch.float64, requires_grad=True)
    got, wanted = layer.in_blocks(x), torch.nn.functional.conv2d(x, layer.weight, layer.bias, stride=4, padding=2)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(wanted)
    gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (got, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
