"""pSp's training stage: an encoder that finds the code of a face, with the generator frozen.

Source: Richardson et al., "Encoding in Style", CVPR 2021. Faces that the generator itself has made come with their
codes; a share of them in each batch (Zhu et al. 2020, "In-Domain GAN Inversion", and others before) tells a small
encoder directly what it otherwise has to find through the generator.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sam_age.device import innermost_channels
from sam_age.errors import InputError
from sam_age.evaluation.counterfactual import likeness
from sam_age.losses import InversionLosses
from sam_age.models.identity import IdentityNet
from sam_age.models.sam import PSP, face_pool
from sam_age.modules.stage import (
    OptimizerFactory,
    Stage,
    mix_seed,
    move_average,
    weights_to_train,
)

Batch = Mapping[str, Tensor]


class InversionModule(Stage):
    """Trains pSp's encoder.

    Args:
        psp: encoder and generator; only `psp.encoder` learns.
        losses: pSp's objective, with the frozen networks it needs.
        optimizer: called with the encoder's parameters.
        sampled_share: share of each batch, 0 to 1, whose faces are replaced by samples of the generator with known
            codes; rounded to whole faces.
        truncation: of those samples; 1 as the generator draws them, less: more common faces.
        ema_decay: keep an exponential moving average of the encoder with this decay a step, used for validation and
            exported as `psp`; None keeps none.
        warmup_steps, cosine: of the learning rate, see `Stage`.
        compiled: torch.compile for the generator, in training.
        channels_last: on GPUs, pictures and features with their channels innermost, which some convolve faster.
        graphed: on a GPU, the work of a step recorded once and replayed, see `Graphed`; for small networks.
        identity_judge: a network that is not in the loss, for validation alone.
        seed: with step and rank, decides every random draw.
    """

    left_out = ("losses.", "identity_judge.")

    def __init__(
        self,
        psp: PSP,
        losses: InversionLosses,
        optimizer: OptimizerFactory,
        *,
        sampled_share: float = 0.0,
        truncation: float = 1.0,
        ema_decay: float | None = None,
        warmup_steps: int = 0,
        cosine: bool = False,
        compiled: bool = False,
        channels_last: bool = False,
        graphed: bool = False,
        identity_judge: IdentityNet | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= sampled_share <= 1:
            raise InputError(f"sampled_share is a share of the batch, 0 to 1, not {sampled_share}.")
        self.automatic_optimization = False  # the learning rate is set, and the average taken, around each step
        self.psp = psp
        self.psp.decoder.requires_grad_(False)
        self.losses = losses
        self.optimizer_factory = optimizer
        self.sampled_share, self.truncation = sampled_share, truncation
        self.ema_decay = ema_decay
        self.averages_weights = ema_decay is not None
        self.ema_encoder = None if ema_decay is None else copy.deepcopy(psp.encoder).requires_grad_(False).eval()
        self.warmup_steps, self.cosine, self.seed = warmup_steps, cosine, seed
        self.identity_judge = None if identity_judge is None else identity_judge.requires_grad_(False).eval()
        self.compiled, self.channels_last, self.graphed = compiled, channels_last, graphed
        self.make = psp.decoder.synthesize
        self.gradients = self.take_gradients
        self.train(self.training)

    # ---- one step ----------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One update: find each face's code, and compare what the generator makes of it with the face.

        batch["faces"]: (N, 3, 256, 256), RGB in [-1, 1].
        """
        torch.manual_seed(mix_seed(self.seed, self.global_step, self.global_rank))  # a resumed run draws the same
        optimizer = self.optimizers()
        rate = self.set_rate(optimizer)
        optimizer.zero_grad()
        with weights_to_train(optimizer.optimizer):
            loss, terms = self.gradients(batch["faces"])
            self.exchange(self.psp.encoder)
            optimizer.step()
        self.update_average()
        self.last_loss = loss  # stays on the device: whoever shows it decides when to wait for it
        self.note(terms | {"lr": rate}, len(batch["faces"]))

    def take_gradients(self, faces: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss at faces (N, 3, 256, 256), and its terms; its gradients are left in the encoder's parameters."""
        faces, codes = self.with_samples(faces)
        if self.innermost:
            faces = faces.contiguous(memory_format=torch.channels_last)
        w_plus = self.psp.encode(faces)
        images = face_pool(self.make(w_plus, "random"))
        loss, terms = self.losses(images, w_plus, faces, latent_avg=self.psp.latent_avg, codes=codes)
        self.manual_backward(loss)
        return loss.detach(), terms

    @torch.no_grad()
    def with_samples(self, faces: Tensor) -> tuple[Tensor, Tensor | None]:
        """The batch with its last faces replaced by samples of the generator, and those samples' w+.

        faces: (N, 3, 256, 256) -> the same shape; (K, n_styles, style_dim), or None where no face is replaced.
        """
        count = round(self.sampled_share * len(faces))
        if count == 0:
            return faces, None
        decoder, centre = self.psp.decoder, self.psp.latent_avg.mean(0)
        z = torch.randn(count, decoder.style_dim, device=faces.device, dtype=centre.dtype)
        made, codes = decoder(z, truncation=self.truncation, truncation_latent=centre, return_latents=True)
        made = face_pool(made).clamp(-1, 1).to(faces.dtype)  # photographs do not leave this range
        return torch.cat([faces[: len(faces) - count], made]), codes

    def update_average(self) -> None:
        """Move the averaged encoder towards the trained one; batch statistics are copied."""
        if self.ema_encoder is not None:
            move_average(self.ema_encoder, self.psp.encoder, self.decay())

    # ---- optimizer and modes -----------------------------------------------------------------------

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer_factory(self.psp.encoder.parameters())

    def train(self, mode: bool = True) -> InversionModule:
        super().train(mode)
        for frozen in (self.psp.decoder, self.ema_encoder, self.identity_judge):
            if frozen is not None:
                frozen.eval()
        return self

    def on_fit_start(self) -> None:
        if self.compiled:
            self.make = torch.compile(self.make)
        if self.innermost:
            innermost_channels(self.psp.encoder, self.ema_encoder, self.psp.decoder.input)

    def on_train_start(self) -> None:
        if self.graphed:
            self.gradients = self.recorded(self.take_gradients, self.psp.encoder.parameters())
        self.train()  # Lightning leaves each module in the mode it finds it in, and `load` gives eval mode

    # ---- validation --------------------------------------------------------------------------------

    @property
    def best_encoder(self) -> nn.Module:
        """The averaged encoder where there is one."""
        return self.psp.encoder if self.ema_encoder is None else self.ema_encoder

    @torch.no_grad()
    def reconstruct(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """faces (N, 3, 256, 256) -> the best encoder's images, with the stored noise, and w+."""
        w_plus = self.best_encoder(faces) + self.psp.latent_avg
        images = self.psp.decoder.synthesize(w_plus, "stored")
        return face_pool(images).to(w_plus.dtype), w_plus

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The training losses with the stored noise, how like the pictures are, and what a judge makes of them."""
        faces = batch["faces"]
        if len(faces) == 0:  # none of its pictures could be read
            return
        images, w_plus = self.reconstruct(faces)
        _, values = self.losses(images, w_plus, faces, latent_avg=self.psp.latent_avg)
        values |= {name: value.mean() for name, value in likeness(images, faces).items()}
        if self.identity_judge is not None:
            similarity = (self.identity_judge(images) * self.identity_judge(faces)).sum(1)
            values["judged_identity_similarity"] = similarity.mean()
        logged = {f"val/{name}": value for name, value in values.items()}
        self.log_dict(logged, batch_size=len(faces), sync_dist=True)

    # ---- what it makes -----------------------------------------------------------------------------

    def networks(self) -> dict[str, nn.Module]:
        """`psp`, the encoder that SAM takes, averaged where there is an average; then `encoder` is what goes on
        learning. Its codes count from the generator's centre of W, which the generator's own file holds."""
        made: dict[str, nn.Module] = {"psp": self.best_encoder}
        return made if self.ema_encoder is None else made | {"encoder": self.psp.encoder}

    def network_config(self) -> dict[str, Any]:
        """Of encoder and generator, both of which a checkpoint holds."""
        return self.psp.config
