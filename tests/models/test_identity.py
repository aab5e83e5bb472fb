"""Identity networks against the authors' numbers, facenet-pytorch, and the promises of the protocol."""

import copy

import pytest
import torch

from sam_age.errors import InputError
from sam_age.models.identity import ArcFace, FaceEmbedder, FaceNet, IdentityNet, face_crop
from tests.golden import Golden, assert_matches, fill_module, manifest

GOLDEN = Golden()


@pytest.fixture(scope="module")
def arcface():
    return fill_module(ArcFace()).eval().requires_grad_(False)


def test_arcface_matches_the_authors_embeddings(arcface):
    case = GOLDEN["ir_se50"]
    inputs = case.tensors()
    got = {
        "embedding112": arcface.embed(inputs["x112"]),
        "feats256": arcface(inputs["x256"]),
        "pooled": arcface.crop(inputs["x256"]),
    }
    assert_matches(case, got)


def test_arcface_has_the_tensors_of_the_official_file_in_its_order(arcface):
    state = arcface.state_dict()
    assert [[k, list(v.shape)] for k, v in state.items()] == [
        [k, shape] for k, (shape, _) in manifest("model_ir_se50")["state_dict"].items()
    ]


def test_arcface_gives_the_authors_similarities_and_gradient(arcface):
    case = GOLDEN["id_loss"]
    inputs, mix = case.tensors(), case.params["mix"]
    mixed = (mix * inputs["y"] + (1 - mix) * inputs["other"]).requires_grad_()
    target, source = arcface(inputs["y"]), arcface(inputs["x"])
    embedding = arcface(mixed)
    pairs = ((embedding, target), (embedding, source), (target, source))
    to_target, to_source, views = ((a * b).sum(1) for a, b in pairs)
    gap = torch.tensor(case.params["age_diffs"])
    firmness = 0.25 * torch.cos(torch.pi * gap.abs()) + 0.75
    weighted = (firmness * (1 - to_target)).mean()
    (gradient,) = torch.autograd.grad(weighted, mixed)
    got = {
        "loss": (1 - to_target).mean(),
        "loss_weighted": weighted,
        "improve": (to_target - views).mean(),
        "logs": torch.stack([to_target, to_source, views], dim=1),
        "grad_y_hat": gradient,
    }
    assert_matches(case, got)


def test_face_crop_cuts_the_rows_and_columns_of_the_method():
    image = torch.arange(256 * 256.0).view(1, 1, 256, 256)
    crop = face_crop(image)
    assert crop.shape == (1, 1, 188, 188)
    assert (crop[0, 0, 0, 0], crop[0, 0, -1, -1]) == (35 * 256 + 32, 222 * 256 + 219)


def test_faces_of_another_size_are_refused_in_one_line(arcface):
    for network in (arcface, face_crop):
        with pytest.raises(InputError, match=r"\(1, 3, 112, 112\).*align and resize") as error:
            network(torch.zeros(1, 3, 112, 112))
        assert "\n" not in str(error.value)


def seeded_facenet():
    torch.manual_seed(0)  # PyTorch's own start: the golden weights overflow in so many residual additions
    return FaceNet()


@pytest.fixture(scope="module")
def facenet():
    return seeded_facenet().eval().requires_grad_(False)


def test_facenet_is_facenet_pytorchs_network_on_a_crop(facenet):
    from facenet_pytorch import InceptionResnetV1, fixed_image_standardization

    theirs = InceptionResnetV1(pretrained=None).eval()
    theirs.load_state_dict(facenet.network.state_dict(), strict=False)
    flat = torch.tensor([30.0, 120.0, 220.0]).view(1, 3, 1, 1)  # one colour: every crop of it is the same
    ours = facenet((flat / 127.5 - 1).expand(1, 3, 256, 256))
    expected = theirs(fixed_image_standardization(flat.expand(1, 3, 160, 160)))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_facenet_reads_a_release_file_and_explains_a_missing_or_foreign_one(facenet, tmp_path):
    state = facenet.network.state_dict()
    released = state | {"logits.weight": torch.zeros(8631, 512), "logits.bias": torch.zeros(8631)}
    torch.save(released, tmp_path / "a.pt")
    other = FaceNet()
    other.load_weights_file(tmp_path / "a.pt")
    assert all(torch.equal(t, state[k]) for k, t in other.network.state_dict().items())
    torch.save({"w": torch.zeros(1)}, tmp_path / "b.pt")
    for name in ("b.pt", "none.pt"):
        with pytest.raises(InputError, match="download 20180402-114759-vggface2"):
            other.load_weights_file(tmp_path / name)


NETWORKS = {
    "arcface": lambda: fill_module(ArcFace()),
    "facenet": seeded_facenet,
    "embedder": lambda: fill_module(FaceEmbedder()),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_keeps_the_protocol(name):
    network = NETWORKS[name]().eval().requires_grad_(False)
    assert isinstance(network, IdentityNet)
    rebuilt = type(network)(**network.config)
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == {
        k: v.shape for k, v in network.state_dict().items()
    }
    faces = GOLDEN["id_loss"].tensors()["x"][:2].requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        coarse = network(faces.detach())
    exact = network(faces)
    double = copy.deepcopy(network).double()(faces.double())
    for embeddings, dtype in ((coarse, torch.float32), (exact, torch.float32), (double, torch.float64)):
        assert embeddings.dtype == dtype
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2, dtype=dtype))
    assert (exact.double() - double).abs().max() < 1e-4
    assert ((coarse * exact).sum(1) > 0.98).all()
    (gradient,) = torch.autograd.grad(exact.sum(), faces)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


def test_embedder_is_of_the_size_of_the_lifespan_judges_and_says_what_it_cannot_be():
    assert 1e6 < sum(p.numel() for p in FaceEmbedder().parameters()) < 3e6
    smaller = FaceEmbedder(widths=(16, 32), depths=(1, 1), embedding_dim=64)
    assert smaller(torch.zeros(1, 3, 256, 256)).shape == (1, 64)
    with pytest.raises(InputError, match="multiple of 8"):
        FaceEmbedder(widths=(20, 40), depths=(1, 1))
    with pytest.raises(InputError, match="a depth"):
        FaceEmbedder(widths=(16, 32), depths=(1,))


def test_embedding_of_a_face_does_not_depend_on_its_batch():
    network = fill_module(FaceEmbedder()).train()  # even in training mode: there is no batch norm
    faces = GOLDEN["id_loss"].tensors()["x"]
    torch.testing.assert_close(network(faces)[:1], network(faces[:1]), rtol=0, atol=1e-5)
