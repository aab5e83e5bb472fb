"""StyleGAN2's training stage: its losses against arithmetic by hand, what moves when, and runs that go on."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from sam_age.cli.train import train
from sam_age.config import CONF_DIR, build
from sam_age.data.ada import AdaptiveAugment
from sam_age.errors import InputError
from sam_age.models.encoder import GradualStyleEncoder
from sam_age.models.stylegan2 import Discriminator, Generator
from sam_age.modules.gan import GANModule, fake_loss, lazily, path_lengths, r1_penalty, real_loss
from sam_age.weights import build_sam, load

SMALL = {"channel_multiplier": 0.0625, "channel_max": 8}


def tiny_gan(**settings) -> GANModule:
    torch.manual_seed(0)
    generator = Generator(16, style_dim=8, n_mlp=2, **SMALL)
    optimizer = settings.pop("optimizer", lambda p: torch.optim.Adam(p, lr=2e-3, betas=(0.0, 0.99)))
    return GANModule(generator, Discriminator(16, **SMALL), optimizer, **settings)


@pytest.fixture
def faces() -> torch.Tensor:
    return torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def fit(
    module: GANModule, faces: torch.Tensor, steps: int, batch: int = 4, accelerator: str = "cpu", **kwargs
) -> pl.Trainer:
    rows = [{"faces": face, "index": torch.tensor(i)} for i, face in enumerate(faces)]
    trainer = pl.Trainer(
        accelerator=accelerator, devices=1, max_steps=steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, **kwargs,
    )  # fmt: skip
    trainer.fit(module, DataLoader(rows, batch_size=batch))
    return trainer


# ---- losses --------------------------------------------------------------------------------------------


def test_losses_are_the_logistic_ones_and_each_network_wants_the_other_sign() -> None:
    scores = torch.tensor([-3.0, 0.5], dtype=torch.float64, requires_grad=True)
    by_hand = [math.log(1 + math.exp(3.0)), math.log(1 + math.exp(-0.5))]
    assert real_loss(scores).item() == pytest.approx(sum(by_hand) / 2)
    assert fake_loss(-scores).item() == pytest.approx(sum(by_hand) / 2)
    (up,) = torch.autograd.grad(real_loss(scores), scores)
    (down,) = torch.autograd.grad(fake_loss(scores), scores)
    assert (up < 0).all()  # descending real_loss raises scores
    assert (down > 0).all()


def test_r1_is_the_squared_length_of_finite_differences() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Softplus(), nn.Linear(5, 1)).double()
    faces = torch.randn(3, 3, 2, 2, dtype=torch.float64)
    penalty = r1_penalty(network, faces)
    total, step = 0.0, 1e-6
    for face in faces:
        for place in range(12):
            nudge = torch.zeros(12, dtype=torch.float64)
            nudge[place] = step
            nudge = nudge.view(3, 2, 2)
            slope = (network((face + nudge)[None]) - network((face - nudge)[None])).item() / (2 * step)
            total += slope**2
    assert penalty.item() == pytest.approx(total / 3, rel=1e-7)
    weight = network[1].weight
    (gradient,) = torch.autograd.grad(penalty, weight)
    weight.data[2, 3] += step
    more = r1_penalty(network, faces).item()
    weight.data[2, 3] -= 2 * step
    less = r1_penalty(network, faces).item()
    assert gradient[2, 3].item() == pytest.approx((more - less) / (2 * step), rel=1e-5)


def test_path_lengths_of_a_linear_map_are_those_of_its_transpose() -> None:
    """image = A w for each of two layers: J^T y is A^T y, and the mean over layers leaves its length."""
    torch.manual_seed(0)
    matrix = torch.randn(3 * 4 * 4, 8, dtype=torch.float64)
    w_plus = torch.randn(5, 2, 8, dtype=torch.float64, requires_grad=True)
    images = (w_plus.sum(1) @ matrix.T).view(5, 3, 4, 4)
    directions = torch.randn_like(images)
    want = (directions.flatten(1) @ matrix).norm(dim=1) / 4
    torch.testing.assert_close(path_lengths(images, w_plus, directions), want)
    orthogonal = torch.linalg.qr(matrix)[0]
    images = (w_plus.sum(1) @ orthogonal.T).view(5, 3, 4, 4)
    inside = (torch.nn.functional.normalize(torch.randn(5, 8, dtype=torch.float64)) @ orthogonal.T).view(5, 3, 4, 4)
    ones = path_lengths(images, w_plus, 4 * inside)
    torch.testing.assert_close(ones, torch.ones(5, dtype=torch.float64))  # a rotation keeps lengths


def test_path_lengths_of_the_generator_have_gradients_in_it() -> None:
    generator = tiny_gan().generator.double()
    w_plus = generator.mapping(torch.randn(2, 8, dtype=torch.float64))[:, None].expand(-1, generator.n_latent, -1)
    images = generator.synthesize(w_plus)
    lengths = path_lengths(images, w_plus, torch.randn_like(images))
    gradients = torch.autograd.grad(lengths.mean(), [generator.style[1].weight, generator.convs[0].conv.weight])
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_lazy_regularisation_corrects_the_optimizer_as_published() -> None:
    network = nn.Linear(1, 1)
    group = lazily(torch.optim.Adam(network.parameters(), lr=0.002, betas=(0.0, 0.99)), 16).param_groups[0]
    assert group["lr"] == pytest.approx(0.002 * 16 / 17)
    assert group["betas"] == (0.0, pytest.approx(0.99 ** (16 / 17)))
    untouched = lazily(torch.optim.Adam(network.parameters(), lr=0.002), None).param_groups[0]
    assert untouched["lr"] == 0.002


# ---- a step --------------------------------------------------------------------------------------------


class Watched(GANModule):
    """Notes which networks each descent changes."""

    def descend(self, gradients, network, *, counts=False) -> None:
        parts = {"generator": self.generator, "discriminator": self.discriminator, "average": self.generator_ema}
        before = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
        super().descend(gradients, network, counts=counts)
        moved = {
            name for name, part in parts.items()
            if any(not torch.equal(tensor, before[name][key]) for key, tensor in part.state_dict().items())
        }  # fmt: skip
        self.moves.append((moved, counts))
        assert all(p.grad is None for part in parts.values() for p in part.parameters())


def test_each_descent_moves_its_own_network_and_one_of_them_counts(faces: torch.Tensor) -> None:
    module = tiny_gan(r1_every=2, path_every=3)
    module.__class__ = Watched
    module.moves = []
    trainer = fit(module, faces, steps=4)
    d, g, path = ({"discriminator"}, False), ({"generator"}, True), ({"generator"}, False)
    assert module.moves == [d, d, g, path, d, g, d, d, g, d, g, path]
    assert trainer.global_step == 4
    assert module.progress.images == module.images == 16
    assert trainer.fit_loop.epoch_loop.batch_progress.total.processed == 4


def test_the_average_halves_its_distance_in_a_half_life() -> None:
    module = tiny_gan(ema_half_life=1000, ema_ramp=None)
    start = module.generator_ema.conv1.conv.weight.clone()
    with torch.no_grad():
        module.generator.conv1.conv.weight += 1.0
    for _ in range(10):
        module.update_average(100)
    torch.testing.assert_close(module.generator_ema.conv1.conv.weight, start + 0.5)


def test_the_average_follows_closely_in_the_beginning() -> None:
    """After n images the half-life is a tenth of n: a step of all n so far leaves 2^-10 of the distance."""
    module = tiny_gan(ema_half_life=1e9, ema_ramp=0.1)
    start = module.generator_ema.conv1.conv.weight.clone()
    with torch.no_grad():
        module.generator.conv1.conv.weight += 1.0
    module.update_average(100)
    torch.testing.assert_close(module.generator_ema.conv1.conv.weight, start + 1 - 2**-10)


def test_codes_mix_two_styles_at_one_layer_as_often_as_asked() -> None:
    torch.manual_seed(0)
    module = tiny_gan(mixing=0.75)
    w_plus = module.codes(4000)
    changes = (w_plus[:, 1:] != w_plus[:, :-1]).any(2)
    assert changes.sum(1).max() == 1
    assert abs(changes.any(1).float().mean() - 0.75) < 0.03
    assert changes.any(0).all()  # anywhere


def test_styles_go_back_in_float32_under_autocast(faces: torch.Tensor) -> None:
    """What the mapping network's products are given is float32, both ways."""
    module = tiny_gan()
    products: list[torch.dtype] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
                products.append(args[-1].dtype)
            return function(*args, **(kwargs or {}))

    with torch.autocast("cpu", torch.bfloat16), Watch():
        module.take_part(faces, name="deceive")
    assert len(products) > 40
    assert set(products) == {torch.float32}


