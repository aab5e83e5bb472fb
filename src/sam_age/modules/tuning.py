"""The stage that lets the generator fit its encoder: a StyleGAN2 and pSp's encoder learn together.

An encoder can find no code of what its generator cannot draw. Pivotal tuning (Roich et al. 2022) therefore lets the
generator learn the one photo that it is to edit; here it learns all training faces at once, through the encoder's
codes, while the discriminator goes on to see that it draws faces, from those codes and from random ones alike. Where
the generator comes from a short training that is most of what it lacks.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from sam_age.device import innermost_channels
from sam_age.errors import InputError
from sam_age.evaluation.counterfactual import likeness
from sam_age.losses import InversionLosses
from sam_age.models.sam import PSP, face_pool
from sam_age.models.stylegan2 import Discriminator
from sam_age.modules.gan import MAKING, Batch, GANModule, Gradients, gradients_of, real_loss
from sam_age.modules.stage import OptimizerFactory


class TuningModule(GANModule):
    """Trains the generator and the encoder of `psp`, against a discriminator and the faces themselves.

    Args:
        psp: trained, as GAN stage and inversion stage left it.
        discriminator: of the GAN stage, for the generator's size.
        optimizer: called with the parameters of generator and encoder together, and with the discriminator's.
        losses: pSp's objective, of faces made of the encoder's codes.
        weight: of that objective beside the adversarial loss.
        share: of each step's fakes, 0 to 1, that are made of the encoder's codes of real faces; the others are random.
        settings: the GAN's own, see `GANModule`.

    Codes go on counting from the centre of W that the encoder has learnt with.
    """

    left_out = (*GANModule.left_out, "losses.")

    def __init__(
        self,
        psp: PSP,
        discriminator: Discriminator,
        optimizer: OptimizerFactory,
        losses: InversionLosses,
        *,
        weight: float = 5.0,
        share: float = 0.5,
        **settings: Any,
    ) -> None:
        if not 0 < share <= 1:
            raise InputError(f"share is a share of the fakes, above 0 and at most 1, not {share}.")
        super().__init__(psp.decoder.requires_grad_(True), discriminator, optimizer, **settings)
        self.encoder = psp.encoder
        self.encoder_ema = copy.deepcopy(psp.encoder).requires_grad_(False).eval()
        self.register_buffer("latent_avg", psp.latent_avg.detach().clone(), persistent=False)
        self.losses = losses
        self.weight, self.share = weight, share

    # ---- one step ----------------------------------------------------------------------------------

    def rebuilt(self, faces: Tensor) -> Tensor:
        """Those of the step's faces that the encoder looks at."""
        return faces[: max(1, round(self.share * len(faces)))]

    def codes_beside(self, faces: Tensor) -> Tensor:
        """w+ of the fakes: first of faces, by the encoder, then random ones."""
        w_plus = self.encoder(face_pool(self.rebuilt(faces))) + self.latent_avg
        count = len(faces) - len(w_plus)
        return torch.cat([w_plus, self.codes(count).to(w_plus.dtype)]) if count else w_plus

    def deceive(self, faces: Tensor) -> tuple[Gradients, dict[str, Tensor]]:
        """The loss of generator and encoder: the discriminator's belief, and how unlike their faces the fakes are."""
        w_plus = self.codes_beside(faces)
        fakes = self.make(w_plus, noise=self.noise)
        loss = real_loss(self.score(self.augmented(fakes)))
        sources = face_pool(self.rebuilt(faces))
        count = len(sources)
        unlike, terms = self.losses(face_pool(fakes[:count]), w_plus[:count], sources, latent_avg=self.latent_avg)
        gradients = gradients_of(loss + self.weight * unlike, self.side(MAKING))
        return gradients, {"generator_loss": loss.detach(), "unlikeness": unlike.detach(), **terms}

    def side(self, which: int) -> list[nn.Parameter]:
        return super().side(which) + (list(self.encoder.parameters()) if which == MAKING else [])

    def averaged(self) -> list[tuple[nn.Module, nn.Module]]:
        return [*super().averaged(), (self.encoder_ema, self.encoder)]

    # ---- modes -------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.innermost:
            innermost_channels(self.encoder, self.encoder_ema)

    def on_train_start(self) -> None:
        super().on_train_start()
        self.generator.train()
        self.encoder.train()  # Lightning leaves each module in the mode it finds it in, and `load` gives eval mode

    # ---- validation --------------------------------------------------------------------------------

    @torch.no_grad()
    def reconstruct(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """faces (N, 3, S, S) -> the averages' images (N, 3, 256, 256), with the stored noise, and w+."""
        w_plus = self.encoder_ema(face_pool(faces)) + self.latent_avg
        images = self.generator_ema.synthesize(w_plus, "stored")
        return face_pool(images).to(w_plus.dtype), w_plus

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """KID's share of it, and how like their faces the reconstructions are."""
        super().validation_step(batch, batch_idx)
        if len(batch["faces"]) == 0:  # none of its pictures could be read
            return
        faces = face_pool(batch["faces"])
        images, w_plus = self.reconstruct(faces)
        _, values = self.losses(images, w_plus, faces, latent_avg=self.latent_avg)
        values |= {name: value.mean() for name, value in likeness(images, faces).items()}
        self.log_dict({f"val/{name}": v for name, v in values.items()}, batch_size=len(faces), sync_dist=True)

    def centre(self) -> Tensor:
        """Of the encoder's codes, (style_dim,): where W's own was when it learnt them."""
        return self.latent_avg.mean(0)

    # ---- what a checkpoint holds -------------------------------------------------------------------

    def networks(self) -> dict[str, nn.Module]:
        """Those of the GAN, and `psp`, the averaged encoder, which SAM takes with the averaged generator."""
        return super().networks() | {"psp": self.encoder_ema, "encoder": self.encoder}

    def network_config(self) -> dict[str, Any]:
        return super().network_config() | {"encoder": self.encoder.config}
