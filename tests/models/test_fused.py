"""The generator's fused path against the plain one. Without a GPU, Triton's interpreter runs the kernels, in a process
of its own: it must be asked for before Triton is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch.utils._python_dispatch import TorchDispatchMode

from sam_age.config import CONF_DIR
from sam_age.models import fused
from sam_age.models.convolve import differentiable_twice
from sam_age.models.ops import fir_kernel, up_convolve
from sam_age.models.stylegan2 import Discriminator, Generator
from sam_age.optim.ranger import Ranger

pytest.importorskip("triton")
HERE = os.environ.get("TRITON_INTERPRET") == "1"
in_the_interpreter = pytest.mark.skipif(not HERE, reason="run by test_the_kernels_in_the_interpreter")
outside = pytest.mark.skipif(HERE, reason="the interpreter makes everything possible")
TAPS = (1, 2, 4, 3)  # not symmetric: flips show


def made_up(size: int, **kwargs) -> Generator:
    """Frozen, 16 channels below its last two resolutions and 8 in these; noise, biases and negative styles count."""
    torch.manual_seed(0)
    options = {"style_dim": 16, "n_mlp": 1, "channel_multiplier": 8 * size / 16384, "channel_max": 16, **kwargs}
    generator = Generator(size, blur_kernel=TAPS, **options)
    for layer in (generator.conv1, *generator.convs):
        torch.nn.init.constant_(layer.noise.weight, 0.3)
        torch.nn.init.normal_(layer.activate.bias, std=0.3)
    for to_rgb in (generator.to_rgb1, *generator.to_rgbs):
        torch.nn.init.normal_(to_rgb.bias)
    return generator.requires_grad_(False)


def inputs(generator: Generator, count: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Codes, and noise of which every second map is shared by the batch."""
    w_plus = torch.randn(count, generator.n_latent, generator.style_dim)
    stored = generator.noise_maps("stored", 1)
    return w_plus, [torch.randn(count if i % 2 else 1, *m.shape[1:]) for i, m in enumerate(stored)]


def all_of(generator: Generator, w_plus: torch.Tensor, maps: list[torch.Tensor]) -> list[torch.Tensor]:
    """Picture, last activations, and the gradient of both to the codes, float64."""
    w_plus = w_plus.detach().requires_grad_()
    picture, features = generator.synthesize(w_plus, maps, return_features=True)
    draw = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=draw).to(x) for x in (picture, features)]
    total = (picture * weights[0]).sum() + (features * weights[1]).sum()
    return [x.detach().double() for x in (picture, features, *torch.autograd.grad(total, w_plus))]


def distance(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got - want).norm() / want.norm()).item()


def in_float64(generator: Generator, w_plus: torch.Tensor, maps: list[torch.Tensor]) -> list[torch.Tensor]:
    generator.fused = False
    results = all_of(generator.double(), w_plus.double(), [noise.double() for noise in maps])
    generator.float()
    return results


# ---- in the interpreter -------------------------------------------------------------------------------


@pytest.fixture
def small_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that a map of 16 pixels takes several, along both axes."""
    from sam_age.models.fused import launch

    small = launch.Tiles(elements=256, back_elements=128, chunk=2, rows=8, filtered=64, back_filtered=64)
    monkeypatch.setattr(launch, "tiles", small)


@pytest.fixture
def poisoned():
    """Memory is full of NaN until something is written there."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@in_the_interpreter
@pytest.mark.parametrize("form", ["transposed", "subpixel", "folded"])
@pytest.mark.usefixtures("small_programs", "poisoned")
def test_pictures_features_and_gradients_are_those_of_the_plain_path(form: str) -> None:
    generator = made_up(16)
    w_plus, maps = inputs(generator, 2)
    want = in_float64(generator, w_plus, maps)
    generator.fused, generator.form = True, form
    for got, truth in zip(all_of(generator, w_plus, maps), want, strict=True):
        assert distance(got, truth) < 3e-6
    with torch.no_grad():  # nothing is kept, the last activations are not even written
        assert distance(generator.synthesize(w_plus, maps).double(), want[0]) < 3e-6


@in_the_interpreter
@pytest.mark.parametrize("form", ["transposed", "folded"])
@pytest.mark.usefixtures("poisoned")
def test_channels_that_are_no_power_of_two_are_done_in_several_blocks(form: str) -> None:
    generator = made_up(8, channel_multiplier=1, channel_max=24)  # blocks of 8
    w_plus, maps = inputs(generator, 2)
    want = in_float64(generator, w_plus, maps)
    generator.fused, generator.form = True, form
    for got, truth in zip(all_of(generator, w_plus, maps), want, strict=True):
        assert distance(got, truth) < 3e-6