def test_without_pixel_noise_no_layer_shows_any_whatever_it_began_with(faces: torch.Tensor) -> None:
    module, usual = tiny_gan(pixel_noise=False), tiny_gan()
    for network in (module.generator, module.generator_ema):  # as weights to start from may have
        torch.nn.init.ones_(network.conv1.noise.weight)
    for other in (module, usual):
        fit(other, faces, steps=4)
    w_plus = torch.randn(2, module.generator.n_latent, 8)
    for network in (module.generator, module.generator_ema):
        assert torch.equal(network.synthesize(w_plus, "random"), network.synthesize(w_plus, "stored"))
    assert not torch.equal(usual.generator.synthesize(w_plus, "random"), usual.generator.synthesize(w_plus, "stored"))


def test_bfloat16_training_stays_close_to_float32(faces: torch.Tensor) -> None:
    full, half = tiny_gan(), tiny_gan()
    fit(full, faces, steps=3)
    fit(half, faces, steps=3, precision="bf16-mixed")
    torch.testing.assert_close(half.last_loss, full.last_loss, rtol=3e-2, atol=0)
    torch.testing.assert_close(half.lazy["r1"], full.lazy["r1"], rtol=5e-2, atol=0)
    assert half.lazy["path_length"].dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_order_of_channels_in_memory_changes_nothing_but_rounding(faces: torch.Tensor) -> None:
    plain, last = tiny_gan(), tiny_gan(channels_last=True)
    fit(plain, faces, steps=2, accelerator="gpu")
    fit(last, faces, steps=2, accelerator="gpu")
    _, features = last.generator.synthesize(last.codes(2), return_features=True)
    assert features.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last.last_loss.cpu(), plain.last_loss.cpu(), rtol=1e-3, atol=0)


