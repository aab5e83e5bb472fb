"""The pSp encoder against the authors' numbers, and small encoders of the same class."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sam_age.models.encoder import GradualStyleEncoder, Subsample, _interpolate, _Upsample
from tests.golden import Golden, assert_matches, fill_module, manifest

TINY = {"style_dim": 16, "widths": (8, 8, 16, 16), "depths": (1, 1, 2, 1), "tower_width": 8}


@torch.no_grad()
def test_encoder_matches_the_authors_codes_and_feature_maps() -> None:
    case = Golden()["encoder18"]
    encoder = fill_module(GradualStyleEncoder().eval(), prefix="encoder.")
    x = case.tensors()["x"]
    c3, p2, p1 = encoder.pyramid(x)
    assert_matches(case, {"codes": encoder(x), "c3": c3, "p2": p2, "p1": p1})


@pytest.mark.parametrize(
    ("file", "prefix", "channels", "styles"),
    [("sam1024", "encoder.", 4, 18), ("sam1024", "pretrained_encoder.", 3, 18), ("sam64", "encoder.", 4, 10)],
)
def test_state_dict_keys_are_the_authors(file: str, prefix: str, channels: int, styles: int) -> None:
    listed = manifest(file)["state_dict"]
    want = {k.removeprefix(prefix): v[0] for k, v in listed.items() if k.startswith(prefix)}
    with torch.device("meta"):
        encoder = GradualStyleEncoder(channels, styles)
    assert {k: list(v.shape) for k, v in encoder.state_dict().items()} == want


def test_a_small_encoder_is_the_same_class_with_other_numbers() -> None:
    encoder = GradualStyleEncoder(3, 14, widths=(24, 48, 96, 128), depths=(2, 2, 3, 2), tower_width=64)
    assert sum(p.numel() for p in encoder.parameters()) < 8e6
    with torch.no_grad():
        assert encoder.eval()(torch.zeros(1, 3, 256, 256)).shape == (1, 14, 512)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [7, 8])
def test_subsampling_is_the_authors_pooling_over_one_pixel(stride: int, side: int) -> None:
    x = torch.randn(2, 4, side, side, dtype=torch.float64, requires_grad=True)
    pooled, sampled = torch.nn.MaxPool2d(1, stride)(x), Subsample(stride)(x)
    assert torch.equal(sampled, pooled)
    weight = torch.randn_like(pooled)
    want, got = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (pooled, sampled))
    assert torch.equal(got, want)


@pytest.mark.parametrize("image_size", [64, 128])
def test_the_input_size_is_adjustable(image_size: int) -> None:
    encoder = GradualStyleEncoder(3, 8, image_size=image_size, **TINY)
    assert encoder(torch.zeros(2, 3, image_size, image_size)).shape == (2, 8, 16)


def test_another_input_size_is_refused_not_reshaped() -> None:
    encoder = GradualStyleEncoder(3, 8, **TINY)
    with pytest.raises(ValueError, match=r"\(N, 3, 256, 256\), not \(1, 3, 512, 512\)"):
        encoder(torch.zeros(1, 3, 512, 512))


@pytest.mark.parametrize("autocast", [False, True])
def test_the_encoder_compiles_without_graph_breaks(autocast: bool) -> None:
    encoder = GradualStyleEncoder(3, 8, image_size=64, **TINY).eval()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        explanation = torch._dynamo.explain(encoder)(torch.zeros(1, 3, 64, 64))
    assert explanation.graph_break_count == 0
    torch._dynamo.reset()


def test_codes_stay_float32_under_autocast() -> None:
    encoder = GradualStyleEncoder(3, 8, **TINY).eval()
    x = torch.randn(1, 3, 256, 256)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got = encoder(x)
    assert got.dtype == torch.float32
    with torch.no_grad():
        want = encoder(x)
    assert (got - want).norm() / want.norm() < 5e-2


def test_under_autocast_a_map_is_cast_once_for_all_towers_and_codes_are_the_same(monkeypatch) -> None:
    torch.manual_seed(0)
    encoder = GradualStyleEncoder(3, 14, 16, widths=(4, 8, 8, 16), depths=(1, 1, 1, 1), tower_width=16, image_size=64)
    maps = [torch.randn(2, 16, side, side, requires_grad=True) for side in (4, 8, 16)]  # float32, as GPUs upsample
    monkeypatch.setattr(encoder, "pyramid", lambda x: maps)

    cast = []

    class Casts(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket is torch.ops.aten._to_copy and args[0].ndim == 4 and args[0].shape[0] == 2:
                cast.append(args[0].shape[-1])
            return func(*args, **(kwargs or {}))

    with torch.autocast("cpu", torch.bfloat16):
        one_by_one = [tower(maps[0 if i < 3 else 1 if i < 7 else 2]) for i, tower in enumerate(encoder.styles)]
        with Casts():
            codes = encoder(torch.empty(2, 3, 64, 64))
    assert cast == [4, 8, 16]
    assert torch.equal(codes, torch.stack(one_by_one, 1))
    weight = torch.randn_like(codes)
    expected = torch.autograd.grad((torch.stack(one_by_one, 1) * weight).sum(), maps)
    for got, wanted in zip(torch.autograd.grad((codes * weight).sum(), maps), expected, strict=True):
        assert got.dtype == torch.float32
        # summed over up to seven towers in bfloat16, of eight bits
        assert (got - wanted).norm() < 0.01 * wanted.norm()
    assert encoder(torch.empty(2, 3, 64, 64)).dtype == torch.float32


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_of_upsampling_by_matrix_products_is_that_of_interpolation(layout: torch.memory_format) -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 8, 11, dtype=torch.float64).contiguous(memory_format=layout)
    got, wanted = _Upsample.apply(x, (8, 11)), _interpolate(x, (8, 11))
    assert torch.equal(got, wanted)
    ours, theirs = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (got, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
