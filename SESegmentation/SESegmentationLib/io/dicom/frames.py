"""The single images of a scan: one per file, or the frames of an enhanced file, each with its own place and scale."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from ...errors import InputError
from ...plain_text import some_of
from ...result import Finding
from .headers import DISTINGUISHING, DicomHeader, items_of, numbers_of, text_of

_EXPORT = "Export the series again as images with their position, or give a NIfTI or NRRD file of it."
#: unit vectors that differ by less are rounded
_UNIT = 0.01
#: what determines the contrast of an image
_OF_CONTRAST = (
    *("EchoTime", "EffectiveEchoTime", "DiffusionBValue", "InversionTime", "FlipAngle", "ComplexImageComponent"),
    *("ConvolutionKernel", "KVP"),
)
#: share by which these may vary from slice to slice
_VARYING = 0.05


@dataclass(frozen=True)
class DicomFrame:
    """One image in the patient.

    Attributes:
        file: where its pixels are.
        number: which of the file's frames it is, from 0.
        name: for messages.
        size: columns and rows.
        position: centre of its first pixel, LPS in mm.
        axes: unit vectors (2, 3) along a row and down a column.
        pixel_mm: distance of the pixels along a row and down a column.
        thickness: mm, or None.
        slope: by which stored values are multiplied.
        intercept: what is then added.
        is_scaled: whether its tags give a RescaleSlope.
        count: its number among the images of its series or stack, counted from 1 by most programs, or None.
        tags: the places in which its tags are, the nearest first.
    """

    file: Path
    number: int
    name: str
    size: tuple[int, int]
    position: np.ndarray
    axes: np.ndarray
    pixel_mm: tuple[float, float]
    thickness: float | None
    slope: float
    intercept: float
    is_scaled: bool
    count: int | None
    tags: tuple[Dataset, ...]

    def distinguishing(self, keywords: Sequence[str] = DISTINGUISHING) -> dict[str, str]:
        """What it may differ in from another image in the same place, by keyword."""
        found = {}
        for keyword in keywords:
            for dataset in self.tags:
                if value := text_of(dataset, keyword):
                    found[keyword] = value
                    break
        return found


def frames_of(headers: Sequence[DicomHeader], name: str) -> list[DicomFrame]:
    """The images of a series.

    Args:
        headers: its files.
        name: of the folder or file, for messages.

    Raises:
        InputError: an image has no position, is in colour or a mosaic, or has impossible tags.
    """
    if mosaics := [header for header in headers if header.is_mosaic]:
        raise InputError(
            f"{name} holds Siemens mosaics: {mosaics[0].path.name} shows all slices of a volume in one image.",
            "Convert the series to NIfTI (for instance with dcm2niix), and give one volume of it.",
        )
    unplaced = [header for header in headers if not _has_position(header)]
    if unplaced:
        raise InputError(
            f"{name}: {len(unplaced)} of {len(headers)} files do not say where their images lie in the patient "
            f"(no ImagePositionPatient): {some_of(header.path.name for header in unplaced)}.",
            _EXPORT,
        )
    frames = [frame for header in headers for frame in _frames(header)]
    unscaled = [frame for frame in frames if not frame.is_scaled]
    if 0 < len(unscaled) < len(frames):
        raise InputError(
            f"{name}: {len(unscaled)} of {len(frames)} images have no RescaleSlope, the others have one: "
            f"{some_of(frame.name for frame in unscaled)}.",
            _EXPORT,
        )
    return frames


def mixed_contrasts(frames: Iterable[DicomFrame]) -> list[Finding]:
    """A finding where the slices of a volume were acquired in several ways, as where half of each echo is missing."""
    seen: dict[str, dict[str, str]] = {}
    for frame in frames:
        for keyword, value in frame.distinguishing(_OF_CONTRAST).items():
            seen.setdefault(keyword, {}).setdefault(value, frame.name)
    differing = [
        f"{keyword} is {' and '.join(f'{value} ({name})' for value, name in list(values.items())[:2])}"
        for keyword, values in seen.items()
        if not _same(values)
    ]
    if not differing:
        return []
    return [
        Finding(
            "mixed-contrasts",
            f"The slices were acquired in several ways: {some_of(differing)}.",
            "If they are of several contrasts, nothing in the result can be trusted.",
        )
    ]


def _same(values: Iterable[str]) -> bool:
    """Whether values of a tag are one, but for what scanners vary by rounding."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return len(set(values)) == 1
    return max(numbers) - min(numbers) <= _VARYING * max(map(abs, numbers))


