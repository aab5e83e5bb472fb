"""Files in the authors' formats -> networks that compute the authors' numbers."""

import argparse
import logging

import pytest
import torch

from sam_age import weights
from sam_age.errors import InputError
from sam_age.models.encoder import GradualStyleEncoder
from sam_age.models.stylegan2 import Generator
from tests.golden import Golden, assert_matches, fill
from tests.weights import files

GOLDEN = Golden()


@pytest.fixture(scope="module")
def generator64() -> dict[str, torch.Tensor]:
    return files.filled("small", "generator64")


def without_noises(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if not name.startswith("noises.")}


def test_a_stylegan2_file_gives_the_authors_images(tmp_path, generator64):
    path = tmp_path / "x.bin"
    average = files.filled_latent_avg(512)
    torch.save({"g_ema": generator64, "latent_avg": average}, path)
    generator = weights.load(path)
    assert isinstance(generator, Generator)
    assert not generator.training
    assert torch.equal(generator.latent_avg, average)
    case = GOLDEN["generator64"]
    inputs = case.tensors()
    with torch.no_grad():
        got = {"w": generator.mapping(inputs["z"]), "image_wplus": generator.synthesize(inputs["wplus"])}
    assert_matches(case, got)


def test_the_stream_format_of_older_torch_loads_too(tmp_path, generator64):
    path = tmp_path / "old.pt"
    torch.save({"g_ema": generator64}, path, _use_new_zipfile_serialization=False)
    case = GOLDEN["generator64"]
    assert_matches(case, {"w": weights.load(path).mapping(case.tensors()["z"]).detach()})


def test_a_stylegan2_file_of_2019_without_noise_maps_gets_the_same_ones_every_time(tmp_path, generator64, caplog):
    path = tmp_path / "old.pt"
    torch.save({"g_ema": without_noises(generator64)}, path)
    with caplog.at_level(logging.INFO, "sam_age"):
        first, second = weights.load(path), weights.load(path)
    maps = first.noise_maps("stored", 1)
    assert [tuple(m.shape[2:]) for m in maps] == [(s, s) for s in (4, 8, 8, 16, 16, 32, 32, 64, 64)]
    for a, b in zip(maps, second.noise_maps("stored", 1), strict=True):
        assert torch.equal(a, b)
    assert 0.9 < torch.cat([m.flatten() for m in maps]).std() < 1.1
    assert "no noise maps" in caplog.text
    case = GOLDEN["generator64"]
    inputs = case.tensors()
    given = [inputs[f"noise_{i}"] for i in range(9)]
    with torch.no_grad():
        w_plus = first.mapping(inputs["z"][:1])[:, None].expand(-1, 10, -1)
        assert_matches(case, {"image_given_noise": first.synthesize(w_plus, given)})


def test_a_stylegan2_training_file_loads_its_averaged_generator(tmp_path, generator64):
    path = tmp_path / "550000.pt"
    other = {name: torch.zeros_like(value) for name, value in generator64.items()}
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.ones(5)}}, "param_groups": [{"lr": 0.002}]}
    torch.save(
        {
            "g": other,
            "d": {"convs.0.0.weight": torch.ones(1)},
            "g_ema": generator64,
            "g_optim": optimizer,
            "d_optim": optimizer,
            "args": argparse.Namespace(size=64, lr=0.002),
            "ada_aug_p": 0.0,
        },
        path,
    )
    case = GOLDEN["generator64"]
    assert_matches(case, {"w": weights.load(path).mapping(case.tensors()["z"]).detach()})


