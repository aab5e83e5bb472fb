"""The training step: against the authors' own, and what must not change or move."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_optimizer import Ranger
from torch import nn
from torch.utils.data import DataLoader

from sam_age.data.datamodule import FacesDataModule
from sam_age.data.drawn import DrawnFaces
from sam_age.errors import InputError
from sam_age.evaluation.baselines import LatentBaselines, fit_on_faces
from sam_age.losses import AgingLosses
from sam_age.models.encoder import GradualStyleEncoder
from sam_age.models.sam import SAM
from sam_age.models.stylegan2 import Generator
from sam_age.modules.aging import AgingModule, validation_ages
from tests.data.faces import Lives
from tests.golden import Golden, assert_matches
from tests.reference import official_terms, reference_losses, reference_sam


def ranger(parameters, lr: float = 1e-4) -> Ranger:
    return Ranger(parameters, lr=lr, betas=(0.95, 0.999), eps=1e-5, n_sma_threshold=5, degenerated_to_sgd=True)


def loader(faces: torch.Tensor, batch: int) -> DataLoader:
    rows = [{"faces": face, "index": torch.tensor(i)} for i, face in enumerate(faces)]
    return DataLoader(rows, batch_size=batch)


def fit(
    module: AgingModule, faces: torch.Tensor, steps: int, batch: int = 2, accelerator: str = "cpu", **kwargs
) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator=accelerator, devices=1, max_steps=steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, **kwargs,
    )  # fmt: skip
    trainer.fit(module, loader(faces, batch))
    return trainer


class AsTheAuthors(AgingModule):
    """The golden step: given ages, and the inversion encoder in training mode, as the authors have it."""

    targets: torch.Tensor

    def draw(self, batch: int):
        return True, self.targets

    def on_train_batch_start(self, batch, batch_idx) -> None:
        self.sam.pretrained_encoder.train()

    def log_dict(self, dictionary, *args, **kwargs) -> None:
        self.logged = dictionary


@pytest.mark.slow
@pytest.mark.authors
def test_one_step_matches_the_authors_losses_gradients_weights_and_statistics() -> None:
    case = Golden()["train_step"]
    sam = reference_sam()
    for name, parameter in sam.decoder.named_parameters():
        if name.endswith("noise.weight"):
            nn.init.zeros_(parameter)
    sam.decoder.requires_grad_(True)  # the golden norms hold its gradients too
    module = AsTheAuthors(sam, reference_losses(), lambda p: ranger(p, lr=1.0))
    module.targets = torch.tensor([float(age) for age in case.params["target_ages"]])
    fit(module, case.tensors()["x"], steps=1)

    logged = module.logged
    terms = {n.removeprefix("train/"): v for n, v in logged.items() if "cycle" not in n}
    cycle = {n.removeprefix("train/cycle_"): v for n, v in logged.items() if "cycle" in n}
    parameters = dict(sam.named_parameters())
    got = {
        "real_terms": np.array(official_terms(terms, case.notes["terms"])),
        "cycle_terms": np.array(official_terms(cycle, case.notes["terms"])),
        "total": logged["train/total"],
        "grads": torch.stack([centralised(n, parameters[n]).norm() for n in case.notes["names"]]),
    }
    for number, name in enumerate(case.notes["new"]):
        got[f"new_{number}"] = parameters[name]
    state = sam.state_dict()
    for name in case.outputs:
        if name.startswith("bn_"):
            got[name] = find_statistics(name, state)
    assert_matches(case, got)


def centralised(name: str, parameter: nn.Parameter) -> torch.Tensor:
    """The gradient as the authors' optimizer leaves it: zero mean over the inputs of each output."""
    grad = parameter.grad
    if grad.ndim < 2 or not name.startswith("encoder."):
        return grad
    return grad - grad.mean(dim=tuple(range(1, grad.ndim)), keepdim=True)


def find_statistics(name: str, state: dict) -> torch.Tensor:
    """bn_<encoder>_<statistic> -> that statistic of the last unit's last batch norm."""
    part = "pretrained_encoder" if "pretrained" in name else "encoder"
    statistic = name.removeprefix(f"bn_{part}_")
    return state[f"{part}.body.23.res_layer.4.{statistic}"]


# ---- small networks ------------------------------------------------------------------------------------


class Brightness(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(40.0))

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        return 50 + self.gain * faces.mean((1, 2, 3))