def test_on_a_cpu_channels_stay_where_they_were(faces: torch.Tensor) -> None:
    module = tiny_gan(channels_last=True)
    fit(module, faces, steps=1)
    assert module.generator.input.input.is_contiguous()


@pytest.mark.slow
def test_compiled_passes_give_the_same_scores_gradients_and_state(faces: torch.Tensor) -> None:
    """Only what is drawn differs: compiled noise comes from another stream; here nothing of it is added."""
    plain, compiled = tiny_gan(), tiny_gan(compiled=True)
    fit(compiled, faces, steps=2)
    assert torch.isfinite(compiled.last_loss)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    twin = tiny_gan()
    twin.load_state_dict(compiled.state_dict())
    for module in (compiled, twin):
        for name, parameter in module.generator.named_parameters():
            if name.endswith("noise.weight"):
                nn.init.zeros_(parameter)
    codes = plain.codes(4).detach()
    losses = [real_loss(module.score(module.make(codes, noise="random"))) for module in (compiled, twin)]
    torch.testing.assert_close(losses[0], losses[1])
    ours, theirs = (
        torch.autograd.grad(loss, [layer.conv.weight for layer in module.generator.convs])
        for loss, module in zip(losses, (compiled, twin), strict=True)
    )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)


def test_half_precision_is_refused() -> None:
    module = tiny_gan()
    module._trainer = SimpleNamespace(precision="16-mixed")  # on a CPU Lightning would make it bf16-mixed
    with pytest.raises(InputError, match="bf16-mixed"):
        module.on_fit_start()