@in_the_interpreter
def test_bfloat16_is_as_near_to_the_truth_as_plain_bfloat16() -> None:
    generator = made_up(16)
    w_plus, maps = inputs(generator, 2)
    want = in_float64(generator, w_plus, maps)
    with torch.autocast("cpu", torch.bfloat16):
        plain = all_of(generator, w_plus, maps)
        generator.fused, generator.form = True, "folded"
        fast = all_of(generator, w_plus, maps)
        assert generator.synthesize(w_plus, maps).dtype == torch.float32  # the picture is never rounded
    # the interpreter cuts bfloat16 off where GPUs round it: twice the error
    for got, other, truth in zip(fast, plain, want, strict=True):
        assert distance(got, truth) < 2.5 * distance(other, truth)


@in_the_interpreter
@pytest.mark.usefixtures("small_programs", "poisoned")
def test_convolutions_of_pairs_of_pixels_are_those_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    from sam_age.models.fused import convolutions

    monkeypatch.setattr(convolutions.UpConvolution, "unmeasured", {False: "folded", True: "folded"})  # the quickest
    generator = made_up(16, channel_multiplier=1)  # 16 channels throughout
    w_plus, maps = inputs(generator, 2)
    want = in_float64(generator, w_plus, maps)
    generator.fused, generator.form = True, "paired"
    paired: Counter[tuple[int, ...]] = Counter()
    in_pairs = convolutions.in_pairs
    monkeypatch.setattr(convolutions, "in_pairs", lambda x: (paired.update([tuple(x.shape[2:])]), in_pairs(x))[1])
    for got, truth in zip(all_of(generator, w_plus, maps), want, strict=True):
        assert distance(got, truth) < 3e-6
    assert paired == {(4, 4): 2, (8, 8): 2, (16, 16): 2}  # forward and back


@in_the_interpreter
def test_a_style_of_zero_takes_no_information_away() -> None:
    generator = made_up(8)
    w_plus, maps = inputs(generator, 2)
    modulation = generator.convs[1].conv.modulation  # some channels of what the layer before makes
    modulation.weight[:4] = 0
    modulation.bias[:4] = 0
    want = in_float64(generator, w_plus, maps)
    generator.fused = True
    for got, truth in zip(all_of(generator, w_plus, maps), want, strict=True):
        assert distance(got, truth) < 3e-6


@in_the_interpreter
def test_changed_weights_are_noticed() -> None:
    generator = made_up(8)
    generator.fused = True
    w_plus, maps = inputs(generator, 1)
    before = generator.synthesize(w_plus, maps)
    generator.conv1.conv.weight.mul_(torch.rand_like(generator.conv1.conv.weight))
    after = generator.synthesize(w_plus, maps)
    generator.fused = False
    assert distance(after, generator.synthesize(w_plus, maps)) < 3e-6 < distance(before, after)


@in_the_interpreter
def test_pictures_follow_weights_that_learn_whatever_optimizer_changes_them() -> None:
    """PyTorch's fused optimizers change weights without counting it; ours does count."""
    generator = made_up(8).requires_grad_()
    w_plus, maps = inputs(generator, 1)
    weights = fused.synthesis_parameters(generator)
    of_torch = torch.optim.Adam(weights, lr=0.1, fused=True)
    of_ours = Ranger(weights, lr=0.1, fused=True)
    of_ours.param_groups[0]["step"] = 102  # past the steps that are not the kernel's
    for optimizer, frozen in ((of_torch, False), (of_ours, False), (of_ours, True)):
        generator.requires_grad_(not frozen)
        with torch.no_grad():
            before = generator.synthesize(w_plus, maps)
            for weight in weights:
                weight.grad = torch.ones_like(weight) + torch.rand_like(weight)
            optimizer.step()
            after = generator.synthesize(w_plus, maps)
            generator.fused = False
            want = generator.synthesize(w_plus, maps)
            generator.fused = "auto"
        assert distance(after, want) < 1e-5 < distance(before, want)


@in_the_interpreter
def test_gradients_of_gradients_are_refused_not_wrong() -> None:
    generator = made_up(8)
    generator.fused = True
    w_plus, maps = inputs(generator, 1)
    w_plus.requires_grad_()
    picture = generator.synthesize(w_plus, maps)
    with pytest.raises(RuntimeError, match=r"differentiable_twice\(\)"):
        torch.autograd.grad(picture.sum(), w_plus, create_graph=True)


