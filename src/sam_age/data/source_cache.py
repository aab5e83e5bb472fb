"""What frozen networks say of the training faces, computed once and kept on disk: pSp's code, age, identity.

    facts.json    what it was made with and of; written last: without it there is no cache
    age.npy       float32 (faces, 2), years
    codes.npy     float16 (faces, 2, n_styles, style_dim), w+ by pSp
    identity.npy  float16 (faces, 2, D), unit embeddings; not where identity is no part of the loss
    pixels.npy    uint32 (faces,), checksums

The 2 are a face as it is and mirrored. Perceptual features are not kept: they would be 4 MB a face where these are
40 kB, and AlexNet computes them in less time than a disk reads them.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sam_age.data.dataset import FacesDataset, to_unit_range
from sam_age.data.storing import write_whole
from sam_age.errors import InputError

FACTS, VERSION = "facts.json", 1
KNOWN = ("source_code", "source_age", "source_identity")
"""What a cache adds to a sample and its batch, in the order in which a training step takes it."""
ARRAYS = {"source_code": "codes", "source_age": "age", "source_identity": "identity"}
AGAIN = "make it anew: sam-prepare cache=FOLDER (see sam-prepare --help)"


class SourceCache:
    """A folder that `make_cache` wrote, memory-mapped; each process opens it by itself.

    Raises:
        InputError: there is none, or it is of another version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.facts = json.loads((self.folder / FACTS).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"There is no finished cache in {self.folder}: {AGAIN}.") from None
        except ValueError as error:
            raise InputError(f"{self.folder / FACTS} cannot be read ({error}): {AGAIN}.") from None
        if self.facts.get("version") != VERSION:
            raise InputError(f"{self.folder} is of version {self.facts.get('version')}, not {VERSION}: {AGAIN}.")
        self._arrays: dict[str, np.ndarray] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return SourceCache, (self.folder,)  # not the arrays: a map would travel as all of its numbers

    def _array(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            self._arrays[name] = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return self._arrays[name]

    def row(self, index: int, pixels: Tensor, mirrored: bool, name: str) -> dict[str, Tensor]:
        """What is known of a face.

        Args:
            index: its number in the source.
            pixels: uint8 (3, size, size), not mirrored.
            name: for the message.
        Raises:
            InputError: it is another picture than the cache's.
        """
        if index >= self.facts["faces"] or checksum(pixels) != int(self._array("pixels")[index]):
            raise InputError(f"{name} is not the picture that {self.folder} was made of: {AGAIN}.")
        names = (key for key in KNOWN if ARRAYS[key] in self.facts["arrays"])
        side = int(mirrored)
        return {key: torch.from_numpy(np.array(self._array(ARRAYS[key])[index, side], np.float32)) for key in names}

    def check_faces(self, dataset: FacesDataset) -> None:
        """Can it be of this data set? Each picture is looked at as it comes, see `row`.

        Raises:
            InputError: another number of faces, or of another size.
        """
        made, now = (self.facts["faces"], self.facts["image_size"]), (len(dataset), dataset.size)
        if made != now:
            text = [f"{count} faces of {size} pixels" for count, size in (made, now)]
            raise InputError(f"{self.folder} is of {text[0]}, data.train holds {text[1]}: {AGAIN}.")

    def check(self, sam: nn.Module, losses: nn.Module) -> None:
        """Are these the networks it was made with?

        Raises:
            InputError: they are not.
        """
        made, now = self.facts["networks"], fingerprints(sam, losses)
        if changed := [name for name, print_ in now.items() if made.get(name) != print_]:
            raise InputError(f"{self.folder} was made with another {' and '.join(changed)} network: {AGAIN}.")


def fingerprints(sam: nn.Module, losses: nn.Module) -> dict[str, str]:
    """Of the weights of the networks that a cache speaks for."""
    found = {"psp": [*sam.pretrained_encoder.state_dict().values(), sam.latent_avg]}
    found["age"] = [*losses.age_net.state_dict().values()]
    if losses.identity_net is not None:
        found["identity"] = [*losses.identity_net.state_dict().values()]
    return {name: _digest(tensors) for name, tensors in found.items()}


def _digest(tensors: list[Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{tuple(plain.shape)} {plain.dtype}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def checksum(pixels: Tensor) -> int:
    return zlib.crc32(pixels.contiguous().numpy())


@torch.no_grad()
def make_cache(
    folder: str | Path, dataset: FacesDataset, sam: Any, losses: Any, *, device: str = "cpu", batch_size: int = 16
) -> SourceCache:
    """Ask the frozen networks about every face of a data set, both ways round, in float32.

    A picture that cannot be read stays empty, as training skips it too. What is in `folder` of an earlier cache is
    replaced.

    Raises:
        InputError: the data set has no end.
    """
    from tqdm import tqdm

    if getattr(dataset.source, "endless", False):
        raise InputError("Faces that are made as they are needed cannot be kept: give data.train= a set of pictures.")
    folder, count = Path(folder), len(dataset)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FACTS).unlink(missing_ok=True)
    sam, losses = sam.to(device), losses.to(device)
    shapes = {"age": ((count, 2), np.float32), "pixels": ((count,), np.uint32)}
    shapes["codes"] = ((count, 2, *sam.latent_avg.shape), np.float16)
    arrays: dict[str, np.ndarray] = {}

    def array(name: str) -> np.ndarray:
        if name not in arrays:
            shape, dtype = shapes[name]
            arrays[name] = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype=dtype, shape=shape)
        return arrays[name]

    for start in tqdm(range(0, count, batch_size), desc="Describing", unit="batch", disable=None):
        samples = [dataset.upright(index) for index in range(start, min(start + batch_size, count))]
        # one that is there in another's place has a row of its own
        kept = {s["index"]: s["faces"] for i, s in enumerate(samples, start) if s.get("index") == i}
        if not kept:
            continue
        rows, faces = list(kept), torch.stack(list(kept.values()))
        array("pixels")[rows] = [checksum(face) for face in faces]
        for side, seen in enumerate((faces, faces.flip(3))):
            seen = to_unit_range(seen.to(device))
            array("codes")[rows, side] = sam.encode(seen).cpu().numpy()
            array("age")[rows, side] = losses.age_net(seen).float().cpu().numpy()
            if losses.identity_net is not None:
                identity = losses.identity_net(seen).float().cpu().numpy()
                shapes["identity"] = ((count, 2, identity.shape[1]), np.float16)
                array("identity")[rows, side] = identity
    for written in arrays.values():
        written.flush()
    facts = {"version": VERSION, "faces": count, "image_size": dataset.size, "arrays": sorted(arrays)}
    facts["networks"] = fingerprints(sam, losses)
    write_whole(folder / FACTS, (json.dumps(facts, indent=2) + "\n").encode())
    return SourceCache(folder)