def test_it_learns_the_colour_of_its_faces() -> None:
    """All faces are one colour: the averaged generator comes to make it."""
    colour = torch.tensor([0.5, -0.25, 0.0]).view(3, 1, 1)
    faces = colour.expand(32, 3, 16, 16) + 0.02 * torch.randn(32, 3, 16, 16)
    module = tiny_gan(ema_half_life=100, path_weight=0.0, r1_gamma=0.5)

    def error() -> float:
        images = module.sample(torch.randn(16, 8, generator=torch.Generator().manual_seed(5)), truncation=1.0)
        return (images.mean((0, 2, 3)) - colour.flatten()).abs().max().item()

    before = error()
    fit(module, faces.repeat(20, 1, 1, 1), steps=70, batch=8)
    assert error() < 0.5 * before


# ---- validation ----------------------------------------------------------------------------------------


class Means(nn.Module):
    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        return faces.mean((2, 3))


def test_validation_compares_the_average_with_held_out_faces_and_repeats_exactly(faces: torch.Tensor) -> None:
    rows = [{"faces": face, "index": torch.tensor(i)} for i, face in enumerate(faces)]
    module = tiny_gan(features=Means())
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    first = trainer.validate(module, DataLoader(rows, batch_size=8), verbose=False)[0]
    second = trainer.validate(module, DataLoader(rows, batch_size=5), verbose=False)[0]  # batches do not matter
    assert first["val/kid"] == pytest.approx(second["val/kid"], rel=1e-4)
    nn.init.constant_(module.generator_ema.to_rgb1.bias, 3.0)  # white faces
    worse = trainer.validate(module, DataLoader(rows, batch_size=8), verbose=False)[0]
    assert worse["val/kid"] > 2 * abs(first["val/kid"])


# ---- runs ----------------------------------------------------------------------------------------------

RUN = [
    "+experiment=lifespan_gan", "data=drawn", "data.batch_size=2", "+data.image_size=16", "data.val.count=4",
    "model.generator.size=16", "model.generator.style_dim=8", "model.generator.n_mlp=2",
    "model.generator.channel_max=8", "data.num_workers=0", "trainer.accelerator=cpu",
    "trainer.precision=32-true", "trainer.max_steps=6",
    "trainer.val_check_interval=3", "trainer.log_every_n_steps=1", "callbacks.checkpoint.every_n_train_steps=3",
    "callbacks.progress.refresh_rate=0", "callbacks.samples.faces=2", "callbacks.samples.cell=16", "module=gan_ada",
    "module.augment.start=0.3",
]  # fmt: skip


def start(*overrides: str) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", overrides=[*RUN, *overrides])
    train(cfg)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def checkpoint(path: Path) -> dict:
    return torch.load(path / "checkpoints/last.ckpt", weights_only=True)


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(here: Path) -> None:
    start("output=whole")
    start("output=parts", "trainer.max_steps=3")
    start("output=parts", "resume=last")
    whole, parts = checkpoint(here / "whole"), checkpoint(here / "parts")
    assert whole["global_step"] == parts["global_step"] == 6
    assert whole["FacesDataModule"] == parts["FacesDataModule"] == {"position": 12, "length": 64, "seed": 0}
    assert whole["state_dict"].keys() == parts["state_dict"].keys()
    assert {name.split(".")[0] for name in whole["state_dict"]} == {
        "generator", "discriminator", "generator_ema", "progress", "augment",
    }  # fmt: skip
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(tensor, parts["state_dict"][name]), name
    for a, b in zip(whole["optimizer_states"], parts["optimizer_states"], strict=True):
        for number, state in a["state"].items():
            assert all(torch.equal(tensor, b["state"][number][key]) for key, tensor in state.items())


