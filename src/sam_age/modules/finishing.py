"""The stage that comes last, where true portraits are known: the generator learns to draw what SAM's encoders ask for.

A generator that was tuned against a discriminator for a short time draws marks of its own, lines like engravings where
hair and skin have grain, and no discriminator of that size tells them from the grain. Two things take them away. The
generator goes part of the way back to what it was before: weights between those of two networks, one of which came
from the other, draw what lies between their pictures (Wang et al. 2018, "ESRGAN", network interpolation). And it then
learns, without a discriminator, from pairs of a code and the portrait that it should have given: what cannot be known
of a portrait it leaves out.
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
from sam_age.models.sam import SAM, face_pool
from sam_age.models.stylegan2 import Generator
from sam_age.modules.stage import OptimizerFactory, Stage, mix_seed, move_average, weights_to_train

Batch = Mapping[str, Tensor]


class FinishingModule(Stage):
    """Trains SAM's generator; both encoders stay as they are.

    Args:
        sam: trained.
        losses: how unlike the true portraits the pictures are; terms of codes do not count, which are given.
        optimizer: called with the parameters of the generator's layers; its mapping network, which ageing does not
            use, and the strengths of its noise rest.
        earlier: a generator that SAM's was made from; None: it begins as it is.
        back: how far it goes towards `earlier` before the first step, 0 to 1.
        ema_decay: keep an exponential moving average of the generator with this decay a step, used for validation and
            exported as `generator_ema`; None keeps none.
        warmup_steps, cosine: of the learning rate, see `Stage`.
        channels_last: on GPUs, pictures and features with their channels innermost, which some convolve faster.
        graphed: on a GPU, the work of a step recorded once and replayed, see `Graphed`.
        seed: with step and rank, decides every random draw.

    Raises:
        InputError: `earlier` is another network, or `back` no share.
    """

    left_out = ("losses.",)

    def __init__(
        self,
        sam: SAM,
        losses: InversionLosses,
        optimizer: OptimizerFactory,
        *,
        earlier: Generator | None = None,
        back: float = 0.5,
        ema_decay: float | None = None,
        warmup_steps: int = 0,
        cosine: bool = False,
        channels_last: bool = False,
        graphed: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # the learning rate is set, and the average taken, around each step
        self.sam = sam.requires_grad_(False)
        if earlier is not None:
            go_back(sam.decoder, earlier, back)
        self.losses, self.optimizer_factory = losses, optimizer
        for name, parameter in sam.decoder.named_parameters():
            parameter.requires_grad_(not name.startswith("style.") and not name.endswith("noise.weight"))
        self.ema_decay = ema_decay
        self.averages_weights = ema_decay is not None
        self.ema_decoder = None if ema_decay is None else copy.deepcopy(sam.decoder).requires_grad_(False).eval()
        self.warmup_steps, self.cosine, self.seed = warmup_steps, cosine, seed
        self.channels_last, self.graphed = channels_last, graphed
        self.gradients = self.take_gradients
        self.train(self.training)

    # ---- one step ----------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One update: draw each face as it is, and as it is at another age, and compare both with the portraits.

        batch["faces"]: (N, 3, 256, 256), RGB in [-1, 1]; "truth", the same people at "truth_age" (N,) years.
        """
        if "truth" not in batch:
            raise InputError("This stage learns from true portraits of other ages: set data.truths=true.")
        torch.manual_seed(mix_seed(self.seed, self.global_step, self.global_rank))  # a resumed run draws the same
        optimizer = self.optimizers()
        rate = self.set_rate(optimizer)
        optimizer.zero_grad()
        with weights_to_train(optimizer.optimizer):
            loss, terms = self.gradients(batch["faces"], batch["truth"], batch["truth_age"])
            self.exchange(self.sam.decoder)
            optimizer.step()
        if self.ema_decoder is not None:
            move_average(self.ema_decoder, self.sam.decoder, self.decay())
        self.last_loss = loss  # stays on the device: whoever shows it decides when to wait for it
        self.note(terms | {"lr": rate}, len(batch["faces"]))

    def take_gradients(self, faces: Tensor, truth: Tensor, truth_age: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its terms; its gradients are left in the generator's parameters."""
        if self.innermost:
            faces, truth = (x.contiguous(memory_format=torch.channels_last) for x in (faces, truth))
        with torch.no_grad():
            code = self.sam.encode(faces)
            w_plus = torch.cat([code, self.sam.edit(faces, truth_age, code)])
        images = face_pool(self.sam.decoder.synthesize(w_plus, "random"))
        wanted = torch.cat([faces, truth])
        loss, terms = self.losses(images, w_plus, wanted, latent_avg=self.sam.latent_avg)
        self.manual_backward(loss)
        return loss.detach(), terms

    # ---- optimizer and modes -----------------------------------------------------------------------

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer_factory([p for p in self.sam.decoder.parameters() if p.requires_grad])

    def train(self, mode: bool = True) -> FinishingModule:
        super().train(mode)
        for frozen in (self.sam.encoder, self.sam.pretrained_encoder, self.ema_decoder):
            if frozen is not None:
                frozen.eval()
        return self

    def on_fit_start(self) -> None:
        if self.innermost:
            innermost_channels(self.sam.encoder, self.sam.pretrained_encoder)
            innermost_channels(*(g.input for g in (self.sam.decoder, self.ema_decoder) if g is not None))

    def on_train_start(self) -> None:
        if self.graphed:
            learns = [p for p in self.sam.decoder.parameters() if p.requires_grad]
            self.gradients = self.recorded(self.take_gradients, learns)
        self.train()  # Lightning leaves each module in the mode it finds it in, and `load` gives eval mode

    # ---- validation --------------------------------------------------------------------------------

    @property
    def best_decoder(self) -> Generator:
        """The averaged generator where there is one."""
        return self.sam.decoder if self.ema_decoder is None else self.ema_decoder

    @torch.no_grad()
    def reconstruct(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """faces (N, 3, 256, 256) -> the best generator's images of pSp's codes, with the stored noise, and w+."""
        w_plus = self.sam.encode(faces)
        images = self.best_decoder.synthesize(w_plus, "stored")
        return face_pool(images).to(w_plus.dtype), w_plus

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The training losses of faces as they are, and how like the pictures are."""
        faces = batch["faces"]
        if len(faces) == 0:  # none of its pictures could be read
            return
        images, w_plus = self.reconstruct(faces)
        _, values = self.losses(images, w_plus, faces, latent_avg=self.sam.latent_avg)
        values |= {name: value.mean() for name, value in likeness(images, faces).items()}
        self.log_dict({f"val/{name}": v for name, v in values.items()}, batch_size=len(faces), sync_dist=True)

    # ---- what it makes -----------------------------------------------------------------------------

    def networks(self) -> dict[str, nn.Module]:
        """`generator_ema` is what SAM takes, averaged where there is an average; `generator` goes on learning."""
        return {"generator_ema": self.best_decoder, "generator": self.sam.decoder}

    def network_config(self) -> dict[str, Any]:
        """Of the whole SAM, which a checkpoint holds."""
        return self.sam.config


@torch.no_grad()
def go_back(generator: Generator, earlier: Generator, share: float) -> None:
    """Move a generator's weights that share of the way, 0 to 1, to those of one that it was made from.

    Raises:
        InputError: they are not of one shape, or that is no share.
    """
    if not 0 <= share <= 1:
        raise InputError(f"back is a share of the way to the earlier generator, 0 to 1, not {share}.")
    ours, theirs = dict(generator.named_parameters()), dict(earlier.named_parameters())
    if {name: p.shape for name, p in ours.items()} != {name: p.shape for name, p in theirs.items()}:
        raise InputError("The earlier generator is of another size: give the one that this generator was tuned from.")
    for name, parameter in ours.items():
        parameter.lerp_(theirs[name].to(parameter), share)
