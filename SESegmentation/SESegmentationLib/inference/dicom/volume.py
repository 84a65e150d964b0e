"""From files to a volume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ...errors import InputError
from ..memory import require
from ..remarks import add_remarks
from ..result import Finding
from .completeness import perhaps_missing, refuse_missing
from .finding import Found
from .frames import Frame, frames_of
from .headers import Header, some_of
from .pixels import StoredPixels
from .series import choose_series
from .stack import Stack

#: padding this share of the image's range below its lowest value is taken out: less changes nothing in the networks
FAR_BELOW = 0.1
#: a volume is in memory as NumPy's and as ITK's
_COPIES = 2
#: bytes of a pixel while a file is decoded, at most
_DECODING = 8
#: types of voxels that hold whole numbers, the first that does is taken
_WHOLE = (np.int16, np.uint16, np.int32, np.uint32)


def read_scan(path: Path, series: str | None) -> sitk.Image:
    """See :func:`.read_dicom`."""
    chosen = choose_series(Found.at(path), series, path)
    frames = frames_of(chosen.headers, str(path))
    stack, pixels = Stack.of(frames, str(path)), StoredPixels()
    (columns, rows), kind = frames[0].size, _voxel_type(chosen.headers, frames)
    in_a_file = max(Counter(frame.file for frame in frames).values())
    require(rows * columns * (_COPIES * np.dtype(kind).itemsize * len(stack.places) + _DECODING * in_a_file) / 1e9)
    slices = [_only(images, pixels, str(path)) for images in stack.places]
    refuse_missing(chosen.headers, len(slices), str(path))
    voxels = np.empty((len(slices), rows, columns), kind)
    for k in sorted(range(len(slices)), key=lambda k: (str(slices[k].file), slices[k].number)):  # file by file
        voxels[k] = _rescaled(slices[k], pixels)
    _fill_padding(voxels, slices, chosen.headers)
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


def _fill_padding(voxels: np.ndarray, slices: Iterable[Frame], headers: Iterable[Header]) -> None:
    """Give what the tags call padding the lowest value of the image, where it is far below that: it is no tissue."""
    values = {header.path: _padding(header) for header in headers}
    if all(value is None for value in values.values()):
        return
    padded = np.zeros(voxels.shape, bool)
    for k, frame in enumerate(slices):
        if (value := values[frame.file]) is not None:
            padded[k] = voxels[k] == value * frame.slope + frame.intercept
    if padded.all() or not padded.any():
        return
    low, high = voxels.min(where=~padded, initial=voxels.max()), voxels.max(where=~padded, initial=voxels.min())
    if float(low) - float(voxels[padded].max()) > FAR_BELOW * (float(high) - float(low)):
        voxels[padded] = low


def _padding(header: Header) -> int | None:
    """The stored value that is no image; some programs write a negative one as if it had no sign."""
    value, bits = header.number("PixelPaddingValue"), header.number("BitsAllocated") or 16
    signed = value is not None and header.number("PixelRepresentation") == 1
    return value - (1 << bits) if signed and value >= 1 << (bits - 1) else value


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
