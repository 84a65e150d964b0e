"""The header of a file of parameters that were adapted to a patient; torch is not needed to read it."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import Any

from .files.json_files import parse_json

#: entry "format" of these files
FORMAT = "sesegmentation-adapted-1"
#: the largest file that is read
MAXIMUM_BYTES = 2**28
_LONGEST_HEADER, _MAXIMUM_TENSORS, _MAXIMUM_DIMENSIONS = 2**20, 10_000, 8
_BYTES = 4  # of a number
_SHA256 = re.compile("[0-9a-f]{64}")
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class AdaptedNotes:
    """The header of a file of adapted parameters: what was learnt from corrections, and for which weights.

    It is a safetensors file: the length of a header (8 bytes, little-endian), the header (JSON: of every tensor its
    type, shape and place; under ``__metadata__`` texts), the numbers. The texts say which weights they belong to.

    Attributes:
        weights_sha256: of the model's weights, some of which they replace.
        count: how many numbers were adapted.
        notes: how they were learnt, by heading; shown to users.
    """

    weights_sha256: str
    count: int
    notes: dict[str, str]

    @classmethod
    def read(cls, content: bytes | None) -> AdaptedNotes | None:
        """The header of the file with this content; None if it is another kind of file, or incomplete."""
        if content is None or not _LENGTH.size <= len(content) <= MAXIMUM_BYTES:
            return None
        (length,) = _LENGTH.unpack_from(content)
        numbers = len(content) - _LENGTH.size - length
        if numbers < 0:
            return None
        try:
            header = parse_json(content[_LENGTH.size : _LENGTH.size + length], _LONGEST_HEADER)
            notes = header.pop("__metadata__")
            if not all(isinstance(text, str) for text in notes.values()) or notes.pop("format") != FORMAT:
                return None
            weights = notes.pop("weights_sha256")
            if not _SHA256.fullmatch(weights) or not 0 < len(header) <= _MAXIMUM_TENSORS:
                return None
            sizes = [_size(tensor) for tensor in header.values()]
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        return cls(weights, sum(sizes), notes) if _BYTES * sum(sizes) == numbers else None


def _size(tensor: dict[str, Any]) -> int:
    """How many numbers a tensor has, by its entry in the header; ValueError where that contradicts itself."""
    shape, (begin, end) = tensor["shape"], tensor["data_offsets"]
    if tensor["dtype"] != "F32" or not isinstance(shape, list) or len(shape) > _MAXIMUM_DIMENSIONS:
        raise ValueError("no tensor of single precision")
    if not all(type(number) is int and 0 <= number <= MAXIMUM_BYTES for number in (*shape, begin, end)):
        raise ValueError("no whole numbers")
    size = math.prod(shape)
    if end - begin != _BYTES * size:
        raise ValueError("shape and place differ")
    return size
