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
    from sam_age.editing import DialCurve, LatentDirection, LifespanPath, fit_direction, mask_of, patch_images
    from sam_age.errors import InputError
    from sam_age.export import export_onnx
    from sam_age.models.sam import SAM
    from sam_age.pipeline import AgedFace, AgingPipeline
    from sam_age.weights import load, save

_HOMES = {
    "AgedFace": "sam_age.pipeline",
    "AgingPipeline": "sam_age.pipeline",
    "DialCurve": "sam_age.editing",
    "InputError": "sam_age.errors",
    "LatentDirection": "sam_age.editing",
    "LifespanPath": "sam_age.editing",
    "SAM": "sam_age.models.sam",
    "export_onnx": "sam_age.export",
    "fit_direction": "sam_age.editing",
    "load": "sam_age.weights",
    "mask_of": "sam_age.editing",
    "patch_images": "sam_age.editing",
    "save": "sam_age.weights",
}

__all__ = [
    "SAM",
    "AgedFace",
    "AgingPipeline",
    "DialCurve",
    "InputError",
    "LatentDirection",
    "LifespanPath",
    "export_onnx",
    "fit_direction",
    "load",
    "mask_of",
    "patch_images",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sam_age' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # found at once from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
