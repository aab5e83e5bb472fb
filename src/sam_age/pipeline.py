"""AgingPipeline: a photograph and ages in, pictures out. Needs neither Hydra nor Lightning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sam_age.choices import ALIGN, Which, check_ages, choose
from sam_age.data.align import align, is_aligned
from sam_age.data.dataset import resize
from sam_age.data.images import read_image
from sam_age.device import (
    compile_options,
    innermost_channels,
    pays_in_bfloat16,
    pick_device,
    pictures_at_once,
)
from sam_age.editing.methods import EditingMethods
from sam_age.errors import InputError
from sam_age.models.sam import FACE_SIZE, SAM, face_pool
from sam_age.models.side_by_side import streams
from sam_age.modules.compiling import compile_encoder
from sam_age.modules.graphed import Graphed
from sam_age.sheets import Cell, Coming, sheet, to_tensor
from sam_age.weights import BUNDLE, KNOWN, load

if TYPE_CHECKING:
    from sam_age.data.detect import Face, FaceDetector
    from sam_age.photos import AgedPhoto
    from sam_age.video import AgedVideo


AT_ONCE = 4
"""Shares of an encoder's towers that run at the same time in a recorded call."""


@dataclass(frozen=True)
class AgedFace:
    """One face at every age asked for."""

    face: Image.Image  # the aligned input, 256 x 256
    ages: list[float]  # years, as asked
    images: list[Image.Image]  # one per age
    w_plus: Tensor  # (ages, n_styles, style_dim), float32, CPU
    quad: np.ndarray | None  # (4, 2) corners of the face in the photograph, pixels; None if it came aligned
    inversion: Tensor | None = None  # (n_styles, style_dim), the input's own code, float32, CPU
    age_read: float | None = None  # years that the age network reads in the input; None without one
    ages_read: list[float] | None = None  # and in each result

    def cells(self) -> list[Cell]:
        """The input and all ages, each with its caption; ages that were read stand below."""
        captions = ["input", *(f"age {age:g}" for age in self.ages)]
        if self.age_read is not None and self.ages_read is not None:
            reads = [self.age_read, *self.ages_read]
            captions = [f"{caption}\nlooks {read:.0f}" for caption, read in zip(captions, reads, strict=True)]
        return list(zip([self.face, *self.images], captions, strict=True))

    def sheet(self, cell: int = 256) -> Image.Image:
        """They side by side, at most six in a row."""
        cells = self.cells()
        columns = min(len(cells), 6)
        return sheet([cells[i : i + columns] for i in range(0, len(cells), columns)], cell)


