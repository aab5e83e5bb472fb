"""The judges' training stage: an age network and an identity network, from the same faces in one run.

The two share no weights, only the work of loading and wearing the faces, so their losses are added up and each learns
as it would alone. Either may be left out: `ffhq_age` has no identities to learn.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sam_age.data.sources import ImageSource
from sam_age.errors import InputError
from sam_age.modules.stage import OptimizerFactory, Stage, mix_seed, move_average, weights_to_train

Batch = Mapping[str, Tensor]


class Task(Protocol):
    """What a network learns, and how well it does: `AgeTask`, `IdentityTask`. An nn.Module."""

    network: nn.Module
    score: str  # the one of `scores` by which the best weights are chosen
    higher_is_better: bool

    def check(self, source: ImageSource) -> None: ...

    def loss(self, faces: Tensor, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]: ...

    def observe(self, network: nn.Module, faces: Tensor, batch: Batch) -> None: ...

    def scores(self) -> dict[str, float]: ...

    def describe(self, network: nn.Module, faces: Tensor, batch: Batch) -> list[str]: ...

    def companions(self) -> dict[str, nn.Module]:
        """What learns beside the network and is not needed to use it."""
        ...


class JudgesModule(Stage):
    """Trains any number of tasks on the same worn faces.

    Args:
        tasks: by name; those that are None are left out.
        optimizer: called with all their parameters.
        wear: augmentation of the training faces, see `Wear`; None leaves them as they are.
        ema_decay: keep an exponential moving average of each network with this decay a step, used for validation and
            exported; None keeps none.
        warmup_steps: the learning rate rises from 0 over these steps,
        cosine: and then falls to 0 at the run's last step along half a cosine; False leaves it.
        seed: with step and rank, decides every random draw.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task | None],
        optimizer: OptimizerFactory,
        *,
        wear: nn.Module | None = None,
        ema_decay: float | None = 0.999,
        warmup_steps: int = 0,
        cosine: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # the learning rate is set, and the average taken, around each step
        self.tasks = nn.ModuleDict({name: task for name, task in tasks.items() if task is not None})
        if not self.tasks:
            raise InputError("There is nothing to learn: give module.tasks at least one of age and identity.")
        self.optimizer_factory = optimizer
        self.wear = wear
        self.ema_decay = ema_decay
        self.averages_weights = ema_decay is not None
        self.averages = nn.ModuleDict()
        if ema_decay is not None:
            for name, task in self.tasks.items():
                self.averages[name] = copy.deepcopy(task.network).requires_grad_(False).eval()
        self.warmup_steps, self.cosine, self.seed = warmup_steps, cosine, seed
        self.latest: dict[str, float] = {}  # each task's score at the latest validation

    # ---- one step ----------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One update of every network on the same faces.

        batch["faces"]: (N, 3, H, W), RGB in [-1, 1]; what else the tasks need is theirs.
        """
        optimizer = self.optimizers()
        rate = self.set_rate(optimizer)
        optimizer.zero_grad()
        with weights_to_train(optimizer.optimizer):
            faces = self.worn(batch["faces"])
            losses, found = [], {}
            for name, task in self.tasks.items():
                loss, terms = task.loss(faces, batch, self.global_step)
                losses.append(loss)
                found |= {f"{name}_{term}": value for term, value in terms.items()}
            total = torch.stack(losses).sum()
            self.manual_backward(total)
            self.exchange(self.tasks)
            optimizer.step()
        self.update_average()
        self.last_loss = total.detach()  # stays on the device: whoever shows it decides when to wait for it
        self.note(found | {"total": self.last_loss, "lr": rate}, len(faces))

    def worn(self, faces: Tensor) -> Tensor:
        """The faces after this step's augmentation, a function of (seed, step, rank) alone; dropout's draws too."""
        torch.manual_seed(mix_seed(self.seed, self.global_step, 1 + self.global_rank))
        return faces if self.wear is None else self.wear(faces)

    def update_average(self) -> None:
        """Move the averaged networks towards the trained ones."""
        for name, average in self.averages.items():
            move_average(average, self.tasks[name].network, self.decay())

    # ---- optimizer and modes -----------------------------------------------------------------------

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer_factory([p for p in self.tasks.parameters() if p.requires_grad])

    def train(self, mode: bool = True) -> JudgesModule:
        super().train(mode)
        self.averages.eval()
        return self

    def on_fit_start(self) -> None:
        """Look at the labels once, before a step fails on them in a GPU's own words."""
        source = getattr(getattr(self.trainer.datamodule, "train_set", None), "source", None)
        for task in self.tasks.values():
            if source is not None:
                task.check(source)

    def on_train_start(self) -> None:
        self.train()  # Lightning leaves each module in the mode it finds it in

    # ---- validation --------------------------------------------------------------------------------

    def best_network(self, name: str) -> nn.Module:
        """A task's averaged network where there is one."""
        return self.averages[name] if name in self.averages else self.tasks[name].network

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """What the averaged networks say of held-out faces, as they are."""
        if len(batch["faces"]) == 0:  # none of its pictures could be read
            return
        for name, task in self.tasks.items():
            task.observe(self.best_network(name), batch["faces"], batch)

    def on_validation_epoch_end(self) -> None:
        for name, task in self.tasks.items():
            scores = task.scores()
            self.latest[name] = scores[task.score]
            self.log_dict({f"val/{name}_{score}": value for score, value in scores.items()}, sync_dist=True)

    # ---- what it makes -----------------------------------------------------------------------------

    def networks(self) -> dict[str, nn.Module]:
        """Each task's network, its average, and what learns beside it."""
        made: dict[str, nn.Module] = {}
        for name, task in self.tasks.items():
            made[name] = task.network
            if name in self.averages:
                made[f"ema_{name}"] = self.averages[name]
            made |= {f"{name}_{companion}": module for companion, module in task.companions().items()}
        return made
