"""Reading volumes and label maps from files and DICOM folders, and refusing what cannot be segmented.

Positions are SimpleITK's: LPS in mm.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from .dicom import is_dicom, read_dicom
from .nifti import SHEAR_DEGREES, NiftiHeader, shear_degrees, sheared
from .pictures import is_picture, read_picture
from .remarks import REMARKS
from .voxels import voxels_of

#: metadata of a checked volume: how many of its voxels were no numbers
NOT_NUMBERS = "SESegmentation_not_numbers"
#: a volume longer than this along an axis is no part of a person, but has its spacing in another unit
LONGEST_MM = 3000.0
#: sums and squares of larger values leave the range of single precision
_LARGEST = 1e15
#: smaller cosines, and sizes in mm, are rounding errors; ITK inverts matrices of denormal numbers wrongly
_SMALLEST = 1e-9
_COMPLEX = (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64)
#: ITK's readers of formats that say how the axes lie in the patient
_FORMATS = ("NiftiImageIO", "NrrdImageIO", "MetaImageIO", "MINCImageIO", "HDF5ImageIO")


def read_volume(path: str | Path, pixel_mm: Sequence[float] | None = None, series: str | None = None) -> sitk.Image:
    """Read a volume and check that it can be segmented.

    Args:
        path: NIfTI, NRRD, MetaImage, MINC or HDF5 (ITK's) file, or DICOM: a folder, a DICOMDIR or a file.
        pixel_mm: for models of slices, the spacing of pictures, which are then read too, as are single slices; see
            :mod:`.pictures`.
        series: which of several DICOM series, see :func:`.dicom.read_dicom`.

    Returns:
        A 3-D scalar image; see :func:`check_volume`.

    Raises:
        InputError: there is nothing, it cannot be read, is cut off, or is no volume that can be segmented.
    """
    return check_volume(_read(Path(path), pixel_mm, series=series), str(path), single=pixel_mm is not None)


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
    return _as_labels(_read(Path(path), pixel_mm, labels=True), str(path), single=pixel_mm is not None)


def read_label_layers(path: str | Path, pixel_mm: Sequence[float] | None = None) -> list[sitk.Image]:
    """Read a file of labels: its one label map, or those in layers in which Slicer saves segments that overlap.

    Args and errors: as :func:`read_label_volume`.

    Returns:
        Label maps on one grid, each with the fields of the file's header.
    """
    image = _read(Path(path), pixel_mm, labels=True)
    layers = [image]
    if image.HasMetaDataKey("Segment0_ID") or image.HasMetaDataKey("Segment0_Name"):
        if (count := image.GetNumberOfComponentsPerPixel()) > 1:
            layers = [sitk.VectorIndexSelectionCast(image, index) for index in range(count)]
        elif image.GetDimension() == 4:
            layers = [image[..., index] for index in range(image.GetSize()[3])]
    return [_with_metadata_of(image, _as_labels(layer, str(path), single=pixel_mm is not None)) for layer in layers]


def _as_labels(image: sitk.Image, name: str, single: bool) -> sitk.Image:
    """An image as it was read as a label map; InputError where it is none."""
    image = check_geometry(image, name, single)
    array = voxels_of(image)
    rounded = np.rint(array) if array.dtype.kind == "f" else array
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and np.abs(array - rounded).max() < 1e-3):
        raise InputError(
            f"{name} is no label map: it holds fractions.", "Give a file of whole numbers, one a structure."
        )
    low, high = int(rounded.min()), int(rounded.max())
    if low < 0 or high >= 1 << 32:
        raise InputError(
            f"{name} is no label map: its values run from {low} to {high}.", "Labels are numbers from 0 on."
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
        Voxels that are no numbers (NaN or infinite) are 0, as ITK makes them in NIfTI files; the metadata
        ``NOT_NUMBERS`` holds their count.

    Raises:
        InputError: several frames or components, a single slice, complex, sheared, empty, constant, or values too
            large for single precision.
    """
    image = _numbers_only(check_geometry(image, name, single))
    array = voxels_of(image)
    low, high = array.min(), array.max()
    if low == high:
        raise InputError(f"{name} is empty: every voxel is {low:g}.", "Check that the right volume was chosen.")
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
        raise InputError(
            f"{name} has {image.GetNumberOfComponentsPerPixel()} values in each voxel (colour, vectors or layers).",
            "Give a volume with one value in each voxel: convert colour to grey, or extract one component.",
        )
    if image.GetPixelID() in _COMPLEX:
        raise InputError(f"{name} is complex-valued.", "Give its magnitude.")
    if "vector" in image.GetPixelIDTypeAsString():
        image = _with_metadata_of(image, sitk.VectorIndexSelectionCast(image, 0))
    if 0 in image.GetSize():
        raise InputError(f"{name} has no voxels.", "Check that the right volume was chosen.")
    while image.GetDimension() > 3:
        frames = image.GetSize()[-1]
        if frames > 1:
            raise InputError(
                f"{name} is {image.GetDimension()}-dimensional, with {frames} frames.",
                "Extract one frame (a time point or a contrast) and give that.",
            )
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
    longest = max(n * spacing for n, spacing in zip(image.GetSize(), image.GetSpacing(), strict=True))
    if longest > LONGEST_MM and not single:  # the pixels of a picture have no size in mm
        raise InputError(
            f"{name} is {longest / 1000:.3g} m long: its spacing is probably in another unit than mm.",
            "Correct its spacing, and save it again.",
        )
    return image


def _numbers_only(image: sitk.Image) -> sitk.Image:
    array = voxels_of(image)
    if array.dtype.kind != "f" or (finite := np.isfinite(array)).all():
        return image
    numbers = sitk.GetImageFromArray(np.where(finite, array, array.dtype.type(0)))
    numbers.CopyInformation(image)
    numbers = _with_metadata_of(image, numbers)
    numbers.SetMetaData(NOT_NUMBERS, str(array.size - int(finite.sum())))
    return numbers


def _with_metadata_of(original: sitk.Image, derived: sitk.Image) -> sitk.Image:
    for key in original.GetMetaDataKeys():
        derived.SetMetaData(key, original.GetMetaData(key))
    return derived


def _read(
    path: Path, pixel_mm: Sequence[float] | None = None, labels: bool = False, series: str | None = None
) -> sitk.Image:
    try:
        exists, is_folder = path.exists(), path.is_dir()
    except OSError as error:  # a folder that may not be searched, a name that is too long
        raise InputError(f"{path} cannot be opened: {error.strerror}.", "Check the name and the folder.") from error
    if not exists:
        raise InputError(f"There is no file or folder {path}.", "Check the name and the folder.")
    if is_folder:
        with _quiet():
            return read_dicom(path, series)
    if path.stat().st_size == 0:
        raise InputError(f"The file {path} is empty (0 bytes).", "Copy or download it again.")
    if not os.access(path, os.R_OK):
        raise InputError(f"The file {path} may not be read.", "Ask its owner for permission, or copy it.")
    if pixel_mm is not None and is_picture(path):
        return read_picture(path, pixel_mm, labels)
    if is_dicom(path):
        with _quiet():
            return read_dicom(path, series)
    if series is not None:
        raise InputError(f"{path} is no DICOM file, so that it has no series {series}.", "Leave out --series.")
    header = NiftiHeader.read(path)
    not_numbers = header.check(path) if header else 0
    try:
        with _quiet():
            kind = sitk.ImageFileReader.GetImageIOFromFileName(str(path))
            if kind and kind not in _FORMATS:
                raise InputError(
                    f"{path} is of a format ({kind.removesuffix('ImageIO')}) that does not say how its axes lie in the "
                    "patient.",
                    "Convert the original to NIfTI, NRRD or MetaImage, or give the DICOM folder.",
                )
            image = sitk.ReadImage(str(path))
            for key in (NOT_NUMBERS, REMARKS):  # a NRRD file can hold any field
                image.EraseMetaData(key)
    except RuntimeError as error:
        raise InputError(_reason(path, str(error)), _REMEDY) from error
    if not_numbers:
        image.SetMetaData(NOT_NUMBERS, str(not_numbers))
    return image


_REMEDY = "Give a NIfTI, NRRD or MetaImage file or a DICOM folder; if it is one, copy or download it again."


def _reason(path: Path, message: str) -> str:
    """One line of cause from ITK's several."""
    if "Unable to determine ImageIO" in message:
        return f"{path} is no medical volume of a format known here, whatever its name says."
    if "orthonormal" in message:
        return f"{path}: its axes are not perpendicular, or its orientation is not valid."
    return f"{path} cannot be read: it is damaged, cut off, or of an unknown kind."


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what ITK's C and C++ libraries print off the error stream: the exception says it better."""
    try:
        kept = os.dup(2)
    except OSError:  # a program without an error stream
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
