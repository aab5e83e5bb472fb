"""Features of faces from a network that everyone has: the last stage of MTCNN, which facenet-pytorch ships."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_age.errors import InputError
from sam_age.models.identity import FACE_SIZE, face_crop


class ONetFeatures(nn.Module):
    """MTCNN's O-Net up to its 256 features: of the face, and of its four quarters, where it sees finer detail.

    Trained on photographs to tell faces from what is none and to find their features, in no loss of ours, and nothing
    to download: for comparing sets of faces (`evaluation.kid`). It looks at 48 pixels.

    Source: Zhang et al. 2016, "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks".
    """

    finds_own_weights = True
    SIDE = 48

    def __init__(self) -> None:
        super().__init__()
        from facenet_pytorch.models.mtcnn import ONet

        self.config: dict[str, object] = {}
        self.net = ONet(pretrained=False)

    def forward(self, faces: Tensor) -> Tensor:
        """faces: (N, 3, H, W) RGB in [-1, 1], aligned -> (N, 1280)."""
        face = face_crop(F.adaptive_avg_pool2d(faces, FACE_SIZE))
        height, width = face.shape[2] // 2, face.shape[3] // 2
        views = [face, *(face[..., y : y + height, x : x + width] for y in (0, height) for x in (0, width))]
        pooled = [F.adaptive_avg_pool2d(view, self.SIDE) for view in views]
        return torch.cat(self._features(torch.cat(pooled)).chunk(len(views)), 1)

    def _features(self, x: Tensor) -> Tensor:
        net = self.net
        x = net.pool1(net.prelu1(net.conv1(x)))
        x = net.pool2(net.prelu2(net.conv2(x)))
        x = net.pool3(net.prelu3(net.conv3(x)))
        x = net.prelu4(net.conv4(x))
        return net.prelu5(net.dense5(x.permute(0, 3, 2, 1).flatten(1)))  # the order of its own forward pass

    def load_weights_file(self, path: str | Path | None = None) -> None:
        """Take the weights from facenet-pytorch's onet.pt.

        Args:
            path: the file; None: the installed package's.
        Raises:
            InputError: it is missing or holds something else.
        """
        package = find_spec("facenet_pytorch")  # finding does not import it
        path = Path(path) if path is not None else Path(package.origin).parent / "data" / "onet.pt"
        try:
            self.net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # a damaged or foreign file can raise almost anything
            raise InputError(
                f"{path} does not hold MTCNN's O-Net ({type(error).__name__}): install facenet-pytorch again, or name "
                "another network."
            ) from error
