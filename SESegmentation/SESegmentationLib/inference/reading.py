"""Reading volumes and label maps from files and DICOM folders, and refusing what cannot be segmented.

Positions are SimpleITK's: LPS in mm.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from .dicom import read_dicom_folder
from .nifti import SHEAR_DEGREES, NiftiHeader, shear_degrees, sheared

_COMPLEX = (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64)


def read_volume(path: str | Path) -> sitk.Image:
    """Read a volume and check that it can be segmented.

    Args:
        path: NIfTI, NRRD, MetaImage or any other file that ITK reads, or a folder with one DICOM series.

    Returns:
        A 3-D scalar image; see :func:`check_volume`.

    Raises:
        InputError: there is nothing, it cannot be read, is cut off, or is no volume that can be segmented.
    """
    return check_volume(_read(Path(path)), str(path))


def read_label_volume(path: str | Path) -> sitk.Image:
    """Read a label map: 3-D, whole numbers from 0 on (also where they are stored as floats), possibly all 0.

    Returns:
        The smallest of uint8, uint16 and uint32 that holds its values.

    Raises:
        InputError: as :func:`read_volume`, or the values are no labels.
    """
    image = check_geometry(_read(Path(path)), str(path))
    array = sitk.GetArrayViewFromImage(image)
    rounded = np.rint(array) if array.dtype.kind == "f" else array
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and np.abs(array - rounded).max() < 1e-3):
        raise InputError(
            f"{path} is no label map: it holds fractions.", "Give a file of whole numbers, one a structure."
        )
    low, high = int(rounded.min()), int(rounded.max())
    if low < 0 or high >= 1 << 32:
        raise InputError(
            f"{path} is no label map: its values run from {low} to {high}.", "Labels are numbers from 0 on."
        )
    labels = sitk.GetImageFromArray(rounded.astype(np.min_scalar_type(high)))
    labels.CopyInformation(image)
    return labels


def check_volume(image: sitk.Image, name: str = "The volume") -> sitk.Image:
    """Refuse what cannot be segmented.

    Args:
        image: as it was read.
        name: how messages name it.

    Returns:
        The image as a 3-D scalar one: a single frame of a 4-D image or a single component of a vector is taken out.

    Raises:
        InputError: several frames or components, a single slice, complex, sheared, empty, constant, NaN or infinite.
    """
    image = check_geometry(image, name)
    array = sitk.GetArrayViewFromImage(image)
    if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        raise InputError(
            f"{name} has {int(array.size - finite.sum())} voxels that are not numbers (NaN or infinite).",
            "Replace them, with 0 for example, and save the volume again.",
        )
    if array.min() == array.max():
        raise InputError(
            f"{name} is empty: every voxel is {array.flat[0]:g}.", "Check that the right volume was chosen."
        )
    return image


def check_geometry(image: sitk.Image, name: str = "The volume") -> sitk.Image:
    """The part of :func:`check_volume` that holds for label maps too: everything but the values."""
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise InputError(
            f"{name} has {image.GetNumberOfComponentsPerPixel()} values in each voxel (colour, vectors or layers).",
            "Give a volume with one value in each voxel: convert colour to grey, or extract one component.",
        )
    if image.GetPixelID() in _COMPLEX:
        raise InputError(f"{name} is complex-valued.", "Give its magnitude.")
    if "vector" in image.GetPixelIDTypeAsString():
        image = sitk.VectorIndexSelectionCast(image, 0)
    if 0 in image.GetSize():
        raise InputError(f"{name} has no voxels.", "Check that the right volume was chosen.")
    while image.GetDimension() > 3:
        frames = image.GetSize()[-1]
        if frames > 1:
            raise InputError(
                f"{name} is {image.GetDimension()}-dimensional, with {frames} frames.",
                "Extract one frame (a time point or a contrast) and give that.",
            )
        image = image[(slice(None),) * (image.GetDimension() - 1) + (0,)]
    if image.GetDimension() < 3 or min(image.GetSize()) < 2:
        raise InputError(f"{name} is a single slice, not a volume.", "Give the whole series or volume.")
    numbers = (*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection())
    shear = shear_degrees(np.reshape(image.GetDirection(), (3, 3)))
    if not np.isfinite(numbers).all() or min(image.GetSpacing()) <= 0 or shear >= 90:
        raise InputError(
            f"{name} has an impossible geometry: spacing {image.GetSpacing()} mm, origin {image.GetOrigin()} mm.",
            "Correct its spacing, origin and directions, and save it again.",
        )
    if shear > SHEAR_DEGREES:
        raise InputError(*sheared(name, shear))
    return image


def _read(path: Path) -> sitk.Image:
    if not path.exists():
        raise InputError(f"There is no file or folder {path}.", "Check the name and the folder.")
    if path.is_dir():
        with _quiet():
            return read_dicom_folder(path)
    if path.stat().st_size == 0:
        raise InputError(f"The file {path} is empty (0 bytes).", "Copy or download it again.")
    if not os.access(path, os.R_OK):
        raise InputError(f"The file {path} may not be read.", "Ask its owner for permission, or copy it.")
    if header := NiftiHeader.read(path):
        header.check(path)
    try:
        with _quiet():
            return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(_reason(path, str(error)), _REMEDY) from error


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
