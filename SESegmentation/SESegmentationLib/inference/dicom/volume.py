"""From files to a volume."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ...errors import InputError
from ..remarks import add_remarks
from ..result import Finding
from .completeness import perhaps_missing, refuse_missing
from .finding import Found
from .frames import Frame, frames_of
from .headers import Header, some_of
from .pixels import StoredPixels
from .series import choose_series
from .stack import Stack

#: types of voxels that hold whole numbers, the first that does is taken
_WHOLE = (np.int16, np.uint16, np.int32, np.uint32)


def read_scan(path: Path, series: str | None) -> sitk.Image:
    """See :func:`.read_dicom`."""
    chosen = choose_series(Found.at(path), series, path)
    frames = frames_of(chosen.headers, str(path))
    stack, pixels = Stack.of(frames, str(path)), StoredPixels()
    slices = [_only(images, pixels, str(path)) for images in stack.places]
    refuse_missing(chosen.headers, len(slices), str(path))
    columns, rows = slices[0].size
    voxels = np.empty((len(slices), rows, columns), _voxel_type(chosen.headers, slices))
    in_files = sorted(range(len(slices)), key=lambda k: (str(slices[k].file), slices[k].number))
    for k in in_files:  # file by file
        voxels[k] = _rescaled(slices[k], pixels)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(stack.spacing)
    image.SetOrigin(stack.origin)
    image.SetDirection(stack.direction.ravel())
    add_remarks(image, [*perhaps_missing(chosen.headers, slices, len(slices)), *_inverted(chosen.headers)])
    return image


def _only(images: list[Frame], pixels: StoredPixels, name: str) -> Frame:
    """The image in one place; the first of several that are copies. InputError where they differ."""
    first = images[0]
    for other in images[1:]:
        if not np.array_equal(_rescaled(first, pixels), _rescaled(other, pixels)):
            one, another = first.distinguishing(), other.distinguishing()
            differing = [
                f"{key} {one.get(key, 'none')} and {another.get(key, 'none')}"
                for key in {**one, **another}
                if one.get(key) != another.get(key)
            ]
            by = f", which differ in {some_of(differing, 2)}" if differing else ""
            raise InputError(
                f"{name} has several images in the same place (time points or contrasts): {first.name} and "
                f"{other.name}{by}.",
                "Put the images of one time point or contrast into a file or folder of their own, and give that.",
            )
    return first


def _rescaled(frame: Frame, pixels: StoredPixels) -> np.ndarray:
    stored = pixels.of(frame.file, frame.number)
    return stored if (frame.slope, frame.intercept) == (1, 0) else stored * frame.slope + frame.intercept


def _voxel_type(headers: Iterable[Header], frames: Iterable[Frame]) -> type[np.number]:
    """A type that holds every value: whole numbers where nothing is scaled to others."""
    if any(frame.slope != 1 or frame.intercept % 1 for frame in frames):
        return np.float32
    low = high = 0
    for header in headers:
        bits = min(max(header.number("BitsStored") or 32, 1), 64)
        signed = header.number("PixelRepresentation") == 1
        low, high = min(low, -(1 << bits - 1) if signed else 0), max(high, (1 << bits - signed) - 1)
    low, high = low + min(frame.intercept for frame in frames), high + max(frame.intercept for frame in frames)
    return next((kind for kind in _WHOLE if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max), np.float32)


def _inverted(headers: Iterable[Header]) -> list[Finding]:
    if all(header.text("PhotometricInterpretation") != "MONOCHROME1" for header in headers):
        return []
    return [
        Finding(
            "inverted",
            "The images are to be shown with low values bright (MONOCHROME1); their values were taken as they are.",
            "If the scanner stored them inverted, nothing in the result can be trusted.",
        )
    ]
