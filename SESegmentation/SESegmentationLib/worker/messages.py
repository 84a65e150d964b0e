"""The messages between a client and the worker, each a frame: a JSON header and the raw bytes of arrays.

A frame is the 8 bytes of ``MAGIC``, the length of the JSON text (4 bytes, little endian), the JSON text (UTF-8)
``{"header": {...}, "arrays": [{"dtype": "<f4", "shape": [256, 256, 256]}, ...]}``, and then the bytes of each array in
C order, little endian. Arrays are neither encoded nor copied: they are written from their own memory and read into
their final place. Nothing in a frame is ever executed.

To the worker: ``job`` (job, kind, value; arrays), ``cancel`` (job), ``shutdown``. From the worker: ``hello`` (protocol,
version, pid) before all else, ``heartbeat`` (stalled: seconds without progress of the job at hand), and of a job
``accepted``, ``progress`` (phase, fraction, seconds_left), then either ``result`` (kind, value; arrays) or ``failure``
(code, cause, remedy, ends: whether the worker ends after it). "job" is the number that the client gave it.

A server sends the same, and before ``accepted`` how the job waits: ``queued`` (position, seconds_left).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import FileIO
from math import prod
from typing import Any, Protocol

import numpy as np

from .. import __version__
from ..errors import (
    ERRORS_BY_CODE,
    CancelledError,
    DependencyError,
    DeviceError,
    InputError,
    ModelError,
    OutOfMemoryError,
    SegmentationError,
    ServerError,
    UsageError,
    WorkerError,
    install_advice,
)
from ..memory import MEMORY_REMEDY, is_out_of_memory, no_memory_to_load
from ..plain_text import first_line, plain

#: begins every frame; no text contains it, and a translation of line ends would spoil it
MAGIC = b"\x93SESEG\r\n"
#: the types an array may have
DTYPES = frozenset(
    np.dtype(code).newbyteorder("<").str for code in ("b1", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
)
MAXIMUM_HEADER = 16 << 20  # bytes
MAXIMUM_ARRAY = 1 << 36  # bytes
MAXIMUM_NOISE = 1 << 16  # bytes
#: of the JSON text, between MAGIC and the text
LENGTH = struct.Struct("<I")
#: incremented when messages change their meaning
PROTOCOL = 3
JOB, CANCEL, SHUTDOWN = "job", "cancel", "shutdown"
HELLO, HEARTBEAT, QUEUED = "hello", "heartbeat", "queued"
ACCEPTED, PROGRESS, RESULT, FAILURE = "accepted", "progress", "result", "failure"
#: the phase that a server sends to the client of a job whose replica was lost
RESTARTED = "begin again on another replica"
# exit codes of the worker beyond those of the command line
EXIT_PROTOCOL = 70
EXIT_MEMORY = 71
#: after any other failure the state of the libraries is unknown: the worker ends and is restarted
HARMLESS = (UsageError, InputError, ModelError, DeviceError, CancelledError)
_MISSING = re.compile(r"No module named '?([^'.]+)")


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
    _write_all(stream, memoryview(MAGIC + LENGTH.pack(len(text)) + text))
    for array in arrays:
        _write_all(stream, bytes_of(array))


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
    (length,) = LENGTH.unpack(_read_all(stream, bytearray(LENGTH.size)))
    if length > MAXIMUM_HEADER:
        raise FrameError(f"A header of {length} bytes is too large.")
    text = bytearray(length)
    _read_all(stream, text)
    frame = described_frame(text)
    for array in frame.arrays:
        _read_all(stream, bytes_of(array))
    return frame


def described_frame(text: bytes | bytearray, maximum: int | None = None) -> Frame:
    """The frame described by this JSON text, with memory allocated for its arrays.

    Args:
        text: what stands between the length and the arrays.
        maximum: bytes that the arrays may have together.

    Raises:
        FrameError: it cannot be read, or describes impossible arrays.
        MemoryError: there is no room for them.
    """
    try:
        content = json.loads(text.decode(), parse_constant=_refuse_constant)
        header, described = content["header"], content["arrays"]
        if not isinstance(header, dict):
            raise TypeError("the header is not an object")
        sizes = [_size(**description) for description in described]
        if maximum is not None and sum(sizes) > maximum:
            raise ValueError(f"arrays of {sum(sizes)} bytes are too large")
        return Frame(header, [np.empty(description["shape"], description["dtype"]) for description in described])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise FrameError(f"A header cannot be read: {error!r}.") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _plain(array: np.ndarray) -> np.ndarray:
    """``array`` in C order and little endian, itself if it is."""
    plain = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    if plain.dtype.str not in DTYPES:
        raise FrameError(f"Arrays of {array.dtype} cannot be sent.")
    return plain


def _size(dtype: str, shape: list[int]) -> int:
    """Bytes of an array that a header describes; ValueError where there is no such array."""
    if dtype not in DTYPES or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"no array has the type {dtype} and the shape {shape}")
    size = prod(shape) * np.dtype(dtype).itemsize
    if size > MAXIMUM_ARRAY:
        raise ValueError(f"an array of the shape {shape} is too large")
    return size


def bytes_of(array: np.ndarray) -> memoryview:
    """The bytes of an array that lies in C order, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def _write_all(stream: Writer, data: memoryview) -> None:
    while data:
        data = data[stream.write(data) :]


