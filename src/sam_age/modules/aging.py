"""SAM's training stage: teach the age encoder, with everything else frozen.

Source: SAM (Alaluf et al. 2021), section 3; the step follows the authors' training loop, with the
departures listed in docs/reference.md.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from sam_age.evaluation.metrics import AgeError
from sam_age.losses import AgingLosses
from sam_age.models.age import AgeNet
from sam_age.models.identity import IdentityNet
from sam_age.models.sam import SAM

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
Batch = Mapping[str, Tensor]

FROZEN_JUDGES = ("losses.", "age_judge.", "identity_judge.")
"""State-dict prefixes that checkpoints leave out: these networks come from their own files."""


class AgingModule(pl.LightningModule):
    """Trains SAM's age encoder.

    Args:
        sam: the whole model; only `sam.encoder` learns.
        losses: SAM's objective, with the frozen networks it needs.
        optimizer: called with the encoder's parameters.
        cycle_weight: weight of the way back to the source's age; 0 leaves the way out.
        same_age_probability: share of batches that keep the age (one draw a batch).
        ema_decay: keep an exponential moving average of the encoder with this decay a step, used for
            validation and saved as `ema_encoder`; None keeps none.
        frozen_batch_norm: the encoder's batch norm uses its running statistics instead of the batch's, so
            that a result does not depend on how a batch is split; the authors train with False.
        age_judge, identity_judge: networks that are not in the loss, for validation alone.
        seed: with the step, decides every random draw (see `draw`).

    The frozen parts stay in eval mode: the authors' `net.train()` lets the inversion encoder's batch
    statistics drift.
    """

    def __init__(
        self,
        sam: SAM,
        losses: AgingLosses,
        optimizer: OptimizerFactory,
        *,
        cycle_weight: float = 1.0,
        same_age_probability: float = 1 / 3,
        ema_decay: float | None = None,
        frozen_batch_norm: bool = False,
        age_judge: AgeNet | None = None,
        identity_judge: IdentityNet | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # two backward passes a step
        self.sam = sam
        self.losses = losses
        self.optimizer_factory = optimizer
        self.cycle_weight = cycle_weight
        self.same_age_probability = same_age_probability
        self.frozen_batch_norm = frozen_batch_norm
        self.seed = seed
        self.last_loss: Tensor | None = None  # of the latest training step
        self.run_config: dict[str, Any] = {}  # the resolved config of the run, saved with the weights
        self.ema_decay = ema_decay
        self.ema_encoder = None if ema_decay is None else copy.deepcopy(sam.encoder).requires_grad_(False).eval()
        self.age_judge = None if age_judge is None else age_judge.requires_grad_(False).eval()
        self.identity_judge = None if identity_judge is None else identity_judge.requires_grad_(False).eval()
        self.val_age_error = AgeError()
        self.val_judged_age_error = AgeError()

    # ---- one step ----------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One update: age each face, then bring the result back to the age it came from.

        batch["faces"]: (N, 3, 256, 256), RGB in [-1, 1].
        """
        faces = batch["faces"]
        source = self.losses.describe(faces)  # age (years), identity, features: once
        aging, target_age = self.draw(len(faces))
        if not aging:
            target_age = source.age

        optimizer = self.optimizers()
        optimizer.zero_grad()
        with weights_to_train(optimizer.optimizer):
            aged, w_plus = self.sam(faces, target_age, randomize_noise=True, return_latents=True)
            forward, terms = self.losses(aged, w_plus, source, target_age, latent_avg=self.sam.latent_avg, aging=aging)
            total = forward.detach()
            logged = {f"train/{name}": value for name, value in terms.items()}

            if self.cycle_weight == 0:
                self.manual_backward(forward)
            else:
                with self.gradients_kept_local():  # both passes' gradients are exchanged together, below
                    self.manual_backward(forward)  # frees this graph before the next is built
                back, w_plus = self.sam(aged.detach(), source.age, randomize_noise=True, return_latents=True)
                cycle, cycle_terms = self.losses(
                    back, w_plus, source, source.age, latent_avg=self.sam.latent_avg, aging=False
                )
                self.manual_backward(self.cycle_weight * cycle)
                total = total + self.cycle_weight * cycle.detach()
                logged |= {f"train/cycle_{name}": value for name, value in cycle_terms.items()}
            optimizer.step()
        self.update_average()
        self.last_loss = total  # stays on the device: whoever shows it decides when to wait for it
        self.log_dict(logged | {"train/total": total}, batch_size=len(faces))

    def draw(self, batch: int) -> tuple[bool, Tensor]:
        """This step's choices: whether to age at all, and an age in whole years, 0 to 100, for each face.

        They depend on (seed, step) alone, not on what was drawn before, so a resumed run makes the same
        ones; and the ranks of a distributed run share out one list, so together they make the choices of
        one process with the joined batch. What the networks draw (noise) depends on the rank too.
        """
        torch.manual_seed(_mix(self.seed, self.global_step, 1 + self.global_rank))
        choices = torch.Generator().manual_seed(_mix(self.seed, self.global_step, 0))
        aging = bool(torch.rand((), generator=choices) > self.same_age_probability)
        ages = torch.randint(0, 101, (batch * self.trainer.world_size,), generator=choices)
        ages = ages[self.global_rank :: self.trainer.world_size]
        return aging, ages.float().to(self.device, non_blocking=True)

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the averaged encoder towards the trained one; batch statistics are copied."""
        if self.ema_encoder is None:
            return
        averaged, trained = list(self.ema_encoder.parameters()), list(self.sam.encoder.parameters())
        torch._foreach_lerp_(averaged, trained, 1 - self.ema_decay)
        for mine, theirs in zip(self.ema_encoder.buffers(), self.sam.encoder.buffers(), strict=True):
            mine.copy_(theirs)

    @contextlib.contextmanager
    def gradients_kept_local(self) -> Iterator[None]:
        """Without the exchange of gradients between ranks that every backward pass makes by default."""
        model = self.trainer.strategy.model
        if isinstance(model, DistributedDataParallel) and not model.static_graph:
            with model.no_sync():
                yield
        else:
            yield

    # ---- optimizer and modes -----------------------------------------------------------------------

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer_factory(self.sam.encoder.parameters())

    def train(self, mode: bool = True) -> AgingModule:
        super().train(mode)
        if self.frozen_batch_norm:
            for layer in self.sam.encoder.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()
        for judge in (self.age_judge, self.identity_judge, self.ema_encoder):
            if judge is not None:
                judge.eval()
        return self

    def on_train_start(self) -> None:
        self.train()  # Lightning leaves each module in the mode it finds it in, and `load` gives eval mode

    # ---- validation --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def best_weights(self) -> Iterator[SAM]:
        """SAM with the averaged encoder where there is one."""
        if self.ema_encoder is None:
            yield self.sam
            return
        trained, self.sam.encoder = self.sam.encoder, self.ema_encoder
        try:
            yield self.sam
        finally:
            self.sam.encoder = trained

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The training losses at fixed ages and with the stored noise, and what independent judges read."""
        faces = batch["faces"]
        if len(faces) == 0:  # none of its pictures could be read
            return
        target_age = validation_ages(batch["index"])
        source = self.losses.describe(faces)
        with self.best_weights() as sam:
            aged, w_plus = sam(faces, target_age, return_latents=True)
            back, back_w_plus = sam(aged, source.age, return_latents=True)
        latent_avg = self.sam.latent_avg
        loss, terms = self.losses(aged, w_plus, source, target_age, latent_avg=latent_avg, aging=True)
        cycle, cycle_terms = self.losses(back, back_w_plus, source, source.age, latent_avg=latent_avg, aging=False)
        values = terms | {f"cycle_{name}": value for name, value in cycle_terms.items()}
        values["total"] = loss + self.cycle_weight * cycle
        self.val_age_error.update(self.losses.age_net(aged), target_age)
        if self.age_judge is not None:
            self.val_judged_age_error.update(self.age_judge(aged), target_age)
        if self.identity_judge is not None:
            similarity = (self.identity_judge(aged) * self.identity_judge(faces)).sum(1)
            values["judged_identity_similarity"] = similarity.mean()
        logged = {f"val/{name}": value for name, value in values.items()}
        self.log_dict(logged, batch_size=len(faces), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        self.log("val/age_mae", self.val_age_error.compute()["age_mae"], sync_dist=True)
        self.val_age_error.reset()
        if self.age_judge is not None:
            self.log("val/judged_age_mae", self.val_judged_age_error.compute()["age_mae"], sync_dist=True)
            self.val_judged_age_error.reset()

    # ---- what a checkpoint holds -------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """All of SAM, and the averaged encoder; not the frozen judges, which have files of their own."""
        state = super().state_dict(*args, **kwargs)
        return {key: value for key, value in state.items() if not key.startswith(FROZEN_JUDGES)}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Strict about everything that `state_dict` saves."""
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = [key for key in result.missing_keys if not key.startswith(FROZEN_JUDGES)]
        if strict and (missing or result.unexpected_keys):
            raise RuntimeError(
                f"The checkpoint does not fit this model: {len(missing)} tensors missing {missing[:3]}, "
                f"{len(result.unexpected_keys)} unexpected {result.unexpected_keys[:3]}."
            )
        return result

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Plain containers only, so that the file loads with `weights_only=True`."""
        checkpoint["config"] = self.run_config
        checkpoint["network"] = self.sam.config


@contextlib.contextmanager
def weights_to_train(optimizer: Optimizer) -> Iterator[None]:
    """Schedule-free optimizers keep two sets of weights, one to train and one to look at and save; the
    module holds the former in here and the latter everywhere else. Others keep one: nothing happens."""
    keeps_two = hasattr(optimizer, "eval")
    if keeps_two:
        optimizer.train()
    try:
        yield
    finally:
        if keeps_two:
            optimizer.eval()


def validation_ages(index: Tensor) -> Tensor:
    """The age that validation asks of image `index` (N,): fixed, and spread evenly over 0..100 years."""
    return (37 * index % 101).float()  # 37 and 101 share no factor: each age comes once in 101 images


def _mix(*numbers: int) -> int:
    """A 63-bit seed from a few whole numbers, far apart for neighbours (splitmix64's finaliser)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1
