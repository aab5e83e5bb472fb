"""StyleGAN2's building blocks against the authors' numbers, loops and finite differences."""

import pytest
import torch
from torch import nn

from sam_age.models import ops
from sam_age.models.ops import (
    Blur,
    EqualConv2d,
    EqualLinear,
    ModulatedConv2d,
    PixelNorm,
    down_convolve,
    fir_kernel,
    leaky_relu,
    modulated_conv2d,
    up_convolve,
    upfirdn2d,
)
from sam_age.models.stylegan2 import StyledConv, ToRGB
from tests.golden import Golden, assert_matches

TAPS = (1, 3, 3, 1)


def test_upfirdn2d_matches_the_authors_in_every_use() -> None:
    case = Golden()["op_upfirdn2d"]
    inputs = case.tensors()
    x, got = inputs["x"].requires_grad_(), {}
    for name, note in case.notes.items():
        gain = 4 if note["kernel"].endswith("*4") else 1
        kernel = inputs["k_asym"] if note["kernel"] == "k_asym" else fir_kernel(TAPS, gain)
        got[name] = upfirdn2d(x, kernel, note.get("up", 1), note.get("down", 1), tuple(note["pad"]))
    name = next(n for n in case.outputs if n not in got and n != "grad_asym_up2_x")
    got[name] = upfirdn2d(x, inputs["k_asym"], up=2, pad=(2, 1))
    got["grad_asym_up2_x"] = torch.autograd.grad((got[name] * inputs["r"]).sum(), x)[0]
    assert_matches(case, got)


def build_modulated(inputs: dict, size: int, **kwargs) -> ModulatedConv2d:
    conv = ModulatedConv2d(5, 7, size, 11, **kwargs)
    with torch.no_grad():
        conv.weight.copy_(inputs[f"weight_k{size}"])
        conv.modulation.weight.copy_(inputs["modulation_weight"])
        conv.modulation.bias.copy_(inputs["modulation_bias"])
    return conv


def test_modulated_convolution_matches_the_authors_with_gradients() -> None:
    case = Golden()["op_modulated_conv"]
    inputs = case.tensors()
    x, s = inputs["x"].requires_grad_(), inputs["s"].requires_grad_()
    got = {
        "downsample": build_modulated(inputs, 3, resample="down")(x, s),
        "no_demod": build_modulated(inputs, 3, demodulate=False)(x, s),
        "kernel1_no_demod": build_modulated(inputs, 1, demodulate=False)(x, s),
    }
    for name, resample in (("plain", None), ("upsample", "up")):
        conv = build_modulated(inputs, 3, resample=resample)
        got[name] = conv(x, s)
        total = (got[name] * inputs[f"r_{name}"]).sum()
        grads = torch.autograd.grad(total, (x, s, conv.weight))
        got |= dict(zip((f"{name}_grad_x", f"{name}_grad_s", f"{name}_grad_weight"), grads, strict=True))
    assert_matches(case, got)


def test_small_pieces_match_the_authors() -> None:
    case = Golden()["op_small"]
    inputs = case.tensors()
    got: dict = {}
    for name, x in (("lrelu4", inputs["x4"]), ("lrelu2", inputs["x2"])):
        x, bias = x.clone().requires_grad_(), inputs["bias"].clone().requires_grad_()
        got[name] = leaky_relu(x, bias)
        grads = torch.autograd.grad((got[name] * inputs[f"r_{name}"]).sum(), (x, bias))
        got[f"{name}_grad_x"], got[f"{name}_grad_bias"] = grads
    got["pixelnorm"] = PixelNorm()(inputs["x2"])

    linear = EqualLinear(6, 5)
    put(linear, weight=inputs["linear_weight"], bias=inputs["linear_bias"])
    got["linear"] = linear(inputs["x2"])
    mapping = EqualLinear(6, 5, lr_mul=0.01, activate=True)
    put(mapping, weight=inputs["linear_weight"] * 100, bias=inputs["linear_bias"] * 10)
    got["linear_map"] = mapping(inputs["x2"])
    conv = EqualConv2d(4, 3, 3, stride=2, padding=1)
    put(conv, weight=inputs["conv_weight"], bias=inputs["conv_bias"])
    got["conv"] = conv(inputs["conv_x"])

    modulation = {
        "conv.modulation.weight": inputs["modulation_weight"],
        "conv.modulation.bias": inputs["modulation_bias"],
    }
    rgb = {"conv.weight": inputs["rgb_weight"], "bias": inputs["rgb_bias"]} | modulation
    for name, upsample in (("torgb", True), ("torgb_first", False)):
        layer = ToRGB(6, 8, TAPS, upsample)
        put(layer, **rgb)
        got[name] = layer(inputs["x4"], inputs["s"], inputs["skip"] if upsample else None)
    styled = StyledConv(6, 4, 8, TAPS, resample="up")
    strength = {"noise.weight": inputs["noise_strength"], "activate.bias": inputs["styled_bias"]}
    put(styled, **{"conv.weight": inputs["styled_weight"]}, **strength, **modulation)
    got["styled"] = styled(inputs["x4"], inputs["s"], inputs["noise"])
    assert_matches(case, got)


