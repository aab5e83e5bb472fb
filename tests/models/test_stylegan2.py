"""The generator and the discriminator against the authors' numbers, and what users adjust."""

import pytest
import torch

from sam_age.models.stylegan2 import Discriminator, Generator
from tests.golden import Golden, assert_matches, fill_module, manifest


def small_generator(**kwargs) -> Generator:
    torch.manual_seed(0)
    return Generator(32, style_dim=16, n_mlp=2, channel_multiplier=0.0625, channel_max=16, **kwargs)


@pytest.mark.parametrize("size", [64, 256])
@torch.no_grad()
def test_generator_matches_the_authors_output(size: int) -> None:
    case = Golden()[f"generator{size}"]
    inputs = case.tensors()
    generator = fill_module(Generator(size))
    truncation, inject = case.params["truncation"], case.params["inject_index"]
    z = inputs["z"]
    w = generator.mapping(z)
    centre = generator.mapping(inputs["z_mean"]).mean(0, keepdim=True)
    cut = {"truncation": truncation, "truncation_latent": centre, "noise": "stored"}
    mixed, w_plus = generator(z[1:2], z[2:3], inject, return_latents=True, **cut)
    got = {
        "w": w,
        "mean_latent": centre,
        "image_wplus": generator.synthesize(inputs["wplus"]),
        "image_truncated": generator(z[:1], **cut),
        "image_mixed": mixed,
        "latents_mixed": w_plus[:, [0, inject - 1, inject, -1]],
    }
    if size == 64:
        maps = [inputs[f"noise_{i}"] for i in range(generator.n_noise)]
        repeated = w[:1, None].expand(-1, generator.n_latent, -1)
        got["image_given_noise"], got["features"] = generator.synthesize(repeated, maps, return_features=True)
    assert_matches(case, got)


def test_discriminator_matches_the_authors_scores_gradients_and_r1() -> None:
    case = Golden()["discriminator64"]
    discriminator = fill_module(Discriminator(64))
    x = case.tensors()["x"]
    with torch.no_grad():
        scores8 = discriminator(x)
    faces = x[:4].requires_grad_()
    scores4 = discriminator(faces)
    (grad,) = torch.autograd.grad(scores4.sum(), faces, create_graph=True)
    r1 = grad.square().sum((1, 2, 3)).mean()
    weights = (discriminator.convs[0][0].weight, discriminator.final_linear[0].weight)
    norms = torch.stack([g.norm() for g in torch.autograd.grad(r1, weights)])
    got = {"scores4": scores4, "scores8": scores8, "grad_x": grad, "r1": r1, "r1_grad_norms": norms}
    assert_matches(case, got)


@pytest.mark.parametrize(
    ("built", "listed"),
    [
        (lambda: Generator(64), manifest("small")["generator64"]),
        (lambda: Generator(1024), manifest("stylegan2_ffhq_config_f")["g_ema"]),
        (lambda: Discriminator(1024), manifest("stylegan2_ffhq_config_f")["d"]),
    ],
)
def test_state_dict_keys_are_rosinalitys(built, listed: dict) -> None:
    with torch.device("meta"):
        own = {name: list(tensor.shape) for name, tensor in built().state_dict().items()}
    assert own == {name: shape for name, (shape, _) in listed.items()}


@pytest.mark.parametrize("size", [32, 64, 128, 256, 512, 1024])
def test_every_size_makes_images_of_that_size(size: int) -> None:
    generator = Generator(size, style_dim=8, n_mlp=1, channel_multiplier=0.03125, channel_max=8)
    with torch.no_grad():
        image = generator(torch.randn(1, 8))
    assert image.shape == (1, 3, size, size)
    scores = Discriminator(size, channel_multiplier=0.03125, channel_max=8)(image)
    assert scores.shape == (1, 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_agree_with_float32(dtype: torch.dtype) -> None:
    generator = small_generator()
    w_plus = torch.randn(2, generator.n_latent, 16)
    want = generator.synthesize(w_plus)
    got = generator.to(dtype).synthesize(w_plus.to(dtype))
    assert got.dtype == dtype
    tolerance = {torch.float64: 1e-6, torch.bfloat16: 5e-2, torch.float16: 5e-3}[dtype]
    assert (got.float() - want).norm() / want.norm() < tolerance


def test_stored_noise_repeats_and_random_noise_does_not() -> None:
    generator = small_generator()
    for layer in (generator.conv1, *generator.convs):
        torch.nn.init.constant_(layer.noise.weight, 0.5)
    w_plus = torch.randn(1, generator.n_latent, 16)
    assert torch.equal(generator.synthesize(w_plus), generator.synthesize(w_plus))
    assert not torch.equal(generator.synthesize(w_plus, "random"), generator.synthesize(w_plus, "random"))
    given = [torch.zeros_like(m) for m in generator.noise_maps("stored", 1)]
    assert not torch.equal(generator.synthesize(w_plus, given), generator.synthesize(w_plus))


def test_no_truncation_changes_nothing_and_full_truncation_gives_the_average_face() -> None:
    generator = small_generator()
    generator.latent_avg.copy_(generator.mean_latent(64, torch.Generator().manual_seed(0))[0])
    z = torch.randn(2, 16)
    average = generator.synthesize(generator.latent_avg.expand(2, generator.n_latent, -1))
    torch.testing.assert_close(generator(z, truncation=0.0, noise="stored"), average)
    _, w_plus = generator(z, return_latents=True)
    torch.testing.assert_close(w_plus[:, 0], generator.mapping(z))


def test_the_generator_compiles_without_graph_breaks() -> None:
    generator = small_generator()
    explanation = torch._dynamo.explain(generator.synthesize)(torch.randn(1, generator.n_latent, 16))
    assert explanation.graph_break_count == 0
    torch._dynamo.reset()


def test_wrong_shapes_say_what_is_expected() -> None:
    generator = small_generator()
    with pytest.raises(ValueError, match=r"\(N, 8, 16\) for 32 pixels, not \(1, 7, 16\)"):
        generator.synthesize(torch.randn(1, 7, 16))
    with pytest.raises(ValueError, match="7 noise maps, not 1"):
        generator.synthesize(torch.randn(1, 8, 16), [torch.zeros(1, 1, 4, 4)])
    with pytest.raises(ValueError, match="power of two"):
        Generator(100)
    with pytest.raises(ValueError, match="inject_index"):
        generator(torch.randn(1, 16), torch.randn(1, 16))


def test_a_batch_of_six_is_scored_where_the_reference_fails() -> None:
    discriminator = Discriminator(32, channel_multiplier=0.0625, channel_max=16)
    assert discriminator(torch.randn(6, 3, 32, 32)).shape == (6, 1)