@outside
def test_the_kernels_in_the_interpreter() -> None:
    """What is marked above, in test_fused_learning.py, and of Ranger, in a process where Triton interprets."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    here = Path(__file__).parent
    names = ("models/test_fused.py", "models/test_fused_learning.py", "optim/test_one_pass.py")
    files = [str(here.parent / name) for name in names]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore", *files]
    root = Path(__file__).resolve().parents[2]
    quiet = {"capture_output": True, "encoding": "utf-8", "check": False, "timeout": 600}
    done = subprocess.run(command, cwd=root, env=environment, **quiet)
    if "only 0-dimensional arrays can be converted" in done.stdout:
        pytest.skip("this Triton's interpreter has no loops with this numpy (3.6 with 2.4 and later)")
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout, done.stdout[-500:]


# ---- anywhere -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["subpixel", "folded"])
def test_forms_of_doubling_are_the_transposed_convolution(form: str) -> None:
    from sam_age.models.fused import convolutions

    torch.manual_seed(0)
    weight = torch.randn(6, 5, 3, 3, dtype=torch.float64)
    x = torch.randn(2, 5, 8, 8, dtype=torch.float64)
    kernel = fir_kernel(TAPS, 4.0).double()
    if form == "subpixel":
        y = F.conv2d(x, convolutions.subpixel(weight), padding=1)
        want = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    else:
        y = F.conv2d(x, convolutions.folded(weight, kernel), padding=1)
        want = up_convolve(x, weight, kernel)
    count, _, rows, columns = y.shape
    phases = y.reshape(count, 2, 2, 6, rows, columns).permute(0, 3, 4, 1, 5, 2).reshape(count, 6, 2 * rows, -1)
    torch.testing.assert_close(phases[..., : want.shape[2], : want.shape[3]], want)


@pytest.mark.parametrize("shape", [(1, 5, 8, 8), (2, 5, 4, 4)])
def test_a_convolution_of_pairs_is_the_convolution(shape: tuple[int, ...]) -> None:
    from sam_age.models.fused.convolutions import in_pairs, one_by_one, paired

    torch.manual_seed(0)
    weight = torch.randn(6, 5, 3, 3, dtype=torch.float64)
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    assert in_pairs(x).data_ptr() == x.data_ptr()
    made = F.conv2d(in_pairs(x), paired(weight), padding=1).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(one_by_one(made), F.conv2d(x, weight, padding=1))


@outside
def test_the_plain_path_is_taken_where_the_fused_one_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = made_up(8)
    w_plus, maps = inputs(generator, 1)
    assert "CUDA, not cpu" in fused.reason_against(generator, w_plus, maps)
    generator.fused = True
    with pytest.raises(ValueError, match=r"cannot run: it is for CUDA, not cpu. Set fused to"):
        generator.synthesize(w_plus, maps)
    generator.fused = "yes"
    with pytest.raises(ValueError, match='True, False or "auto"'):
        generator.synthesize(w_plus, maps)

    monkeypatch.setattr(fused, "interpreted", lambda: True)  # as if on a GPU
    monkeypatch.setattr(fused, "trouble", lambda device: None)
    assert fused.reason_against(generator, w_plus, maps) is None
    with differentiable_twice():
        assert "gradients of gradients" in fused.reason_against(generator, w_plus, maps)
    with torch.autocast("cpu", torch.float16):
        assert "float16" in fused.reason_against(generator, w_plus, maps)
    maps[0].requires_grad_()
    assert "noise" in fused.reason_against(generator, w_plus, maps)
    maps[0] = torch.zeros(1, 1, 1, 1)
    assert "one value a pixel" in fused.reason_against(generator, w_plus, maps)
    maps[0] = torch.zeros(1, 1, 4, 4)
    generator.conv1.requires_grad_()
    assert "own parameters" in fused.reason_against(generator, w_plus, maps)
    with torch.no_grad():  # weights that learn may change without being counted
        assert "own parameters" in fused.reason_against(generator, w_plus, maps)
    assert "eights" in fused.reason_against(made_up(8, channel_max=6), w_plus, maps)


@outside
def test_a_gpu_without_triton_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    generator = made_up(8)
    w_plus, maps = inputs(generator, 1)
    monkeypatch.setattr(fused, "interpreted", lambda: True)  # as if on a GPU
    monkeypatch.setattr(fused.importlib.util, "find_spec", lambda name: None)
    fused.trouble.cache_clear()
    generator.synthesize(w_plus, maps)
    generator.synthesize(w_plus, maps)
    fused.trouble.cache_clear()
    assert [record.message for record in caplog.records] == [
        "Triton is not installed: slower plain paths are taken. `pip install triton` helps."
    ]


@outside
def test_where_triton_cannot_compile_the_plain_path_is_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    generator = made_up(8)
    w_plus, maps = inputs(generator, 1)
    monkeypatch.setattr(fused, "interpreted", lambda: True)  # as if on a GPU: Triton finds none, and raises
    fused.trouble.cache_clear()
    generator.synthesize(w_plus, maps)
    fused.trouble.cache_clear()
    assert caplog.text.count("Triton does not run here") == 1


class Counted(TorchDispatchMode):
    """How often PyTorch's operators run, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@outside