class Colours(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)  # a judge with statistics that must not drift

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.norm(faces.mean((2, 3))) + 0.1, dim=1)

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [nn.functional.avg_pool2d(images, 8)]

    def distance(self, a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
        return (a[0] - b[0]).square().mean((1, 2, 3))


def tiny_sam() -> SAM:
    torch.manual_seed(0)
    numbers = {"style_dim": 16, "widths": (8, 8, 16, 16), "depths": (1, 1, 2, 1), "tower_width": 8}
    decoder = Generator(32, style_dim=16, n_mlp=2, channel_multiplier=0.0625, channel_max=16)
    return SAM(GradualStyleEncoder(4, 8, **numbers), GradualStyleEncoder(3, 8, **numbers), decoder)


def tiny_module(**kwargs) -> AgingModule:
    losses = AgingLosses(Brightness(), Colours(), Colours())
    return AgingModule(tiny_sam(), losses, kwargs.pop("optimizer", ranger), **kwargs)


@pytest.fixture
def faces() -> torch.Tensor:
    return torch.rand(8, 3, 256, 256, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_code_term_measures_from_the_mean_codes_of_the_ages(faces: torch.Tensor) -> None:
    means = LatentBaselines(8, 16, nodes=2)
    means.means[1] = 5.0  # a code moves by 0.05 a year
    module = tiny_module(mean_codes=means)
    module.losses = AgingLosses(Brightness(), Colours(), Colours(), code=1.0)
    module._trainer = SimpleNamespace(world_size=1, strategy=SimpleNamespace(model=module))
    module.manual_backward = lambda loss: None
    target = torch.full((8,), 100.0)
    _, terms = module.take_gradients(faces, target, aging=True)
    with torch.no_grad():
        moved = module.sam.edit(faces, target) - module.sam.encode(faces)
        years = target - Brightness()(faces)
    torch.testing.assert_close(terms["code"], (moved - 0.05 * years[:, None, None]).square().mean())
    _, terms = module.take_gradients(faces, target, aging=False)
    assert "code" not in terms  # nor on the way back
    assert "cycle_code" not in terms


def test_true_portraits_take_the_sources_place_in_what_a_result_is_to_look_like(faces: torch.Tensor) -> None:
    """The terms are those of a pass that keeps the age of the true portraits; identity stays the source's."""
    module = tiny_module(frozen_batch_norm=True)
    module.losses = AgingLosses(Brightness(), Colours(), Colours(), l2=3.0, l2_aging=0.0, code=1.0)
    module._trainer = SimpleNamespace(world_size=1, strategy=SimpleNamespace(model=module))
    module.manual_backward = lambda loss: None
    module.train()
    target, truth = torch.full((4,), 80.0), faces[4:]
    torch.manual_seed(3)
    _, terms = module.take_gradients(faces[:4], target, truth=truth, aging=True)
    with torch.no_grad():
        torch.manual_seed(3)
        aged, w_plus = module.transform(faces[:4], target)
        kept = module.losses(
            aged, w_plus, module.losses.describe(truth), target, latent_avg=module.sam.latent_avg, aging=False
        )[1]
        source = module.losses.describe(faces[:4])
    for name in ("l2", "l2_crop", "lpips", "lpips_crop", "age", "w_norm"):
        torch.testing.assert_close(terms[name], kept[name])
    torch.testing.assert_close(terms["code"], (w_plus - module.sam.encode(truth)).square().mean())
    similarity = (module.losses.identity_net(aged) * source.identity).sum(1).mean()
    torch.testing.assert_close(terms["identity_similarity"], similarity.detach())
    assert terms["identity_similarity"] != kept["identity_similarity"]


def test_a_step_ages_to_the_ages_of_the_true_portraits_it_is_given(faces: torch.Tensor) -> None:
    module = tiny_module(same_age_probability=0.0)
    asked = []

    def gradients(faces, target, *tensors, known, aging):
        asked.append((target, dict(zip(known, tensors, strict=True)), aging))
        return module.step_gradients(faces, target, *tensors, known=known, aging=aging)

    module.gradients = gradients
    batch = {"faces": faces[:2], "truth": faces[2:4], "truth_age": torch.tensor([7.0, 81.5])}
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader([batch], batch_size=None))
    ((target, known, aging),) = asked
    assert aging
    assert target.tolist() == [7.0, 81.5]
    assert torch.equal(known["truth"], faces[2:4])


def test_with_true_portraits_no_mean_codes_are_fitted() -> None:
    module = tiny_module()
    module.losses = AgingLosses(Brightness(), Colours(), Colours(), code=1.0)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    data = FacesDataModule(Lives(6), batch_size=2, num_workers=0, flip=0.5, truths=True)
    trainer.fit(module, datamodule=data)
    assert module.mean_codes is None
    assert torch.isfinite(module.last_loss)


def test_mean_codes_are_those_of_the_training_faces(faces: torch.Tensor) -> None:
    class Aged(DrawnFaces):
        def age(self, index: int) -> float:
            return float(10 * index)

    losses = AgingLosses(Brightness(), Colours(), Colours(), code=1.0)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    module = AgingModule(tiny_sam(), losses, ranger)
    data = FacesDataModule(Aged(11), batch_size=2, num_workers=0, flip=0.0)
    trainer.fit(module, datamodule=data)
    want = fit_on_faces(module.sam, data.train_set)
    torch.testing.assert_close(module.mean_codes.means, want.means)
    assert not any(key.startswith("mean_codes") for key in module.state_dict())
    with pytest.raises(InputError, match=r"losses\.code=0"):
        trainer.fit(AgingModule(tiny_sam(), losses, ranger), datamodule=FacesDataModule(DrawnFaces(11), num_workers=0))


def test_only_the_age_encoder_moves(faces: torch.Tensor) -> None:
    module = tiny_module(optimizer=lambda p: ranger(p, lr=1e-2), age_judge=Brightness())
    before = copy.deepcopy({k: v for k, v in nn.Module.state_dict(module).items()})
    fit(module, faces, steps=3)
    after = nn.Module.state_dict(module)
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    # a squeeze layer with one hidden unit may be dead in so small a network: its gates then rest
    names = {n for n, _ in module.sam.encoder.named_parameters() if ".fc" not in n}
    assert {f"sam.encoder.{name}" for name in names} <= moved
    assert all(name.startswith("sam.encoder.") for name in moved)


def test_two_backward_passes_equal_one_over_the_sum(faces: torch.Tensor) -> None:
    """No gradient crosses from the cycle into the first pass, so the order of things cannot matter."""
    module = tiny_module(optimizer=lambda p: torch.optim.SGD(p, lr=0.0), frozen_batch_norm=True)
    module.cycle_weight = 0.7
    fit(module, faces[:2], steps=1)
    two_passes = [p.grad.clone() for p in module.sam.encoder.parameters()]

    torch.manual_seed(0)
    module.sam.zero_grad()
    module.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.reset()
    assert module.global_step == 0  # so that it draws what it drew in training
    source = module.losses.describe(faces[:2])
    aging, ages = module.draw(2)
    ages = ages if aging else source.age
    average = {"latent_avg": module.sam.latent_avg}
    aged, w_plus = module.sam(faces[:2], ages, randomize_noise=True, return_latents=True)
    first, _ = module.losses(aged, w_plus, source, ages, aging=aging, **average)
    back, w_plus = module.sam(aged.detach(), source.age, randomize_noise=True, return_latents=True)
    second, _ = module.losses(back, w_plus, source, source.age, aging=False, **average)
    (first + 0.7 * second).backward()
    for p, want in zip(module.sam.encoder.parameters(), two_passes, strict=True):
        torch.testing.assert_close(p.grad, want, rtol=1e-4, atol=1e-6)


def test_without_a_cycle_there_is_one_pass_and_its_gradient_alone(faces: torch.Tensor) -> None:
    passes = []
    module = tiny_module(optimizer=lambda p: torch.optim.SGD(p, lr=0.0), cycle_weight=0.0)
    module.sam.encoder.register_forward_hook(lambda *_: passes.append(1))
    fit(module, faces[:2], steps=1)
    assert len(passes) == 1
    assert all(p.grad is not None for p in module.sam.encoder.parameters())


def test_draws_depend_on_seed_and_step_alone_and_keep_a_third_of_the_batches() -> None:
    class AtStep(AgingModule):
        global_step = 0

    module = AtStep(tiny_sam(), AgingLosses(Brightness(), Colours(), Colours()), ranger, seed=3)
    module._trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)

    def draw(step: int):
        module.global_step = step
        return module.draw(6)

    drawn = [draw(step) for step in range(1500)]
    torch.randn(7)  # whatever else is drawn in between
    again_aging, again_ages = draw(17)
    assert again_aging == drawn[17][0]
    assert torch.equal(again_ages, drawn[17][1])
    share = 1 - sum(aging for aging, _ in drawn) / len(drawn)
    assert abs(share - 1 / 3) < 0.04  # three standard deviations
    ages = torch.cat([a for _, a in drawn])
    assert ages.min() == 0
    assert ages.max() == 100
    assert (ages == ages.round()).all()
    assert abs(ages.mean() - 50) < 1


