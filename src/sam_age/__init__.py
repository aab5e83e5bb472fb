"""sam-age: Style-based Age Manipulation (SAM, Alaluf et al. 2021) as a package.

    from sam_age import AgingPipeline
    sam = AgingPipeline.from_pretrained("sam_ffhq_aging.pt")
    young, old = sam("photo.jpg", ages=[5, 80])[0].images

Names resolve when they are first used, so that `import sam_age` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sam_age.errors import InputError
    from sam_age.models.sam import SAM
    from sam_age.pipeline import AgedFace, AgingPipeline
    from sam_age.weights import load

_HOMES = {
    "AgedFace": "sam_age.pipeline",
    "AgingPipeline": "sam_age.pipeline",
    "InputError": "sam_age.errors",
    "SAM": "sam_age.models.sam",
    "load": "sam_age.weights",
}

__all__ = ["SAM", "AgedFace", "AgingPipeline", "InputError", "load"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sam_age' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
