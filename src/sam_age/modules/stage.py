"""What `sam-train` asks of a training stage, and what the stages share."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sam_age.errors import InputError
from sam_age.modules.frozen import CastForAStep
from sam_age.modules.graphed import Graphed
from sam_age.modules.ranks import RecordedDDP, average_what_a_step_left

log = logging.getLogger("sam_age")

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


class Stage(pl.LightningModule):
    """A LightningModule that `sam-train` can run, resume, and start from weights alone.

    A subclass implements `networks`, and sets `last_loss` in each training step.

    Attributes:
        run_config: the run's resolved config, plain containers; `sam-train` sets it, and checkpoints hold it.
        last_loss: of the latest training step, a scalar on the device: whoever shows it decides when to wait.
        optimizer_factory: called with parameters; `sam-train` tries it on one number before anything is written.
        left_out: prefixes of the state dict that checkpoints leave out: frozen networks from files of their own.
        averages_weights: keeps moving averages, for which optimizers that average by themselves are refused.
        warmup_steps: the learning rate rises over these steps, see `rate`,
        cosine: and then falls to 0 at the run's last step along half a cosine; False leaves it.
        channels_last: pictures and features with their channels innermost, where that serves, see `innermost`.
    """

    optimizer_factory: OptimizerFactory
    left_out: tuple[str, ...] = ()
    averages_weights: bool = False
    warmup_steps: int = 0
    cosine: bool = False
    channels_last: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.run_config: dict[str, Any] = {}
        self.last_loss: Tensor | None = None
        self._found: tuple[Mapping[str, Tensor], int] | None = None

    # ---- the log -----------------------------------------------------------------------------------

    def note(self, values: Mapping[str, Tensor], faces: int) -> None:
        """What a step found, scalars by name, of so many faces: logged as train/<name> if the step is one of those.

        Lightning copies each value on the device at once, whether a line is written or not: 6 ms of the host for 24.
        """
        self._found = values, faces

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log what was noted, where a line of the log follows or the run ends."""
        found, self._found = self._found, None
        if found is not None and self._is_logged():
            values, faces = found
            self.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=faces)

    def _is_logged(self) -> bool:
        """Whether Lightning writes a line after this step, which counts in `global_step`; or it is the last one."""
        trainer, every = self.trainer, self.trainer.log_every_n_steps
        last = 0 < trainer.max_steps <= self.global_step or trainer.is_last_batch
        return last or trainer.should_stop or (every > 0 and self.global_step % every == 0)

    # ---- the learning rate -------------------------------------------------------------------------

    def rate(self) -> float:
        """What the learning rate is multiplied by at this step, 0 to 1."""
        step, last = self.global_step, self.trainer.max_steps
        rise = min(1.0, (step + 1) / (self.warmup_steps + 1))
        if not self.cosine or last <= 0:  # a run without end has nothing to fall towards
            return rise
        done = max(0, step - self.warmup_steps) / max(1, last - self.warmup_steps)
        return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def set_rate(self, optimizer: Optimizer) -> Tensor:
        """Give the optimizer this step's learning rate, and return it for the log. Without a schedule the optimizer
        keeps its own, untouched.

        A tensor on the host: Lightning would copy a plain number to the device, and wait for all that runs there.
        """
        if self.warmup_steps or self.cosine:
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * self.rate()
        return torch.tensor(optimizer.param_groups[0]["lr"])

    # ---- the way back ------------------------------------------------------------------------------

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """As `without_casts` says; `manual_backward` comes here."""
        with without_casts(self.device.type):
            loss.backward(*args, **kwargs)

    # ---- averages ----------------------------------------------------------------------------------

    def decay(self) -> float:
        """Of the moving average, at this step: `ema_decay`, but less in the beginning, so that the weights that a run
        starts from are forgotten however short it is: (1 + step) / (10 + step), at most `ema_decay`."""
        return min(self.ema_decay, (1 + self.global_step) / (10 + self.global_step))

    # ---- layout ------------------------------------------------------------------------------------

    @property
    def innermost(self) -> bool:
        """Whether channels are to be innermost: asked for, and on a GPU. On CPUs PyTorch 2.15's gradient of a strided
        1x1 convolution of fewer than 16 channels, in that layout, writes past its memory: the process ends."""
        return self.channels_last and self.device.type == "cuda"

    # ---- graphs ------------------------------------------------------------------------------------

    def recorded(
        self, function: Callable[..., Any], parameters: Iterable[nn.Parameter], kinds: int = 1
    ) -> Callable[..., Any]:
        """The function as CUDA graphs, see `Graphed`; on other devices the function itself.

        Raises:
            InputError: there are several processes, whose gradients are exchanged as a backward pass makes them.
                `RecordedDDP` exchanges them afterwards.
        """
        if self.device.type != "cuda":
            return function
        if self.trainer.world_size > 1 and not isinstance(self.trainer.strategy, RecordedDDP):
            raise InputError(
                "With several processes module.graphed=true needs strategy=ddp_recorded; or set it to false."
            )
        return Graphed(function, parameters, kinds)

    def exchange(self, network: nn.Module, cast: CastForAStep | None = None) -> None:
        """Between the backward passes and the optimizer's step, where the strategy has not done so in the former:
        what they left in the network, averaged over all ranks; see `average_what_a_step_left`."""
        if isinstance(self.trainer.strategy, RecordedDDP):
            average_what_a_step_left(network, cast)

    # ---- what it makes -----------------------------------------------------------------------------

    def networks(self) -> dict[str, nn.Module]:
        """What the stage makes, by name, ready to be written and read: see `write_weights` and `take_weights`.

        Each has a `config` of plain constructor arguments; names are names of files too.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say which networks it trains.")

    def network_config(self) -> dict[str, Any]:
        """Constructor arguments by part: a run is resumed only with the same. Checkpoints hold it as `network`."""
        return {name: network.config for name, network in self.networks().items()}

    # ---- what a checkpoint holds -------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Everything but what is `left_out`."""
        state = super().state_dict(*args, **kwargs)
        return {key: value for key, value in state.items() if not key.startswith(self.left_out)}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Strict about everything that `state_dict` saves."""
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = [key for key in result.missing_keys if not key.startswith(self.left_out)]
        if strict and (missing or result.unexpected_keys):
            raise RuntimeError(
                f"The checkpoint does not fit this model: {len(missing)} tensors missing {missing[:3]}, "
                f"{len(result.unexpected_keys)} unexpected {result.unexpected_keys[:3]}."
            )
        return result

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Plain containers only, so that the file loads with `weights_only=True`."""
        checkpoint["config"] = self.run_config
        checkpoint["network"] = self.network_config()


