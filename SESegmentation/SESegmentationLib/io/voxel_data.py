"""Voxels in files, as NRRD and MetaImage have them: lines of a text header, and bytes, compressed or not."""

from __future__ import annotations

import contextlib
import io
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np

from ..errors import InputError, reason_of
from ..memory import require_memory
from ..result import Finding

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CUT_OFF_REMEDY = "Copy or download it again: the transfer was probably cut off."
GZIP_MAGIC = b"\x1f\x8b"
#: largest number of bytes that deflate can make from one
_MOST_INFLATED = 1032
#: copies that are held at once: as read here, as sent to the process that asked, and as an image there
_COPIES = 3
_BLOCK_BYTES = 1 << 20
#: what follows the voxels is read for its checksum, but no further than this
_SURPLUS_BYTES = 1 << 28
#: so many follow a carriage return by chance once in 10^19 files
_LINE_FEEDS = 8
#: longest header that is read; Slicer's with many segments take some 100 kB
_MOST_BYTES = 16 << 20
_MOST_FILES = 1 << 16
_UNITS_MM = {"": 1.0, "?": 1.0, "???": 1.0, "m": 1000.0, "cm": 10.0, "mm": 1.0, "um": 1e-3, "nm": 1e-6}
_UNIT_NAMES = {"meter": "m", "metre": "m", "centimeter": "cm", "millimeter": "mm", "millimetre": "mm"}
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
REMEDY = "Correct it, or save the volume again from a program that shows it correctly."


class Inflated(io.RawIOBase):
    """The decompressed content of a file from its current position: gzip, also in several members, or zlib.

    Reading raises EOFError where it is cut off, and zlib.error where it is damaged; a checksum is verified at its end.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inflater = zlib.decompressobj(47)  # either format, by its first bytes
        self._ahead = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        room = memoryview(buffer).cast("B")
        while not self._inflater.eof or self._next_member():
            given = self._inflater.unconsumed_tail or self._ahead or self._file.read(_BLOCK_BYTES)
            self._ahead = b""
            made = self._inflater.decompress(given, len(room))
            if made:
                room[: len(made)] = made
                return len(made)
            if not given and not self._inflater.eof:
                raise EOFError("its compressed part ends early")
        return 0

    def _next_member(self) -> bool:
        """Go on with the next gzip member; anything else that follows is not read."""
        self._ahead = self._inflater.unused_data or self._file.read(_BLOCK_BYTES)
        if not self._ahead.startswith(GZIP_MAGIC):
            return False
        self._inflater = zlib.decompressobj(47)
        return True


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file ``path``, inflated if it is compressed, whatever its name says.

    Raises:
        InputError: it cannot be opened; it is damaged or cut off.
    """
    try:
        with open(path, "rb") as file:
            compressed = file.read(2) == GZIP_MAGIC
            file.seek(0)
            yield io.BufferedReader(Inflated(file), _BLOCK_BYTES) if compressed else file
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path} is cut off or corrupt: {error}.", CUT_OFF_REMEDY) from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}.", "Check the name, the folder and its permissions."
        ) from error


def check_room_for_voxels(path: Path, voxels: int, dtype: np.dtype) -> None:
    """Refuse what the memory, or the file, cannot hold; before any memory is taken.

    Raises:
        InputError: the header promises more than the file can hold, however well compressed.
        OutOfMemoryError: the memory is not enough.
    """
    needed, size = voxels * dtype.itemsize, path.stat().st_size
    if needed > size * _MOST_INFLATED:
        raise InputError(
            f"{path} is cut off, or its header is wrong: {size} bytes cannot hold {voxels} voxels.", CUT_OFF_REMEDY
        )
    require_memory(_COPIES * needed / 1e9)


def skip(file: BinaryIO, count: int) -> int:
    """Skip ``count`` bytes, or to the end; returns how many were skipped."""
    left = count
    while left and (block := file.read(min(left, _BLOCK_BYTES))):
        left -= len(block)
    return count - left


