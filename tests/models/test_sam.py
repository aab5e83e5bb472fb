"""SAM as a whole against the authors' numbers, and what is frozen in it."""

import pytest
import torch
import torch.nn.functional as F

from sam_age.editing import mix
from sam_age.models.encoder import GradualStyleEncoder
from sam_age.models.sam import SAM, _BlockMeans, face_pool, with_age
from sam_age.models.stylegan2 import Generator
from tests.golden import Golden, assert_matches, fill, fill_module


@pytest.fixture(scope="module")
def sam64() -> SAM:
    """The authors' architecture at 64 pixels, with the golden weights."""
    sam = SAM(GradualStyleEncoder(4, 10), GradualStyleEncoder(3, 10), Generator(64)).eval()
    return fill_module(sam)


@pytest.fixture
def tiny() -> SAM:
    torch.manual_seed(0)
    numbers = {"style_dim": 16, "widths": (8, 8, 16, 16), "depths": (1, 1, 2, 1), "tower_width": 8}
    decoder = Generator(32, style_dim=16, n_mlp=2, channel_multiplier=0.0625, channel_max=16)
    return SAM(GradualStyleEncoder(4, 8, **numbers), GradualStyleEncoder(3, 8, **numbers), decoder).eval()


@torch.no_grad()
def test_ages_of_one_face_match_the_authors(sam64: SAM) -> None:
    case = Golden()["sam64_ages"]
    ages = torch.tensor([float(age) for age in case.params["ages"]])
    face = case.tensors()["x"]
    faces = face.expand(len(ages), -1, -1, -1)
    images, w_plus = sam64(faces, ages, resize=False, return_latents=True)
    got = {"latents": w_plus, "images": images, "images256": sam64(face, ages[:1])}
    assert_matches(case, got)


@torch.no_grad()
def test_mixing_and_codes_match_the_authors(sam64: SAM) -> None:
    case = Golden()["sam64_mixing"]
    inputs = case.tensors()
    layers, alpha = case.params["latent_mask"], case.params["alpha"]
    ages = torch.tensor([float(age) for age in case.params["ages"]])
    w_plus = sam64.edit(inputs["x"][:, :3], ages)
    inject = sam64.decoder.mapping(inputs["z"])[:, None].expand(-1, 10, -1)
    reference = sam64.encode(inputs["ref"])

    codes = {
        "mixed": mix(w_plus, inject, layers),
        "blended": mix(w_plus, inject, layers, alpha),
        "zeroed": mix(w_plus, torch.zeros_like(w_plus), layers),
        "reference": mix(w_plus, reference, layers, alpha),
    }
    got = {name: sam64.synthesize(code, resize=False) for name, code in codes.items()}
    rows = [layers[0] - 1, *layers]
    got |= {f"lat_{name}": codes[name][:, rows] for name in ("mixed", "blended", "zeroed")}
    got["inject"] = inject[:, 0]
    got["code_z"] = sam64.synthesize(inject, resize=False)
    got["code_w"] = sam64.synthesize(inputs["wplus"], resize=False)
    assert_matches(case, got)


@torch.no_grad()
def test_encoding_once_gives_the_same_as_encoding_every_time(tiny: SAM) -> None:
    faces, ages = torch.randn(3, 3, 256, 256), torch.tensor([0.0, 47.5, 100.0])
    once = tiny.synthesize(tiny.edit(faces, ages, tiny.encode(faces)))
    assert torch.equal(once, tiny(faces, ages))


def test_only_the_age_encoder_moves(tiny: SAM) -> None:
    tiny.train()
    assert tiny.encoder.training
    frozen = [m for part in (tiny.pretrained_encoder, tiny.decoder) for m in part.modules()]
    assert not any(m.training for m in frozen)
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    tiny(torch.randn(2, 3, 256, 256), torch.tensor([10.0, 90.0])).square().mean().backward()
    graded = {name.split(".")[0] for name, p in tiny.named_parameters() if p.grad is not None}
    assert graded == {"encoder"}
    after = tiny.state_dict()
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert moved
    assert all(k.startswith("encoder.") for k in moved)  # batch statistics


def test_the_average_latent_is_part_of_the_state_dict(tiny: SAM) -> None:
    latent_avg = fill({"latent_avg": (8, 16)})["latent_avg"]
    state = tiny.state_dict() | {"latent_avg": latent_avg}
    twin = SAM.from_config(tiny.config)
    twin.load_state_dict(state)
    assert torch.equal(twin.latent_avg, latent_avg)


def test_the_age_channel_is_years_over_a_hundred() -> None:
    x = with_age(torch.zeros(2, 3, 4, 4), torch.tensor([35.0, 47.9]))
    assert x.shape == (2, 4, 4, 4)
    torch.testing.assert_close(x[:, 3, 0, 0], torch.tensor([0.35, 0.479]))


def test_pooling_to_the_size_of_the_losses_averages_blocks() -> None:
    images = torch.randn(1, 3, 1024, 1024)
    blocks = images.reshape(1, 3, 256, 4, 256, 4).mean((3, 5))
    torch.testing.assert_close(face_pool(images), blocks)


def test_mismatched_parts_and_ages_are_refused(tiny: SAM) -> None:
    with pytest.raises(ValueError, match="encoder makes 10 styles, but a 32-pixel generator takes 8"):
        SAM(GradualStyleEncoder(4, 10, tower_width=8), tiny.pretrained_encoder, tiny.decoder)
    with pytest.raises(ValueError, match="One target age a face"):
        tiny(torch.zeros(2, 3, 256, 256), torch.tensor([10.0]))


def test_the_gradient_of_block_means_is_average_poolings() -> None:
    """On GPUs it is written out, as PyTorch's own is slow there."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    (want,) = torch.autograd.grad((F.avg_pool2d(images, 4) * weight).sum(), images)
    (got,) = torch.autograd.grad((_BlockMeans.apply(images, 4) * weight).sum(), images)
    torch.testing.assert_close(got, want)
    assert torch.autograd.gradcheck(lambda x: _BlockMeans.apply(x, 4), images[:1, :1, :8, :8].detach().requires_grad_())
