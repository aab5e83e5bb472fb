"""SAM: an age encoder beside a frozen inversion encoder, in front of a frozen StyleGAN2.

w+ = E_age(face, target age) + pSp(face) + latent_avg;  image = G(w+).

Source: Alaluf, Patashnik, Cohen-Or, "Only a Matter of Style", ACM TOG 40(4), 2021, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_age.models.encoder import GradualStyleEncoder
from sam_age.models.side_by_side import begin
from sam_age.models.stylegan2 import Generator, Noise

FACE_SIZE = 256
"""Side in pixels of the faces that go in, and of the images every loss is computed on."""


def with_age(faces: Tensor, age: Tensor) -> Tensor:
    """Append the age as a constant fourth channel, divided by 100.

    faces: (N, 3, H, W); age: (N,) years -> (N, 4, H, W).
    """
    channel = (age / 100).to(faces.dtype)[:, None, None, None].expand(-1, 1, *faces.shape[2:])
    return torch.cat([faces, channel], dim=1)


def face_pool(images: Tensor, size: int = FACE_SIZE) -> Tensor:
    """Bring square images to the size of the losses: average blocks of larger ones, repeat pixels of smaller.

    (N, 3, S, S) -> (N, 3, size, size), where one of S and size is a multiple of the other, as powers of two are.
    """
    side = images.shape[-1]
    if side > size:
        block = side // size
        learns = images.is_cuda and torch.is_grad_enabled() and images.requires_grad
        return _BlockMeans.apply(images, block) if learns else F.avg_pool2d(images, block)
    return images if side == size else F.interpolate(images, scale_factor=size // side, mode="nearest")


class _BlockMeans(torch.autograd.Function):
    """Average pooling whose gradient is what it is, a repetition: PyTorch's own kernel for it searches every pixel's
    blocks, 0.9 ms for 16 pictures of 1024 pixels on an H200."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, block: int) -> Tensor:
        ctx.block = block
        return F.avg_pool2d(images, block)

    @staticmethod
    def backward(ctx: Any, of_means: Tensor) -> tuple[Tensor, None]:
        block = ctx.block
        return F.interpolate(of_means / block**2, scale_factor=block, mode="nearest"), None


def _start_code(latent_avg: Tensor, n_styles: int) -> Tensor:
    """(D,) or (n, D) -> (n_styles, D), as authors' files hold either."""
    if latent_avg.ndim == 1:
        latent_avg = latent_avg.expand(n_styles, -1)
    return latent_avg[:n_styles].detach().clone()


