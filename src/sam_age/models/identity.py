"""Who is it: networks that map a face to a unit vector, close for the same person.

Each takes whole aligned faces and does its own crop and resize, so that any of them can stand in the identity
loss or in an evaluation. Add your own by its `_target_`; `IdentityNet` is all it has to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_age.errors import InputError
from sam_age.models.encoder import input_layer, ir_se_body
from sam_age.models.ops import at_least_float32
from sam_age.models.resample import crop_and_pool, crop_and_resize
from sam_age.models.trunk import build_trunk

FACE_SIZE = 256
CROP_ROWS, CROP_COLUMNS = (35, 223), (32, 220)  # where the face is in an aligned image, as in pSp and SAM


@runtime_checkable
class IdentityNet(Protocol):
    """What the losses ask of an identity network: aligned faces -> unit embeddings."""

    def __call__(self, faces: Tensor) -> Tensor:
        """faces: (N, 3, 256, 256) RGB in [-1, 1] -> (N, D), rows of length one."""
        ...


def face_crop(images: Tensor) -> Tensor:
    """The face without its surroundings: (N, C, 256, 256) aligned images -> (N, C, 188, 188).

    Raises:
        InputError: images of another size; the crop is in pixels.
    """
    _check_size(images)
    return images[..., slice(*CROP_ROWS), slice(*CROP_COLUMNS)]


class ArcFace(nn.Module):
    """ArcFace on IR-SE-50, the identity network of pSp and SAM; keys of `model_ir_se50.pth`.

    Source: Deng et al. 2019, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition".
    """

    CROP_SIZE = 112

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, object] = {}
        self.input_layer = input_layer(3, 64)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512),
            nn.Dropout(0.6),
            nn.Flatten(),
            nn.Linear(512 * 7 * 7, 512),
            nn.BatchNorm1d(512),
        )
        self.body = ir_se_body()  # last, for the order of the authors' file

    def forward(self, faces: Tensor) -> Tensor:
        """faces: (N, 3, 256, 256) RGB in [-1, 1], aligned -> (N, 512) unit embeddings."""
        return self.embed(self.crop(faces))

    def crop(self, faces: Tensor) -> Tensor:
        """Aligned faces (N, 3, 256, 256) -> (N, 3, 112, 112), what the network was trained on."""
        _check_size(faces)
        return crop_and_pool(faces, CROP_ROWS, CROP_COLUMNS, self.CROP_SIZE)

    def embed(self, crops: Tensor) -> Tensor:
        """crops: (N, 3, 112, 112) RGB in [-1, 1] -> (N, 512) unit embeddings."""
        return _unit(self.output_layer(self.body(self.input_layer(crops))))


class FaceNet(nn.Module):
    """InceptionResnetV1 of facenet-pytorch: an identity network that no loss of ours was made with.

    It is made for MTCNN's boxes with a margin, squeezed to a square of 160 pixels. In aligned faces that box
    hardly moves, so it is a constant here: the median of MTCNN's boxes in 22 aligned photographs (columns
    64-203 and rows 42-234 of 256), larger by a tenth as in facenet-pytorch's own evaluation on LFW.

    Source: Schroff et al. 2015, "FaceNet"; weights by facenet-pytorch (vggface2 or casia-webface).
    """

    ROWS, COLUMNS = (32 / 256, 244 / 256), (57 / 256, 210 / 256)
    CROP_SIZE = 160
    ADVICE = "download 20180402-114759-vggface2.pt from https://github.com/timesler/facenet-pytorch/releases"

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, object] = {}
        from facenet_pytorch import InceptionResnetV1  # slow to import and seldom needed

        self.network = InceptionResnetV1(pretrained=None, classify=False)

    def forward(self, faces: Tensor) -> Tensor:
        """faces: (N, 3, 256, 256) RGB in [-1, 1], aligned -> (N, 512) unit embeddings."""
        _check_size(faces)
        crops = crop_and_resize(faces, self.ROWS, self.COLUMNS, self.CROP_SIZE)
        return _unit(self.network(crops * (127.5 / 128)))  # it was trained on (byte - 127.5) / 128

    def load_weights_file(self, path: str | Path) -> None:
        """Take the weights from a file of facenet-pytorch's releases; its classifier is not used.

        Raises:
            InputError: the file is missing or holds something else.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"No FaceNet weights at {path}: {self.ADVICE}")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.network.load_state_dict({k: v for k, v in state.items() if not k.startswith("logits.")})
        except Exception as error:  # a damaged or foreign file can raise almost anything
            raise InputError(
                f"{path} does not hold InceptionResnetV1 ({type(error).__name__}): {self.ADVICE}"
            ) from error


class FaceEmbedder(nn.Module):
    """A small residual identity network, for the lifespan set.

    Args:
        widths: channels of each stage, multiples of 8.
        depths: residual units of each stage.
        embedding_dim: length of the embedding.
        image_size: side to which faces are averaged down first, pixels.
        trunk: one of `sam_age.models.trunk.TRUNKS`.

    The defaults have 2.9 M parameters.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128, 256),
        depths: Sequence[int] = (1, 2, 2, 2),
        embedding_dim: int = 256,
        image_size: int = 128,
        trunk: str = "residual",
    ) -> None:
        super().__init__()
        self.config = {
            "widths": list(widths),
            "depths": list(depths),
            "embedding_dim": embedding_dim,
            "image_size": image_size,
            "trunk": trunk,
        }
        self.trunk = build_trunk(trunk, widths, depths, image_size)
        self.head = nn.Linear(widths[-1], embedding_dim)

    def forward(self, faces: Tensor) -> Tensor:
        """faces: (N, 3, H, W) RGB in [-1, 1] -> (N, embedding_dim) unit embeddings."""
        return _unit(self.head(F.silu(self.features(faces)[-1]).mean((2, 3))))

    def features(self, images: Tensor) -> list[Tensor]:
        """The map of each stage, fine to coarse: for `perceptual.FeatureDistance`."""
        return self.trunk(images)


def _unit(embeddings: Tensor) -> Tensor:
    """Rows of length one, float32 or float64: cosines of half-precision rows would have three digits."""
    return F.normalize(at_least_float32(embeddings))


def _check_size(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[2:] != (FACE_SIZE, FACE_SIZE):
        raise InputError(
            f"Faces of shape {tuple(images.shape)}; the identity crop is defined on aligned images "
            f"(N, 3, {FACE_SIZE}, {FACE_SIZE}): align and resize them first."
        )
