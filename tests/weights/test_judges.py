"""Networks inside losses: their weights from a file, or made up on purpose; never by accident."""

import pytest
import torch
from torch import nn

from sam_age import weights
from sam_age.errors import InputError
from sam_age.models.age import DEX
from sam_age.models.identity import ArcFace, FaceEmbedder, FaceNet
from sam_age.models.perceptual import LPIPS
from tests.golden import Golden, assert_matches
from tests.weights import files


def small() -> FaceEmbedder:
    return FaceEmbedder(widths=(8, 8, 16, 16), depths=(1, 1, 1, 1), embedding_dim=8)


class Own(nn.Module):
    """A user's network: no config, no place in our list."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)


def test_a_judge_is_frozen_and_in_eval_mode(tmp_path):
    trained = small()
    path = weights.save(trained, tmp_path / "x.safetensors")
    judge = weights.frozen(small().train(), path, name="identity")
    assert not judge.training
    assert not any(parameter.requires_grad for parameter in judge.parameters())
    faces = torch.rand(2, 3, 256, 256)
    assert torch.equal(judge(faces), trained.eval()(faces))


def test_random_weights_are_kept_and_warned_of(caplog):
    network = small()
    before = [parameter.clone() for parameter in network.parameters()]
    weights.frozen(network, "random", name="identity")
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert caplog.record_tuples == [("sam_age", 30, caplog.messages[0])]
    assert "identity network (FaceEmbedder) has random weights" in caplog.text


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("ArcFace", ["weights.arcface", "model_ir_se50.pth", "github.com/yuval-alaluf/SAM", "random"]),
        ("DEX", ["weights.dex", "dex_age_classifier.pth", "github.com/yuval-alaluf/SAM", "random"]),
    ],
)
def test_no_weights_is_an_error_that_says_where_to_get_them(kind, words):
    network = type(kind, (nn.Module,), {})()
    with pytest.raises(InputError) as caught:
        weights.frozen(network, None, name="judge")
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_no_weights_for_a_users_network_names_the_key():
    with pytest.raises(InputError, match=r"The age network \(Own\) has no weights"):
        weights.frozen(Own(), None, name="age")


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state}])
def test_a_users_network_loads_its_state_dict_strictly(tmp_path, wrap):
    trained = Own()
    torch.save(wrap(trained.state_dict()), tmp_path / "x.pt")
    judge = weights.frozen(Own(), tmp_path / "x.pt", name="age")
    assert torch.equal(judge.layer.weight, trained.layer.weight)
    torch.save({"layer.weight": torch.ones(2, 3)}, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"missing \(layer.bias\)"):
        weights.frozen(Own(), tmp_path / "x.pt", name="age")


def test_a_users_network_may_read_its_own_file(tmp_path):
    class Reader(Own):
        def load_weights_file(self, path):
            nn.init.constant_(self.layer.weight, float(path.read_text()))

    (tmp_path / "x.txt").write_text("2.5")
    assert (weights.frozen(Reader(), tmp_path / "x.txt", name="age").layer.weight == 2.5).all()


def test_a_network_that_finds_its_own_weights_needs_no_file():
    class Finder(Own):
        finds_own_weights = True

        def load_weights_file(self, path=None):
            assert path is None
            nn.init.constant_(self.layer.weight, 4.0)

    assert (weights.frozen(Finder(), None, name="age").layer.weight == 4.0).all()


def test_another_networks_file_is_named(tmp_path):
    path = weights.save(files.tiny_generator(), tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"file of Generator; a FaceEmbedder is wanted"):
        weights.frozen(small(), path, name="identity")


def test_arcface_loads_from_the_authors_file(tmp_path):
    torch.save(files.filled("model_ir_se50"), tmp_path / "x.pth")
    judge = weights.frozen(ArcFace(), tmp_path / "x.pth", name="identity")
    case = Golden()["ir_se50"]
    with torch.no_grad():
        assert_matches(case, {"feats256": judge(case.tensors()["x256"])})


def test_a_facenet_file_loads_as_a_judge_and_alone(tmp_path):
    facenet_pytorch = pytest.importorskip("facenet_pytorch")
    torch.manual_seed(2)
    published = facenet_pytorch.InceptionResnetV1(classify=True, num_classes=10).eval()
    torch.save(published.state_dict(), tmp_path / "x.pt")
    published.classify = False
    crops = torch.rand(1, 3, 160, 160)
    for judge in (
        weights.frozen(FaceNet(), tmp_path / "x.pt", name="identity"),
        weights.load(tmp_path / "x.pt"),
    ):
        with torch.no_grad():
            assert torch.equal(judge.network(crops), published(crops))


def test_torchvisions_alexnet_file_loads_into_lpips(tmp_path):
    alexnet = files.filled("lpips_alex", "alexnet")
    torch.save(alexnet | {"classifier.6.bias": torch.ones(1000)}, tmp_path / "x.pth")
    judge = weights.frozen(LPIPS(), tmp_path / "x.pth", name="perceptual")
    assert torch.equal(judge.alexnet[0].weight, alexnet["features.0.weight"])
    assert not any(parameter.requires_grad for parameter in judge.parameters())


@pytest.mark.slow
@pytest.mark.authors
def test_dex_loads_from_the_authors_file_with_dashes(tmp_path):
    state = {name.replace("_", "-"): value for name, value in files.filled("dex_age_classifier").items()}
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    judge = weights.frozen(DEX(), tmp_path / "x.pth", name="age")
    case = Golden()["dex_age"]
    with torch.no_grad():
        assert_matches(case, {"ages": judge(case.tensors()["x"])})
