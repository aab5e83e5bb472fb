"""Which files of weights have names: those that come with the package, and those that others offer.

A name is taken as a name, whatever lies in the working folder: `lifespan` is the package's, `./lifespan` a path.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sam_age import pretrained
from sam_age.errors import InputError

FOLDER_VARIABLE = "SAM_AGE_WEIGHTS"


@dataclass(frozen=True)
class Known:
    """A file of weights that has a name.

    Attributes:
        file: its usual file name; the same stem with .safetensors is taken first.
        what: the network, in a phrase.
        megabytes: its size, about: that of its tensors.
        source: who offers it and where to look.
        licence: what its licence says about use, in a phrase; read the source's own words.
        key: the config key of sam-train that takes it, or "".
    """

    file: str
    what: str
    megabytes: int
    source: str
    licence: str
    key: str = ""

    def find(self) -> Path | None:
        """The file in the first of `folders()` that has it."""
        names = (Path(self.file).with_suffix(".safetensors").name, self.file)
        candidates = (folder / name for folder in folders() for name in names)
        return next((path for path in candidates if path.is_file()), None)


@dataclass(frozen=True)
class Bundled:
    """A file of weights that comes with the package.

    Attributes:
        file: its name in `sam_age.pretrained.FOLDER`.
        what: the network, in a phrase.
    """

    file: str
    what: str

    @property
    def path(self) -> Path:
        """Where it is, or would be."""
        return pretrained.FOLDER / self.file

    def find(self) -> Path | None:
        """The file, if this copy of the package has it."""
        return self.path if self.path.is_file() else None


BUNDLE: dict[str, Bundled] = {
    "lifespan": Bundled("sam.safetensors", "SAM for rendered portraits, 256 pixels: both encoders and the generator"),
    "lifespan/age": Bundled("age.safetensors", "age network: the age loss of losses=lifespan"),
    "lifespan/identity": Bundled("identity.safetensors", "identity network: its identity and perceptual losses"),
    "lifespan/eval_age": Bundled("eval_age.safetensors", "another age network, in no loss: judges=lifespan"),
    "lifespan/eval_identity": Bundled("eval_identity.safetensors", "another identity network, in no loss: likewise"),
    "lifespan/baselines": Bundled("baselines.safetensors", "the latent directions that sam-eval compares SAM with"),
}
"""Names of what is trained on the lifespan set, as tools/build_bundle.py made it."""

_SAM_README = 'README of github.com/yuval-alaluf/SAM, section "Pretrained Models"'
_NON_COMMERCIAL = "trained on data for non-commercial use"

KNOWN: dict[str, Known] = {
    "sam": Known(
        "sam_ffhq_aging.pt", "SAM, FFHQ 1024", 2270, _SAM_README,
        "code MIT; generator and FFHQ for non-commercial use", "weights.sam",
    ),
    "psp": Known(
        "psp_ffhq_encode.pt", "pSp inversion encoder, FFHQ", 1200, _SAM_README,
        "code MIT; FFHQ for non-commercial use", "weights.psp",
    ),
    "stylegan2": Known(
        "stylegan2-ffhq-config-f.pt", "StyleGAN2 generator, FFHQ 1024", 133, _SAM_README,
        "NVIDIA, non-commercial", "weights.stylegan2",
    ),
    "stylegan2-nvlabs": Known(
        "ffhq.pkl", "StyleGAN2 generator, FFHQ 1024, NVlabs' own file", 380,
        "README of github.com/NVlabs/stylegan2-ada-pytorch", "NVIDIA, non-commercial", "weights.stylegan2",
    ),
    "arcface": Known(
        "model_ir_se50.pth", "ArcFace IR-SE-50: identity loss, and the trunk's start", 175, _SAM_README,
        f"code MIT; {_NON_COMMERCIAL}", "weights.arcface",
    ),
    "dex": Known(
        "dex_age_classifier.pth", "DEX VGG-16: age loss", 540, _SAM_README,
        "no redistribution; research use", "weights.dex",
    ),
    "vgg16": Known(
        "vgg16-397923af.pth", "VGG-16, ImageNet: where ffhq_age starts DEX from", 528,
        "server of torchvision, download.pytorch.org", "BSD-3-Clause", "weights.vgg16",
    ),
    "alexnet": Known(
        "alexnet-owt-7be5be79.pth", "AlexNet for LPIPS", 244,
        "server of torchvision, download.pytorch.org", "BSD-3-Clause", "weights.alexnet",
    ),
    "facenet": Known(
        "20180402-114759-vggface2.pt", "InceptionResnetV1: independent identity judge", 111,
        "releases of github.com/timesler/facenet-pytorch", f"code MIT; {_NON_COMMERCIAL}",
    ),
}  # fmt: skip
"""Names that `load` takes beside paths. A file shipped or trained later joins by one more entry."""


def folders() -> list[Path]:
    """Where named files are looked for: $SAM_AGE_WEIGHTS, then ./weights."""
    given = os.environ.get(FOLDER_VARIABLE)
    return [*([Path(given).expanduser()] if given else []), Path("weights")]


def how_to_get(known: Known) -> str:
    """Where a file comes from and where to put it, one sentence."""
    return f"{known.file}: get it from the {known.source}, and put it into ./weights or ${FOLDER_VARIABLE}."


def resolve(path_or_name: str | Path) -> Path:
    """The file of a path or a known name; of a string that could be both, the name's.

    Raises:
        InputError: neither is there; says how to get the file if its name is known.
    """
    path, name = Path(path_or_name).expanduser(), str(path_or_name)
    if isinstance(path_or_name, Path) and path.exists():
        return path
    if name in BUNDLE:
        return _bundled(name)
    if name in KNOWN and (found := KNOWN[name].find()) is not None:
        return found
    if path.exists():
        return path
    if name in KNOWN:
        looked = ", ".join(str(folder) for folder in folders())
        raise InputError(f"No file of {name!r} in {looked}. {how_to_get(KNOWN[name])}")
    by_file = next((known for known in KNOWN.values() if path.name == known.file), None)
    if by_file is not None:
        raise InputError(f"There is no file at {path}. {how_to_get(by_file)}")
    if path.suffix or len(path.parts) > 1:
        raise InputError(f"There is no file at {path}. `sam-weights list` shows the known weights.")
    raise InputError(
        f"No weights called {name!r}. Known: {', '.join((*BUNDLE, *KNOWN))}; or pass a path to a checkpoint. "
        f"`sam-weights list` says where each comes from."
    )


def _bundled(name: str) -> Path:
    found = BUNDLE[name].find()
    if found is None:
        raise InputError(
            f"This copy of the package has no {name!r} ({BUNDLE[name].path}): {pretrained.HOW_TO_MAKE}; or give a file "
            "of your own instead of the name."
        )
    return found
