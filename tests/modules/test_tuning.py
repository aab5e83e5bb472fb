"""Generator and encoder learning together: gradients by parts, what moves, and what the next stage takes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from sam_age.errors import InputError
from sam_age.losses import InversionLosses
from sam_age.models.sam import SAM, face_pool
from sam_age.models.stylegan2 import Discriminator, Generator
from sam_age.modules.gan import MAKING, real_loss
from sam_age.modules.tuning import TuningModule
from sam_age.weights import build_sam, load, save
from tests.modules.test_aging import Colours
from tests.modules.test_gan import fit
from tests.modules.test_inversion import tiny_psp
from tests.modules.test_inversion_runs import GENERATOR, INVERSION, SHORT, here, small, start

__all__ = ["here"]  # a fixture


def tiny_tuning(**settings) -> TuningModule:
    psp = settings.pop("psp", None) or tiny_psp()
    torch.manual_seed(1)
    discriminator = Discriminator(32, channel_multiplier=0.0625, channel_max=16)
    losses = settings.pop("losses", None) or InversionLosses(Colours(), Colours())
    optimizer = settings.pop("optimizer", lambda p: torch.optim.Adam(p, lr=2e-3, betas=(0.0, 0.99)))
    return TuningModule(psp, discriminator, optimizer, losses, **settings)


@pytest.fixture
def faces() -> torch.Tensor:
    return torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_a_share_of_the_fakes_is_made_of_the_encoders_codes(faces: torch.Tensor) -> None:
    module = tiny_tuning(share=0.25).eval()
    w_plus = module.codes_beside(faces)
    assert w_plus.shape == (8, module.generator.n_latent, module.generator.style_dim)
    torch.testing.assert_close(w_plus[:2], module.encoder(face_pool(faces[:2])) + module.latent_avg)
    assert not (w_plus[2:] == w_plus[:1]).any()
    assert len(tiny_tuning(share=1.0).codes_beside(faces)) == 8
    for share in (0.0, 1.5, -1.0):
        with pytest.raises(InputError, match="share of the fakes"):
            tiny_tuning(share=share)


def test_generator_and_encoder_descend_the_sum_of_belief_and_unlikeness(faces: torch.Tensor) -> None:
    """The gradient of the parts, taken apart: that of each term alone, weighted and added."""
    module = tiny_tuning(share=1.0, weight=3.0).double().eval()
    faces = faces.double()
    module.make = lambda w_plus, noise: module.generator.synthesize(w_plus)  # the stored noise, each time
    gradients, found = module.deceive(faces)
    parameters = module.side(MAKING)
    w_plus = module.encoder(face_pool(faces)) + module.latent_avg
    images = module.generator.synthesize(w_plus)
    belief = real_loss(module.discriminator(images))
    unlike, _ = module.losses(face_pool(images), w_plus, face_pool(faces), latent_avg=module.latent_avg)
    torch.testing.assert_close(found["generator_loss"], belief.detach())
    torch.testing.assert_close(found["unlikeness"], unlike.detach())
    alone = [torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in (belief, unlike)]
    for gradient, one, other in zip(gradients, *alone, strict=True):
        parts = [part for part in (one, None if other is None else 3.0 * other) if part is not None]
        assert (gradient is None) == (not parts)
        if parts:
            torch.testing.assert_close(gradient, sum(parts), rtol=1e-9, atol=1e-15)


def test_all_three_networks_learn_and_their_averages_follow(faces: torch.Tensor) -> None:
    module = tiny_tuning(r1_every=2, path_every=2)
    before = copy.deepcopy(module.state_dict())
    fit(module, faces, steps=3)
    moved = {
        name.split(".")[0] for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert moved == {"generator", "encoder", "discriminator", "generator_ema", "encoder_ema", "progress"}
    trained, averaged = (dict(net.named_parameters()) for net in (module.encoder, module.encoder_ema))
    first = before["encoder_ema.input_layer.0.weight"]
    way = (trained["input_layer.0.weight"] - first).norm()
    assert 0 < (averaged["input_layer.0.weight"] - first).norm() < way


@pytest.mark.slow
def test_the_generator_learns_what_its_encoder_cannot_find() -> None:
    """Faces of a colour that the generator does not draw: both together come to draw it."""
    target = torch.tensor([0.9, -0.8, 0.1]).view(1, 3, 1, 1).expand(8, 3, 32, 32)
    module = tiny_tuning(losses=InversionLosses(lpips=0, identity=0, w_norm=0), weight=50.0, ema_half_life=50)

    def error() -> float:
        return (module.reconstruct(target)[0].mean((2, 3)) - target[:, :, 0, 0]).abs().mean().item()

    start = error()
    fit(module, target.repeat(30, 1, 1, 1), steps=50)
    assert error() < 0.5 * start


def test_a_run_goes_on_with_both_stages_and_leaves_what_sam_takes(here: Path) -> None:
    discriminator = Discriminator(32, channel_multiplier=0.0625, channel_max=32)
    save(discriminator, "runs/lifespan_gan/weights/discriminator.safetensors")
    start(*INVERSION)
    short = [argument for argument in SHORT if "panels" not in argument]
    start(
        "+experiment=lifespan_tuning", *short, *small("encoder"), "+data.image_size=32", "callbacks.panels.faces=2",
        "callbacks.samples.faces=2", "callbacks.samples.cell=16", "module.features=null",
    )  # fmt: skip
    run = here / "runs/lifespan_tuning"
    names = {"generator_ema", "generator", "discriminator", "progress", "psp", "encoder"}
    assert {path.stem for path in (run / "weights").iterdir()} == names
    assert (run / "panels/step_0000002.png").is_file()
    assert (run / "samples/step_0000002.png").is_file()
    old, new = (load(f"runs/{name}/weights/generator_ema.safetensors") for name in ("lifespan_gan", "lifespan_tuning"))
    torch.testing.assert_close(new.latent_avg, old.latent_avg)
    assert not torch.equal(new.conv1.conv.weight, old.conv1.conv.weight)
    psp = load(run / "weights/psp.safetensors")
    sam = build_sam(
        type(psp)(**{**psp.config, "in_channels": 4}), type(psp)(**psp.config), Generator(**GENERATOR),
        trunk="random", psp=run / "weights/psp.safetensors", stylegan2=run / "weights/generator_ema.safetensors",
    )  # fmt: skip
    assert isinstance(sam, SAM)
    torch.testing.assert_close(sam.latent_avg[0], old.latent_avg)
    start(
        "+experiment=lifespan_tuning", *short, *small("encoder"), "+data.image_size=32", "callbacks.panels.faces=2",
        "callbacks.samples.faces=2", "callbacks.samples.cell=16", "module.features=null", "output=further",
        "start=runs/lifespan_tuning/weights", "trainer.max_steps=1", "optimizer.lr=0.0",
    )  # fmt: skip
    again = load("further/weights/psp.safetensors").state_dict()
    for name, tensor in psp.state_dict().items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(again[name], tensor, rtol=1e-3, atol=1e-3)
