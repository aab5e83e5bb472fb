"""Several processes that exchange gradients themselves: after a step's backward passes, and not during them.

DistributedDataParallel hangs on to each backward pass, which nothing that is recorded as a CUDA graph can have. Here
each process records its own step, and what it leaves is averaged when it has been replayed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.distributed as dist
from pytorch_lightning import LightningModule
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn

from sam_age.errors import InputError
from sam_age.modules.frozen import CastForAStep


class RecordedDDP(DDPStrategy):
    """One process a device, nothing wrapped: stages call `average_what_a_step_left` before their optimizer's step.

    All processes begin with the first one's parameters and buffers.
    """

    def configure_ddp(self) -> None:
        if self._layer_sync is not None:
            raise InputError(
                "strategy=ddp_recorded keeps batch statistics to each process: trainer.sync_batchnorm=false."
            )
        module = self.model
        assert isinstance(module, LightningModule)
        with torch.no_grad():
            for tensor in itertools.chain(module.parameters(), module.buffers()):
                together = tensor.contiguous()
                dist.broadcast(together, 0)
                if together is not tensor:
                    tensor.copy_(together)


def average_over_ranks(tensors: Sequence[Tensor], sent_as: torch.dtype | None = None) -> None:
    """In place, in one exchange of all of them together; with one process nothing happens.

    Args:
        tensors: of one type, and laid out on every rank alike.
        sent_as: another type to exchange them in, in which they are rounded: half of it takes half the time.
    """
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if world == 1 or not tensors:
        return
    together = torch.empty(sum(t.numel() for t in tensors), dtype=sent_as or tensors[0].dtype, device=tensors[0].device)
    parts = together.split([tensor.numel() for tensor in tensors])
    places = [_as_it_lies(tensor.detach()) for tensor in tensors]
    shaped = [part.view_as(place) for part, place in zip(parts, places, strict=True)]
    torch._foreach_copy_(shaped, places)
    dist.all_reduce(together)
    together.div_(world)
    torch._foreach_copy_(places, shaped)


def _as_it_lies(tensor: Tensor) -> Tensor:
    """Its numbers in the order of their places, where these have no gaps: for weights with their channels innermost to
    be turned around takes longer than to be exchanged."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return tensor
        expected *= size
    return tensor.as_strided((tensor.numel(),), (1,))


def average_what_a_step_left(network: nn.Module, cast: CastForAStep | None = None) -> None:
    """Average, over the ranks, a network's gradients and its batch norms' running statistics: of N ranks' batches the
    mean gradient is that of the joined batch. So weights and statistics stay the same on all ranks.

    The statistics that a batch norm divides by are each rank's own, as in DDP without SyncBatchNorm; the running
    variance is the mean of the ranks' variances, which leaves out how far their means are apart.

    Args:
        cast: whose weights' gradients are half-precision numbers, and are exchanged as such.
    """
    halves = {} if cast is None else {id(w): w.grad for w in cast.weights if w.grad is not None}
    others = [p.grad for p in network.parameters() if p.grad is not None and id(p) not in halves]
    if cast is not None:
        average_over_ranks(list(halves.values()), sent_as=cast.dtype)
    average_over_ranks(others + running_statistics(network))


def running_statistics(network: nn.Module) -> list[Tensor]:
    """Of the batch norms that are learning them."""
    norms = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    learning = [norm for norm in norms if norm.training and norm.track_running_stats]
    return [statistic for norm in learning for statistic in (norm.running_mean, norm.running_var)]
