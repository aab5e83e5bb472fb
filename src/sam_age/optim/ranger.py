"""Ranger in few passes: RAdam, Lookahead and gradient centralisation over many tensors at once.

Sources: Liu et al. 2020, "On the variance of the adaptive learning rate and beyond" (RAdam); Zhang et al. 2019,
"Lookahead optimizer"; Yong et al. 2020, "Gradient centralization"; put together by Wright 2019 as Ranger.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from sam_age.errors import InputError
from sam_age.models.fused import interpreted, trouble

Tensors = list[Tensor]
ADAM_LONG_AGO = 1e9
"""A step number at which Adam's corrections of its means' bias are exactly 1: RAdam has a factor of its own."""


class _Row(NamedTuple):
    """What a step needs of one parameter: see `one_pass.update`."""

    weight: Tensor
    gradient: Tensor
    mean: Tensor  # m
    square: Tensor  # v
    slow: Tensor


class Ranger(Optimizer):
    """RAdam + Lookahead + gradient centralisation, as in the authors' training.

    A step is: subtract from every gradient of 2-D and more its mean over the inputs of each output; move the running
    means m and v of gradient and squared gradient; go by `rate * m / (sqrt(v) + eps)`, where rate is lr over what m
    lacks at first, 1 - betas[0]^step, times `rectification`; or by `rate * m` in the first steps, where v says too
    little. Every k steps the slow weights move towards the fast ones, which then restart from them.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        betas: decay of m and v.
        eps: added to sqrt(v).
        weight_decay: weights shrink by lr * weight_decay before each step.
        k: steps between two meetings of slow and fast weights.
        alpha: how far the slow weights then go towards the fast ones, 0 to 1.
        n_sma_threshold: v is used once so many gradients count in it, effectively.
        use_gc: gradient centralisation.
        fused: one pass over memory instead of ten, by our kernel (`optim.one_pass`), or where Triton does not run
            three, by that of PyTorch's fused Adam; None: on CUDA. The arithmetic is the same up to rounding.

    Gradients may be changed in place. Nothing waits for the device: the step's factors are numbers of the host.
    States are those of `pytorch_optimizer.Ranger` (`exp_avg`, `exp_avg_sq`, `slow_buffer`; `step` in each group): runs
    that were begun with that one go on with this.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.95, 0.999),
        eps: float = 1e-5,
        weight_decay: float = 0.0,
        k: int = 6,
        alpha: float = 0.5,
        n_sma_threshold: float = 5,
        use_gc: bool = True,
        fused: bool | None = None,
    ) -> None:
        limits = {"lr": (lr, math.inf), "eps": (eps, math.inf), "weight_decay": (weight_decay, math.inf)}
        limits |= {"alpha": (alpha, 1.0), "betas[0]": (betas[0], 1 - 1e-6), "betas[1]": (betas[1], 1 - 1e-6)}
        for name, (value, most) in limits.items():
            if not 0 <= value <= most:
                raise InputError(f"Ranger's {name} is from 0 to {most:g}, not {value}.")
        if k < 1 or n_sma_threshold < 4:  # with fewer, RAdam's factor is the root of a negative number
            raise InputError(f"Ranger's k is at least 1 and n_sma_threshold at least 4, not {k} and {n_sma_threshold}.")
        defaults = {
            "lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "k": k, "alpha": alpha,
            "n_sma_threshold": n_sma_threshold, "use_gc": use_gc, "fused": fused, "step": 0,
        }  # fmt: skip
        self._fixed = {name: defaults[name] for name in ("n_sma_threshold", "use_gc", "fused")}
        self._long_ago: dict[torch.device, Tensor] = {}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update. `closure`, if any, computes the loss and its gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            group["step"] += 1
            kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    kinds[parameter.device, parameter.dtype].append(parameter)
            for parameters in kinds.values():
                self._update(group, parameters)
        return loss

    @property
    def takes_half_gradients(self) -> bool:
        """Whether gradients of float32 weights may be bfloat16, which PyTorch allows from 2.10 on (`grad_dtype`)."""
        devices = {parameter.device for group in self.param_groups for parameter in group["params"]}
        fused = all(group["fused"] is not False for group in self.param_groups)
        return fused and hasattr(Tensor, "grad_dtype") and all(map(_runs_one_pass, devices))

    def _update(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """One group's parameters of one device and dtype."""
        rectified = rectification(group["step"], group["betas"][1], group["n_sma_threshold"])
        rate = group["lr"] / (1 - group["betas"][0] ** group["step"]) * (1.0 if rectified is None else rectified)
        kept = 1 - group["lr"] * group["weight_decay"]
        rows = [self._row(parameter) for parameter in parameters]
        fused = group["fused"] if group["fused"] is not None else parameters[0].is_cuda
        if fused and _runs_one_pass(parameters[0].device):
            rows = self._in_one_pass(group, rate, kept, rectified is not None, rows)
        if rows:
            self._in_several(group, rate, kept, rectified is not None, rows, fused=fused)

    def _row(self, parameter: Tensor) -> _Row:
        state = self._state(parameter)
        gradient = laid_out_as(parameter, parameter.grad)
        return _Row(parameter, gradient, state["exp_avg"], state["exp_avg_sq"], state["slow_buffer"])

    def _in_one_pass(
        self, group: dict[str, Any], rate: float, kept: float, adapts: bool, rows: Sequence[_Row]
    ) -> list[_Row]:
        """What each of them is written with; returns those left, which the kernel does not serve: small ones, above
        all, which PyTorch takes together."""
        from sam_age.optim import one_pass  # brings Triton

        meets = group["step"] % group["k"] == 0
        left = []
        for row in rows:
            if not one_pass.serves(*row):
                left.append(row)
                continue
            one_pass.update(
                *row, rate=rate, betas=group["betas"], eps=group["eps"], kept=kept, adapts=adapts,
                centred=group["use_gc"], alpha=group["alpha"] if meets else None,
            )  # fmt: skip
        return left

    def _in_several(
        self, group: dict[str, Any], rate: float, kept: float, adapts: bool, rows: Sequence[_Row], *, fused: bool
    ) -> None:
        """The step's parts one after the other, each for all of them."""
        rows = _in_the_weights_type(rows)
        weights = [row.weight for row in rows]
        if group["use_gc"]:
            for row in rows:
                if row.weight.ndim > 1:
                    centralise(row.gradient)
        if group["weight_decay"]:
            torch._foreach_mul_(weights, kept)
        # the kernel walks through memory, and so asks for the same layout of all four
        together = [fused and adapts and len({x.stride() for x in row[:4]}) == 1 for row in rows]
        work = self._foreach if adapts else self._foreach_first
        for chosen, do in ((True, self._fused), (False, work)):
            part = [row[:4] for row, one in zip(rows, together, strict=True) if one == chosen]
            if part:
                do(group, rate, *map(list, zip(*part, strict=True)))
        if group["step"] % group["k"] == 0:
            slow = [row.slow for row in rows]
            torch._foreach_lerp_(slow, weights, group["alpha"])
            torch._foreach_copy_(weights, slow)

    def _fused(self, group: dict[str, Any], rate: float, weights: Tensors, gradients: Tensors,
               means: Tensors, squares: Tensors) -> None:  # fmt: skip
        device = weights[0].device
        if device not in self._long_ago:
            self._long_ago[device] = torch.full((), ADAM_LONG_AGO, dtype=torch.float32, device=device)
        beta1, beta2 = group["betas"]
        torch._fused_adam_(
            weights, gradients, means, squares, [], [self._long_ago[device]] * len(weights),
            lr=rate, beta1=beta1, beta2=beta2, weight_decay=0.0, eps=group["eps"], amsgrad=False, maximize=False,
        )  # fmt: skip
        # PyTorch counts changes made in place, but not this one: who keeps something made of the weights would not see
        for weight in weights:
            torch.autograd.graph.increment_version(weight)

    def _foreach(self, group: dict[str, Any], rate: float, weights: Tensors, gradients: Tensors,
                 means: Tensors, squares: Tensors) -> None:  # fmt: skip
        self._move_means(group, gradients, means, squares)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, group["eps"])
        torch._foreach_addcdiv_(weights, means, roots, -rate)

    def _foreach_first(self, group: dict[str, Any], rate: float, weights: Tensors, gradients: Tensors,
                       means: Tensors, squares: Tensors) -> None:  # fmt: skip
        self._move_means(group, gradients, means, squares)
        torch._foreach_add_(weights, means, alpha=-rate)

    def _move_means(self, group: dict[str, Any], gradients: Tensors, means: Tensors, squares: Tensors) -> None:
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)

    def _state(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
            state["slow_buffer"] = parameter.detach().clone()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state of this class, or of `pytorch_optimizer.Ranger`."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for name, value in self._fixed.items():  # what the other keeps elsewhere
                if name not in group:
                    group[name] = value
        for parameter, state in self.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.stride() != parameter.stride():  # channels innermost by now, say
                    state[name] = torch.empty_like(parameter).copy_(value)


def centralise(gradient: Tensor) -> None:
    """Subtract from the inputs of each output, (O, ...), their mean, in place."""
    gradient.sub_(gradient.mean(tuple(range(1, gradient.ndim)), keepdim=True))


def _in_the_weights_type(rows: Sequence[_Row]) -> list[_Row]:
    """Gradients of another type copied."""
    others = [row for row in rows if row.gradient.dtype != row.weight.dtype]
    copies = {id(row): torch.empty_like(row.weight) for row in others}
    if others:
        torch._foreach_copy_([copies[id(row)] for row in others], [row.gradient for row in others])
    return [row._replace(gradient=copies.get(id(row), row.gradient)) for row in rows]


def _runs_one_pass(device: torch.device) -> bool:
    return (device.type == "cuda" or interpreted()) and trouble(device) is None


def laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with the parameter's strides, where the two differ in axes of length 1 alone.

    There they mean nothing, but kernels ask for them to be equal. 1x1 convolutions with channels innermost have such
    gradients.
    """
    pairs = zip(parameter.shape, parameter.stride(), gradient.stride(), strict=True)
    if parameter.stride() != gradient.stride() and all(length == 1 or mine == its for length, mine, its in pairs):
        return gradient.as_strided(parameter.shape, parameter.stride())
    return gradient


def rectification(step: int, beta2: float, threshold: float = 5) -> float | None:
    """What RAdam multiplies the learning rate by at this step (1, 2, ...); None where v is not to be used yet.

    >>> [rectification(step, 0.999) is None for step in (5, 6)]
    [True, False]
    """
    most = 2 / (1 - beta2) - 1
    decayed = beta2**step
    count = most - 2 * step * decayed / (1 - decayed)
    if count < threshold:
        return None
    ratio = (count - 4) / (most - 4) * (count - 2) / count * most / (most - 2)
    return math.sqrt((1 - decayed) * ratio)
