"""The kernels of networks that learn against the plain path. Without a GPU, Triton's interpreter runs them, see
test_fused.py."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from sam_age.models.convolve import differentiable_twice
from sam_age.models.fused import learning
from sam_age.models.ops import fir_kernel, leaky_relu, upfirdn2d
from sam_age.models.stylegan2 import Discriminator, Generator, minibatch_stddev, side_by_side, taken_apart
from tests.models.test_fused import HERE, distance, in_the_interpreter, outside

TAPS = (1, 2, 4, 3)  # not symmetric: flips show
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
somewhere = pytest.mark.skipif(not HERE and not torch.cuda.is_available(), reason="needs a GPU or the interpreter")
LAST = torch.channels_last
SIDE = 8 if HERE else 16  # of the two networks: at 16 the interpreter takes a minute for them


def on_device(x: torch.Tensor) -> torch.Tensor:
    x = x.to("cuda" if torch.cuda.is_available() else "cpu")
    return x.contiguous(memory_format=LAST) if x.ndim == 4 else x


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several programs, and several blocks in one, even for small maps: the interpreter takes long for large ones."""
    if HERE:
        monkeypatch.setattr(learning, "ELEMENTS", 128)
        monkeypatch.setattr(learning, "BACK_ELEMENTS", 64)
        monkeypatch.setattr(learning, "CHUNK", 2)


