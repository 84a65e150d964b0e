"""Text at the beginning of a file of voxels, as NRRD and MetaImage have it, and the files of voxels beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError

#: longer headers are none; Slicer's with many segments take some 100 kB
_MOST_BYTES = 16 << 20
_MOST_FILES = 1 << 16
_UNITS_MM = {"": 1.0, "?": 1.0, "???": 1.0, "m": 1000.0, "cm": 10.0, "mm": 1.0, "um": 1e-3, "nm": 1e-6}
_UNIT_NAMES = {"meter": "m", "metre": "m", "centimeter": "cm", "millimeter": "mm", "millimetre": "mm"}
_UNIT_NAMES |= {"micron": "um", "micrometer": "um", "µm": "um", "μm": "um", "micrometre": "um", "nanometer": "nm"}
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
REMEDY = "Correct it, or save the volume again from a program that shows it correctly."


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
            f"{path}: the header's {field} names {name[:80]!r}, which is no file beside it.",
            "Put both into one folder, and correct the name in the header.",
        )
    return plain