def put(module: nn.Module, **tensors: torch.Tensor) -> None:
    state = module.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor.reshape(state[name].shape))


@pytest.mark.parametrize("resample", [None, "up", "down"])
def test_modulation_equals_one_convolution_per_sample(resample: str | None) -> None:
    """The shared-weight form against the definition: modulate each sample's own kernel (eq. 1-3)."""
    torch.manual_seed(0)
    x, weight = torch.randn(3, 4, 6, 6, dtype=torch.float64), torch.randn(5, 4, 3, 3, dtype=torch.float64)
    style = torch.rand(3, 4, dtype=torch.float64) + 0.5
    up, down = fir_kernel(TAPS, 4.0).double(), fir_kernel(TAPS).double()
    kernels = {
        "up_kernel": up if resample == "up" else None,
        "down_kernel": down if resample == "down" else None,
    }
    got = modulated_conv2d(x, weight, style, **kernels)
    for i in range(3):
        own = weight * style[i][None, :, None, None]
        own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        unit = torch.ones(1, 4, dtype=torch.float64)
        want = modulated_conv2d(x[i : i + 1], own, unit, demodulate=False, **kernels)
        torch.testing.assert_close(got[i : i + 1], want)


def test_gradients_are_right_twice_over() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    style = torch.rand(1, 2, dtype=torch.float64, requires_grad=True)
    up = fir_kernel(TAPS, 4.0).double()

    def layer(x: torch.Tensor, weight: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        return leaky_relu(modulated_conv2d(x, weight, style, up_kernel=up))

    assert torch.autograd.gradcheck(layer, (x, weight, style))
    assert torch.autograd.gradgradcheck(layer, (x, weight, style))


def test_a_blur_keeps_the_mean_of_a_constant() -> None:
    x = torch.full((1, 2, 8, 8), 3.0)
    blurred = Blur(TAPS, pad=(2, 1))(x)
    assert blurred.shape == x.shape
    torch.testing.assert_close(blurred[..., 2:-2, 2:-2], x[..., 2:-2, 2:-2])


def test_half_precision_does_not_overflow_where_float32_does_not() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 64, 8, 8) * 100, torch.randn(64, 64, 3, 3)
    style = torch.rand(1, 64) * 1000
    want = modulated_conv2d(x, weight, style)
    got = modulated_conv2d(x.half(), weight.half(), style)
    assert got.dtype == torch.float16
    assert (got.float() - want).norm() / want.norm() < 3e-3


@pytest.mark.parametrize("size", [1, 3])
def test_filters_folded_into_weights_change_nothing(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 5, size, size, dtype=torch.float64, requires_grad=True)
    kernel = torch.rand(4, 4, dtype=torch.float64)  # not symmetric: flips show
    convolve = [lambda: down_convolve(x, weight, kernel)]
    if size == 3:  # with one tap the margins of the way up differ, and nothing is folded
        convolve.append(lambda: up_convolve(x, weight, kernel))
    for one in convolve:
        results = []
        for folds in (False, True):
            monkeypatch.setattr(ops, "folds_filters", lambda x, folds=folds: folds)
            y = one()
            results.append((y, *torch.autograd.grad(y.square().sum(), (x, weight))))
        for apart, folded in zip(*results, strict=True):
            torch.testing.assert_close(folded, apart, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("up", "down", "pad"), [(1, 1, (2, 1)), (2, 1, (2, 1)), (1, 2, (1, 1)), (1, 1, (-1, 2))])
def test_filters_are_the_same_to_a_compiler(
    up: int, down: int, pad: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    x, kernel = torch.randn(2, 3, 9, 8, dtype=torch.float64), torch.rand(4, 3, dtype=torch.float64)
    convolved = upfirdn2d(x, kernel, up, down, pad)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(upfirdn2d(x, kernel, up, down, pad), convolved, rtol=1e-12, atol=1e-12)
