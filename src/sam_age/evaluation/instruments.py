"""The networks that score pictures: two judges of age, one of identity, and what likeness and realism are seen by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sam_age.evaluation.counterfactual import Likeness
from sam_age.evaluation.kid import embed
from sam_age.models.age import AgeNet
from sam_age.models.identity import IdentityNet
from sam_age.models.ops import at_least_float32
from sam_age.models.perceptual import LPIPS

OWN = " (the loss's own network)"


class Instruments(nn.Module):
    """All that is read off a picture, whoever made it. Any of them may be missing, but for the age judge.

    Args:
        age: the age judge, faces -> years.
        identity: the identity judge, faces -> unit embeddings.
        second_age: another age judge.
        source_age: the age network that knows how old an input looks, as SAM's losses do; None: the age judge.
        realism: the network of the kernel distance.
        lpips: the published LPIPS.
        own: which of "age" and "identity" are the loss's own networks: such scores flatter, and are said to.
    """

    def __init__(
        self,
        age: AgeNet,
        identity: IdentityNet | None = None,
        *,
        second_age: AgeNet | None = None,
        source_age: AgeNet | None = None,
        realism: nn.Module | None = None,
        lpips: LPIPS | None = None,
        own: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.age, self.identity, self.second_age, self.realism = age, identity, second_age, realism
        self.source_age = age if source_age is None else source_age
        seeing = [network for network in (age, identity) if has_feature_maps(network)]
        self.likeness = Likeness(seeing, lpips)
        self.requires_grad_(False).eval()
        said = {"age": _name(age, "age" in own), "identity": _name(identity, "identity" in own)}
        self.judged_by: dict[str, str | None] = {
            **said,
            "second_age": _name(second_age),
            "source_age": _name(self.source_age),
            "lpips": " and ".join(_name(network) for network in seeing) or None,
            "lpips_alexnet": _name(lpips),
            "kid": _name(realism),
        }

    def train(self, mode: bool = True) -> Instruments:
        """They stay in eval mode."""
        return super().train(False)

    def read(self, images: Tensor) -> dict[str, Tensor]:
        """What single pictures (N, 3, 256, 256) in [-1, 1] say: `age` and `second_age` (N,) years, `embedding` (N, D)
        of length one, `realism` (N, D) features; at float32, whatever precision the pictures were made with."""
        networks = {"age": self.age, "second_age": self.second_age, "embedding": self.identity}
        with exact(images):
            said = {name: at_least_float32(net(images)) for name, net in networks.items() if net is not None}
            if self.realism is not None:
                said["realism"] = embed(self.realism, images)
        return said


@contextmanager
def exact(images: Tensor) -> Iterator[None]:
    """A context without mixed precision and without TF32: instruments are not rounded."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(images.device.type, enabled=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def has_feature_maps(network: Any) -> bool:
    """Does a network have `features(images) -> list of maps`, as `FeatureDistance` wants?"""
    if not callable(getattr(network, "features", None)):
        return False
    first = next(iter([*network.parameters(), *network.buffers()]), torch.empty(0))
    with torch.no_grad():
        maps = network.features(torch.zeros(1, 3, 256, 256, device=first.device))
    return isinstance(maps, list | tuple) and all(x.ndim == 4 for x in maps)


def _name(network: Any, own: bool = False) -> str | None:
    return None if network is None else type(network).__name__ + (OWN if own else "")
