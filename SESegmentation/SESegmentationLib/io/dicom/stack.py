"""Stacks: images in order above each other at equal distances; and slices that may be missing at the ends."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

from ...errors import InputError
from ...plain_text import some_of
from ...result import Finding
from ..volume_image import SHEAR_DEGREES, sheared
from .frames import DicomFrame
from .headers import DicomHeader, opened_dicom, text_of

#: relative difference between slice distances that rounding in the files explains
UNEVEN = 0.05
#: the same in mm, for slices that are not thinner than four times that
UNEVEN_MM = 0.1
#: thinner slices are a mistake in the tags
_THINNEST_MM = 0.01
#: positions that differ by less than this share of a pixel are one place
_SAME_PLACE = 0.01
_ONE_STACK = "Give the files of one stack only."
_CONSEQUENCE = "If slices are missing, structures at the scan's ends are cut off, and their volumes too small."
_INCOMPLETE_REMEDY = "Copy or export the whole series again."
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


@dataclass(frozen=True)
class Stack:
    """Images in order.

    Attributes:
        places: from the first place to the last, the images that lie there.
        spacing: mm, along a row, down a column, from place to place.
        origin: centre of the first voxel, LPS in mm.
        direction: (3, 3), unit vectors in its columns.
    """

    places: list[list[DicomFrame]]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: np.ndarray

    @classmethod
    def of(cls, frames: Sequence[DicomFrame], name: str) -> Stack:
        """Put ``frames``, in whatever order they are, into a stack.

        Args:
            frames: at least one.
            name: of the folder or file, for messages.

        Raises:
            InputError: they are not alike, not parallel, not at equal distances, or not straight above each other.
        """
        _alike(frames, lambda frame: frame.size, name, "has {0[0]} x {0[1]} pixels")
        _alike(frames, lambda frame: tuple(np.round(frame.pixel_mm, 4)), name, "has pixels of {0[0]:g} x {0[1]:g} mm")
        axes = _axes(frames, name)
        positions = np.array([frame.position for frame in frames])
        heights = positions @ axes[2]
        near = _SAME_PLACE * min(frames[0].pixel_mm)
        places: list[list[DicomFrame]] = []
        for number in np.lexsort((*positions.T, heights)):
            frame = frames[number]
            if places and np.linalg.norm(frame.position - places[-1][0].position) < near:
                places[-1].append(frame)
            else:
                places.append([frame])
        first = places[0][0]
        distance = first.thickness or 1.0 if len(places) == 1 else _distance(places, axes[2], near, name)
        return cls(places, (*first.pixel_mm, distance), tuple(first.position), axes.T)


def _alike(frames: Sequence[DicomFrame], value: Callable[[DicomFrame], Hashable], name: str, words: str) -> None:
    """Raise InputError, naming the odd ones, unless ``value`` is the same for all."""
    counts = Counter(value(frame) for frame in frames)
    if len(counts) == 1:
        return
    (usual, _), (odd, _) = counts.most_common(2)
    raise InputError(
        f"The images in {name} do not fit together: {some_of(f.name for f in frames if value(f) == odd)} "
        f"{words.format(odd)}, the others {words.format(usual).removeprefix('has ')}.",
        "Move what does not belong to the scan, a localizer for instance, into another folder.",
    )


def _axes(frames: Sequence[DicomFrame], name: str) -> np.ndarray:
    """Unit vectors in rows: along an image's row, down its column, and the normal. InputError unless all share them."""
    every = np.array([frame.axes for frame in frames])
    keys = Counter(tuple(np.round(axes.ravel(), 2)) for axes in every)
    usual = next(axes for axes in every if tuple(np.round(axes.ravel(), 2)) == keys.most_common(1)[0][0])
    odd = np.abs(every - usual).max(axis=(1, 2)) > np.sin(np.radians(SHEAR_DEGREES))
    if odd.any():
        names = some_of(frame.name for frame, is_odd in zip(frames, odd, strict=True) if is_odd)
        raise InputError(
            f"The images in {name} are not parallel: {names} {'are' if odd.sum() > 1 else 'is'} turned against the "
            "others (a localizer, or several stacks).",
            _ONE_STACK,
        )
    row, column = np.median(every, axis=0)  # not the mean, whose rounding depends on the order of the images
    row /= np.linalg.norm(row)
    column -= (column @ row) * row
    column /= np.linalg.norm(column)
    return np.array([row, column, np.cross(row, column)])


def _distance(places: list[list[DicomFrame]], normal: np.ndarray, near: float, name: str) -> float:
    """Distance in mm from place to place along the normal; InputError unless it is the same everywhere."""
    positions = np.array([frames[0].position for frames in places])
    heights = np.diff(positions @ normal)
    usual = float(np.median(heights))
    if (heights < near).any():
        number = int(heights.argmin())
        raise InputError(
            f"The images in {name} are several stacks: {places[number][0].name} and {places[number + 1][0].name} lie "
            "beside each other in one plane.",
            _ONE_STACK,
        )
    tolerance = max(UNEVEN * usual, min(UNEVEN_MM, usual / 4))
    if (np.abs(heights - usual) > tolerance).any():
        raise InputError(*_uneven(places, heights, usual, name))
    numbers = np.arange(len(places)) - (len(places) - 1) / 2
    step = numbers @ positions / (numbers @ numbers)  # of the straight line fitted to all positions
    off = np.linalg.norm(positions - positions.mean(axis=0) - np.outer(numbers, step), axis=1)
    if off.max() > tolerance:
        raise InputError(
            f"The images in {name} do not lie on a straight line at equal distances: "
            f"{places[int(off.argmax())][0].name} is {off.max():.2g} mm away from its place.",
            "Export the whole series again, or resample it to equal distances.",
        )
    distance = float(step @ normal)
    tilt = float(np.degrees(np.arctan2(np.linalg.norm(step - distance * normal), distance)))
    if tilt > SHEAR_DEGREES:
        raise InputError(*sheared(name, tilt))
    return distance


