"""Attributes as straight lines in w+: fitted in closed form to codes of faces that are labelled.

Source: Shen et al. 2020, "Interpreting the Latent Space of GANs for Semantic Face Editing"; by ridge regression
instead of a support vector machine, so that labels may be numbers and there is nothing to tune.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sam_age.editing.mixing import Layers, layers_of
from sam_age.errors import InputError

PENALTIES = torch.logspace(-4, 4, 33, dtype=torch.float64)
"""Of the ridge regression, tried in turn; in units of the codes' mean squared length."""

FEWEST = 10  # faces to fit a direction to


class Direction(NamedTuple):
    """Of an attribute among codes."""

    normal: Tensor  # (D,), length 1
    label_per_unit: float  # by how much labels differ between codes one unit apart along it
    explained: float  # share of the labels' variance, each face predicted from the others


def ridge_direction(codes: Tensor, labels: Tensor) -> Direction:
    """Ridge regression of labels (N,) on codes (N, D), its penalty chosen by the error on faces left out one at a time.

    All of it from one eigendecomposition of the (N, N) matrix of products. The step per unit of the label is how far
    apart along the normal faces of different labels do lie: the regression's own slope would, shrunk as it is, step
    too far.
    """
    centred, values = codes - codes.mean(0), labels - labels.mean()
    scale = centred.square().sum(1).mean()
    eigenvalues, vectors = torch.linalg.eigh(centred @ centred.T / scale)
    eigenvalues = eigenvalues.clamp_min(0)
    turned = vectors.T @ values
    errors = []
    for penalty in PENALTIES.tolist():
        kept = eigenvalues / (eigenvalues + penalty)
        residual = values - vectors @ (kept * turned)
        leverage = (vectors.square() * kept).sum(1) + 1 / len(values)  # the mean is fitted too
        errors.append((residual / (1 - leverage).clamp_min(1e-6)).square().mean())
    error, best = torch.stack(errors).min(0)
    weights = centred.T @ (vectors @ (turned / (eigenvalues + PENALTIES[best.cpu()].item())))
    normal = weights / weights.norm().clamp_min(1e-12)
    units_per_label = ((centred @ normal) * values).mean() / values.square().mean()
    return Direction(normal, (1 / units_per_label).item(), (1 - error / values.square().mean()).item())


class LatentDirection(nn.Module):
    """A labelled attribute as a straight line in w+: smiling, glasses, years.

    Args:
        n_styles, style_dim: shape of the codes.
        name: of the attribute.
        explained: share of the labels' variance that it explained on faces left out of the fit, at most 1.

    A network as any other of the package: `sam_age.weights.save` writes it, `load` reads it.
    """

    normal: Tensor
    label_per_unit: Tensor

    def __init__(self, n_styles: int, style_dim: int, name: str = "", explained: float = 0.0) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "n_styles": n_styles, "style_dim": style_dim, "name": name, "explained": explained
        }  # fmt: skip
        self.name, self.explained = name, explained
        self.register_buffer("normal", torch.zeros(n_styles, style_dim))
        self.register_buffer("label_per_unit", torch.ones(1))

    def forward(self, codes: Tensor, amount: float | Tensor = 1.0, layers: Layers = "all") -> Tensor:
        """Codes (..., n_styles, D) moved by `amount` of the label.

        Of a direction between two folders, 1 is as far as their averages lie apart; -1 the other way.

        Args:
            amount: a number, or one for each code (the leading dimensions of `codes`).
            layers: move these alone, see `sam_age.editing.mixing`.
        """
        if codes.shape[-2:] != self.normal.shape:
            raise InputError(
                f"The direction {self.name!r} is for codes of {list(self.normal.shape)}, these are of "
                f"{list(codes.shape[-2:])}: fit it with the model that it is to be used with."
            )
        kept = torch.zeros(self.normal.shape[0], 1, dtype=codes.dtype, device=codes.device)
        kept[layers_of(layers, len(kept))] = 1
        distance = torch.as_tensor(amount, dtype=codes.dtype, device=codes.device) / self.label_per_unit.to(codes)
        distance = distance.reshape(distance.shape if isinstance(amount, Tensor) and amount.ndim else ())
        return codes + distance[..., None, None] * (self.normal.to(codes) * kept)

    def read(self, codes: Tensor) -> Tensor:
        """How far along the line codes (..., n_styles, D) lie, in units of the label, from an arbitrary zero: (...)."""
        return (codes * self.normal.to(codes)).flatten(-2).sum(-1) * self.label_per_unit.to(codes)


def fit_direction(codes: Tensor, labels: Tensor, name: str = "") -> LatentDirection:
    """The line along which labelled codes differ, in float64 and without a random draw.

    Args:
        codes: (N, n_styles, D), e.g. `AgingPipeline.encode(faces)`.
        labels: (N,) numbers: 0 and 1 for faces without and with, or years; NaN where not known.
        name: what to call it.
    Raises:
        InputError: fewer than ten labelled faces, or all of one label.
    """
    known = ~labels.isnan()
    codes, labels = codes[known].double(), labels[known].double()
    if len(labels) < FEWEST or (labels == labels[0]).all():
        raise InputError(
            f"A direction is fitted to {FEWEST} labelled faces at least, of two labels or more; here are {len(labels)} "
            f"with {len(labels.unique())}: give more."
        )
    found = ridge_direction(codes.flatten(1), labels)
    fitted = LatentDirection(*codes.shape[1:], name=name, explained=round(found.explained, 4)).to(codes.device)
    fitted.normal.copy_(found.normal.view_as(fitted.normal))
    fitted.label_per_unit.fill_(found.label_per_unit)
    return fitted
