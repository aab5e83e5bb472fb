"""What is inside a file of weights, without running anything it holds.

Three containers are read: torch.save (zip and the older stream), safetensors, and NVlabs' pickles. A torch
file goes through `weights_only=True`; nothing here ever unpickles freely.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import warnings
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sam_age.errors import InputError
from sam_age.weights import nvlabs

TORCH_STREAM = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of torch.save before 1.6: a pickled magic number."""

AGAIN = "Download it again and compare its size with the source's."


@dataclass(frozen=True)
class Contents:
    """A file's top-level object.

    Attributes:
        path: the file.
        container: "torch", "safetensors" or "nvlabs".
        tree: what it holds; for safetensors and nvlabs a flat {name: tensor}.
        metadata: strings stored beside the tensors (safetensors), or facts about the network (nvlabs).
        mapped: the tensors are views of the file, to be copied before the file may change.
    """

    path: Path
    container: str
    tree: Any
    metadata: dict[str, Any] = field(default_factory=dict)
    mapped: bool = False

    def in_memory(self) -> Contents:
        """The same, with every tensor read into memory of its own.

        For a file that is wanted whole this peaks at the file's size; copying mapped tensors would count
        twice until the mapping is gone.
        """
        if not self.mapped:
            return self
        if self.container == "safetensors":
            return replace(self, tree=_read_safetensors(self.path, self.tree), mapped=False)
        return open_file(self.path, mapped=False)


def open_file(path: Path, mapped: bool = True) -> Contents:
    """Read a file's structure; its tensors stay on disk where the container allows it.

    Raises:
        InputError: missing, empty, cut short, not a checkpoint at all, or one that would have to run code.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the checkpoint file in it.")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except FileNotFoundError:
        raise InputError(f"There is no file at {path}.") from None
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from None
    if not start:
        raise InputError(f"{path} is empty (0 bytes). {AGAIN}")
    if start.startswith(b"PK\x03\x04"):
        return _torch(path, mapped)
    if start.startswith(TORCH_STREAM):
        return _torch(path, mapped=False)
    if _starts_safetensors(start):
        return _safetensors(path)
    if start[0] == 0x80:
        tree, facts = nvlabs.read(path)
        return Contents(path, "nvlabs", tree, facts)
    raise InputError(_not_a_checkpoint(path, start))


def is_safetensors(path: Path) -> bool:
    """Whether a file starts as safetensors do: the length of a JSON header, and its brace."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _starts_safetensors(file.read(9))


def _starts_safetensors(start: bytes) -> bool:
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 100_000_000


def _not_a_checkpoint(path: Path, start: bytes) -> str:
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html")):
        return f"{path} is a web page, not a checkpoint: the download met a form. Fetch it in a browser."
    if text.startswith(b"version https://git-lfs"):
        return f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull`."
    return (
        f"{path} is not a checkpoint: it starts with {start[:8]!r}, which is neither torch.save, "
        f"safetensors nor a pickle. {AGAIN}"
    )


def _torch(path: Path, mapped: bool) -> Contents:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # torch's advice to other readers of such files
            tree = torch.load(path, map_location="cpu", mmap=mapped or None, weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(_refusal(path, str(error))) from None
    except MemoryError:
        raise
    except Exception as error:  # a cut or overwritten stream can fail anywhere in torch's reader
        raise InputError(_torch_problem(path, str(error))) from None
    return Contents(path, "torch", tree, mapped=mapped)


def _refusal(path: Path, message: str) -> str:
    wanted = re.search(r"(?:GLOBAL|Unsupported (?:global:|class)|type)\s+(?:GLOBAL\s+)?([\w.]+\.\w+)", message)
    if wanted is None:
        return f"{path} is damaged: its index cannot be read. {AGAIN}"
    return (
        f"{path} holds a pickled {wanted[1]}; reading it would run code from the file, so it is refused. "
        f"In a program that you trust, load it there and save only its state_dict."
    )


def _torch_problem(path: Path, message: str) -> str:
    if "TorchScript" in message:
        return f"{path} is a TorchScript program, not a checkpoint: save the module's state_dict instead."
    if "central directory" in message or "EOF" in message or not message:
        return f"{path} is damaged or cut short: its end is missing after {path.stat().st_size:,} bytes. {AGAIN}"
    if zipfile.is_zipfile(path) and not _has_index(path):
        return f"{path} is a zip archive, but not one that torch.save wrote."
    first = message.strip().splitlines()[0][:120]
    return f"{path} is damaged: torch cannot read it ({first}). {AGAIN}"


def _has_index(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("data.pkl") for name in archive.namelist())


def _safetensors(path: Path) -> Contents:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tree: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        first = str(error).splitlines()[0][:120]
        raise InputError(f"{path} is a damaged safetensors file ({first}). {AGAIN}") from None
    return Contents(path, "safetensors", tree, metadata, mapped=True)


def _read_safetensors(path: Path, mapped: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the mapped tensors, read past the mapping. The header has been checked by then."""
    copies: dict[str, Tensor] = {}
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name, tensor in mapped.items():
            copies[name] = torch.empty_like(tensor)
            file.seek(8 + length + header[name]["data_offsets"][0])
            file.readinto(copies[name].reshape(-1).view(torch.uint8).numpy())
    return copies
