"""Reading volumes and label maps from files and DICOM folders, and refusing what cannot be segmented.

Positions are SimpleITK's: LPS in mm.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..result import Finding
from .formats import open_file
from .volume_image import (
    SHEAR_DEGREES,
    add_remarks,
    complex_valued,
    several_frames,
    several_values,
    shear_degrees,
    sheared,
    voxels_of,
)

#: share of a volume that padding fills at least; fewer voxels are outliers
_LEAST_SHARE = 0.01
#: least distance of padding below the other values, as a share of their range without the highest; so air in CT is none
_GAP = 0.25
_HIGHEST_PERCENTILE = 99.5
#: percentile of the darkest values, without outliers
_LOWEST_PERCENTILE = 0.5
#: metadata of a checked volume: how many of its voxels were NaN or infinite
NOT_NUMBERS = "SESegmentation_not_numbers"
#: a volume longer than this along an axis is not of a person: its spacing must be in another unit
LONGEST_MM = 3000.0
#: nor is one shorter than the first along its longest axis, or shorter than the second along any axis
SHORTEST_MM = (1.0, 0.1)
#: sums and squares of larger values leave the range of single precision
_LARGEST = 1e15
#: smaller cosines, and sizes in mm, are rounding errors; ITK inverts matrices of denormal numbers wrongly
_SMALLEST = 1e-9
_COMPLEX = (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64)


def without_padding(image: sitk.Image) -> sitk.Image:
    """``image`` with padding replaced by the lowest value of the image proper; unchanged if there is none.

    Otherwise padding would count as the darkest tissue, widen the range by which intensities are normalised, and make
    MR look like CT. Only negative values count as padding: a background of 0 may be intended.
    """
    array = voxels_of(image)
    lowest = array.min()
    if lowest >= 0:
        return image
    padding = array == lowest
    if not _LEAST_SHARE <= padding.mean() < 1:
        return image
    highest = array.max()
    next_lowest = np.min(array, where=~padding, initial=highest)
    others = array[::2, ::2, ::2]
    high = np.percentile(others[others > lowest], _HIGHEST_PERCENTILE) if (others > lowest).any() else highest
    if float(next_lowest) - float(lowest) <= _GAP * max(float(high) - float(next_lowest), 0.0):
        return image
    if next_lowest == highest:  # two values only: a mask
        return image
    plain = sitk.GetImageFromArray(np.where(padding, next_lowest, array))
    plain.CopyInformation(image)
    for key in image.GetMetaDataKeys():
        plain.SetMetaData(key, image.GetMetaData(key))
    percent, value = 100 * padding.mean(), f"{lowest:g}, far below all others"
    add_remarks(
        plain,
        [
            Finding(
                "padding",
                f"{percent:.0f} % of the voxels are padding ({value}); they were set to {next_lowest:g}.",
                "Structures that reach into them are cut off there.",
            )
        ],
    )
    return plain


class Opener(Protocol):
    """Opens a file or folder as :func:`.formats.open_file` does."""

    def __call__(
        self, path: Path, pixel_mm: Sequence[float] | None = None, labels: bool = False, series: str | None = None
    ) -> sitk.Image:
        """The image; InputError where there is none."""


_open: Opener = open_file


@contextlib.contextmanager
def files_opened_by(opener: Opener) -> Iterator[None]:
    """Let files be opened by ``opener``, for example in a separate process that they may crash, instead of here."""
    global _open
    before, _open = _open, opener
    try:
        yield
    finally:
        _open = before


def read_volume(path: str | Path, pixel_mm: Sequence[float] | None = None, series: str | None = None) -> sitk.Image:
    """Read a volume and check that it can be segmented.

    Args:
        path: see :func:`.formats.open_file`.
        pixel_mm: for models of slices, the spacing of pictures, which are then read too, as are single slices; see
            :func:`.formats.read_picture`.
        series: which of several DICOM series, see :func:`.dicom.read_dicom`.

    Returns:
        A 3-D scalar image; see :func:`check_volume`.

    Raises:
        InputError: there is nothing, it cannot be read, is cut off, or is no volume that can be segmented.
    """
    return check_volume(_open(Path(path), pixel_mm, series=series), str(path), single=pixel_mm is not None)


def read_label_volume(path: str | Path, pixel_mm: Sequence[float] | None = None) -> sitk.Image:
    """Read a label map: 3-D, whole numbers from 0 on (also where they are stored as floats), possibly all 0.

    Args:
        path: see :func:`read_volume`.
        pixel_mm: see :func:`read_volume`.

    Returns:
        The smallest of uint8, uint16 and uint32 that holds its values.

    Raises:
        InputError: as :func:`read_volume`, or the values are no labels.
    """
    return _as_labels(_open(Path(path), pixel_mm, labels=True), str(path), single=pixel_mm is not None)


def read_label_layers(path: str | Path, pixel_mm: Sequence[float] | None = None) -> list[sitk.Image]:
    """Read a file of labels: its one label map, or those in layers in which Slicer saves segments that overlap.

    Args and errors: as :func:`read_label_volume`.

    Returns:
        Label maps on one grid, each with the fields of the file's header.
    """
    image = _open(Path(path), pixel_mm, labels=True)
    layers = [image]
    if image.HasMetaDataKey("Segment0_ID") or image.HasMetaDataKey("Segment0_Name"):
        if (count := image.GetNumberOfComponentsPerPixel()) > 1:
            layers = [sitk.VectorIndexSelectionCast(image, index) for index in range(count)]
        elif image.GetDimension() == 4:
            layers = [image[..., index] for index in range(image.GetSize()[3])]
    return [_with_metadata_of(image, _as_labels(layer, str(path), single=pixel_mm is not None)) for layer in layers]


def _as_labels(image: sitk.Image, name: str, single: bool) -> sitk.Image:
    """An image that was read, as a label map; InputError if its values are not labels."""
    image = check_geometry(image, name, single)
    array = voxels_of(image)
    rounded = np.rint(array) if array.dtype.kind == "f" else array
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and np.abs(array - rounded).max() < 1e-3):
        raise InputError(
            f"{name} is not a label map: it holds fractions.", "Give a file of whole numbers, one for each structure."
        )
    low, high = int(rounded.min()), int(rounded.max())
    if low < 0 or high >= 1 << 32:
        raise InputError(
            f"{name} is not a label map: its values run from {low} to {high}.", "Labels are numbers from 0 on."
        )
    labels = sitk.GetImageFromArray(rounded.astype(np.min_scalar_type(high)))
    labels.CopyInformation(image)
    return labels


def check_volume(image: sitk.Image, name: str = "The volume", single: bool = False) -> sitk.Image:
    """Refuse what cannot be segmented.

    Args:
        image: as it was read.
        name: how messages name it.
        single: allow a single slice.

    Returns:
        The image as a 3-D scalar one: a single frame of a 4-D image or a single component of a vector is taken out.
        Voxels that are no numbers (NaN or infinite) are dark: 0, or where the image has negative values as dark as its
        darkest ones; the metadata ``NOT_NUMBERS`` holds their count. Padding far below the image has its lowest value,
        see :func:`without_padding`.

    Raises:
        InputError: several frames or components, a single slice, complex, sheared, empty, constant, or values too
            large for single precision.
    """
    image = without_padding(_numbers_only(check_geometry(image, name, single)))
    array = voxels_of(image)
    low, high = array.min(), array.max()
    if low == high:
        no_numbers = image.HasMetaDataKey(NOT_NUMBERS) and int(image.GetMetaData(NOT_NUMBERS)) == array.size
        value = "NaN or infinite" if no_numbers else f"{low:g}"
        raise InputError(f"{name} is empty: every voxel is {value}.", "Check that the right volume was chosen.")
    largest = max(float(high), -float(low))
    if largest > _LARGEST:
        raise InputError(
            f"{name} holds values as large as {largest:.0e}.",
            "Correct or rescale them, and save the volume again.",
        )
    return image


def check_geometry(image: sitk.Image, name: str = "The volume", single: bool = False) -> sitk.Image:
    """The part of :func:`check_volume` that holds for label maps too: everything but the values."""
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise InputError(*several_values(name, image.GetNumberOfComponentsPerPixel()))
    if image.GetPixelID() in _COMPLEX:
        raise InputError(*complex_valued(name))
    if "vector" in image.GetPixelIDTypeAsString():
        image = _with_metadata_of(image, sitk.VectorIndexSelectionCast(image, 0))
    if 0 in image.GetSize():
        raise InputError(f"{name} has no voxels.", "Check that the right volume was chosen.")
    while image.GetDimension() > 3:
        frames = image.GetSize()[-1]
        if frames > 1:
            raise InputError(*several_frames(name, image.GetDimension(), frames))
        image = _with_metadata_of(image, image[(slice(None),) * (image.GetDimension() - 1) + (0,)])
    if single and image.GetDimension() == 2:
        image = _with_metadata_of(image, sitk.JoinSeries(image))
    if image.GetDimension() < 3 or min(image.GetSize()[: 2 if single else 3]) < 2:
        raise InputError(f"{name} is a single slice, not a volume.", "Give the whole series or volume.")
    direction = np.array(image.GetDirection())
    if ((direction != 0) & (np.abs(direction) < _SMALLEST)).any():
        image = sitk.Image(image)
        image.SetDirection(np.where(np.abs(direction) < _SMALLEST, 0, direction))
    numbers = (*image.GetSpacing(), *image.GetOrigin(), *direction)
    shear = shear_degrees(direction.reshape(3, 3))
    if not np.isfinite(numbers).all() or min(image.GetSpacing()) < _SMALLEST or shear >= 90:
        raise InputError(
            f"{name} has an impossible geometry: spacing {image.GetSpacing()} mm, origin {image.GetOrigin()} mm.",
            "Correct its spacing, origin and directions, and save it again.",
        )
    if shear > SHEAR_DEGREES:
        raise InputError(*sheared(name, shear))
    edges = [n * spacing for n, spacing in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    impossible = max(edges) > LONGEST_MM or max(edges) < SHORTEST_MM[0] or min(edges) < SHORTEST_MM[1]
    if impossible and not single:  # the pixels of a picture have no size in mm
        length = f"{max(edges) / 1000:.3g} m" if max(edges) > LONGEST_MM else f"only {min(edges):.2g} mm"
        raise InputError(
            f"{name} is {length} long: its spacing is probably in another unit than mm.",
            "Correct its spacing, and save it again.",
        )
    return image


def _numbers_only(image: sitk.Image) -> sitk.Image:
    array = voxels_of(image)
    if array.dtype.kind != "f" or (finite := np.isfinite(array)).all():
        return image
    # 0 would be water in CT, and the mean in an image that was brought to mean 0; a single outlier is no background
    dark = min(0.0, float(np.percentile(array[finite], _LOWEST_PERCENTILE))) if finite.any() else 0.0
    numbers = sitk.GetImageFromArray(np.where(finite, array, array.dtype.type(dark)))
    numbers.CopyInformation(image)
    numbers = _with_metadata_of(image, numbers)
    numbers.SetMetaData(NOT_NUMBERS, str(array.size - int(finite.sum())))
    return numbers


def _with_metadata_of(original: sitk.Image, derived: sitk.Image) -> sitk.Image:
    for key in original.GetMetaDataKeys():
        derived.SetMetaData(key, original.GetMetaData(key))
    return derived