def read_voxels(files: Sequence[tuple[BinaryIO, Path]], shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Voxels from the current positions of ``files``, an equal part from each.

    Args:
        files: opened ones with their names, in order.
        shape: of the array, slowest axis first.
        dtype: of the voxels as they are stored, with its order of bytes.

    Raises:
        InputError: one is cut off or damaged.
    """
    array = np.empty(shape, dtype)
    buffer = array.reshape(-1).view(np.uint8).data
    part = len(buffer) // len(files)
    for number, (file, path) in enumerate(files):
        room, filled = buffer[number * part : (number + 1) * part], 0
        readable = cast(io.BufferedReader, file)
        try:
            while filled < part and (count := readable.readinto(room[filled : filled + _BLOCK_BYTES])):
                filled += count
        except (EOFError, zlib.error, OSError) as error:
            raise InputError(f"{path} is cut off or corrupt: {reason_of(error)}.", CUT_OFF_REMEDY) from error
        if filled < part:
            raise InputError(f"{path} is cut off: it holds {filled} bytes of voxels, of {part}.", CUT_OFF_REMEDY)
    return array


def check_remainder(file: BinaryIO, path: Path, voxels: np.ndarray) -> list[Finding]:
    """Read on to the end, which verifies checksums; a finding where as much as another slice follows the voxels.

    Raises:
        InputError: the rest is damaged; or the file was transferred as text, which shifts the voxels.
    """
    count = 0
    try:
        while count < _SURPLUS_BYTES and (block := file.read(_BLOCK_BYTES)):
            count += len(block)
    except (EOFError, zlib.error, OSError) as error:
        raise InputError(f"{path} is cut off or corrupt: {reason_of(error)}.", CUT_OFF_REMEDY) from error
    if count and _has_line_ends(voxels):
        raise InputError(
            f"{path} was damaged when it was transferred as a text: a carriage return stands before every line feed.",
            "Transfer it again in binary mode.",
        )
    if count < voxels[0].nbytes:
        return []
    return [
        Finding(
            "surplus",
            f"{path.name} holds {count} bytes more than the size in its header requires.",
            "If that size is wrong, the volume is distorted, and the result meaningless.",
        )
    ]


def _has_line_ends(voxels: np.ndarray) -> bool:
    """Whether all of several line feeds among the bytes follow a carriage return, which no volume has by chance."""
    content = voxels.reshape(-1).view(np.uint8)
    feeds = np.flatnonzero(content[1:] == 0x0A)
    return len(feeds) >= _LINE_FEEDS and bool((content[feeds] == 0x0D).all())


def as_numbers(path: Path, text: bytes, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Voxels that are written as text; InputError where they are too few, or no numbers of ``dtype``."""
    words = text.split(None, math.prod(shape))[: math.prod(shape)]
    if len(words) < math.prod(shape):
        raise InputError(f"{path} is cut off: it holds {len(words)} voxels of {math.prod(shape)}.", CUT_OFF_REMEDY)
    try:
        return np.array(words).astype(dtype).reshape(shape)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}: its voxels are no numbers of its type: {error}.", CUT_OFF_REMEDY) from error


_UNIT_NAMES |= {"micron": "um", "micrometer": "um", "µm": "um", "μm": "um", "micrometre": "um", "nanometer": "nm"}


def header_lines(file: BinaryIO, path: Path) -> Iterator[str]:
    """The lines of a header without their ends, to the end of the file; InputError where they are none, or too long."""
    read = 0
    while line := file.readline(_MOST_BYTES):
        read += len(line)
        if read >= _MOST_BYTES:
            raise InputError(f"{path} has a header of more than {_MOST_BYTES >> 20} MB.", REMEDY)
        text = line.decode(errors="replace").rstrip("\r\n")
        if _CONTROL.search(text):
            raise InputError(f"{path}: its header holds {text[:60]!r}, with control characters.", REMEDY)
        yield text