def test_a_layer_is_a_convolution_and_a_kernel_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches are counted, which is what a machine without a GPU can tell of speed."""
    from sam_age.models.fused import kernels, launch

    launched: Counter[str] = Counter()

    class Nothing:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: tuple[int, ...]):
            return lambda *args, **kwargs: launched.update([self.name])

    names = ("epilogue", "fir_epilogue", "epilogue_backward", "fir_epilogue_backward", "add_parts", "skip_backward")
    for name in names:
        monkeypatch.setattr(launch.kernels, name, Nothing(name))
    assert kernels is launch.kernels
    monkeypatch.setattr(fused, "interpreted", lambda: True)
    monkeypatch.setattr(fused, "trouble", lambda device: None)
    generator = made_up(64)  # 9 layers: 5 that keep the resolution, 4 that double it
    w_plus, maps = inputs(generator, 2)
    w_plus.requires_grad_()
    generator.synthesize(w_plus, maps)  # prepares the weights
    launched.clear()
    with Counted() as forward:
        picture = generator.synthesize(w_plus, maps)
    assert launched == {"epilogue": 5, "fir_epilogue": 4}
    assert forward.calls["convolution"] == 9
    del forward.calls["empty"], forward.calls["new_empty"]
    assert sum(forward.calls.values()) <= 9 + 9  # the styles of all layers, and the constant times the first
    launched.clear()
    torch.autograd.grad(picture.sum(), w_plus)
    assert launched == {"epilogue_backward": 5, "fir_epilogue_backward": 4, "add_parts": 9, "skip_backward": 4}


@outside
def test_generators_that_are_loaded_or_averaged_go_the_fused_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their weights learn nothing: of a pipeline and of what evaluates, a GAN's average, pSp's to be trained."""
    from sam_age.models.sam import PSP, SAM
    from sam_age.modules.gan import GANModule
    from sam_age.modules.inversion import InversionModule
    from sam_age.pipeline import AgingPipeline

    monkeypatch.setattr(fused, "interpreted", lambda: True)  # as if on a GPU
    monkeypatch.setattr(fused, "trouble", lambda device: None)
    options = {"size": 8, "style_dim": 8, "n_mlp": 1, "channel_multiplier": 0.01, "channel_max": 8}
    encoder = {"in_channels": 3, "n_styles": 4, "style_dim": 8, "widths": [8] * 4, "depths": [1] * 4, "tower_width": 8}
    sam = SAM.from_config({"encoder": encoder | {"in_channels": 4}, "pretrained_encoder": encoder, "decoder": options})
    gan = GANModule(Generator(**options), Discriminator(8, channel_max=8), torch.optim.Adam)
    psp = InversionModule(PSP.from_config({"encoder": encoder, "decoder": options}), None, torch.optim.Adam)
    for generator in (AgingPipeline(sam).sam.decoder, gan.generator_ema, psp.psp.decoder):
        w_plus = torch.zeros(1, generator.n_latent, 8)
        assert fused.reason_against(generator, w_plus, generator.noise_maps("stored", 1)) is None
    assert fused.reason_against(gan.generator, w_plus, gan.generator.noise_maps("stored", 1)) is not None


@pytest.mark.parametrize("path", sorted((CONF_DIR / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_generator_of_a_config_can_be_told_to_go_the_plain_way(path: Path) -> None:
    """Hydra refuses to set what is not there: `model.generator.fused=false`."""
    parts = yaml.safe_load(path.read_text()).values()
    generators = [part for part in parts if isinstance(part, dict) and part["_target_"].endswith(".Generator")]
    assert [part.get("fused") for part in generators] == ["auto"] * len(generators)
    assert len(generators) == (path.stem != "none")


def test_how_it_is_computed_is_no_part_of_the_networks_description() -> None:
    assert not {"fused", "form"} & set(Generator(8, style_dim=8, channel_max=8, fused=False).config)