def test_a_missing_average_latent_is_estimated_from_the_mapping(tmp_path, generator64, caplog):
    path = tmp_path / "x.pt"
    torch.save({"g_ema": generator64}, path)
    generator = weights.load(path)
    assert "no latent_avg" in caplog.text
    z = torch.randn(20000, 512, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        w = generator.mapping(z)
    spread = w.std(0) / 4096**0.5  # of a mean over 4096, each dimension
    assert ((generator.latent_avg - w.mean(0)).abs() < 5.5 * spread).all()
    assert torch.equal(generator.latent_avg, weights.load(path).latent_avg)


def test_model_ir_se50_gives_the_authors_embeddings_with_or_without_batch_counters(tmp_path):
    state = files.filled("model_ir_se50")
    case = GOLDEN["ir_se50"]
    inputs = case.tensors()
    for kept in (state, {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}):
        torch.save(kept, tmp_path / "model.pth")
        arcface = weights.load(tmp_path / "model.pth")
        assert type(arcface).__name__ == "ArcFace"
        with torch.no_grad():
            assert_matches(case, {"embedding112": arcface.embed(inputs["x112"]), "feats256": arcface(inputs["x256"])})


@pytest.mark.slow
@pytest.mark.authors
def test_dex_gives_the_authors_ages_under_either_spelling_of_its_names(tmp_path):
    state = files.filled("dex_age_classifier")
    case = GOLDEN["dex_age"]
    for names in (state, {name.replace("_", "-"): value for name, value in state.items()}):
        torch.save({"state_dict": names}, tmp_path / "dex.pth")
        with torch.no_grad():
            assert_matches(case, {"ages": weights.load(tmp_path / "dex.pth")(case.tensors()["x"])})


@pytest.mark.slow
@pytest.mark.authors
def test_the_authors_sam_file_gives_their_images_and_half_precision_stays_close(tmp_path):
    """The bound on half precision is ours: measured 0.0064 on images that reach 4.57."""
    path, half = tmp_path / "sam.pt", tmp_path / "sam.safetensors"
    average = files.filled_latent_avg(10, 512)
    torch.save({"state_dict": files.filled("sam64"), "latent_avg": average, "opts": {"input_nc": 4}}, path)
    sam = weights.load(path)
    case = GOLDEN["sam64_ages"]
    ages = torch.tensor(case.params["ages"], dtype=torch.float32)
    faces = case.tensors()["x"].expand(len(ages), -1, -1, -1)
    with torch.no_grad():
        images, latents = sam(faces, ages, resize=False, return_latents=True)
        got = {"images": images, "latents": latents, "images256": sam(faces[:1], ages[:1])}
        assert_matches(case, got)
        weights.save(sam, half, half=True)
        narrowed = weights.load(half)(faces, ages, resize=False)
    assert half.stat().st_size < 0.55 * path.stat().st_size
    path.unlink()  # a gigabyte that pytest would keep
    assert (narrowed - images).abs().max() < 0.005 * images.abs().max()


def test_a_psp_file_loads_as_the_inversion_model(tmp_path):
    model = files.tiny_psp()
    loaded = weights.load(files.authors_psp(model, tmp_path / "x.pt"))
    assert type(loaded).__name__ == "PSP"
    assert loaded.config["encoder"] == model.config["encoder"]
    same(model, loaded)
    assert torch.equal(loaded.decoder.latent_avg, model.latent_avg.mean(0))


def test_a_psp_file_trained_without_an_offset_gets_none(tmp_path):
    model = files.tiny_psp()
    state = {name: value for name, value in model.state_dict().items() if name != "latent_avg"}
    torch.save({"state_dict": state, "opts": {"start_from_latent_avg": False}}, tmp_path / "x.pt")
    assert not weights.load(tmp_path / "x.pt").latent_avg.any()


def test_a_sam_file_of_any_size_loads_with_its_own_average_latent(tmp_path):
    model = files.tiny_sam()
    loaded = weights.load(files.authors_sam(model, tmp_path / "x.pt"))
    for part in ("encoder", "pretrained_encoder"):
        assert loaded.config[part] == model.config[part]
    assert loaded.decoder.config["size"] == 32
    same(model, loaded)


def test_the_loaded_network_does_not_hang_on_the_file(tmp_path):
    model = files.tiny_sam()
    for path in (
        files.authors_sam(model, tmp_path / "x.pt"),
        weights.save(model, tmp_path / "x.safetensors"),
    ):
        loaded = weights.load(path)
        size = path.stat().st_size
        with path.open("r+b") as file:  # in place: a mapping of the file would see it
            file.write(b"\xff" * size)
        same(model, loaded)


def test_a_lightning_checkpoint_loads_as_sam_and_prefers_the_averaged_encoder(tmp_path):
    model = files.tiny_sam()
    torch.manual_seed(3)
    averaged = files.tiny_encoder(4)
    state = {f"sam.{name}": value for name, value in model.state_dict().items()}
    checkpoint = {
        "pytorch-lightning_version": "2.6.0",
        "global_step": 3,
        "state_dict": state,
        "network": model.config,
        "config": {"seed": 0, "losses": {"l2": 0.25}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(1000)}}}],
    }
    torch.save(checkpoint, tmp_path / "last.ckpt")
    same(model, weights.load(tmp_path / "last.ckpt"))

    state |= {f"ema_encoder.{name}": value for name, value in averaged.state_dict().items()}
    torch.save(checkpoint, tmp_path / "last.ckpt")
    loaded = weights.load(tmp_path / "last.ckpt")
    same(averaged, loaded.encoder)
    same(model.pretrained_encoder, loaded.pretrained_encoder)


