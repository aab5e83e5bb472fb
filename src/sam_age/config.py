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
        InputError: raised by a constructor, freed from Hydra's wrapping.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(config, _convert_="all", **overrides)
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, InputError):
                raise cause from None
            cause = cause.__cause__
        raise
