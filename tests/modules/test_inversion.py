"""pSp's training stage: its loss by hand, what moves and what does not, and codes that are known."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from sam_age.callbacks.panels import InversionPanels
from sam_age.errors import InputError
from sam_age.losses import InversionLosses
from sam_age.models.encoder import GradualStyleEncoder
from sam_age.models.sam import PSP
from sam_age.models.stylegan2 import Generator, NoiseInjection
from sam_age.modules.inversion import InversionModule
from tests.modules.test_aging import Colours, fit, loader, ranger, tiny_module

STYLES, DIM = 8, 16
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def tiny_psp() -> PSP:
    torch.manual_seed(0)
    decoder = Generator(32, style_dim=DIM, n_mlp=2, channel_multiplier=0.0625, channel_max=16)
    for layer in (decoder.conv1, *decoder.convs):
        nn.init.constant_(layer.noise.weight, 0.3)
    encoder = GradualStyleEncoder(3, STYLES, DIM, widths=(8, 8, 16, 16), depths=(1, 1, 2, 1), tower_width=8)
    return PSP(encoder, decoder, decoder.mean_latent(1000, torch.Generator().manual_seed(0))[0])


def tiny_inversion(**settings) -> InversionModule:
    losses = settings.pop("losses", None) or InversionLosses(Colours(), Colours())
    kind = settings.pop("kind", InversionModule)
    return kind(settings.pop("psp", None) or tiny_psp(), losses, settings.pop("optimizer", ranger), **settings)


@pytest.fixture
def faces() -> torch.Tensor:
    return torch.rand(8, 3, 256, 256, generator=torch.Generator().manual_seed(1)) * 2 - 1


# ---- the loss ------------------------------------------------------------------------------------------


def test_the_loss_is_the_sum_computed_by_hand_in_float64(faces: torch.Tensor) -> None:
    torch.manual_seed(3)
    images, codes = torch.randn(4, 3, 256, 256).double(), torch.randn(4, STYLES, DIM).double()
    known, average = torch.randn(1, STYLES, DIM).double(), torch.randn(STYLES, DIM).double()
    weights = {"l2": 0.7, "l2_crop": 0.4, "lpips": 0.8, "lpips_crop": 0.3, "identity": 0.2, "w_norm": 0.05, "code": 1.5}
    losses = InversionLosses(Colours().double(), Colours().double(), **weights)
    loss, terms = losses(images, codes, faces[:4].double(), latent_avg=average, codes=known)

    made, true = images.numpy(), faces[:4].double().numpy()

    def crop(x: np.ndarray) -> np.ndarray:
        return x[:, :, 35:223, 32:220]

    def blocks(x: np.ndarray) -> np.ndarray:  # what `Colours` compares
        side = x.shape[2] // 8 * 8
        x = x[:, :, :side, :side]
        return x.reshape(4, 3, side // 8, 8, side // 8, 8).mean((3, 5))

    def direction(x: np.ndarray) -> np.ndarray:  # and its embedding, at its first batch statistics
        x = x.mean((2, 3)) / np.sqrt(1 + 1e-5) + 0.1
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    by_hand = {
        "l2": ((made - true) ** 2).mean(),
        "l2_crop": ((crop(made) - crop(true)) ** 2).mean(),
        "lpips": ((blocks(made) - blocks(true)) ** 2).mean(),
        "lpips_crop": ((blocks(crop(made)) - blocks(crop(true))) ** 2).mean(),
        "identity": (1 - (direction(made) * direction(true)).sum(1)).mean(),
        "w_norm": np.sqrt(((codes - average).numpy() ** 2).sum((1, 2))).mean(),
        "code": ((codes[3] - known[0]).numpy() ** 2).mean(),
    }
    for name, value in by_hand.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-10), name
    assert terms["identity_similarity"].item() == pytest.approx(1 - by_hand["identity"], rel=1e-10)
    total = sum(weights[name] * value for name, value in by_hand.items())
    assert loss.item() == pytest.approx(total, rel=1e-10)


def test_its_defaults_are_the_published_run() -> None:
    weights = InversionLosses(Colours(), Colours()).weights
    assert (weights["l2"], weights["lpips"], weights["identity"], weights["w_norm"]) == (1.0, 0.8, 0.1, 0.005)
    assert weights["l2_crop"] == weights["lpips_crop"] == 0


def test_terms_without_weight_need_no_network_and_are_not_reported(faces: torch.Tensor) -> None:
    losses = InversionLosses(lpips=0, identity=0, w_norm=0)
    average = torch.zeros(STYLES, DIM)
    loss, terms = losses(faces * 0.5, torch.zeros(8, STYLES, DIM), faces, latent_avg=average)
    assert set(terms) == {"l2", "loss"}
    assert loss.item() == pytest.approx(0.25 * faces.square().mean().item(), rel=1e-5)
    for settings, why in (
        ({"lpips": 0}, "no identity_net"),
        ({"identity": 0}, "no perceptual_net"),
        ({"lpips": 0, "identity": 0, "l2": -1.0}, "negative: l2"),
        ({"lpips": 0, "identity": 0, "l2": 0, "w_norm": 0}, "nothing to learn from"),
    ):
        with pytest.raises(ValueError, match=why):
            InversionLosses(**settings)


# ---- the step ------------------------------------------------------------------------------------------


def test_only_the_encoder_moves(faces: torch.Tensor) -> None:
    module = tiny_inversion(optimizer=lambda p: ranger(p, lr=1e-2), sampled_share=0.5, identity_judge=Colours())
    before = copy.deepcopy(dict(nn.Module.state_dict(module)))
    fit(module, faces, steps=3)
    after = nn.Module.state_dict(module)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    # a squeeze layer with one hidden unit may be dead in so small a network: its gates then rest
    names = {n for n, _ in module.psp.encoder.named_parameters() if ".fc" not in n}
    assert {f"psp.encoder.{name}" for name in names} <= moved
    assert all(name.startswith("psp.encoder.") for name in moved)


def test_gradients_reach_the_encoder_alone(faces: torch.Tensor) -> None:
    module = tiny_inversion(optimizer=lambda p: torch.optim.SGD(p, lr=0.0), sampled_share=0.5, ema_decay=0.9)
    fit(module, faces[:2], steps=1)
    learning = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert learning == {f"psp.encoder.{name}" for name, _ in module.psp.encoder.named_parameters()}


def test_a_steps_draws_depend_on_seed_and_step_alone(faces: torch.Tensor) -> None:
    module = tiny_inversion(optimizer=lambda p: torch.optim.SGD(p, lr=0.0), sampled_share=0.5, seed=5)
    fit(module, faces[:4], steps=1, batch=4)
    logged, got = module.last_loss, [p.grad.clone() for p in module.psp.encoder.parameters()]

    torch.randn(7)  # whatever else is drawn in between
    drawn = []
    keep = module.with_samples
    module.with_samples = lambda batch: drawn.append(keep(batch)) or drawn[-1]
    fit(module, faces[:4], steps=1, batch=4)
    ((mixed, codes),) = drawn
    assert torch.equal(mixed[:2], faces[:2])
    assert not torch.equal(mixed[2:], faces[2:4])
    assert codes.shape == (2, STYLES, DIM)
    assert torch.equal(module.last_loss, logged)
    for parameter, gradient in zip(module.psp.encoder.parameters(), got, strict=True):
        assert torch.equal(parameter.grad, gradient)


class Knows(nn.Module):
    """A perfect encoder of faces whose codes it was shown."""

    def __init__(self, faces: torch.Tensor, codes: torch.Tensor) -> None:
        super().__init__()
        self.faces, self.codes = faces, codes

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        nearest = torch.cdist(faces.flatten(1), self.faces.flatten(1)).argmin(1)
        return self.codes[nearest]


def test_a_perfect_encoder_of_sampled_faces_has_no_loss_of_codes(faces: torch.Tensor) -> None:
    psp = tiny_psp()
    for layer in (psp.decoder.conv1, *psp.decoder.convs):
        nn.init.zeros_(layer.noise.weight)  # so that nothing but the code makes the picture
    module = tiny_inversion(psp=psp, sampled_share=0.5)
    mixed, codes = module.with_samples(faces)
    assert torch.equal(mixed[:4], faces[:4])
    assert mixed.abs().max() <= 1
    psp.encoder = Knows(mixed[4:], codes - psp.latent_avg)
    made, w_plus = module.reconstruct(mixed)
    _, terms = module.losses(made, w_plus, mixed, latent_avg=psp.latent_avg, codes=codes)
    assert terms["code"].item() < 1e-12
    torch.testing.assert_close(made[4:].clamp(-1, 1), mixed[4:], atol=1e-5, rtol=0)
    _, wrong = module.losses(made, w_plus, mixed, latent_avg=psp.latent_avg, codes=codes.flip(0))
    assert wrong["code"].item() > 1e-3


def test_samples_of_truncation_nought_are_the_average_face(faces: torch.Tensor) -> None:
    module = tiny_inversion(sampled_share=1.0, truncation=0.0)
    _, codes = module.with_samples(faces)
    torch.testing.assert_close(codes, module.psp.latent_avg.expand(8, -1, -1))


def test_the_averaged_encoder_follows_its_definition_and_is_what_is_exported(faces: torch.Tensor) -> None:
    module = tiny_inversion(ema_decay=0.25, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    want, path = module.psp.encoder.latlayer1.weight.detach().clone(), []

    class Watch(pl.Callback):
        def on_train_batch_end(self, *_) -> None:
            path.append(module.psp.encoder.latlayer1.weight.detach().clone())

    fit(module, faces, steps=3, callbacks=[Watch()])
    assert len(path) == 3
    for step, weight in enumerate(path, 1):
        decay = min(0.25, (1 + step) / (10 + step))  # 2/11, then 1/4
        want = decay * want + (1 - decay) * weight
    torch.testing.assert_close(module.networks()["psp"].latlayer1.weight, want)
    assert module.networks()["encoder"] is module.psp.encoder
    assert list(tiny_inversion().networks()) == ["psp"]


def test_the_learning_rate_is_scheduled_where_asked_and_untouched_elsewhere(faces: torch.Tensor) -> None:
    rates = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_) -> None:
            rates.append(dict(trainer.optimizers[0].param_groups[0]))

    for make in (tiny_inversion, tiny_module):
        sgd = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.5)}
        fit(make(**sgd, warmup_steps=1, cosine=True), faces[:6], 3, callbacks=[Watch()])
        assert [group["lr"] for group in rates] == pytest.approx([0.25, 0.5, 0.25])
        rates.clear()
        fit(make(**sgd), faces[:2], 1, callbacks=[Watch()])
        assert rates[0]["lr"] == 0.5
        assert "initial_lr" not in rates[0]  # as checkpoints of earlier runs have it
        rates.clear()


def test_validation_reports_likeness_of_the_averaged_encoders_pictures_and_repeats(faces: torch.Tensor) -> None:
    module = tiny_inversion(ema_decay=0.9, identity_judge=Colours())
    for parameter in module.psp.encoder.parameters():
        nn.init.normal_(parameter)  # which must not matter
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    first = trainer.validate(module, loader(faces, 4), verbose=False)[0]
    assert trainer.validate(module, loader(faces, 4), verbose=False)[0] == first
    module.eval()
    with torch.no_grad():
        w_plus = module.ema_encoder(faces) + module.psp.latent_avg
        images = module.psp.decoder.synthesize(w_plus).repeat_interleave(8, 2).repeat_interleave(8, 3)
    error = (images - faces).double().square().mean((1, 2, 3))
    assert first["val/l2"] == pytest.approx(error.mean().item(), rel=1e-5)
    clipped = (images.clamp(-1, 1) - faces).double().square().mean((1, 2, 3))
    assert first["val/psnr"] == pytest.approx((10 * torch.log10(4 / clipped)).mean().item(), rel=1e-5)
    assert -1 <= first["val/ssim"] <= 1
    assert first["val/judged_identity_similarity"] == pytest.approx(first["val/identity_similarity"], abs=1e-6)


def test_panels_show_pairs(faces: torch.Tensor, tmp_path) -> None:
    panels = InversionPanels(str(tmp_path), faces=5, pairs=3)
    image = panels.draw(tiny_inversion(), faces[:5])
    columns, rows = image.size[0] // 256, image.size[1] // 256
    assert (columns, rows) == (6, 2)


@pytest.mark.parametrize("make", [tiny_inversion, tiny_module])
@pytest.mark.parametrize(
    ("faster", "accelerator"),
    [
        pytest.param("compiled", "cpu", marks=pytest.mark.slow),
        pytest.param("channels_last", "gpu", marks=[pytest.mark.gpu, needs_gpu]),
        pytest.param("compiled", "gpu", marks=[pytest.mark.gpu, needs_gpu]),
    ],
)
def test_what_is_faster_gives_the_same_loss_and_gradients(
    make, faster: str, accelerator: str, faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without noise, which is drawn from another stream when compiled; and without TF32, whose rounding moves these
    gradients by a hundredth whatever computes them."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    stages = []
    for asked in (False, True):
        module = make(**{faster: asked}, ema_decay=0.9, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
        for layer in module.modules():
            if isinstance(layer, NoiseInjection):
                nn.init.zeros_(layer.weight)
        trainer = pl.Trainer(
            accelerator=accelerator, devices=1, max_steps=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, loader(faces[:2], 2))
        stages.append(module.cpu())
    plain, other = stages
    torch.testing.assert_close(other.last_loss.cpu(), plain.last_loss.cpu(), rtol=1e-3, atol=0)
    assert other.state_dict().keys() == plain.state_dict().keys()
    gradients = [(a.grad, b.grad) for a, b in zip(plain.parameters(), other.parameters(), strict=True)]
    gradients = [(want, got) for want, got in gradients if want is not None]
    assert gradients
    whole = torch.stack([want.norm() for want, _ in gradients]).norm()
    assert torch.stack([(got - want).norm() for want, got in gradients]).norm() < 1e-2 * whole


def test_a_share_beyond_the_batch_is_refused() -> None:
    with pytest.raises(InputError, match=r"0 to 1, not 1\.5"):
        tiny_inversion(sampled_share=1.5)