@pytest.mark.parametrize(
    ("name", "part", "kind"),
    [
        ("sam1024", "state_dict", "SAM"),
        ("sam64", "state_dict", "SAM"),
        ("psp_ffhq_encode", "state_dict", "PSP"),
        ("stylegan2_ffhq_config_f", "g_ema", "Generator"),
        ("model_ir_se50", None, "ArcFace"),
        ("dex_age_classifier", "state_dict", "DEX"),
    ],
)
def test_every_official_list_of_names_and_shapes_fits_strictly(tmp_path, name, part, kind):
    from sam_age.weights.fit import build, differences
    from sam_age.weights.loading import inspect_file

    state = files.empty(name, part or "state_dict")
    torch.save({part: state} if part else state, tmp_path / "x.pt")
    _, found = inspect_file(tmp_path / "x.pt")
    assert found.kind == kind
    expected = build(found.kind, found.config, name).state_dict()
    expected.pop("latent_avg", None)
    assert differences(expected, found.state) == []
    named = {key for key in state if not key.endswith(".kernel")}
    assert named <= set(expected)  # nothing of the official file is left unread


@pytest.mark.parametrize("multiplier", [2, 1, 0.5, 0.3])
@pytest.mark.parametrize("size", [32, 128, 1024])
@pytest.mark.parametrize("widest", [512, 96])
def test_a_generators_arguments_follow_from_its_shapes(size, multiplier, widest):
    from sam_age.weights.shapes import generator

    with torch.device("meta"):
        built = Generator(size, 64, 3, multiplier, widest)
        rebuilt = Generator(**generator(built.state_dict()))
    shapes = [{k: v.shape for k, v in g.state_dict().items()} for g in (built, rebuilt)]
    assert shapes[0] == shapes[1]


def test_other_blur_taps_are_read_from_the_file(tmp_path):
    generator = Generator(32, 16, 2, 0.0625, 16, blur_kernel=(1, 2, 1))
    torch.save({"g_ema": generator.state_dict(), "latent_avg": torch.zeros(16)}, tmp_path / "x.pt")
    loaded = weights.load(tmp_path / "x.pt")
    assert loaded.config["blur_kernel"] == [1, 2, 1]
    w_plus = torch.randn(1, 8, 16)
    with torch.no_grad():
        assert torch.equal(generator.synthesize(w_plus), loaded.synthesize(w_plus))


@pytest.mark.parametrize("image_size", [64, 256])
def test_an_encoders_arguments_follow_from_its_shapes(image_size):
    from sam_age.weights.shapes import encoder

    with torch.device("meta"):
        built = GradualStyleEncoder(4, 12, 64, (24, 48, 96, 128), (2, 2, 3, 2), 40, image_size)
    assert encoder(built.state_dict()) == built.config


def test_a_known_name_is_found_in_the_weights_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SAM_AGE_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError, match=r"'sam'.*sam_ffhq_aging\.pt: get it from"):
        weights.load("sam")
    model = files.tiny_sam()
    files.authors_sam(model, tmp_path / "sam_ffhq_aging.pt")
    same(model, weights.load("sam"))


def test_kernel_buffers_are_accepted_and_not_required(tmp_path):
    shapes = {name: tuple(v.shape) for name, v in files.tiny_generator().state_dict().items()}
    state = fill(shapes)  # fills no kernels
    assert not any(name.endswith("kernel") for name in state)
    torch.save({"g_ema": state, "latent_avg": torch.zeros(32)}, tmp_path / "x.pt")
    loaded = weights.load(tmp_path / "x.pt").state_dict()
    assert torch.allclose(loaded["to_rgbs.0.upsample.kernel"].sum(), torch.tensor(4.0))


def same(expected: torch.nn.Module, found: torch.nn.Module) -> None:
    """Bit for bit the same tensors, but for batch counters, which our own files leave out."""
    mine, theirs = expected.state_dict(), found.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, theirs[name]), name


def test_a_sam_without_the_average_latent_is_refused(tmp_path):
    """Every code starts from it: one that is made up would move every face."""
    model = files.tiny_sam()
    state = {name: value for name, value in model.state_dict().items() if name != "latent_avg"}
    torch.save({"state_dict": state, "opts": {}}, tmp_path / "sam.pt")
    with pytest.raises(InputError, match="without latent_avg"):
        weights.load(tmp_path / "sam.pt")
