"""The generator's synthesis with frozen weights: one autograd function from styles to the picture, and back.

The way back is written out, so that a layer keeps one map, z (see `kernels`), in the dtype of the convolutions. The
picture, styles and demodulation are float32 throughout.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

import torch
from torch import Tensor

from sam_age.models.fused import launch, synthesis_parameters
from sam_age.models.fused.choosing import choose
from sam_age.models.fused.convolutions import DOUBLING, KEEPING, Convolution, UpConvolution, capturing
from sam_age.models.fused.launch import LAST, Colours, Layer
from sam_age.models.stylegan2 import Generator, StyledConv, ToRGB


def synthesize(
    generator: Generator, w_plus: Tensor, maps: list[Tensor], dtype: torch.dtype, *, features: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """`Generator.synthesize` where `fused.reason_against` finds nothing.

    Returns:
        the picture (N, 3, S, S) in the dtype of w_plus; and the last activations, in `dtype`.
    """
    if generator.form not in ("auto", *DOUBLING, *KEEPING):
        known = ", ".join(("auto", *DOUBLING, *KEEPING))
        raise ValueError(f"No form of layers is called {generator.form!r}. Known: {known}.")
    there = torch.cuda.device(w_plus.device) if w_plus.is_cuda else contextlib.nullcontext()
    with there, torch.autocast(w_plus.device.type, enabled=False):
        prepared = _prepare(generator, dtype)
        styles, gains, rgb_styles = prepared.modulate(w_plus.float())
        maps = [noise.contiguous() for noise in maps]
        picture, *last = _Synthesis.apply(styles, gains, rgb_styles, maps, prepared, generator.form, features)
    picture = picture.to(w_plus.dtype)
    return (picture, *last) if features else picture


class Prepared:
    """The frozen weights in the forms that they are used in.

    Attributes:
        convolutions: one a layer, in their order.
        colours: one a ToRGB; the one of number j follows layer 2 j.
    """

    def __init__(self, generator: Generator, dtype: torch.dtype) -> None:
        layers = [generator.conv1, *generator.convs]
        to_rgbs = [generator.to_rgb1, *generator.to_rgbs]
        self.dtype = dtype
        self.start = generator.input.input.detach().float()  # (1, C, 4, 4)
        self.taps = _taps(generator.config["blur_kernel"])
        self.convolutions = [self._convolution(layer, dtype) for layer in layers]
        self.colours = [_colours(to_rgb) for to_rgb in to_rgbs]
        widest = max(max(layer.layer.channels, layer.inputs) for layer in self.convolutions)
        # styles and demodulation of all layers at once: zeros fill the narrower ones up
        self.to_styles = _stack([_affine(layer.conv.modulation) for layer in layers], widest)
        self.to_rgb_styles = _stack([_affine(to_rgb.conv.modulation) for to_rgb in to_rgbs], widest)
        self.powers = _stack([(_weight(layer).square().sum((2, 3)).T, None) for layer in layers], widest, widest)[0]

    def _convolution(self, styled: StyledConv, dtype: torch.dtype) -> Convolution | UpConvolution:
        bias = styled.activate.bias.detach().float()
        layer = Layer(len(bias), styled.noise.weight.detach().float(), bias, self.taps)
        if styled.conv.resample == "up":
            return UpConvolution(_weight(styled), styled.conv.blur.kernel.float(), layer, dtype)
        return Convolution(_weight(styled), layer, dtype)

    def modulate(self, w_plus: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """w+ (N, n_latent, D) -> styles and demodulation of the layers (L, N, C), styles of ToRGBs (L // 2 + 1, N, C).

        Layer i reads code i; the ToRGB after it, which is there for even i, reads code i + 1.
        """
        codes = w_plus.transpose(0, 1)
        weight, bias = self.to_styles
        styles = torch.baddbmm(bias, codes[: len(weight)], weight)
        gains = torch.rsqrt(torch.bmm(styles.square(), self.powers) + 1e-8)
        weight, bias = self.to_rgb_styles
        return styles, gains, torch.baddbmm(bias, codes[1::2], weight)


class _Synthesis(torch.autograd.Function):
    """styles, demodulation, styles of ToRGBs -> picture (N, 3, S, S), float32; and the last activations if asked."""

    @staticmethod
    def forward(
        ctx: Any,
        styles: Tensor,
        gains: Tensor,
        rgb_styles: Tensor,
        maps: list[Tensor],
        prepared: Prepared,
        form: str,
        features: bool,
    ) -> tuple[Tensor, ...]:
        keeps = any(ctx.needs_input_grad)
        start, last = prepared.start, len(prepared.convolutions) - 1
        z = start * styles[0, :, : start.shape[1], None, None]
        z = z.to(prepared.dtype).contiguous(memory_format=LAST)
        picture, kept = None, []
        for i, layer in enumerate(prepared.convolutions):
            style = styles[i + 1] if i < last else None
            given, others = (z, gains[i], maps[i], style), {}
            if not isinstance(layer, UpConvolution):
                others = {"colours": prepared.colours[i // 2], "rgb_style": rgb_styles[i // 2], "below": picture}
                others["keep"] = keeps or features or i < last
            work = lambda name: layer.forward(name, *given, **others)  # noqa: B023, E731
            made = work(choose(layer, z, maps[i].shape[2], form, work, back=False))
            z, picture = (made, picture) if isinstance(layer, UpConvolution) else made
            if keeps:
                kept.append(z)
        if keeps:
            ctx.save_for_backward(styles, gains, rgb_styles, *maps, *kept)
            ctx.prepared, ctx.form = prepared, form
        return (picture, z) if features else (picture,)

    @staticmethod
    def backward(ctx: Any, of_picture: Tensor, of_features: Tensor | None = None) -> tuple[Any, ...]:
        if torch.is_grad_enabled():  # a gradient that passes for a constant would be a wrong one
            raise RuntimeError(
                "The fused generator has no gradients of gradients (create_graph=True): call it within "
                "models.convolve.differentiable_twice(), or set its `fused` to False."
            )
        styles, gains, rgb_styles, *others = ctx.saved_tensors
        prepared, form = ctx.prepared, ctx.form
        count = len(prepared.convolutions)
        maps, kept = others[:count], others[count:]
        there = torch.cuda.device(styles.device) if styles.is_cuda else contextlib.nullcontext()
        of_styles, of_gains, of_rgb_styles = (torch.zeros_like(x) for x in (styles, gains, rgb_styles))
        of_z = None
        if of_features is not None:  # which is autograd's: a copy may be overwritten
            of_z = of_features.to(prepared.dtype).clone(memory_format=LAST)
        of_rgb = of_picture.float().contiguous()
        with there, torch.autocast(styles.device.type, enabled=False):
            for i in reversed(range(count)):
                layer, style = prepared.convolutions[i], styles[i + 1] if i + 1 < count else None
                given = (kept[i], gains[i], maps[i], style)
                of_style = of_styles[i + 1] if i + 1 < count else None
                if isinstance(layer, UpConvolution):
                    sums = (of_gains[i], of_style, None)
                    work = lambda name: layer.backward(name, of_z, *given, sums)  # noqa: B023, E731
                    of_z = work(choose(layer, of_z, kept[i].shape[2], form, work, back=True))
                    of_rgb = launch.skip_backward(of_rgb, prepared.taps)
                else:
                    sums = (of_gains[i], of_style, of_rgb_styles[i // 2])
                    colours = {"colours": prepared.colours[i // 2], "rgb_style": rgb_styles[i // 2], "of_rgb": of_rgb}
                    of_z = layer.of_convolved(of_z, *given, sums, **colours)
                    work = lambda name: layer.backward(name, of_z)  # noqa: B023, E731
                    of_z = work(choose(layer, of_z, of_z.shape[2], form, work, back=True))
            start = prepared.start
            of_styles[0, :, : start.shape[1]] = (of_z.float() * start).sum((2, 3))
        return of_styles, of_gains, of_rgb_styles, None, None, None, None


# ---- preparing ----------------------------------------------------------------------------------------

_prepared: weakref.WeakKeyDictionary[Generator, dict[Any, tuple[Any, Prepared]]] = weakref.WeakKeyDictionary()


@torch.no_grad()
def _prepare(generator: Generator, dtype: torch.dtype) -> Prepared:
    """Made once for a device and dtype, and again when a weight has changed."""
    fingerprint = tuple((p.data_ptr(), _version(p)) for p in synthesis_parameters(generator))
    weight = generator.input.input
    key = (weight.device, dtype)
    kept = _prepared.setdefault(generator, {})
    if key in kept and kept[key][0] == fingerprint:
        return kept[key][1]
    with torch.inference_mode(False):  # it may be used where gradients are taken
        prepared = Prepared(generator, dtype)
    if not capturing(weight):  # what is made in a recording lives in its memory
        kept[key] = (fingerprint, prepared)
    return prepared


def _version(parameter: Tensor) -> int:
    return -1 if parameter.is_inference() else parameter._version  # inference tensors count no changes


def _taps(kernel: list[float]) -> tuple[float, ...]:
    """One axis of the filters that follow zeros put in between: flipped, summing to 2."""
    return tuple(2 * float(tap) / sum(kernel) for tap in reversed(kernel))


def _weight(layer: StyledConv | ToRGB) -> Tensor:
    """(O, I, K, K) at its runtime scale, float32."""
    return layer.conv.weight[0].detach().float() * layer.conv.scale


def _affine(linear: Any) -> tuple[Tensor, Tensor]:
    """An `EqualLinear` without activation as (I, O) and (O,), float32."""
    return (linear.weight.detach().float() * linear.scale).T, linear.bias.detach().float() * linear.lr_mul


def _colours(to_rgb: ToRGB) -> Colours:
    return Colours(_weight(to_rgb).flatten(1).contiguous(), to_rgb.bias.detach().float().flatten())


def _stack(pairs: list[tuple[Tensor, Tensor | None]], width: int, height: int | None = None) -> tuple[Tensor, Tensor]:
    """Matrices (I, O) and vectors (O,), filled up with zeros -> (L, height, width), (L, 1, width)."""
    first = pairs[0][0]
    height = first.shape[0] if height is None else height
    matrices = first.new_zeros((len(pairs), height, width))
    vectors = first.new_zeros((len(pairs), 1, width))
    for i, (matrix, vector) in enumerate(pairs):
        matrices[i, : matrix.shape[0], : matrix.shape[1]] = matrix
        if vector is not None:
            vectors[i, 0, : len(vector)] = vector
    return matrices, vectors
