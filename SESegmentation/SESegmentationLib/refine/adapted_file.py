"""What a file of adapted parameters says of itself. Needs no torch: panels use it too.

It is a safetensors file: the length of a header (8 bytes, little-endian), the header (JSON: of every tensor its type,
shape and place; under ``__metadata__`` texts), the numbers. The texts say which weights the parameters belong to.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass

FORMAT = "sesegmentation-adapted-1"
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class AdaptedNotes:
    """The header of a file of adapted parameters.

    Attributes:
        weights_sha256: of the weights some of which they replace.
        count: how many numbers were adapted.
        notes: how they came about, for people.
    """

    weights_sha256: str
    count: int
    notes: dict[str, str]

    @classmethod
    def read(cls, content: bytes | None) -> AdaptedNotes | None:
        """The header of the file with this content; None where it is no such file."""
        if content is None or len(content) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(content)
        try:
            header = json.loads(content[_LENGTH.size : _LENGTH.size + length])
            notes = dict(header.pop("__metadata__"))
            if notes.pop("format") != FORMAT:
                return None
            count = sum(math.prod(tensor["shape"]) for tensor in header.values())
            return cls(notes.pop("weights_sha256"), count, notes)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
