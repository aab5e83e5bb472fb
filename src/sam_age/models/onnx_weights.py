"""Reads the weights out of an ONNX file, and nothing else: no graph, no runtime, no dependency.

An ONNX file is one protocol-buffer message. Of its format only two paths matter here:
ModelProto.graph (field 7) -> GraphProto.initializer (field 5) -> TensorProto, whose fields are dims (1),
data_type (2), name (8) and raw_data (9, little endian) or float_data (4).

Sources: https://protobuf.dev/programming-guides/encoding, and onnx.proto of ONNX 1.19.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sam_age.errors import InputError

FLOAT = 1  # TensorProto.DataType
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


def read_initializers(path: Path) -> dict[str, Tensor]:
    """The float32 tensors stored in an ONNX file, by name; integers (paddings, shapes) are left out.

    Raises:
        InputError: the file is missing, or is not ONNX.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"Cannot read {path} ({error.strerror}): give the path of an ONNX file.") from error
    try:
        graph = next(value for field, value in _fields(memoryview(data)) if field == 7)
        tensors = dict(_tensor(value) for field, value in _fields(graph) if field == 5)
    except (StopIteration, ValueError, IndexError, TypeError, KeyError) as error:
        raise InputError(f"{path} is not an ONNX file, or is damaged: get it again.") from error
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message in order: (number, integer or bytes)."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire_type == _BYTES:
            length, at = _varint(message, at)
        elif wire_type in (_FIXED32, _FIXED64):
            length = 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire_type}")
        if at + length > len(message):
            raise ValueError("a field ends after the message")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number in base 128, least significant digit first; the high bit of a byte says that more follow."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _tensor(message: memoryview) -> tuple[str, Tensor | None]:
    fields: dict[int, int | memoryview] = {}
    dims: list[int] = []
    for number, value in _fields(message):
        if number == 1:  # one by one, or packed
            dims += [value] if isinstance(value, int) else list(_varints(value))
        else:
            fields[number] = value
    name = bytes(fields[8]).decode()
    if fields[2] != FLOAT:
        return name, None
    stored = fields.get(9, fields.get(4))  # raw bytes; else packed floats, which are the same bytes
    values = np.frombuffer(stored, dtype="<f4").astype(np.float32)
    return name, torch.from_numpy(values.reshape(dims))


def _varints(message: memoryview) -> Iterator[int]:
    at = 0
    while at < len(message):
        value, at = _varint(message, at)
        yield value
