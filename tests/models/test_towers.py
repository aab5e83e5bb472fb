"""Towers that go together are the towers one by one: made, and with their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sam_age.models import towers
from sam_age.models.convolve import differentiable_twice
from sam_age.models.encoder import GradualStyleEncoder

NUMBERS = {"style_dim": 8, "widths": (8, 8, 8, 16), "depths": (1, 1, 1, 1), "tower_width": 8}


def in_double(styles: int = 10) -> GradualStyleEncoder:
    torch.manual_seed(0)
    encoder = GradualStyleEncoder(3, styles, image_size=64, **NUMBERS).double().eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases count
    return encoder


def maps_of(encoder: GradualStyleEncoder, layout: torch.memory_format) -> dict[int, Tensor]:
    maps = encoder.pyramid(torch.randn(3, 3, 64, 64, dtype=torch.float64))
    return {
        size: part.detach().contiguous(memory_format=layout).requires_grad_()
        for size, part in zip((16, 8, 4), maps, strict=True)
    }


def one_by_one(encoder: GradualStyleEncoder, maps: dict[int, Tensor]) -> Tensor:
    return torch.stack([tower(maps[encoder._reduction(i)]) for i, tower in enumerate(encoder.styles)], 1)


@pytest.mark.parametrize("small", [0, 24, 10**6])  # pixels up to which layers are joined: none, the last, all
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("styles", [3, 5, 10])  # towers on the coarsest map alone, and on all three
def test_codes_and_all_gradients_are_those_of_towers_one_by_one(
    small: int, layout: torch.memory_format, styles: int
) -> None:
    encoder = in_double(styles).to(memory_format=layout)
    maps = maps_of(encoder, layout)
    leaves = [part for size, part in maps.items() if any(encoder._reduction(i) == size for i in range(styles))]
    leaves += list(encoder.styles.parameters())
    weight = torch.randn(3, styles, 8, dtype=torch.float64)
    want = one_by_one(encoder, maps)
    got = encoder.read_together(maps, small=small)
    assert got.is_contiguous()
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    gradients = (torch.autograd.grad((made * weight).sum(), leaves) for made in (want, got))
    for of_want, of_got in zip(*gradients, strict=True):
        torch.testing.assert_close(of_got, of_want, rtol=1e-10, atol=1e-12)


def test_gradients_of_weights_lie_as_the_weights_do() -> None:
    """Else each would be copied as it is taken over, and the optimizer's one pass would not take it."""
    encoder = in_double().to(memory_format=torch.channels_last)
    encoder.read_together(maps_of(encoder, torch.channels_last)).sum().backward()
    for tower in encoder.styles:
        for layer in tower.convs[2::2]:
            assert layer.weight.grad.stride() == layer.weight.stride()


def test_half_precision_is_as_near_to_the_truth_as_one_by_one() -> None:
    encoder = in_double()
    maps = maps_of(encoder, torch.channels_last)
    want = one_by_one(encoder, maps)
    encoder.float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        halves = {size: part.bfloat16() for size, part in maps.items()}
        errors = [
            (made - want).norm() / want.norm() for made in (one_by_one(encoder, halves), encoder.read_together(halves))
        ]
    assert errors[1] < 1.2 * errors[0] < 0.03


def test_a_compiled_trunk_goes_with_joined_towers(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, faces = in_double(), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    want = encoder(faces)
    gradients = torch.autograd.grad(want.sum(), list(encoder.parameters()))
    monkeypatch.setattr(towers, "serves", lambda x: True)
    torch.compiler.reset()
    compiled = torch.compile(encoder, backend="aot_eager", dynamic=False)
    got = compiled(faces)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(torch.autograd.grad(got.sum(), list(encoder.parameters())), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    torch.compiler.reset()


def test_it_is_for_gpus_in_half_precision() -> None:
    with torch.device("meta"):
        x = torch.empty(1, 8, 4, 4)
    assert not towers.serves(x)
    assert not towers.serves(torch.empty(1, 8, 4, 4, dtype=torch.bfloat16))


@pytest.mark.gpu
def test_on_a_gpu_the_encoder_takes_them_together_under_autocast() -> None:
    encoder = GradualStyleEncoder(3, 18, widths=(16, 16, 32, 64), tower_width=64).to("cuda").eval()
    faces = torch.randn(2, 3, 256, 256, device="cuda")
    want = encoder(faces)
    found = {}
    for joined in (True, False):
        encoder.joined = joined
        encoder.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            made = encoder(faces)
        (made * want).sum().backward()
        gradients = torch.cat([parameter.grad.flatten() for parameter in encoder.parameters()])
        found[joined] = made.detach(), gradients
    for together, alone in zip(found[True], found[False], strict=True):
        assert (together - alone).norm() < 0.02 * alone.norm()
    with torch.autocast("cuda", torch.bfloat16), differentiable_twice():
        assert not towers.serves(faces)
    assert not towers.serves(faces)
