"""Weights: from names and files to networks, and back to files of our own.

    sam = load("sam_ffhq_aging.pt")           # recognised by content, loaded strictly, nothing executed
    save(sam, "sam.safetensors", half=True)   # carries its constructor arguments

Nothing a file holds is ever run: torch files are read with `weights_only=True`, NVlabs' pickles by a reader
that answers every name in them with an inert stand-in.
"""

from sam_age.weights.assembling import build_psp, build_sam
from sam_age.weights.judges import frozen, frozen_features
from sam_age.weights.known import BUNDLE, KNOWN, Known
from sam_age.weights.loading import load
from sam_age.weights.storing import save

__all__ = ["BUNDLE", "KNOWN", "Known", "build_psp", "build_sam", "frozen", "frozen_features", "load", "save"]
