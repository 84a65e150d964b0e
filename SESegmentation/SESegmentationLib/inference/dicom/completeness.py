"""Slices that may be missing at an end of a scan, where their distances cannot show it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pydicom

from ...errors import InputError
from ..result import Finding
from .frames import Frame
from .headers import Header, some_of

_CONSEQUENCE = "If slices are missing, structures at the scan's ends are cut off, and their volumes too small."
_AGAIN = "Copy or export the whole series again."
#: private tags in which scanners count: creator, group, element, whether slices or images, and what it is
_COUNTS = (
    ("GEMS_RELA_01", 0x0021, 0x4F, "slices", "GE's locations in the acquisition"),
    ("GEMS_SERS_01", 0x0025, 0x07, "images", "GE's images in the series"),
    ("Philips Imaging DD 001", 0x2001, 0x18, "slices", "Philips' number of slices"),
)
#: Siemens' protocol: number of stacks or slices, and of slices in each stack of a 3-D acquisition
_SIEMENS = ("SIEMENS CSA HEADER", 0x0029, 0x20)
_CREATORS = [(group, 0x0010 + number) for group in (0x0021, 0x0025, 0x0029, 0x2001) for number in range(4)]
_ELEMENTS = [
    (group, ((0x10 + number) << 8) | element)
    for _, group, element, *_ in (*_COUNTS, (*_SIEMENS, "", ""))
    for number in range(4)
]


def refuse_missing(headers: Sequence[Header], places: int, name: str) -> None:
    """Raise InputError where slices or files are missing for certain.

    Args:
        headers: the files of a series.
        places: how many slices they make.
        name: of the folder or file, for messages.
    """
    parts = {header.number("InConcatenationNumber") for header in headers}
    whole = headers[0].number("InConcatenationTotalNumber") or 0
    if headers[0].text("ConcatenationUID") and len(parts) < whole:
        absent = some_of(sorted(set(range(1, whole + 1)) - parts))
        raise InputError(f"The scan in {name} is in {whole} files, of which number {absent} is missing.", _AGAIN)
    slices = headers[0].number("NumberOfSlices") if headers[0].text("Modality") == "PT" else None
    if slices and places < slices:
        raise InputError(
            f"The scan in {name} has {slices} slices (NumberOfSlices), of which {places} are there.", _AGAIN
        )


def perhaps_missing(headers: Sequence[Header], frames: Sequence[Frame], places: int) -> list[Finding]:
    """What hints at missing slices, at most one finding.

    Args:
        headers: the files of a series.
        frames: its images.
        places: how many slices they make.
    """
    hints = [*_numbers(frames), *_counts(headers, len(frames), places)]
    if not hints:
        return []
    return [Finding("incomplete-series", f"Slices may be missing: {'; '.join(hints)}.", _CONSEQUENCE)]


def _numbers(frames: Sequence[Frame]) -> Iterator[str]:
    numbers = {frame.count for frame in frames}
    if None in numbers or len(numbers) < len(frames):  # without number, or numbered by stack or time
        return
    begin, end = min(1, *numbers), max(numbers)
    if end - begin > 2 * len(numbers):  # numbered in some other way
        return
    if absent := sorted(set(range(begin, end)) - numbers):
        yield f"the images are numbered up to {end}, without {some_of(absent, 5)}"


def _counts(headers: Sequence[Header], images: int, places: int) -> Iterator[str]:
    first = headers[0]
    if first.text("ImageType").upper().startswith("DERIVED"):  # slices of its own
        return
    expected = first.number("ImagesInAcquisition") or 0
    if images < expected and len({header.text("AcquisitionNumber") for header in headers}) == 1:
        yield f"the acquisition has {expected} images (ImagesInAcquisition), of which {images} are there"
    if len(headers) == images:  # enhanced files count otherwise
        yield from _private_counts(first.path, {"slices": places, "images": images})


def _private_counts(file: Path, there: dict[str, int]) -> Iterator[str]:
    with pydicom.config.disable_value_validation():
        dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[*_CREATORS, *_ELEMENTS], force=True)
    for creator, group, element, unit, words in _COUNTS:
        try:
            expected = int(dataset.private_block(group, creator)[element].value)
        except (KeyError, TypeError, ValueError):
            continue
        if there[unit] < expected:
            yield f"there are {there[unit]} of {expected} {unit} ({words})"
    creator, group, element = _SIEMENS
    try:
        protocol = bytes(dataset.private_block(group, creator)[element].value)
    except (KeyError, TypeError, ValueError):
        return
    stacks, slices = (_protocol(protocol, field) for field in (b"sSliceArray.lSize", b"sKSpace.lImagesPerSlab"))
    volumetric = _protocol(protocol, b"sKSpace.ucDimension") == 4
    expected = stacks * (slices or 1) if volumetric else stacks
    if there["slices"] < expected:
        yield f"there are {there['slices']} of {expected} slices (Siemens' protocol)"


def _protocol(protocol: bytes, field: bytes) -> int:
    """A number in Siemens' protocol, which is lines of text; 0 where it is absent."""
    found = re.search(re.escape(field) + rb"\s*=\s*(0x[0-9a-fA-F]+|[0-9]{1,6})\b", protocol)
    return int(found[1], 0) if found else 0
