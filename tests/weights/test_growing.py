"""A larger GAN that begins with a smaller one's layers."""

from pathlib import Path

import pytest
import torch

from sam_age.errors import InputError
from sam_age.models.ops import Upsample, fir_kernel, upfirdn2d
from sam_age.models.stylegan2 import Discriminator, Generator
from sam_age.weights.growing import grow
from sam_age.weights.storing import save


def generator(size: int, **changes) -> Generator:
    return Generator(
        **{"size": size, "style_dim": 16, "n_mlp": 2, "channel_multiplier": 0.0625, "channel_max": 16} | changes
    )


def test_a_grown_generator_makes_the_smaller_ones_pictures_enlarged(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small, large = generator(16), generator(64)
    small.latent_avg = torch.randn(16)
    grow(large, save(small, tmp_path / "small.safetensors"))
    w = torch.randn(2, 1, 16)
    pictures = small.synthesize(w.expand(-1, small.n_latent, -1))
    enlarge = Upsample((1, 3, 3, 1))
    torch.testing.assert_close(large.synthesize(w.expand(-1, large.n_latent, -1)), enlarge(enlarge(pictures)))
    assert torch.equal(large.latent_avg, small.latent_avg)
    large.synthesize(w.expand(-1, large.n_latent, -1)).square().sum().backward()
    assert large.to_rgbs[-1].conv.weight.grad.abs().max() > 0  # it is not stuck there


def test_a_grown_discriminator_scores_maps_of_the_old_size_as_the_smaller_one_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"channel_multiplier": 0.0625, "channel_max": 16}
    small, large = Discriminator(16, **shape), Discriminator(64, **shape)
    grow(large, save(small, tmp_path / "small.safetensors"))
    maps = small.convs[0](torch.randn(4, 3, 16, 16))  # what comes into the first block of the smaller one
    torch.testing.assert_close(large.convs[3:](maps), small.convs[1:](maps))
    for part in ("final_conv", "final_linear"):
        pairs = zip(getattr(small, part).parameters(), getattr(large, part).parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("size", [32, 64])
def test_a_grown_discriminator_scores_a_picture_as_the_smaller_one_scores_it_made_small(
    size: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    taps, shape = (1, 2, 4, 3), {"channel_multiplier": 0.03, "channel_max": 16}
    small, large = Discriminator(16, blur_kernel=taps, **shape), Discriminator(size, blur_kernel=taps, **shape)
    torch.nn.init.normal_(small.convs[0][1].bias)
    grow(large, save(small, tmp_path / "small.safetensors"))
    pictures = torch.randn(4, 3, size, size).double()
    reduced = pictures
    while reduced.shape[-1] > 16:
        reduced = upfirdn2d(reduced, fir_kernel(taps).double(), down=2, pad=(1, 1))
    torch.testing.assert_close(large.double()(pictures), small.double()(reduced), rtol=1e-6, atol=1e-8)
    large(pictures).sum().backward()  # and nothing new is stuck
    new = [p for block in large.convs[: 1 + size // 32] for name, p in block.named_parameters()]
    assert all(p.grad.abs().max() > 0 for p in new)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: generator(64), "nothing to grow"),
        (lambda: generator(16, channel_max=8), "may differ in `size` alone"),
        (lambda: Discriminator(16, 0.0625, 16), "a Generator is wanted"),
    ],
)
def test_what_cannot_grow_says_why(made, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        grow(generator(32), save(made(), tmp_path / "other.safetensors"))