class AgingPipeline(EditingMethods):
    """Everything between a photograph and the same face at other ages; `EditingMethods` are what else it does.

    Args:
        sam: the model, on the device it is to run on.
        precision: "float32", "bfloat16", or "auto": bfloat16 where it pays (`pays_in_bfloat16`), else float32.
        batch_size: faces times ages in one pass; None: what `pictures_at_once` says, which is 1 on a CPU.
        age_net: reads ages off faces, for `read_age`: a network, a path or name of its weights, or None.
        graphed: on CUDA, what is asked for a fourth time in the same shape is recorded as a CUDA graph and replayed
            from then on (`Graphed`), an encoder's towers side by side.
        compiled: on CUDA, the encoders by torch.compile, once for each size of batch: for many faces, as that takes
            a minute or two.

    sam = AgingPipeline.from_pretrained("sam_ffhq_aging.pt")
    young, old = sam("photo.jpg", ages=[5, 80])[0].images
    """

    def __init__(
        self,
        sam: SAM,
        *,
        precision: str = "auto",
        batch_size: int | None = None,
        age_net: nn.Module | str | Path | None = None,
        graphed: bool = False,
        compiled: bool = False,
    ) -> None:
        if precision not in ("auto", "float32", "bfloat16"):
            raise InputError(f"precision is auto, float32 or bfloat16, not {precision!r}.")
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise InputError(f"batch_size is a whole number from 1 up, or null, not {batch_size!r}.")
        self.sam = sam.eval()
        self.batch_size = batch_size or pictures_at_once(self.device, sam.decoder.size)
        if self.device.type in ("cpu", "cuda"):
            # their convolutions prefer it, and so do bias and noise
            innermost_channels(sam.encoder, sam.pretrained_encoder, sam.decoder.input)
        self.bfloat16 = precision == "bfloat16" or (
            precision == "auto" and pays_in_bfloat16(self.device, sam.decoder.size)
        )
        self.steps: dict[str, Callable[..., Tensor]] = {  # what runs on the device, and what benchmarks time
            "encode": sam.encode,
            "edit": sam.edit,
            "synthesize": partial(sam.synthesize, resize=False),
        }
        if compiled and self.device.type == "cuda":
            for encoder in (sam.encoder, sam.pretrained_encoder):
                compile_encoder(encoder, **compile_options())
        if graphed and self.device.type == "cuda":
            beside = [torch.cuda.Stream(self.device) for _ in range(AT_ONCE - 1)]
            self.steps = {name: Graphed(partial(_with_streams, beside, step), ()) for name, step in self.steps.items()}
        self._age_net = age_net
        self._detector: FaceDetector | None = None

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | Path,
        device: str = "auto",
        *,
        age_net: nn.Module | str | Path | None = "auto",
        **kwargs: Any,
    ) -> Self:
        """The pipeline around a checkpoint that `sam_age.weights.load` knows.

        Args:
            device: "auto" takes CUDA, else MPS, else the CPU.
            age_net: "auto" takes the one that belongs to the model: the package's own for `lifespan`, DEX for
                1024-pixel models where its file is there, else none.
        Raises:
            InputError: the file cannot be used, or is another network than SAM.
        """
        sam = load(path_or_name, device=pick_device(device))
        if not isinstance(sam, SAM):
            raise InputError(f"{path_or_name} holds {type(sam).__name__}, not a whole SAM: give a SAM checkpoint.")
        if isinstance(age_net, str) and age_net == "auto":
            age_net = _age_net_of(str(path_or_name), sam)
        return cls(sam, age_net=age_net, **kwargs)

    @property
    def device(self) -> torch.device:
        return self.sam.latent_avg.device

    # ---- photographs -------------------------------------------------------------------------------------------------

    def __call__(
        self,
        photo: str | Path | Image.Image,
        ages: Sequence[float],
        *,
        align: str = "auto",
        faces: Which = "largest",
    ) -> list[AgedFace]:
        """Age the faces of one photograph.

        Args:
            photo: a path or a picture.
            ages: target ages, years, 0 to 100.
            align: "auto" aligns unless the picture is an aligned face already; "always"; "never" takes the
                whole picture as the face.
            faces: "largest", "all", or numbers of faces, the largest being 0.
        Returns:
            One `AgedFace` per face, largest first, or in the order of the numbers.
        Raises:
            InputError: not an image, no face in it, or an age that is none.
        """
        ages = check_ages(ages)
        name = "the picture" if isinstance(photo, Image.Image) else str(photo)
        found = self.find_faces(read_image(photo), align=align, faces=faces, name=name)
        results = self.age_faces([crop for crop, _ in found], ages)
        return [replace(result, quad=quad) for result, (_, quad) in zip(results, found, strict=True)]

    def photo(
        self,
        photo: str | Path | bytes | Image.Image,
        ages: Sequence[float],
        *,
        faces: Which = "all",
        region: str = "head",
        match_colours: bool = True,
    ) -> AgedPhoto:
        """Age faces within a photograph: each is put back where it was, the rest stays: `sam_age.photos.age_photo`."""
        from sam_age.photos import age_photo

        return age_photo(self, photo, ages, faces=faces, region=region, match_colours=match_colours)

    def animate(self, photo: str | Path | bytes | Image.Image, path: str | Path, **options: Any) -> Path:
        """Film a face, or with `whole=True` a photo, going through its ages: `sam_age.animation.animate`."""
        from sam_age.animation import animate

        return animate(self, photo, path, **options)

    def video(
        self, clip: str | Path, path: str | Path, ages: float | Sequence[float], **options: Any
    ) -> AgedVideo:  # fmt: skip
        """Age the faces of a clip, followed and steadied from frame to frame: `sam_age.video.age_video`."""
        from sam_age.video import age_video

        return age_video(self, clip, path, ages, **options)

    def find_faces(
        self, image: Image.Image, *, align: str = "auto", faces: Which = "largest", name: str = "the picture"
    ) -> list[tuple[Image.Image, np.ndarray | None]]:
        """The faces of an RGB picture as 256-pixel crops, each with its quad, or None where it came aligned."""
        if align not in ALIGN:
            raise InputError(f"align is one of {', '.join(ALIGN)}, not {align!r}.")
        if align == "never":
            choose(faces, 1, name)
            return [(resize(image, FACE_SIZE), None)]
        detected = self.detect(image, name)
        return [self._crop(image, detected[number], align) for number in choose(faces, len(detected), name)]

    def detect(self, image: Image.Image, name: str = "the picture") -> list[Face]:
        """The faces of an upright RGB picture, largest first; `InputError` if there is none."""
        detected = self.detector.detect(image)
        if not detected:
            raise InputError(
                f"No face found in {name} ({image.width} x {image.height}): use a photo where it is larger "
                "and unobstructed, or align=never if the picture is an aligned face."
            )
        return detected

    @property
    def detector(self) -> FaceDetector:
        if self._detector is None:
            from sam_age.data.detect import FaceDetector

            self._detector = FaceDetector()
        return self._detector

    @staticmethod
    def _crop(image: Image.Image, face: Face, mode: str) -> tuple[Image.Image, np.ndarray | None]:
        if mode == "auto" and is_aligned(image.size, face.quad):
            return resize(image, FACE_SIZE), None
        return align(image, face.quad, FACE_SIZE), face.quad

    # ---- aligned faces -----------------------------------------------------------------------------------------------

    def age_faces(self, faces: Sequence[Image.Image], ages: Sequence[float]) -> list[AgedFace]:
        """Age aligned faces: each is inverted once, whatever the number of ages; ages are read if they can be."""
        ages = check_ages(ages)
        inversions = self.encode(faces)
        codes = self.edit(faces, ages, inversions)
        pictures = self.synthesize(codes)
        rows = [pictures[start : start + len(ages)] for start in range(0, len(pictures), len(ages))]
        before, after = self.read_age(faces), self.read_age(pictures)
        return [
            AgedFace(
                face, ages, rows[n], codes[n], None, inversions[n],
                None if before is None else before[n],
                None if after is None else after[n * len(ages) : (n + 1) * len(ages)],
            )
            for n, face in enumerate(faces)
        ]  # fmt: skip

    def age(self, faces: Sequence[Image.Image], ages: Sequence[float]) -> tuple[list[Tensor], list[list[Image.Image]]]:
        """`age_faces` as plain lists, and without reading ages.

        Returns:
            for each face its codes (ages, n_styles, style_dim) on the CPU, and its pictures, one per age.
        """
        codes = self.edit(faces, ages)
        return list(codes), [self.synthesize(rows) for rows in codes]

    def encode(self, faces: Sequence[Image.Image]) -> Tensor:
        """Aligned faces -> their codes w+ (N, n_styles, style_dim), float32, on the CPU: the inversion."""
        return self._batched(self.steps["encode"], _pixels(faces))

    def edit(
        self,
        faces: Sequence[Image.Image],
        ages: Sequence[float] | Sequence[Sequence[float]] | Tensor,
        inversions: Tensor | None = None,
    ) -> Tensor:
        """The codes of faces at other ages.

        Args:
            faces: N aligned faces.
            ages: A target ages in years for every face, or N rows of A, one a face.
            inversions: what `encode(faces)` gave, if already at hand.
        Returns:
            w+ (N, A, n_styles, style_dim), float32, on the CPU.
        """
        pixels = _pixels(faces)
        try:
            target = torch.as_tensor(ages, dtype=torch.float32).detach().cpu()
        except (TypeError, ValueError):  # rows of unequal length, or what is no number
            raise InputError(f"Ages are numbers from 0 to 100, as many for each face, not {ages!r}.") from None
        target = target.expand(len(faces), -1) if target.ndim == 1 else target
        if target.ndim != 2 or len(target) != len(faces):
            raise InputError(f"Ages are A numbers, or a row of A for each of {len(faces)} faces, not {ages!r}.")
        check_ages(target.flatten().tolist())
        if inversions is None:
            inversions = self._batched(self.steps["encode"], pixels)
        inversions = inversions.float()

        def aged(which: Tensor, age: Tensor) -> Tensor:
            some = slice(int(which[0]), int(which[-1]) + 1)  # each face is sent once, whatever the number of its ages
            which = (which - which[0]).to(self.device)
            return self.steps["edit"](pixels[some].to(self.device)[which], age, inversions[some].to(self.device)[which])

        which = torch.arange(len(faces)).repeat_interleave(target.shape[1])
        codes = self._batched(aged, which, target.flatten())
        return codes.unflatten(0, tuple(target.shape))

    def synthesize(self, w_plus: Tensor) -> list[Image.Image]:
        """w+ (..., n_styles, style_dim) -> pictures at the generator's own size, in the order of the codes."""
        pictures: list[Image.Image] = []
        coming: Coming | None = None
        with torch.no_grad(), self._precision():
            for codes in w_plus.detach().float().reshape(-1, *w_plus.shape[-2:]).split(self.batch_size):
                made = Coming(self.steps["synthesize"](codes.to(self.device)))
                pictures += [] if coming is None else coming.images()  # while the device is at the next ones
                coming = made
        return pictures if coming is None else pictures + coming.images()

    def read_age(self, faces: Sequence[Image.Image]) -> list[float] | None:
        """How old aligned faces look to the age network, years; None without one."""
        network = self.age_net
        if network is None:
            return None
        pixels = torch.cat([face_pool(to_tensor([_square(face)])) for face in faces])
        return self._batched(network, pixels, precise=True).tolist()

    @property
    def age_net(self) -> nn.Module | None:
        """The network that reads ages, loaded when it is first asked for."""
        if self._age_net is not None and not isinstance(self._age_net, nn.Module):
            self._age_net = load(self._age_net)
        if isinstance(self._age_net, nn.Module):
            self._age_net = self._age_net.to(self.device).eval()
        return self._age_net

    @torch.no_grad()  # not inference_mode: codes may be learnt from later
    def _batched(self, function: Callable[..., Tensor], *rows: Tensor, precise: bool = False) -> Tensor:
        """A function of some tensors' rows, `batch_size` at a time; codes or ages, float32, on the CPU."""
        with nullcontext() if precise else self._precision():
            chunks = zip(*(part.split(self.batch_size) for part in rows), strict=True)
            # copied, as what is recorded overwrites its results; fetched together, so that the device need not wait
            made = [function(*map(self._sent, chunk)).to(torch.float32, copy=True) for chunk in chunks]
        return torch.cat(made).cpu()

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()

    def _sent(self, rows: Tensor) -> Tensor:
        """Numbers go to the device; indices stay, for what they index is here."""
        return rows.to(self.device) if rows.is_floating_point() else rows


def _with_streams(some: Sequence[torch.cuda.Stream], step: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    with streams(some):
        return step(*tensors)


def _pixels(faces: Sequence[Image.Image]) -> Tensor:
    """Faces -> (N, 3, 256, 256) in [-1, 1], what the encoders see."""
    if not len(faces):
        raise InputError("No faces: give at least one.")
    return to_tensor([resize(face.convert("RGB"), FACE_SIZE) for face in faces])


def _square(face: Image.Image) -> Image.Image:
    """A face at its own size where `face_pool` takes it, as results are seen in training; else resized."""
    side, height = face.size
    fits = side == height and (side % FACE_SIZE == 0 or FACE_SIZE % side == 0)
    return face if fits else resize(face.convert("RGB"), FACE_SIZE)


def _age_net_of(name: str, sam: SAM) -> Path | None:
    """The file of the age network that a model was trained with, where it is known and there."""
    if name == "lifespan":
        return BUNDLE["lifespan/age"].find()
    return KNOWN["dex"].find() if sam.decoder.size == 1024 else None