def _uneven(places: list[list[DicomFrame]], heights: np.ndarray, usual: float, name: str) -> tuple[str, str]:
    number = int(np.abs(heights - usual).argmax())
    between = f"{places[number][0].name} and {places[number + 1][0].name}"
    missing = heights[number] / usual - 1
    guess = ""
    if missing > 0.5 and abs(missing - round(missing)) < 0.2:
        guess = f", so that {round(missing)} {'is' if round(missing) == 1 else 'are'} probably missing there"
    return (
        f"The slices in {name} are not at equal distances: {between} are {heights[number]:.4g} mm apart, most others "
        f"{usual:.4g} mm{guess}.",
        "Export the whole series again, or resample it to equal distances.",
    )


def refuse_missing(headers: Sequence[DicomHeader], places: int, name: str) -> None:
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
        raise InputError(
            f"The scan in {name} is in {whole} files, of which number {absent} is missing.", _INCOMPLETE_REMEDY
        )
    slices = headers[0].number("NumberOfSlices") if headers[0].text("Modality") == "PT" else None
    if slices and places < slices:
        raise InputError(
            f"The scan in {name} has {slices} slices (NumberOfSlices), of which {places} are there.", _INCOMPLETE_REMEDY
        )


def perhaps_missing(headers: Sequence[DicomHeader], frames: Sequence[DicomFrame], places: int) -> list[Finding]:
    """At most one finding, with the hints at missing slices.

    Args:
        headers: the files of a series.
        frames: its images.
        places: how many slices they make.
    """
    hints = [*_numbers(frames), *_steps(frames), *_counts(headers, len(frames), places)]
    if not hints:
        return []
    return [Finding("incomplete-series", f"Slices may be missing: {'; '.join(hints)}.", _CONSEQUENCE)]


def _numbers(frames: Sequence[DicomFrame]) -> Iterator[str]:
    numbers = {frame.count for frame in frames if frame.count is not None}
    if len(numbers) < len(frames):  # without number, or numbered by stack or time
        return
    begin, end = min(1, *numbers), max(numbers)
    if end - begin > 2 * len(numbers):  # numbered in some other way
        return
    if absent := sorted(set(range(begin, end)) - numbers):
        yield f"the images are numbered up to {end}, without {some_of(absent, 5)}"


def _steps(frames: Sequence[DicomFrame]) -> Iterator[str]:
    """Hints at slices that are missing everywhere, as where every third was exported."""
    first, count = frames[0], len(frames)
    if count < 2 or any(text_of(tags, "ImageType").upper().startswith("DERIVED") for tags in first.tags):
        return
    distance = float(np.linalg.norm(frames[-1].position - first.position)) / (count - 1)
    keyword = "SpacingBetweenSlices"
    with contextlib.suppress(ValueError):  # some write the gap between slices there, which is less than a slice
        (stated,) = {frame.distinguishing([keyword]).get(keyword, "") for frame in frames}
        between = abs(float(stated))
        if between >= (first.thickness or 0.0) and (times := _whole_times(distance, between)):
            yield f"the slices are {distance:.4g} mm apart, which is {times} times their {keyword}"
    numbers = [frame.count for frame in frames if frame.count is not None]
    times = _whole_times(distance, first.thickness or 0.0)
    if times > 2 and len(numbers) == count and set(np.abs(np.diff(numbers)).tolist()) == {times}:  # 2: see _numbers
        yield f"the images are numbered in steps of {times}, and as far apart as {times} slices"


def _whole_times(distance: float, part: float) -> int:
    """How many times ``part`` a distance is, from twice on; 0 if it is no whole number of times."""
    times = distance / part if part > _THINNEST_MM else 0.0
    return round(times) if times > 1.5 and abs(times - round(times)) < UNEVEN else 0


def _counts(headers: Sequence[DicomHeader], images: int, places: int) -> Iterator[str]:
    first = headers[0]
    if first.text("ImageType").upper().startswith("DERIVED"):  # slices of its own
        return
    expected = first.number("ImagesInAcquisition") or 0
    if images < expected and len({header.text("AcquisitionNumber") for header in headers}) == 1:
        yield f"the acquisition has {expected} images (ImagesInAcquisition), of which {images} are there"
    if len(headers) == images:  # enhanced files count differently
        yield from _private_counts(first.path, {"slices": places, "images": images})


def _private_counts(file: Path, there: dict[str, int]) -> Iterator[str]:
    with pydicom.config.disable_value_validation(), opened_dicom(file) as content:
        dataset = pydicom.dcmread(content, stop_before_pixels=True, specific_tags=[*_CREATORS, *_ELEMENTS], force=True)
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
