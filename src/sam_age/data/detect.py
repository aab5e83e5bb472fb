"""Find faces and five points on each: MTCNN with the weights that facenet-pytorch's wheel brings."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from sam_age.data.align import quad_from_5
from sam_age.errors import InputError


@dataclass(frozen=True)
class Face:
    """One detected face, in pixels of the photograph it was found in (pixel centres at whole numbers)."""

    box: np.ndarray  # (4,): left, top, right, bottom
    landmarks: np.ndarray  # (5, 2): left eye, right eye, nose, left and right corner of the mouth, as seen
    score: float  # the detector's confidence, 0-1

    @property
    def quad(self) -> np.ndarray:
        """FFHQ's square around the face, (4, 2), see `sam_age.data.align`."""
        return quad_from_5(self.landmarks)

    @property
    def area(self) -> float:
        """Area of the box, square pixels."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))


class FaceDetector:
    """MTCNN, made safe for any photograph.

    facenet-pytorch's own call raises on pictures that are too small or hold no candidate, returns object arrays,
    and takes minutes on a 50-megapixel photograph (its pyramid starts at faces of 20 pixels); here large pictures
    are searched at `search_side`, which the landmarks do not mind: the network that places them sees 48 x 48 pixels.

    Args:
        device: where the three networks run.
        min_face: smallest face to report, side of its box in pixels of the photograph.
        min_score: least confidence of the last network, 0-1.
        search_side: longest side, in pixels, at which a photograph is searched.
    """

    def __init__(
        self,
        device: str | torch.device = "cpu",
        *,
        min_face: float = 40,
        min_score: float = 0.9,
        search_side: int = 1280,
    ) -> None:
        if not 0 <= min_score <= 1:
            raise InputError(f"min_score is a probability in 0-1, found {min_score}.")
        self.min_face, self.min_score, self.search_side = min_face, min_score, search_side
        from facenet_pytorch import MTCNN  # and with it torchvision: a second that other uses need not wait

        self.networks = MTCNN(keep_all=True, select_largest=False, device=torch.device(device)).eval()
        self.networks.requires_grad_(False)

    def detect(self, image: Image.Image) -> list[Face]:
        """All faces of an upright RGB picture, largest first; an empty list when there is none."""
        scale = max(1.0, max(image.size) / self.search_side)
        small = image
        if scale > 1:
            size = (max(1, round(image.width / scale)), max(1, round(image.height / scale)))
            small = image.resize(size, Image.Resampling.BOX)
        least = max(20.0, self.min_face / scale)
        if min(small.size) < least:  # the pyramid would have no level, which MTCNN does not survive
            return []
        self.networks.min_face_size = least
        try:
            boxes, scores, points = self.networks.detect(small, landmarks=True)
        except RuntimeError as error:
            if "expected a non-empty list" in str(error):  # torch.cat of no candidate at some stage
                return []
            raise
        if boxes is None:
            return []
        ratio = np.array([image.width / small.width, image.height / small.height])
        faces = [
            Face(
                box=np.asarray(box, np.float64) * np.tile(ratio, 2),
                landmarks=np.asarray(marks, np.float64) * ratio,
                score=float(score),
            )
            for box, score, marks in zip(boxes, scores, points, strict=True)
        ]
        faces = [f for f in faces if f.score >= self.min_score and min(f.box[2:] - f.box[:2]) >= self.min_face]
        return sorted(faces, key=lambda face: -face.area)
