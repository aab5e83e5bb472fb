"""The generator's fused path at full size, on a GPU."""

from __future__ import annotations

import pytest
import torch

from sam_age.models.fused import convolutions
from sam_age.models.stylegan2 import Generator

pytest.importorskip("triton")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
TOLERANCE = {torch.float32: (1e-4, 1e-2), torch.bfloat16: (3e-2, 0.15)}
"""Relative, of pictures and gradients. Where rounding turns the sign before an activation its slope changes fivefold:
the plain path's float32 gradients are 1e-3 from float64 at 128 pixels (512 channels), its bfloat16 ones 0.1."""


def distance(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got - want).norm() / want.norm()).item()


@pytest.fixture
def full_size() -> Generator:
    """On the GPU, without TF32."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    generator = Generator(1024).cuda().requires_grad_(False)
    for layer in (generator.conv1, *generator.convs):
        torch.nn.init.constant_(layer.noise.weight, 0.1)
        torch.nn.init.normal_(layer.activate.bias, std=0.1)
    yield generator
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def on_the_gpu(generator: Generator, w_plus: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    w_plus = w_plus.clone().requires_grad_()
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        picture = generator.synthesize(w_plus).float()
    toward = torch.randn(picture.shape, generator=torch.Generator("cuda").manual_seed(1), device="cuda")
    return picture.detach(), *torch.autograd.grad(picture, w_plus, toward)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("form", ["auto", "transposed", "subpixel", "folded", "paired"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_full_size_pictures_and_gradients_are_those_of_the_plain_path(
    full_size: Generator, dtype: torch.dtype, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paired: list[int] = []
    in_pairs = convolutions.in_pairs
    monkeypatch.setattr(convolutions, "in_pairs", lambda x: (paired.append(x.shape[3]), in_pairs(x))[1])
    w_plus = torch.randn(3, full_size.n_latent, 512, device="cuda")
    full_size.fused = False
    want = on_the_gpu(full_size, w_plus, torch.float32)
    plain = on_the_gpu(full_size, w_plus, dtype)
    full_size.fused, full_size.form = True, form
    got = on_the_gpu(full_size, w_plus, dtype)
    for tolerance, fast, slow, truth in zip(TOLERANCE[dtype], got, plain, want, strict=True):
        assert distance(fast, truth) < max(tolerance, 1.5 * distance(slow, truth))
    assert form == "auto" or paired == [1024, 1024] * (form == "paired")


@pytest.mark.gpu
@needs_gpu
def test_the_same_call_gives_the_same_bits_asks_nothing_of_the_host_and_can_be_recorded(full_size: Generator) -> None:
    full_size.fused, full_size.form = True, "subpixel"  # cuDNN's transposed convolutions may add in any order
    w_plus = torch.randn(2, full_size.n_latent, 512, device="cuda", requires_grad=True)
    toward = torch.randn(2, 3, 1024, 1024, device="cuda")

    def work() -> tuple[torch.Tensor, ...]:
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            picture = full_size.synthesize(w_plus)
        return picture, *torch.autograd.grad(picture, w_plus, toward)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            first = work()
        torch.cuda.set_sync_debug_mode("error")
        try:
            again = work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        replayed = work()
    for result in replayed:
        result.zero_()
    graph.replay()
    for one, two, three in zip(first, again, replayed, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


@pytest.mark.gpu
@needs_gpu
def test_more_than_two_thousand_million_numbers_are_in_their_places() -> None:
    from sam_age.models.fused import launch

    side, channels, count = 1024, 64, 33  # 2^31 numbers and one picture more
    layer = launch.Layer(channels, torch.zeros(1, device="cuda"), torch.zeros(channels, device="cuda"), (0, 1, 1, 0))
    x = torch.empty(count, channels, side, side, dtype=torch.bfloat16, device="cuda", memory_format=launch.LAST)
    for i in range(count):
        x[i] = i + 1
    gain = torch.ones(count, channels, device="cuda")
    z, _ = launch.epilogue(x, layer, gain, torch.zeros(1, 1, side, side, device="cuda"), 2**-0.5 * gain)
    want = torch.arange(1.0, count + 1, device="cuda").bfloat16()
    for corner in (z[:, 0, 0, 0], z[:, -1, -1, -1], z[:, 17, 512, 511]):
        assert torch.equal(corner, want)