def write_weights(stage: Stage, folder: str | Path, *, half: bool) -> list[Path]:
    """One safetensors file for each of the stage's networks, which `sam_age.weights.load` reads.

    Args:
        half: store the large tensors as float16.
    """
    from sam_age.weights.storing import save

    facts = {"stage": type(stage).__name__, "step": str(stage.global_step)}
    return [
        save(network, Path(folder) / f"{name}.safetensors", half=half, facts=facts)
        for name, network in stage.networks().items()
    ]


def take_weights(stage: Stage, folder: str | Path) -> None:
    """Start from the files that `write_weights` wrote; the optimizer starts afresh.

    What has no parameters (counters, a probability) may be missing: a stage may have gained it since.

    Raises:
        InputError: a file is missing, or is another network's.
    """
    from sam_age.weights.judges import load_into

    folder = Path(folder)
    files = {name: folder / f"{name}.safetensors" for name in stage.networks()}
    networks = stage.networks()
    needed = [files[name] for name, network in networks.items() if list(network.parameters())]
    if missing := [path.name for path in needed if not path.is_file()]:
        raise InputError(
            f"start={folder} lacks {', '.join(missing)}: give the folder weights/ of a run of this stage, "
            f"with {', '.join(path.name for path in needed)}."
        )
    for name, network in networks.items():
        if files[name].is_file():
            load_into(network, files[name])
    log.info("Starts from the weights in %s: at step 0, without the state of the optimizer that made them.", folder)


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


def without_casts(device: str) -> torch.autocast:
    """Autocast off, for the way back: each operation goes back in the types in which it came.

    Where autocast is on it casts there, too. The matrix products of layers that run in float32 on purpose (those that
    make styles) went back in half precision, in worker threads perhaps in float16, and maps were copied to float32 to
    be summed: a fifth of what a small GAN's step launched.
    """
    return torch.autocast(device, enabled=False)


@torch.no_grad()
def move_average(average: nn.Module, trained: nn.Module, decay: float) -> None:
    """average = decay * average + (1 - decay) * trained, parameter by parameter; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(trained.parameters()), 1 - decay)
    kinds: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}  # in one launch go those of one type
    for mine, theirs in zip(average.buffers(), trained.buffers(), strict=True):
        for buffers, buffer in zip(kinds.setdefault(mine.dtype, ([], [])), (mine, theirs), strict=True):
            buffers.append(buffer)
    for copies, originals in kinds.values():
        torch._foreach_copy_(copies, originals)


def mix_seed(*numbers: int) -> int:
    """A 63-bit seed from a few whole numbers, far apart for neighbours (splitmix64's finaliser)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1