def test_a_checkpoint_holds_sam_alone_and_loads_with_weights_only(faces: torch.Tensor, tmp_path) -> None:
    module = tiny_module(ema_decay=0.9)
    module.run_config = {"seed": 0, "data": {"batch_size": 6}}
    trainer = fit(module, faces, steps=2)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    prefixes = {name.split(".")[0] for name in checkpoint["state_dict"]}
    assert prefixes == {"sam", "ema_encoder"}
    assert checkpoint["config"] == module.run_config
    assert checkpoint["network"] == module.sam.config
    twin = tiny_module(ema_decay=0.9)
    twin.load_state_dict(checkpoint["state_dict"])
    for a, b in zip(module.sam.state_dict().values(), twin.sam.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    del checkpoint["state_dict"]["sam.latent_avg"]
    with pytest.raises(RuntimeError, match=r"1 tensors missing \['sam.latent_avg'\]"):
        twin.load_state_dict(checkpoint["state_dict"])


def test_the_averaged_encoder_follows_its_definition(faces: torch.Tensor) -> None:
    module = tiny_module(ema_decay=0.25, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    want, path = module.sam.encoder.input_layer[0].weight.detach().clone(), []
    original = module.update_average

    def recording() -> None:
        original()
        path.append(module.sam.encoder.input_layer[0].weight.detach().clone())

    module.update_average = recording
    fit(module, faces, steps=3)
    assert len(path) == 3
    for step, weight in enumerate(path, 1):
        decay = min(0.25, (1 + step) / (10 + step))  # 2/11, then 1/4
        want = decay * want + (1 - decay) * weight
    torch.testing.assert_close(module.ema_encoder.input_layer[0].weight, want)


def test_validation_reports_losses_judges_and_repeats_exactly(faces: torch.Tensor) -> None:
    judges = {"age_judge": Brightness(), "identity_judge": Colours()}
    module = tiny_module(**judges)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    first = trainer.validate(module, loader(faces, 4), verbose=False)[0]
    second = trainer.validate(module, loader(faces, 4), verbose=False)[0]
    assert first == second
    expected = {"val/total", "val/age", "val/cycle_l2", "val/age_mae", "val/judged_age_mae"}
    assert expected | {"val/judged_identity_similarity"} <= set(first)
    module.eval()
    with torch.no_grad():
        targets = validation_ages(torch.arange(8))
        aged = module.sam(faces, targets)
        error = (module.age_judge(aged) - targets).abs().mean().item()
    assert first["val/judged_age_mae"] == pytest.approx(error, rel=1e-5)


def test_validation_asks_for_every_age_once_in_101_images() -> None:
    assert sorted(validation_ages(torch.arange(101)).tolist()) == list(range(101))


def test_schedule_free_weights_are_the_averaged_ones_outside_a_step(faces: torch.Tensor) -> None:
    from pytorch_optimizer import ScheduleFreeAdamW

    module = tiny_module(optimizer=lambda p: ScheduleFreeAdamW(p, lr=1e-2))
    trainer = fit(module, faces, steps=3)
    optimizer = trainer.optimizers[0]
    seen = module.sam.encoder.latlayer1.weight.detach().clone()
    optimizer.train()
    assert not torch.equal(seen, module.sam.encoder.latlayer1.weight)
    optimizer.eval()
    torch.testing.assert_close(seen, module.sam.encoder.latlayer1.weight)


def test_bfloat16_training_stays_close_to_float32(faces: torch.Tensor) -> None:
    full, half = tiny_module(frozen_batch_norm=True), tiny_module(frozen_batch_norm=True)
    fit(full, faces, steps=4, precision="32-true")
    fit(half, faces, steps=4, precision="bf16-mixed")
    want, got = full.last_loss, half.last_loss
    assert torch.isfinite(got)
    torch.testing.assert_close(got.float(), want, rtol=2e-2, atol=0)
