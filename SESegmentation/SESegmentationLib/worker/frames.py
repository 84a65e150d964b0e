"""Frames: messages between processes through pipes, as a JSON header and the raw bytes of arrays.

A frame is the 8 bytes of ``MAGIC``, the length of the JSON text (4 bytes, little endian), the JSON text (UTF-8)
``{"header": {...}, "arrays": [{"dtype": "<f4", "shape": [256, 256, 256]}, ...]}``, and then the bytes of each array in
C order, little endian. Arrays are neither encoded nor copied on their way: they are written from where they lie and
read into where they stay. Nothing in a frame is ever executed.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import FileIO
from math import prod
from typing import Any, Protocol

import numpy as np


def take_pipes() -> tuple[FileIO, FileIO]:
    """Standard input and output, unbuffered; nothing else reads from the one or prints to the other any more.

    Whatever libraries print to standard output goes to standard error instead.
    """
    incoming, outgoing = os.dup(0), os.dup(1)
    if sys.platform == "win32":
        import msvcrt

        for descriptor in (incoming, outgoing):
            msvcrt.setmode(descriptor, os.O_BINARY)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    with contextlib.suppress(ValueError):
        sys.stdout.flush()
    sys.stdout = sys.stderr
    return open(incoming, "rb", buffering=0), open(outgoing, "wb", buffering=0)


#: begins every frame; no text contains it, and a translation of line ends would spoil it
MAGIC = b"\x93SESEG\r\n"
#: the types an array may have
DTYPES = frozenset(
    np.dtype(code).newbyteorder("<").str for code in ("b1", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
)
MAXIMUM_HEADER = 16 << 20  # bytes
MAXIMUM_ARRAY = 1 << 36  # bytes
MAXIMUM_NOISE = 1 << 16  # bytes
_LENGTH = struct.Struct("<I")


class FrameError(ValueError):
    """What was read is no frame, or only a part of one; or what was to be written does not fit into one."""


class Reader(Protocol):
    """An unbuffered binary file to read from."""

    def readinto(self, buffer: memoryview) -> int | None:
        """Fill a part of ``buffer``; the number of bytes, 0 at the end of the file."""


class Writer(Protocol):
    """An unbuffered binary file to write to."""

    def write(self, data: memoryview) -> int | None:
        """Write a part of ``data``; the number of bytes."""


@dataclass(frozen=True)
class Frame:
    """One message.

    Attributes:
        header: what JSON can hold.
        arrays: numbers, of a type in ``DTYPES``.
    """

    header: dict[str, Any]
    arrays: list[np.ndarray] = field(default_factory=list)


def write_frame(stream: Writer, header: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
    """Write one frame. Each array goes out in as few calls as the stream needs, without a copy if it lies in C order.

    Raises:
        FrameError: the header is not JSON (NaN is not), or too large; an array has a type that is not in ``DTYPES``.
        OSError: the other side is gone.
    """
    arrays = [_plain(array) for array in arrays]
    described = [{"dtype": array.dtype.str, "shape": array.shape} for array in arrays]
    try:
        text = json.dumps({"header": header, "arrays": described}, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise FrameError(f"A header cannot be written as JSON: {error}.") from error
    if len(text) > MAXIMUM_HEADER:
        raise FrameError(f"A header of {len(text)} bytes is too large.")
    _write_all(stream, memoryview(MAGIC + _LENGTH.pack(len(text)) + text))
    for array in arrays:
        _write_all(stream, _bytes_of(array))


def read_frame(stream: Reader, noise: bytearray | None = None) -> Frame | None:
    """Read one frame; None if the stream ends before it.

    Args:
        stream: to read from, unbuffered.
        noise: where to put what comes before the frame, up to ``MAXIMUM_NOISE`` bytes; without it, that is an error.

    Raises:
        FrameError: it is no frame, or the stream ends inside it.
        MemoryError: there is no room for its arrays.
        OSError: reading failed.
    """
    begin = bytearray(len(MAGIC))
    filled = _read(stream, memoryview(begin))
    while filled == len(MAGIC) and begin != MAGIC:
        if noise is None or len(noise) >= MAXIMUM_NOISE:
            raise FrameError(f"No frame begins with {bytes(begin)!r}.")
        noise.append(begin.pop(0))
        begin.append(0)
        filled = len(MAGIC) - 1 + _read(stream, memoryview(begin)[-1:])
    if filled < len(MAGIC):
        if noise is not None:
            noise += begin[:filled]
        elif filled:
            raise FrameError("The stream ended inside a frame.")
        return None
    (length,) = _LENGTH.unpack(_read_all(stream, bytearray(_LENGTH.size)))
    if length > MAXIMUM_HEADER:
        raise FrameError(f"A header of {length} bytes is too large.")
    text = bytearray(length)
    _read_all(stream, text)
    try:
        content = json.loads(text.decode(), parse_constant=_refuse_constant)
        header, described = content["header"], content["arrays"]
        if not isinstance(header, dict):
            raise TypeError("the header is no object")
        empty = [_empty(**description) for description in described]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise FrameError(f"A header cannot be read: {error!r}.") from error
    for array in empty:
        _read_all(stream, _bytes_of(array))
    return Frame(header, empty)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _plain(array: np.ndarray) -> np.ndarray:
    """``array`` in C order and little endian, itself if it is."""
    plain = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    if plain.dtype.str not in DTYPES:
        raise FrameError(f"Arrays of {array.dtype} cannot be sent.")
    return plain


def _empty(dtype: str, shape: list[int]) -> np.ndarray:
    """Room for an array that a header describes."""
    if dtype not in DTYPES or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"no array has the type {dtype} and the shape {shape}")
    if prod(shape) * np.dtype(dtype).itemsize > MAXIMUM_ARRAY:
        raise ValueError(f"an array of the shape {shape} is too large")
    return np.empty(shape, dtype)


def _bytes_of(array: np.ndarray) -> memoryview:
    """The bytes of an array that lies in C order, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def _write_all(stream: Writer, data: memoryview) -> None:
    while data:
        data = data[stream.write(data) :]


def _read(stream: Reader, buffer: memoryview) -> int:
    """Fill ``buffer`` as far as the stream goes; how far that is."""
    filled = 0
    while filled < len(buffer) and (count := stream.readinto(buffer[filled:])):
        filled += count
    return filled


def _read_all(stream: Reader, buffer: bytearray | memoryview) -> bytearray | memoryview:
    if _read(stream, memoryview(buffer)) < len(buffer):
        raise FrameError("The stream ended inside a frame.")
    return buffer
