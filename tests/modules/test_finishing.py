"""The last stage: the generator alone learns, from pairs of a code and the portrait it should have given."""

from __future__ import annotations

import copy

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from sam_age.data.datamodule import FacesDataModule
from sam_age.errors import InputError
from sam_age.losses import InversionLosses
from sam_age.models.sam import SAM
from sam_age.modules.finishing import FinishingModule, go_back
from sam_age.modules.stage import take_weights, write_weights
from tests.data.faces import Lives
from tests.modules.test_aging import Colours, tiny_sam


def module(sam: SAM | None = None, **settings) -> FinishingModule:
    losses = InversionLosses(Colours(), Colours(), w_norm=0.0, code=0.0)
    adam = settings.pop("optimizer", lambda p: torch.optim.Adam(p, lr=1e-2))
    return FinishingModule(sam or tiny_sam(), losses, adam, **settings)


def fit(stage: FinishingModule, steps: int = 2, truths: bool = True) -> None:
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    data = FacesDataModule(Lives(6), val=Lives(3), batch_size=2, val_batch_size=3, num_workers=0, truths=truths)
    trainer.fit(stage, datamodule=data)


def state(stage: FinishingModule) -> dict[str, torch.Tensor]:
    return copy.deepcopy(nn.Module.state_dict(stage))


def test_the_generators_layers_move_and_nothing_else() -> None:
    stage = module()
    before = state(stage)
    fit(stage)
    after = state(stage)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    layers = {
        f"sam.decoder.{name}"
        for name, _ in stage.sam.decoder.named_parameters()
        if not name.startswith("style.") and not name.endswith("noise.weight")
    }
    assert moved <= layers
    assert len(moved) > 0.9 * len(layers)


def test_its_gradient_is_that_of_faces_as_they_are_and_at_the_other_age() -> None:
    stage = module(optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    faces, truth = torch.rand(2, 2, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    years = torch.tensor([5.0, 70.0])
    stage.manual_backward = lambda loss: loss.backward()
    torch.manual_seed(4)
    loss, _ = stage.take_gradients(faces, truth, years)
    got = [p.grad.clone() for p in stage.configure_optimizers().param_groups[0]["params"]]

    sam, losses = stage.sam, stage.losses
    stage.zero_grad()
    torch.manual_seed(4)
    w_plus = torch.cat([sam.encode(faces), sam.edit(faces, years).detach()])
    images = sam.decoder.synthesize(w_plus, "random")
    images = torch.nn.functional.interpolate(images, scale_factor=8, mode="nearest")
    wanted = torch.cat([faces, truth])
    similarity = (losses.identity_net(images) * losses.identity_net(wanted)).sum(1).mean()
    features = losses.perceptual_net
    distance = features.distance(features.features(images), features.features(wanted)).mean()
    want = (images - wanted).square().mean() + 0.8 * distance + 0.1 * (1 - similarity)
    want.backward()
    torch.testing.assert_close(loss, want.detach())
    for p, gradient in zip(stage.configure_optimizers().param_groups[0]["params"], got, strict=True):
        torch.testing.assert_close(gradient, p.grad)


def test_it_begins_between_the_generator_and_an_earlier_one() -> None:
    ours, earlier = tiny_sam(), tiny_sam().decoder
    with torch.no_grad():
        for parameter in earlier.parameters():
            parameter.add_(1.0)
    want = {name: p.detach() + 0.25 for name, p in copy.deepcopy(ours.decoder).named_parameters()}
    stage = module(ours, earlier=earlier, back=0.25)
    for name, parameter in stage.sam.decoder.named_parameters():
        torch.testing.assert_close(parameter.detach(), want[name])
    with pytest.raises(InputError, match="0 to 1"):
        go_back(ours.decoder, earlier, 1.5)
    with pytest.raises(InputError, match="another size"):
        go_back(ours.decoder, nn.Linear(2, 2), 0.5)


def test_the_average_is_what_it_makes_and_a_run_can_start_from_its_files(tmp_path) -> None:
    stage = module(ema_decay=0.9)
    fit(stage, steps=3)
    made, learns = stage.networks()["generator_ema"], stage.networks()["generator"]
    assert not torch.equal(made.conv1.conv.weight, learns.conv1.conv.weight)
    write_weights(stage, tmp_path, half=False)
    fresh = module(ema_decay=0.9)
    take_weights(fresh, tmp_path)
    assert torch.equal(fresh.networks()["generator_ema"].conv1.conv.weight, made.conv1.conv.weight)
    assert torch.equal(fresh.networks()["generator"].latent_avg, learns.latent_avg)


def test_without_true_portraits_it_says_what_to_set() -> None:
    with pytest.raises(InputError, match=r"data\.truths=true"):
        fit(module(), truths=False)