def _has_position(header: DicomHeader) -> bool:
    groups = items_of(header.dataset, "PerFrameFunctionalGroupsSequence")
    if not groups:
        return "ImagePositionPatient" in header.dataset and bool(header.text("ImagePositionPatient"))
    shared = items_of(header.dataset, "SharedFunctionalGroupsSequence")
    return any(items_of(group, "PlanePositionSequence") for group in (*groups, *shared))


def _frames(header: DicomHeader) -> list[DicomFrame]:
    dataset, file = header.dataset, str(header.path)
    size = (header.number("Columns") or 0, header.number("Rows") or 0)
    if min(size) < 1:
        raise InputError(f"{file} does not say how many pixels it has (Rows, Columns).", _EXPORT)
    if (header.number("SamplesPerPixel") or 1) > 1 or header.text("PhotometricInterpretation") == "PALETTE COLOR":
        raise InputError(f"{file} is in colour.", "Give the series with the scanner's own grey values.")
    if "ModalityLUTSequence" in dataset:
        raise InputError(f"{file} stores its values by a table (ModalityLUTSequence).", _EXPORT)
    count = header.number("NumberOfFrames") or 1
    groups = items_of(dataset, "PerFrameFunctionalGroupsSequence")
    if not groups:
        if count > 1:
            raise InputError(f"{file} holds {count} frames, and does not say where each lies in the patient.", _EXPORT)
        return [_frame(header, size, 0, header.path.name, (dataset,), header.number("InstanceNumber"))]
    if len(groups) != count:
        raise InputError(
            f"{file} should hold {count} frames (NumberOfFrames), but describes {len(groups)}.",
            "Copy or export it again.",
        )
    shared = items_of(dataset, "SharedFunctionalGroupsSequence")
    common = [item for group in shared for item in _items(group)]
    frames = []
    for number, group in enumerate(groups):
        tags = (*_items(group), *common, dataset)
        name = f"frame {number + 1} of {header.path.name}"
        place = numbers_of(_holding(tags, "InStackPositionNumber"), "InStackPositionNumber", 1, file)
        frames.append(_frame(header, size, number, name, tags, int(place[0]) if place else None))
    return frames


def _items(group: Dataset) -> list[Dataset]:
    """The items of a functional group's sequences, one level deep; private ones repeat tags with other meanings."""
    return [item for tag, _ in group.items() if not tag.is_private for item in items_of(group, tag)]


def _holding(tags: Sequence[Dataset], keyword: str) -> Dataset:
    return next((dataset for dataset in tags if keyword in dataset), tags[-1])


def _frame(
    header: DicomHeader, size: tuple[int, int], number: int, name: str, tags: tuple[Dataset, ...], count: int | None
) -> DicomFrame:
    source = f"{header.path}" if len(tags) == 1 else f"{header.path}, frame {number + 1}"

    def value(keyword: str, length: int) -> tuple[float, ...] | None:
        return numbers_of(_holding(tags, keyword), keyword, length, source)

    def needed(keyword: str, length: int) -> np.ndarray:
        found = value(keyword, length)
        if found is None:
            raise InputError(f"{source} has no {keyword}: the image's place in the patient is not known.", _EXPORT)
        return np.array(found)

    spacing = needed("PixelSpacing", 2)
    if spacing.min() <= 0:
        raise InputError(f"{source}: PixelSpacing is {spacing[0]:g} x {spacing[1]:g} mm.", _EXPORT)
    axes = needed("ImageOrientationPatient", 6).reshape(2, 3)
    if np.abs(axes @ axes.T - np.eye(2)).max() > _UNIT:
        raise InputError(f"{source}: ImageOrientationPatient is not two perpendicular unit vectors.", _EXPORT)
    slope, intercept = value("RescaleSlope", 1), value("RescaleIntercept", 1)
    if slope and slope[0] == 0:
        raise InputError(f"{source}: RescaleSlope is 0, which makes all values the same.", _EXPORT)
    thickness = value("SliceThickness", 1)
    return DicomFrame(
        file=header.path,
        number=number,
        name=name,
        size=size,
        position=needed("ImagePositionPatient", 3),
        axes=axes,
        pixel_mm=(float(spacing[1]), float(spacing[0])),
        thickness=thickness[0] if thickness and thickness[0] > 0 else None,
        slope=slope[0] if slope else 1.0,
        intercept=intercept[0] if intercept else 0.0,
        is_scaled=slope is not None,
        count=count,
        tags=tags,
    )
