"""Where the configuration lives, and how a config becomes objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sam_age.errors import InputError

_PACKAGE = Path(__file__).resolve().parent

CONF_DIR = next(p for p in (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf") if p.is_dir())
"""conf/ inside the wheel, or at the root of a checkout. Absolute: Hydra resolves a relative path by module
under a console script, where it would not be found."""


def build(config: Any, **overrides: Any) -> Any:
    """`hydra.utils.instantiate` into plain containers; what the user got wrong surfaces as InputError.

    Raises:
        InputError: raised by a constructor, or a TypeError or ValueError of one: a setting it does not take.
        Exception: whatever else a constructor raised, as it was.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(config, _convert_="all", **overrides)
    except InstantiationException as error:
        cause: BaseException | None = error.__cause__
        while cause is not None and not isinstance(cause, InputError) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, InputError):
            raise cause from None
        if cause is None or isinstance(cause, TypeError | ValueError):
            raise InputError(str(error)) from error
        raise cause from error


def without_idle_networks(losses: Any) -> Any:
    """The losses' config without the networks whose terms all have weight 0, which need then not be loaded."""
    from omegaconf import OmegaConf

    losses = OmegaConf.create(OmegaConf.to_container(losses, resolve=True))
    terms = {"identity_net": ("identity",), "perceptual_net": ("lpips", "lpips_aging", "lpips_crop")}
    for network, names in terms.items():
        if network in losses and all(losses.get(name, 0) == 0 for name in names):
            losses[network] = None
    return losses
