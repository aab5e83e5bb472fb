"""StyleGAN2's training stage: a generator of faces, and the discriminator that it learns from.

Sources: Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN" (losses, lazy regularisation, path
lengths, appendix B); Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data" (adaptive
augmentation, the weight of R1 by image size, the average's half-life).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from sam_age.data.ada import AdaptiveAugment
from sam_age.errors import InputError
from sam_age.evaluation.kid import KernelDistance, embed
from sam_age.models.convolve import differentiable_twice, weights_left_out
from sam_age.models.stylegan2 import GROUP, Discriminator, Generator, side_by_side, taken_apart
from sam_age.modules.ranks import average_over_ranks
from sam_age.modules.stage import OptimizerFactory, Stage, mix_seed, move_average, without_casts
from sam_age.weights.growing import grow

Batch = Mapping[str, Tensor]
Gradients = list[Tensor | None]

MAKING, JUDGING = 0, 1
"""The two sides: what learns to deceive, and what learns not to be deceived; each has an optimizer."""

CENTRE_SAMPLES = 16384
"""Codes whose mean is the centre of W: their spread over 128 is less than a percent."""


def real_loss(scores: Tensor) -> Tensor:
    """Small where scores say "real": mean softplus(-score), the non-saturating logistic loss.

    >>> real_loss(torch.tensor([0.0]))  # log 2
    tensor(0.6931)
    """
    return F.softplus(-scores).mean()


def fake_loss(scores: Tensor) -> Tensor:
    """Small where scores say "fake": mean softplus(score)."""
    return F.softplus(scores).mean()


def r1_penalty(discriminator: nn.Module, faces: Tensor) -> Tensor:
    """Mean squared length of the scores' gradient at real faces (N, 3, H, W), a scalar to descend.

    Source: Mescheder et al. 2018, "Which Training Methods for GANs do actually Converge?"
    """
    faces = faces.detach().requires_grad_()
    scores = discriminator(faces).sum()
    with weights_left_out():
        (gradient,) = torch.autograd.grad(scores, faces, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


def path_lengths(images: Tensor, w_plus: Tensor, directions: Tensor) -> Tensor:
    """How far each image moves, along a random direction, when its code does: (N,), to descend.

    Args:
        images: (N, 3, H, W), made from w_plus with gradients.
        w_plus: (N, n_latent, style_dim).
        directions: unit normal, like images.

    Source: StyleGAN2, section 3.2: |J_w^T y|, a root mean square over layers.
    """
    scale = math.sqrt(images.shape[2] * images.shape[3])
    with weights_left_out():
        (gradient,) = torch.autograd.grad((images * directions).sum() / scale, w_plus, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


def gradients_of(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Gradients:
    """With respect to these alone, laid out as they are, which fused optimizers ask for. None: the loss does not depend
    on that one."""
    with without_casts(loss.device.type):
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [
        gradient if gradient is None or gradient.stride() == parameter.stride()
        else torch.empty_like(parameter).copy_(gradient)
        for gradient, parameter in zip(gradients, parameters, strict=True)
    ]  # fmt: skip


class Progress(nn.Module):
    """What training knows beside weights, as buffers, so that it is saved with them."""

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        self.register_buffer("images", torch.zeros((), dtype=torch.int64))  # real faces seen so far, on all ranks
        self.register_buffer("path_length", torch.zeros(()))  # its running mean


class GANModule(Stage):
    """Trains StyleGAN2. A step (`global_step`, `trainer.max_steps`) is one update of the generator.

    Args:
        generator, discriminator: of one image size.
        optimizer: called with the parameters of each; its lr and betas are those without lazy regularisation, and are
            corrected for the additional steps that it takes.
        features: images -> features for KID (see `embed`); None: no KID.
        augment: of all that the discriminator sees; None: nothing is changed.
        r1_gamma: weight of R1; None: 0.0002 size^2 / (faces a step on all ranks).
        r1_every, path_every: steps between regularisations, which then count that often.
        path_weight: of path-length regularisation; 0 leaves it out.
        path_share: it uses a batch this many times smaller.
        path_decay: share of a new batch in the running mean of path lengths.
        mixing: probability that an image's layers take their style from two codes.
        pixel_noise: draw StyleGAN2's noise, and learn how strongly each layer shows it; False: no layer shows any.
        ema_half_life: of the averaged generator, in images; None follows
        ema_ramp: in the beginning the half-life is this share of the images seen.
        fakes_per_face: made for KID for each held-out face.
        compiled: torch.compile for the losses' passes; the regularisations, with gradients of gradients, cannot be.
        channels_last: on GPUs, pictures and features with their channels innermost, which some convolve faster.
        graphed: on a GPU, each part of a step recorded once and replayed, see `Graphed`; for small networks.
        grow_from: folder weights/ of a run at a smaller size, from which the layers that both have are taken.
        seed: with step and rank, decides every random draw.
    """

    left_out = ("features.",)
    averages_weights = True

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        optimizer: OptimizerFactory,
        *,
        features: nn.Module | None = None,
        augment: AdaptiveAugment | None = None,
        r1_gamma: float | None = None,
        r1_every: int = 16,
        path_weight: float = 2.0,
        path_every: int = 4,
        path_share: int = 2,
        path_decay: float = 0.01,
        mixing: float = 0.9,
        pixel_noise: bool = True,
        ema_half_life: float = 10_000,
        ema_ramp: float = 0.05,
        fakes_per_face: int = 4,
        compiled: bool = False,
        channels_last: bool = False,
        graphed: bool = False,
        grow_from: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if generator.size != discriminator.config["size"]:
            raise InputError(
                f"The generator makes {generator.size} pixels, the discriminator takes {discriminator.config['size']}: "
                "set model.generator.size and model.discriminator.size to one number."
            )
        if min(r1_every, path_every, path_share, fakes_per_face) < 1:
            raise InputError("r1_every, path_every, path_share and fakes_per_face are at least 1.")
        averaged = copy.deepcopy(generator)
        if grow_from is not None:
            grow(generator, Path(grow_from) / "generator.safetensors")
            grow(averaged, Path(grow_from) / "generator_ema.safetensors")
            grow(discriminator, Path(grow_from) / "discriminator.safetensors")
        self.automatic_optimization = False  # two networks, and up to four steps of their optimizers
        self.generator, self.discriminator = generator, discriminator
        self.generator_ema: Generator = averaged.requires_grad_(False).eval()
        self.optimizer_factory = optimizer
        self.features = None if features is None else features.requires_grad_(False).eval()
        self.augment = augment
        self.progress = Progress()
        self.r1_gamma, self.r1_every = r1_gamma, r1_every
        self.path_weight, self.path_every, self.path_share = path_weight, path_every, path_share
        self.path_decay, self.mixing = path_decay, mixing
        self.noise = "random" if pixel_noise else "stored"  # where no layer shows it, drawing it is of no use
        if not pixel_noise:
            self.silence()
        self.ema_half_life, self.ema_ramp = ema_half_life, ema_ramp
        self.fakes_per_face, self.seed = fakes_per_face, seed
        self.compiled, self.channels_last, self.graphed = compiled, channels_last, graphed
        self.make, self.score = generator.synthesize, discriminator.forward
        self.part = self.take_part
        self.kid = KernelDistance()
        self.images = 0  # progress.images on the host
        self.lazy: dict[str, Tensor] = {}  # what the latest regularisations found, for the log

    # ---- one step ----------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One update: the discriminator tells real from fake, then the generator learns to pass for real.

        batch["faces"]: (N, 3, size, size), RGB in [-1, 1].
        """
        faces, step = batch["faces"], self.global_step
        if self.innermost:
            faces = faces.contiguous(memory_format=torch.channels_last)
        torch.manual_seed(mix_seed(self.seed, step, self.global_rank))  # so that a resumed run draws the same

        gradients, found = self.part(faces, name="tell_apart")
        self.descend(gradients, JUDGING)
        if step % self.r1_every == 0:
            gradients, r1 = self.part(faces, name="regularise_scores")
            self.lazy["r1"] = r1.clone()  # logged when other parts have written over it
            self.descend(gradients, JUDGING)

        gradients, deceit = self.part(faces, name="deceive")
        self.descend(gradients, MAKING, counts=True)
        if step % self.path_every == 0 and self.path_weight:
            gradients, paths = self.part(faces, name="regularise_paths")
            self.descend(gradients, MAKING)
            self.progress.path_length.copy_(self.over_ranks(paths["mean"]))
            self.lazy |= {name: value.clone() for name, value in paths.items() if name != "mean"}

        self.update_average(len(faces) * self.trainer.world_size)
        if self.augment is not None:
            self.augment.observe(found["real_scores"], step + 1, self.over_ranks)
        self.last_loss = found["discriminator_loss"] + deceit["generator_loss"]
        self.note_step(found | deceit)

    # ---- its parts: gradients of one network's parameters, and what else there is to know ------------

    def take_part(self, faces: Tensor, *, name: str) -> tuple[Gradients, Any]:
        """One of the next four, of a batch of faces; what `Graphed` records: its results are to be left as they are."""
        return getattr(self, name)(faces)

    def tell_apart(self, faces: Tensor) -> tuple[Gradients, dict[str, Tensor]]:
        """The discriminator's loss, and its scores of faces and of as many fakes."""
        with torch.no_grad():
            fakes = self.make(self.codes_beside(faces), noise=self.noise)
        real_scores, fake_scores = self.scores(self.augmented(faces), self.augmented(fakes))
        loss = real_loss(real_scores) + fake_loss(fake_scores)
        found = {"discriminator_loss": loss, "real_scores": real_scores, "fake_scores": fake_scores}
        return gradients_of(loss, self.side(JUDGING)), {name: value.detach() for name, value in found.items()}

    def scores(self, faces: Tensor, fakes: Tensor) -> tuple[Tensor, Tensor]:
        """The discriminator's, of as many of either, in one pass where that changes nothing."""
        if len(faces) % GROUP:
            return self.score(faces), self.score(fakes)
        return taken_apart(self.score(side_by_side(faces, fakes.to(faces.dtype))))

    def regularise_scores(self, faces: Tensor) -> tuple[Gradients, Tensor]:
        """R1, at the faces as the discriminator sees them; in float32, as squares of small gradients need it."""
        with torch.autocast(self.device.type, enabled=False), differentiable_twice():
            r1 = r1_penalty(self.discriminator, self.augmented(faces))
            gamma = self.r1_gamma
            if gamma is None:
                gamma = 0.0002 * self.generator.size**2 / (len(faces) * self.trainer.world_size)
            return gradients_of(self.r1_every * gamma / 2 * r1, self.side(JUDGING)), r1.detach()

    def deceive(self, faces: Tensor) -> tuple[Gradients, dict[str, Tensor]]:
        """The generator's loss, of as many fakes as there are faces."""
        fakes = self.make(self.codes_beside(faces), noise=self.noise)
        loss = real_loss(self.score(self.augmented(fakes)))
        return gradients_of(loss, self.side(MAKING)), {"generator_loss": loss.detach()}

    def regularise_paths(self, faces: Tensor) -> tuple[Gradients, dict[str, Tensor]]:
        """Path lengths drawn towards their running mean, on a smaller batch; in float32."""
        with torch.autocast(self.device.type, enabled=False), differentiable_twice():
            w_plus = self.codes(max(1, len(faces) // self.path_share))
            images = self.generator.synthesize(w_plus, noise=self.noise)
            lengths = path_lengths(images, w_plus, torch.randn_like(images))
            here = lengths.detach().mean()
            mean = self.progress.path_length.lerp(here, self.path_decay)
            penalty = (lengths - mean).square().mean()
            gradients = gradients_of(self.path_every * self.path_weight * penalty, self.side(MAKING))
        return gradients, {"path_length": here, "path_penalty": penalty.detach(), "mean": mean}

    def codes(self, count: int) -> Tensor:
        """Random w+ (count, n_latent, style_dim): up to a random layer from one z, from there on from another."""
        generator = self.generator
        z = torch.randn(2 * count, generator.style_dim, device=self.device, dtype=generator.input.input.dtype)
        first, second = generator.mapping(z)[:, None].chunk(2)
        cut = torch.randint(1, generator.n_latent, (count, 1, 1), device=self.device)
        mixed = torch.rand(count, 1, 1, device=self.device) < self.mixing
        layer = torch.arange(generator.n_latent, device=self.device)[None, :, None]
        return torch.where(mixed & (layer >= cut), second, first)

    def codes_beside(self, faces: Tensor) -> Tensor:
        """w+ of a step's fakes, as many as there are faces."""
        return self.codes(len(faces))

    def augmented(self, images: Tensor) -> Tensor:
        return images if self.augment is None else self.augment(images)

    def side(self, which: int) -> list[nn.Parameter]:
        """What learns on that side."""
        network = self.discriminator if which == JUDGING else self.generator
        return [parameter for parameter in network.parameters() if parameter.requires_grad]

    def silence(self) -> None:
        """Have no layer of the generator, nor of its average, show noise, and none learn to."""
        for network in (self.generator, self.generator_ema):
            for layer in (network.conv1, *network.convs):
                layer.noise.weight.requires_grad_(False).zero_()

    def descend(self, gradients: Gradients, side: int, *, counts: bool = False) -> None:
        """One step of a side's optimizer. counts: in `global_step`.

        A parameter on which the loss does not depend (ToRGB's bias, in path lengths) takes no step.
        """
        # DDP's own hooks see none of these gradients: they await one backward pass a step
        average_over_ranks([gradient for gradient in gradients if gradient is not None])
        parameters = self.side(side)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        # Lightning counts the steps of its own wrappers, and a step of ours has up to four
        self.optimizers(use_pl_optimizer=counts)[side].step()
        for parameter in parameters:
            parameter.grad = None
        torch.clear_autocast_cache()  # the rest of the step must not meet copies of the old weights

    @torch.no_grad()
    def update_average(self, images: int) -> None:
        """Move the averaged generator towards the trained one. images: of this step, on all ranks."""
        self.images += images
        self.progress.images += images
        half_life = min(self.ema_half_life, self.ema_ramp * self.images) if self.ema_ramp else self.ema_half_life
        decay = 0.5 ** (images / half_life) if half_life else 0.0
        for averaged, trained in self.averaged():
            move_average(averaged, trained, decay)

    def averaged(self) -> list[tuple[nn.Module, nn.Module]]:
        """Averages, and the networks that they follow."""
        return [(self.generator_ema, self.generator)]

    def note_step(self, found: Mapping[str, Tensor]) -> None:
        """Everything stays on the device until a line of the log is written. The latest of what is lazy."""
        values = {name: value for name, value in found.items() if not name.endswith("_scores")}
        real, fake = found["real_scores"], found["fake_scores"]
        values |= {
            "real_score": real.mean(),
            "fake_score": fake.mean(),
            "real_sign": real.sign().mean(),  # overfitting: near 1
            "images": self.progress.images.float(),
            **self.lazy,
        }
        if self.augment is not None:
            values["augment_probability"] = self.augment.probability
        self.note(values, len(real))

    # ---- ranks -------------------------------------------------------------------------------------

    def over_ranks(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all ranks."""
        if self.trainer.world_size > 1:
            dist.all_reduce(value)
            value = value / self.trainer.world_size
        return value

    # ---- optimizers and modes ----------------------------------------------------------------------

    def configure_optimizers(self) -> list[Optimizer]:
        """The generator's and the discriminator's, with lr and betas for k + 1 steps where k are without R1's or path
        lengths': StyleGAN2, appendix B."""
        return [
            lazily(self.optimizer_factory(self.side(MAKING)), self.path_every if self.path_weight else None),
            lazily(self.optimizer_factory(self.side(JUDGING)), self.r1_every),
        ]

    def on_fit_start(self) -> None:
        if str(self.trainer.precision).startswith("16"):
            raise InputError("Gradients of gradients overflow float16: set trainer.precision=bf16-mixed or 32-true.")
        if self.noise == "stored":
            self.silence()  # weights that the run was told to start from may show some
        if self.compiled:
            self.make, self.score = torch.compile(self.make), torch.compile(self.score)
        if self.innermost:  # from its first map on, every other follows
            self.generator.input.to(memory_format=torch.channels_last)
            self.generator_ema.input.to(memory_format=torch.channels_last)

    def on_train_start(self) -> None:
        self.images = int(self.progress.images)
        if self.graphed:
            self.part = self.recorded(self.take_part, [], kinds=4 if self.path_weight else 3)

    # ---- validation --------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Features of held-out faces, and of as many faces made of fixed z for each."""
        faces = batch["faces"]
        if self.features is None or len(faces) == 0:  # none of its pictures could be read
            return
        self.kid.update(embed(self.features, faces), real=True)
        for fakes in self.fixed_fakes(batch["index"]):
            self.kid.update(embed(self.features, fakes), real=False)

    def fixed_fakes(self, index: Tensor) -> Iterator[Tensor]:
        """`fakes_per_face` batches, a face for each number (N,), the same at every validation; clipped to [-1, 1]."""
        seeds = [torch.Generator().manual_seed(mix_seed(number)) for number in index.tolist()]
        for _ in range(self.fakes_per_face):
            z = torch.stack([torch.randn(self.generator.style_dim, generator=seed) for seed in seeds])
            yield self.generator_ema(z.to(self.device), noise="stored").clamp(-1, 1)

    def on_validation_epoch_end(self) -> None:
        if self.features is not None:
            self.log("val/kid", self.kid.compute(), sync_dist=False)  # the metric has seen all ranks' features
            self.kid.reset()

    @torch.no_grad()
    def sample(self, z: Tensor, truncation: float) -> Tensor:
        """z (N, style_dim) -> (N, 3, size, size), by the averaged generator, with its stored noise."""
        return self.generator_ema(z, truncation=truncation, truncation_latent=self.centre(), noise="stored")

    def centre(self) -> Tensor:
        """The averaged generator's mean w (style_dim,), from a fixed sample."""
        return self.generator_ema.mean_latent(CENTRE_SAMPLES, torch.Generator().manual_seed(0))[0]

    # ---- what a checkpoint holds -------------------------------------------------------------------

    def networks(self) -> dict[str, nn.Module]:
        """`generator_ema` is what other stages want, with its centre of W; the others, to go on training."""
        self.generator_ema.latent_avg.copy_(self.centre())
        made = {
            "generator_ema": self.generator_ema,
            "generator": self.generator,
            "discriminator": self.discriminator,
            "progress": self.progress,
        }
        return made if self.augment is None else made | {"augment": self.augment}

    def network_config(self) -> dict[str, Any]:
        return {"generator": self.generator.config, "discriminator": self.discriminator.config}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["latent_avg"] = self.centre()  # as in rosinality's files


def lazily(optimizer: Optimizer, every: int | None) -> Optimizer:
    """Correct an optimizer for one more step each `every` of them: lr and the logarithms of betas by k / (k + 1)."""
    if every is not None:
        share = every / (every + 1)
        for group in optimizer.param_groups:
            group["lr"] *= share
            if "betas" in group:
                group["betas"] = tuple(beta**share for beta in group["betas"])
    return optimizer
