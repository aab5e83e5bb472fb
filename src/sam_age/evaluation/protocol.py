"""How a trained SAM is scored: every face at every target age, read by the loss's networks and by judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from kornia.metrics import ssim
from torch import Tensor, nn

from sam_age.evaluation.metrics import AgeError, MeanByAge
from sam_age.losses import AgingLosses
from sam_age.models.age import AgeNet
from sam_age.models.identity import IdentityNet
from sam_age.models.sam import SAM


class AgingEvaluation(pl.LightningModule):
    """Scores SAM under `Trainer.validate` or `Trainer.test`, on any number of devices.

    `results` holds the outcome.

    Args:
        sam: the model to score.
        losses: the objective, whose terms are averaged over all faces and ages.
        target_ages: years.
        age_judge, identity_judge: independent networks; where one is missing the loss's own network scores,
            and the result says so: such a score flatters the model.
    """

    def __init__(
        self,
        sam: SAM,
        losses: AgingLosses,
        target_ages: Sequence[float],
        age_judge: AgeNet | None = None,
        identity_judge: IdentityNet | None = None,
    ) -> None:
        super().__init__()
        self.sam, self.losses = sam, losses
        self.target_ages = list(target_ages)
        self.judged_by = {
            "age": _name(age_judge, losses.age_net),
            "identity": _name(identity_judge, losses.identity_net),
        }
        self.age_judge = losses.age_net if age_judge is None else age_judge
        self.identity_judge = losses.identity_net if identity_judge is None else identity_judge
        self.age_error = AgeError()
        self.identity = MeanByAge()
        names = losses.term_names(aging=True) + [f"cycle_{name}" for name in losses.term_names(aging=False)]
        self.terms = nn.ModuleDict({name: MeanByAge() for name in names})
        self.reconstruction = nn.ModuleDict({name: MeanByAge() for name in ("ssim", "psnr")})
        self.faces = 0
        self.results: dict[str, Any] = {}

    def test_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        faces = batch["faces"]
        if len(faces) == 0:  # none of its pictures could be read
            return
        source = self.losses.describe(faces)
        inversion = self.sam.encode(faces)  # once, for all ages
        own = None if self.identity_judge is None else self.identity_judge(faces)
        self.faces += len(faces)
        for years in self.target_ages:
            target = faces.new_full((len(faces),), years)
            w_plus = self.sam.edit(faces, target, inversion)
            aged = self.sam.synthesize(w_plus)
            self._count(aged, w_plus, source, target, "")
            self.age_error.update(self.age_judge(aged), target)
            if own is not None:
                self.identity.update((self.identity_judge(aged) * own).sum(1), target)
            back_plus = self.sam.edit(aged, source.age)
            self._count(self.sam.synthesize(back_plus), back_plus, source, source.age, "cycle_")
        same = self.sam.synthesize(self.sam.edit(faces, source.age, inversion))
        for name, values in likeness(same, faces).items():
            self.reconstruction[name].update(values, source.age)

    def _count(self, images: Tensor, w_plus: Tensor, source: Any, target: Tensor, prefix: str) -> None:
        aging = not prefix
        _, terms = self.losses(images, w_plus, source, target, latent_avg=self.sam.latent_avg, aging=aging)
        for name, value in terms.items():
            self.terms[prefix + name].update(value.expand(len(target)), target)

    def on_test_epoch_end(self) -> None:
        age, identity = self.age_error.compute(), self.identity.compute()
        per_age = {
            years: scores | {"identity_cosine": identity["per_target_age"].get(years)}
            for years, scores in age["per_target_age"].items()
        }
        counted = torch.tensor(self.faces, device=self.device)
        self.results = {
            "faces": int(self.all_gather(counted).sum()),
            "target_ages": self.target_ages,
            "judged_by": self.judged_by,
            "age_mae": age["age_mae"],
            "age_bias": age["age_bias"],
            "identity_cosine": None if self.identity_judge is None else identity["mean"],
            "reconstruction": {name: mean.compute()["mean"] for name, mean in self.reconstruction.items()},
            "losses": {name: mean.compute()["mean"] for name, mean in sorted(self.terms.items())},
            "per_target_age": per_age,
        }

    validation_step = test_step  # `sam-eval split=val` runs Trainer.validate
    on_validation_epoch_end = on_test_epoch_end


def likeness(images: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """How near pictures are to what they should be.

    Args:
        images, truth: (N, 3, H, W) in [-1, 1]; the former is clipped to it.
    Returns:
        per picture, (N,): `ssim`, structural similarity in 11-pixel windows (1 when equal); `psnr`, decibels.
    """
    images = images.clamp(-1, 1).float()
    error = (images - truth).square().mean((1, 2, 3))
    return {
        "ssim": ssim(images, truth.float(), window_size=11, max_val=2.0).mean((1, 2, 3)),
        "psnr": 10 * torch.log10(4 / error.clamp_min(1e-10)),
    }


def _name(judge: Any, fallback: Any) -> str | None:
    if judge is not None:
        return type(judge).__name__
    return None if fallback is None else f"{type(fallback).__name__} (the loss's own network)"


def table(results: Mapping[str, Any]) -> str:
    """The results as lines of text for a terminal."""
    lines = [f"{results['faces']} faces at {len(results['target_ages'])} ages"]
    lines += [f"{what} read by {who}" for what, who in results["judged_by"].items() if who]
    lines += ["", "target   read    bias     MAE  identity"]
    pooled = {**results, "age_mean": None}
    for label, row in [*results["per_target_age"].items(), ("all", pooled)]:
        mean = f"{row['age_mean']:6.1f}" if row["age_mean"] is not None else " " * 6
        cosine = f"{row['identity_cosine']:9.3f}" if row["identity_cosine"] is not None else " " * 8 + "-"
        lines.append(f"{label!s:>6} {mean} {row['age_bias']:+7.1f} {row['age_mae']:7.1f} {cosine}")
    same = results["reconstruction"]
    lines += ["", f"at its own age: SSIM {same['ssim']:.3f}, PSNR {same['psnr']:.1f} dB"]
    lines += ["", "loss term                  mean"]
    lines += [f"{name:24} {value:8.4f}" for name, value in results["losses"].items()]
    return "\n".join(lines)