def _read(stream: Reader, buffer: memoryview) -> int:
    """Fill ``buffer`` as far as the stream goes; returns the number of bytes."""
    filled = 0
    while filled < len(buffer) and (count := stream.readinto(buffer[filled:])):
        filled += count
    return filled


def _read_all(stream: Reader, buffer: bytearray | memoryview) -> bytearray | memoryview:
    if _read(stream, memoryview(buffer)) < len(buffer):
        raise FrameError("The stream ended inside a frame.")
    return buffer


def hello() -> dict[str, Any]:
    """How a worker introduces itself."""
    return {"type": HELLO, "protocol": PROTOCOL, "version": __version__, "pid": os.getpid()}


def check_hello(header: dict[str, Any]) -> None:
    """Check a worker's introduction.

    Raises:
        WorkerError: it is none, or that of another version.
    """
    theirs = (header.get("type"), header.get("protocol"), header.get("version"))
    if theirs != (HELLO, PROTOCOL, __version__):
        raise WorkerError(
            f"The segmentation process has version {theirs[2]} (protocol {theirs[1]}), not {__version__} ({PROTOCOL}).",
            "Restart Slicer, so that all of SESegmentation is of one version; if that does not help, reinstall it.",
        )


def check_version(header: dict[str, Any], name: str) -> None:
    """Check a server's introduction: it must have the same protocol, and the same major and minor version.

    Raises:
        ServerError: it is none, or that of an older or newer one.
    """
    version, protocol = header.get("version"), header.get("protocol")
    if header.get("type") != HELLO or not isinstance(version, str) or not isinstance(protocol, int):
        raise ServerError(
            f"What answers at {name} is not an SESegmentation server.",
            "Check the address; if this network asks to sign in, do so in a browser.",
        )
    theirs, ours = (protocol, _minor(version)), (PROTOCOL, _minor(__version__))
    if theirs == ours:
        return
    known = f"it has version {plain(version)[:40]} (protocol {protocol}), this is {__version__} ({PROTOCOL})"
    if theirs < ours:
        raise ServerError(
            f"The server {name} is older than this program: {known}.", "Ask the server's owner to update it."
        )
    raise ServerError(f"The server {name} is newer than this program: {known}.", "Update SESegmentation here.")


def _minor(version: str) -> tuple[int, ...]:
    """Major and minor version; nothing where these are no numbers."""
    try:
        return tuple(int(number) for number in version.split(".")[:2])
    except ValueError:
        return ()


def failure(job: int, error: SegmentationError, ends: bool) -> dict[str, Any]:
    """A failure to be sent."""
    return {
        "type": FAILURE,
        "job": job,
        "code": error.code,
        "cause": error.cause,
        "remedy": error.remedy,
        "ends": ends,
    }


def error_of(header: dict[str, Any]) -> SegmentationError:
    """The error of a failure that was received."""
    return ERRORS_BY_CODE.get(header["code"], SegmentationError)(header["cause"], header["remedy"])


def as_segmentation_error(error: BaseException) -> SegmentationError:
    """``error`` with a cause and a remedy."""
    if isinstance(error, SegmentationError):
        return error
    if is_out_of_memory(error):
        return OutOfMemoryError("There is not enough memory for this volume and model.", MEMORY_REMEDY)
    if isinstance(error, ImportError):
        return import_failure(str(error))
    message = f"{type(error).__name__}: {error}".rstrip(": ")
    if "Numpy is not available" in message:
        return DependencyError(
            "This PyTorch is too old for the NumPy that is installed.", install_advice('"numpy<2"') + ". Then restart."
        )
    if "CUDA" in message or "MPS" in message:
        return DeviceError(
            f"The GPU failed: {first_line(message)}.", "Segment again; if it fails again, choose the device cpu."
        )
    return SegmentationError(
        f"Unexpected failure: {first_line(message)}.", "Segment again; if it fails again, report it with the log."
    )


def import_failure(message: str) -> SegmentationError:
    """The error for an ImportError with this message."""
    if known := no_memory_to_load(message):
        return known
    missing = _MISSING.search(message)
    name = missing.group(1) if missing else ""
    if name == "torch":
        return DependencyError(
            "PyTorch is not installed.",
            "In Slicer, install it through the extension PyTorch; elsewhere, run: pip install torch",
        )
    if name and name != "SESegmentationLib":
        return DependencyError(f"The Python package {name} is not installed.", install_advice(name))
    return DependencyError(
        f"A Python package cannot be loaded: {first_line(message)}.",
        "Look at This computer in the panel, or run: sesegment doctor. It says what to reinstall.",
    )