def impossible(path: Path, field: str, value: str, meant: str) -> InputError:
    """The error for a field that is not what it should be."""
    shown = value if len(value) <= 60 else value[:57] + "..."
    return InputError(f"{path}: the header's {field} is {shown!r}, which is not {meant}.", REMEDY)


def whole_numbers(path: Path, field: str, value: str, count: int, low: int, high: int) -> list[int]:
    """The ``count`` whole numbers from ``low`` to ``high`` in a field; InputError where it holds something else."""
    words = value.split(None, count + 1)
    if len(words) != count or not all(re.fullmatch(r"[+-]?\d{1,12}", word) for word in words):
        raise impossible(path, field, value, "a whole number" if count == 1 else f"{count} whole numbers")
    numbers = [int(word) for word in words]
    if not all(low <= number <= high for number in numbers):
        raise impossible(path, field, value, f"from {low} to {high}")
    return numbers


def real_numbers(path: Path, field: str, value: str, count: int) -> list[float]:
    """The ``count`` numbers in a field; InputError where it holds something else, NaN or infinity among it."""
    words = value.split(None, count + 1)
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise impossible(path, field, value, "a number" if count == 1 else f"{count} numbers")
    return numbers


def in_mm(path: Path, field: str, unit: str) -> float:
    """How many mm a unit is; InputError where it is not known."""
    plain = unit.strip().lower()
    plain = _UNIT_NAMES.get(plain.removesuffix("s") if len(plain) > 3 else plain, plain)
    if plain not in _UNITS_MM:
        raise impossible(path, field, unit, "a unit of length that is known here, as mm")
    return _UNITS_MM[plain]


def files_beside(path: Path, field: str, value: str, listed: list[str]) -> list[Path]:
    """The files of voxels that a header names: one, a numbered series ("s%03d.raw 1 30 1"), or those ``listed``.

    Raises:
        InputError: one is not in the folder of the header, or there are too many.
    """
    words = value.split()
    if words and words[0].upper() == "LIST":
        names = [line.strip() for line in listed if line.strip()]
    elif len(words) >= 4 and re.fullmatch(r"[^%]*%0?\d?d[^%]*", words[0]):
        first, last, step = whole_numbers(path, field, " ".join(words[1:4]), 3, -_MOST_FILES, _MOST_FILES)
        if step == 0:
            raise impossible(path, field, value, "a numbered series")
        names = [words[0] % number for number in range(first, last + (1 if step > 0 else -1), step)]
    else:
        names = [value.strip()]
    if not 0 < len(names) <= _MOST_FILES:
        raise impossible(path, field, value, f"the names of 1 to {_MOST_FILES} files")
    files = [path.with_name(_plain_name(path, field, name)) for name in names]
    for file in files:
        try:
            found = file.is_file()
        except OSError:
            found = False
        if not found:
            raise InputError(
                f"{path}: the file {_shown(file.name)}, which the header's {field} names, is not there.",
                "Copy it into the folder of the header.",
            )
    return files


def _shown(name: str) -> str:
    """A name as it can stand in a line."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name[:80])


def _plain_name(path: Path, field: str, name: str) -> str:
    plain = re.sub(r"^\.[/\\]", "", name)
    if not plain or plain in (".", "..") or re.search(r"[/\\\0]", plain) or re.match(r"[A-Za-z]:", plain):
        raise InputError(
            f"{path}: the header's {field} names {name[:80]!r}, which is not a file beside it.",
            "Put both into one folder, and correct the name in the header.",
        )
    return plain


def half_of_pair(path: Path, kind: str) -> Path:
    """The "hdr" or the "img" half of the pair that ``path`` is a half of; any other path as it is."""
    name = path.name.lower()
    for ending in (".gz", ""):
        for half in (".hdr", ".img"):
            if name.endswith(half + ending):
                stem, given = path.name[: -len(half + ending)], path.name[-len(half + ending) :]
                wanted = f".{kind}{ending}"
                return path.with_name(stem + (wanted.upper() if given.isupper() else wanted))
    return path