class SAM(nn.Module):
    """The whole model, from aligned faces and ages in years to images.

    Args:
        encoder: the age encoder, 4 input channels; the only part that is trained.
        pretrained_encoder: the inversion encoder (pSp), 3 input channels; frozen.
        decoder: the generator; frozen.
        latent_avg: centre of W, (style_dim,) or (n_styles, style_dim); the decoder's when None.

    The frozen parts need no gradient and stay in eval mode whatever `train()` says: the authors' training
    lets the inversion encoder's batch statistics drift, which ours does not.
    """

    latent_avg: Tensor

    def __init__(
        self,
        encoder: GradualStyleEncoder,
        pretrained_encoder: GradualStyleEncoder,
        decoder: Generator,
        latent_avg: Tensor | None = None,
    ) -> None:
        super().__init__()
        for name, part in (("encoder", encoder), ("pretrained_encoder", pretrained_encoder)):
            if part.config["n_styles"] != decoder.n_latent:
                raise ValueError(
                    f"{name} makes {part.config['n_styles']} styles, but a {decoder.size}-pixel generator "
                    f"takes {decoder.n_latent}."
                )
        self.encoder = encoder
        self.pretrained_encoder = pretrained_encoder.requires_grad_(False)
        self.decoder = decoder.requires_grad_(False)
        start = decoder.latent_avg if latent_avg is None else latent_avg
        self.register_buffer("latent_avg", _start_code(start, decoder.n_latent))
        self.train(self.training)

    @property
    def config(self) -> dict[str, Any]:
        """The parts' constructor arguments: all that is needed to rebuild the model around its weights."""
        parts = ("encoder", "pretrained_encoder", "decoder")
        return {part: dict(getattr(self, part).config) for part in parts}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The model of `config`, with freshly initialised weights."""
        return cls(
            GradualStyleEncoder(**config["encoder"]),
            GradualStyleEncoder(**config["pretrained_encoder"]),
            Generator(**config["decoder"]),
        )

    def train(self, mode: bool = True) -> Self:
        """Training mode for the age encoder alone."""
        super().train(mode)
        self.pretrained_encoder.eval()
        self.decoder.eval()
        return self

    @torch.no_grad()
    def encode(self, faces: Tensor) -> Tensor:
        """faces (N, 3, 256, 256) -> w+ (N, n_styles, style_dim): once per face, for any number of ages."""
        return self.pretrained_encoder(faces) + self.latent_avg

    def edit(self, faces: Tensor, target_age: Tensor, inversion: Tensor | Callable[[], Tensor] | None = None) -> Tensor:
        """The aged code: w+ (N, n_styles, style_dim).

        Args:
            faces: (N, 3, 256, 256) in [-1, 1].
            target_age: (N,) years.
            inversion: what `encode(faces)` gave, if already at hand; or what `begin` said will give it.
        """
        if target_age.shape != faces.shape[:1]:
            raise ValueError(
                f"One target age a face: got ages {tuple(target_age.shape)} for faces {tuple(faces.shape)}."
            )
        if inversion is None:
            inversion = begin(lambda: self.encode(faces))
        own = self.encoder(with_age(faces, target_age))
        return own + (inversion if isinstance(inversion, Tensor) else inversion())

    def synthesize(self, w_plus: Tensor, *, resize: bool = True, noise: Noise = "stored") -> Tensor:
        """w+ -> images (N, 3, 256, 256), or at the generator's own size with resize=False."""
        images = self.decoder.synthesize(w_plus, noise).to(w_plus.dtype)  # float32 again under autocast
        return face_pool(images) if resize else images

    def forward(
        self,
        faces: Tensor,
        target_age: Tensor,
        *,
        resize: bool = True,
        randomize_noise: bool = False,
        return_latents: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Age each face.

        Args:
            faces: (N, 3, 256, 256), RGB in [-1, 1], aligned as FFHQ is.
            target_age: (N,) years, 0 to 100.
            resize: average-pool the result to 256 pixels.
            randomize_noise: fresh noise instead of the stored maps, as in training.
            return_latents: also return w+.
        Returns:
            images (N, 3, 256, 256), nominally in [-1, 1], not clipped; with return_latents=True the pair
            (images, w+ (N, n_styles, style_dim)).
        """
        w_plus = self.edit(faces, target_age)
        images = self.synthesize(w_plus, resize=resize, noise="random" if randomize_noise else "stored")
        return (images, w_plus) if return_latents else images


class PSP(nn.Module):
    """pSp: inversion encoder and generator, face -> w+ -> the same face.

    Source: Richardson et al., "Encoding in Style", CVPR 2021.
    """

    latent_avg: Tensor

    def __init__(self, encoder: GradualStyleEncoder, decoder: Generator, latent_avg: Tensor | None = None) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        start = decoder.latent_avg if latent_avg is None else latent_avg
        self.register_buffer("latent_avg", _start_code(start, encoder.config["n_styles"]))

    @property
    def config(self) -> dict[str, Any]:
        return {"encoder": dict(self.encoder.config), "decoder": dict(self.decoder.config)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The model of `config`, with freshly initialised weights."""
        return cls(GradualStyleEncoder(**config["encoder"]), Generator(**config["decoder"]))

    def encode(self, faces: Tensor) -> Tensor:
        """faces (N, 3, 256, 256) in [-1, 1] -> w+ (N, n_styles, style_dim)."""
        return self.encoder(faces) + self.latent_avg

    def forward(self, faces: Tensor, *, resize: bool = True, noise: Noise = "stored") -> tuple[Tensor, Tensor]:
        """faces (N, 3, 256, 256) -> (images, w+)."""
        w_plus = self.encode(faces)
        images = self.decoder.synthesize(w_plus, noise)
        return (face_pool(images) if resize else images), w_plus