@pytest.fixture
def exact():
    """No TF32 on GPUs."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@somewhere
@pytest.mark.parametrize(
    ("up", "down", "pad", "shape"),
    [(1, 1, (1, 1), (2, 8, 9, 9)), (1, 1, (2, 2), (1, 24, 8, 8)), (1, 2, (1, 1), (2, 16, 8, 6)),
     (2, 1, (2, 1), (2, 8, 4, 5)), (1, 1, (-1, 2), (1, 8, 7, 7))],
)  # fmt: skip
def test_resampling_and_two_of_its_gradients_are_those_of_float64(
    up: int, down: int, pad: tuple[int, int], shape: tuple[int, ...], exact: None
) -> None:
    def run(x: torch.Tensor, kernel: torch.Tensor, way: torch.Tensor | None = None) -> list[torch.Tensor]:
        x = x.requires_grad_()
        y = upfirdn2d(x, kernel, up=up, down=down, pad=pad)
        assert (y.grad_fn.name() == "_ResampleBackward") == (x.dtype == torch.float32)
        way = random(*y.shape, seed=1).to(x).requires_grad_()
        (of_x,) = torch.autograd.grad(y, x, way, create_graph=True)
        (of_way,) = torch.autograd.grad(of_x, way, random(*x.shape, seed=2).to(x))
        return [y, of_x, of_way]

    kernel = fir_kernel(TAPS, 4.0)
    want = run(random(*shape).double(), kernel.double())
    got = run(on_device(random(*shape)), on_device(kernel))
    for mine, truth in zip(got, want, strict=True):
        assert distance(mine.detach().double().cpu(), truth) < 1e-6


@somewhere
@pytest.mark.parametrize("gained", [False, True])
@pytest.mark.parametrize("shape", [(2, 8, 4, 4), (3, 24, 8, 8), (1, 64, 16, 16)])
def test_activations_and_all_their_gradients_are_those_of_float64(
    gained: bool, shape: tuple[int, ...], exact: None
) -> None:
    count, channels, side = shape[:3]
    x, bias = random(*shape), random(channels, seed=1)
    others = [random(count, channels, seed=2).exp(), random(1, seed=4)] if gained else []
    noise = random(count, 1, side, side, seed=3)

    def plain(x: torch.Tensor, bias: torch.Tensor, gain: torch.Tensor = None, strength: torch.Tensor = None):
        if gain is not None:
            x = x * gain[:, :, None, None] + strength * noise.to(x)
        return leaky_relu(x, bias)

    def fast(x: torch.Tensor, bias: torch.Tensor, gain: torch.Tensor = None, strength: torch.Tensor = None):
        return learning.activate(x, bias, gain, None if gain is None else on_device(noise), strength)

    def run(function, *given: torch.Tensor) -> list[torch.Tensor]:
        given = [tensor.requires_grad_() for tensor in given]
        y = function(*given)
        return [y, *torch.autograd.grad(y, given, random(*shape, seed=5).to(y))]

    want = run(plain, *(tensor.double() for tensor in (x, bias, *others)))
    got = run(fast, *(on_device(tensor) for tensor in (x, bias, *others)))
    for mine, truth in zip(got, want, strict=True):
        assert mine.shape == truth.shape
        assert distance(mine.detach().double().cpu(), truth) < 3e-6


def networks() -> tuple[Generator, Discriminator]:
    """Of 24, 16 and, at 16 pixels, 8 channels; noise, biases and negative styles count."""
    torch.manual_seed(0)
    widths = {"channel_multiplier": 8 * 16 / 16384, "channel_max": 24, "blur_kernel": TAPS}
    generator = Generator(SIDE, style_dim=16, n_mlp=1, **widths)
    for layer in (generator.conv1, *generator.convs):
        torch.nn.init.constant_(layer.noise.weight, 0.3)
        torch.nn.init.normal_(layer.activate.bias, std=0.3)
    return generator, Discriminator(SIDE, **widths)


def of_both(generator: Generator, discriminator: Discriminator) -> list[torch.Tensor]:
    """Scores of made pictures, and their gradient to everything that learns; then what R1 gives, and its gradient."""
    like = generator.input.input
    maps = [random(2, *m.shape[1:], seed=i).to(like) for i, m in enumerate(generator.noise_maps("stored", 2))]
    pictures = generator.synthesize(random(2, generator.n_latent, 16).to(like), maps)
    scores = discriminator(pictures)
    learning_ = [*generator.parameters(), *discriminator.parameters()]
    gradients = torch.autograd.grad(F.softplus(scores).sum(), learning_, allow_unused=True)
    faces = random(2, 3, SIDE, SIDE, seed=9).to(like)
    if not like.is_contiguous():
        faces = faces.contiguous(memory_format=LAST)
    with differentiable_twice():
        faces.requires_grad_()
        (of_faces,) = torch.autograd.grad(discriminator(faces).sum(), faces, create_graph=True)
        r1 = of_faces.square().sum()
        weights = [p for p in discriminator.parameters() if p.ndim > 1]  # of biases it knows next to nothing
        twice = torch.autograd.grad(r1, weights)
    return [scores, r1, *(g for g in (*gradients, *twice) if g is not None)]


@somewhere
def test_two_networks_that_learn_from_each_other_are_those_of_float64(
    monkeypatch: pytest.MonkeyPatch, exact: None
) -> None:
    """Every gradient of a step, and R1's, as near as the plain path's."""
    generator, discriminator = networks()
    want = of_both(copy.deepcopy(generator).double(), copy.deepcopy(discriminator).double())
    generator, discriminator = (network.to(on_device(torch.zeros(1)).device) for network in (generator, discriminator))
    plain = of_both(generator, discriminator)
    generator.input.to(memory_format=LAST)
    taken = []
    for name in ("resample", "activate", "modulate"):
        function = getattr(learning, name)
        monkeypatch.setattr(learning, name, lambda *a, f=function, n=name: taken.append(n) or f(*a))
    got = of_both(generator, discriminator)
    assert set(taken) == {"resample", "activate", "modulate"}
    for mine, other, truth in zip(got, plain, want, strict=True):
        rounding = distance(other.detach().double().cpu(), truth)
        assert distance(mine.detach().double().cpu(), truth) < max(1e-5, 10 * rounding)


@in_the_interpreter
def test_gradients_of_gradients_of_what_has_none_are_refused() -> None:
    x = on_device(random(1, 8, 4, 4)).requires_grad_()
    y = learning.activate(x, torch.zeros(8))
    (of_x,) = torch.autograd.grad(y, x, torch.ones_like(y).requires_grad_(), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        of_x.sum().backward()


@outside
def test_no_group_of_the_discriminator_mixes_batches_that_are_side_by_side() -> None:
    one, other = random(8, 3, 4, 4, seed=1), random(8, 3, 4, 4, seed=2)
    both = minibatch_stddev(side_by_side(one, other))
    for mine, alone in zip(taken_apart(both), (one, other), strict=True):
        torch.testing.assert_close(mine, minibatch_stddev(alone))