def test_what_a_run_writes_is_what_the_next_stages_and_runs_take(here: Path) -> None:
    start("output=one")
    assert sorted(path.name for path in (here / "one/panels").iterdir()) == ["step_0000003.png", "step_0000006.png"]
    names = {path.stem for path in (here / "one/weights").iterdir()}
    assert names == {"generator_ema", "generator", "discriminator", "progress", "augment"}
    saved = checkpoint(here / "one")
    exact = load(here / "one/checkpoints/last.ckpt")  # what `sam-weights convert` reads
    for name, tensor in exact.state_dict().items():
        assert torch.equal(tensor, saved["state_dict"][f"generator_ema.{name}"])
    travelled = load(here / "one/weights/generator_ema.safetensors")
    codes = exact.mean_latent(200_000, torch.Generator().manual_seed(9))[0]
    torch.testing.assert_close(travelled.latent_avg, codes, rtol=0, atol=0.02)
    torch.testing.assert_close(exact.latent_avg, travelled.latent_avg)

    towers = {"n_styles": 6, "style_dim": 8, "widths": (8, 8, 16, 16), "depths": (1, 1, 2, 1), "tower_width": 8}
    sam = build_sam(
        GradualStyleEncoder(4, **towers), GradualStyleEncoder(3, **towers), Generator(**exact.config),
        trunk="random", psp="random", stylegan2=here / "one/weights/generator_ema.safetensors",
    )  # fmt: skip
    torch.testing.assert_close(sam.latent_avg[0], travelled.latent_avg)

    start("output=two", "start=one/weights", "trainer.max_steps=1", "optimizer.lr=0.0", "module.path_every=100")
    went_on = checkpoint(here / "two")
    assert went_on["state_dict"]["progress.images"] == 12 + 2
    for name in ("generator.conv1.conv.weight", "discriminator.final_conv.0.weight"):
        torch.testing.assert_close(went_on["state_dict"][name], saved["state_dict"][name], rtol=1e-3, atol=1e-3)


def test_weights_of_another_size_or_stage_are_refused(here: Path) -> None:
    start("output=one", "trainer.max_steps=1")
    with pytest.raises(InputError, match=r"trained with model\.generator\.style_dim=8"):
        start("output=two", "resume=one/checkpoints/last.ckpt", "model.generator.style_dim=16")
    with pytest.raises(InputError, match=r"start=nowhere lacks generator_ema\.safetensors"):
        start("output=two", "start=nowhere")
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        smoke = compose("train", overrides=["+experiment=smoke", "resume=one/checkpoints/last.ckpt"])
    with pytest.raises(InputError, match="of another stage, which trained generator, discriminator"):
        train(smoke)
    assert sorted(path.name for path in here.iterdir()) == ["one"]


@pytest.mark.parametrize(
    ("experiment", "size", "millions", "faces"),
    [("lifespan_gan_64", 64, 5.6, 32), ("lifespan_gan", 256, 5.8, 16), ("ffhq_gan", 1024, 30.4, 4)],
)
def test_the_experiments_are_stylegan2s_recipe_at_their_sizes(
    experiment: str, size: int, millions: float, faces: int
) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", overrides=[f"+experiment={experiment}"])
    with torch.device("meta"):
        generator = Generator(**{k: v for k, v in cfg.module.generator.items() if k != "_target_"})
    assert generator.size == cfg.data.image_size == size
    assert sum(p.numel() for p in generator.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
    module = cfg.module
    assert (module.r1_every, module.path_weight, module.mixing) == (16, 2, 0.9)
    assert (cfg.optimizer.lr, list(cfg.optimizer.betas)) == (0.002, [0.0, 0.99])
    assert (cfg.data.batch_size, cfg.data.flip) == (faces, 0.5)
    assert isinstance(build(cfg.optimizer)([nn.Parameter(torch.zeros(1))]), torch.optim.Adam)


def test_augmentation_is_there_when_asked_for() -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        plain = compose("train", overrides=["+experiment=lifespan_gan"])
        ada = compose("train", overrides=["+experiment=lifespan_gan", "module=gan_ada"])
    assert plain.module.augment is None
    assert isinstance(build(ada.module.augment), AdaptiveAugment)
