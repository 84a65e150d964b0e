"""An image from voxels and an affine, its voxels as an array, and the geometries that no image may have."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import astuple

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..result import Finding

#: metadata of an image that holds its remarks, as JSON
REMARKS = "SESegmentation_remarks"
#: from RAS, in which NIfTI and FreeSurfer give positions, to LPS
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: axes less perpendicular than this are sheared
SHEAR_DEGREES = 0.2
#: share of a voxel by which two accounts of its position may differ by rounding
_ROUNDING = 0.01
NO_ORIENTATION = Finding(
    "no-orientation",
    "The file does not say how its axes lie in the patient.",
    "Left and right may be exchanged, and the structures may be missed.",
)
NO_SIZE = Finding(
    "no-voxel-size",
    "The file does not say how large its voxels are; 1 mm was assumed.",
    "Volumes in ml are very likely wrong, and structures may be missed.",
)
GEOMETRY_REMEDY = "Correct them, and save the volume again from a program that shows it correctly."


class _Voxels:
    """The owner of a numpy view: the array keeps this object alive, and with it the image."""

    def __init__(self, image: sitk.Image) -> None:
        self._image = image
        self.__array_interface__ = sitk.GetArrayViewFromImage(image).__array_interface__  # noqa: TID251


def voxels_of(image: sitk.Image) -> np.ndarray:
    """A view (k, j, i) of an image's voxels, which keeps the image alive; not to be written to.

    SimpleITK's own views do not keep it alive: once the image is freed, which happens to a temporary one at once, they
    show whatever its memory holds by then, or crash the process.
    """
    return np.asarray(_Voxels(image))


def add_remarks(image: sitk.Image, findings: Iterable[Finding]) -> None:
    """Keep ``findings`` with ``image``, after those that it has."""
    every = [*remarks_of(image), *findings]
    if every:
        image.SetMetaData(REMARKS, json.dumps([astuple(finding) for finding in every]))


def remarks_of(image: sitk.Image) -> list[Finding]:
    """What was remarked on when ``image`` was read."""
    if not image.HasMetaDataKey(REMARKS):
        return []
    return [Finding(*remark) for remark in json.loads(image.GetMetaData(REMARKS))]


def volume_image(voxels: np.ndarray, affine: np.ndarray, name: str, findings: Iterable[Finding] = ()) -> sitk.Image:
    """The image of ``voxels`` that lies where ``affine`` says.

    Args:
        voxels: (k, j, i), or (k, j, i, component) where a voxel has several values.
        affine: 4 x 4, from voxel indices (i, j, k) to LPS in mm.
        name: of the file, for messages.
        findings: remarks that stay with the image.

    Raises:
        InputError: the affine's axes are not perpendicular, so no image can have it.
    """
    check_axes(affine, name)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    image = sitk.GetImageFromArray(voxels.astype(voxels.dtype.newbyteorder("="), copy=False), isVector=voxels.ndim > 3)
    image.SetSpacing(lengths.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / lengths).ravel().tolist())
    if not affines_agree(affine_of(image), affine, image.GetSize()):
        raise InputError(f"{name}: its position cannot be kept exactly: {affine.tolist()}.", GEOMETRY_REMEDY)
    add_remarks(image, findings)
    return image


class ShearedError(InputError):
    """The axes are not perpendicular.

    Attributes:
        degrees: by how much.
    """

    degrees = 0.0


def check_axes(affine: np.ndarray, name: str, fields: str = "directions") -> None:
    """Refuse an affine (at least 3 x 3) with axes that are no numbers, have no length, or are sheared.

    Raises:
        InputError: naming the ``fields`` that give it.
    """
    shear = shear_degrees(affine[:3, :3])
    if shear >= 90 or not np.isfinite(affine).all():
        raise InputError(f"{name}: the header's {fields} are impossible.", GEOMETRY_REMEDY)
    if shear > SHEAR_DEGREES:
        error = ShearedError(*sheared(name, shear))
        error.degrees = shear
        raise error


def affine_of(image: sitk.Image) -> np.ndarray:
    """The affine (4 x 4) of a 3-D image, from voxel indices (i, j, k) to LPS in mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine


def affines_contradict(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether one affine is the mirror image of another, or they are rotated by more than 45 degrees."""
    between = np.linalg.solve(_rotation(first), _rotation(second))
    return np.linalg.det(between) < 0 or (np.trace(between) - 1) / 2 < math.cos(math.radians(45))


def _rotation(affine: np.ndarray) -> np.ndarray:
    """The orthogonal matrix nearest to the affine's."""
    left, _, right = np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    return left @ right


def distance_mm(first: np.ndarray, second: np.ndarray, size: Iterable[int]) -> float:
    """Largest distance in mm between where two affines put the voxels of a volume of ``size`` (i, j, k)."""
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
    corners[:, :3] *= np.array(list(size)) - 1
    return float(np.linalg.norm((corners @ (first - second).T)[:, :3], axis=1).max())


def affines_agree(first: np.ndarray, second: np.ndarray, size: Iterable[int]) -> bool:
    """Whether two affines put the voxels of a volume of ``size`` (i, j, k) at the same places, but for rounding."""
    rounding = _ROUNDING * np.linalg.norm(second[:3, :3], axis=0).min() + 1e-6 * np.abs(second[:3, 3]).max()
    return distance_mm(first, second, size) <= rounding


def shear_degrees(axes: np.ndarray) -> float:
    """Largest deviation of the angle between two axes (columns, 3 x 3) from 90 degrees; 90 if they are singular."""
    lengths = np.linalg.norm(axes, axis=0)
    if not np.isfinite(lengths).all() or lengths.min() <= 0:
        return 90.0
    cosines = (axes / lengths).T @ (axes / lengths)
    return math.degrees(math.asin(min(np.abs(cosines[np.triu_indices(3, 1)]).max(), 1.0)))


def sheared(name: str, degrees: float) -> tuple[str, str]:
    """Cause and remedy for a volume whose axes are not perpendicular."""
    return (
        f"{name}: the axes are not perpendicular (sheared by {degrees:.1f} degrees, as with a tilted gantry).",
        "Resample it to perpendicular axes first, in Slicer with the module Resample Scalar/Vector/DWI Volume.",
    )


def several_frames(name: str, dimensions: int, frames: int) -> tuple[str, str]:
    """Cause and remedy for a file of several volumes."""
    return (
        f"{name} is {dimensions}-dimensional, with {frames} frames.",
        "Extract one frame (a time point or a contrast) and give that.",
    )


def several_values(name: str, count: int) -> tuple[str, str]:
    """Cause and remedy for voxels that hold more than one number."""
    return (
        f"{name} has {count} values in each voxel (colour, vectors or layers).",
        "Give a volume with one value in each voxel: convert colour to grey, or extract one component.",
    )


def complex_valued(name: str) -> tuple[str, str]:
    """Cause and remedy for voxels that are complex numbers."""
    return f"{name} is complex-valued.", "Give its magnitude."


def scaled(voxels: np.ndarray, slope: float, inter: float) -> np.ndarray:
    """``voxels`` times ``slope`` plus ``inter``, in single precision unless stored in more, or not scaled at all."""
    if voxels.dtype.itemsize > 8:
        voxels = voxels.astype(np.float64)
    if (slope, inter) == (1.0, 0.0):
        return voxels
    if voxels.dtype.itemsize < 4 or voxels.dtype == np.float32:
        return voxels.astype(np.float32) * np.float32(slope) + np.float32(inter)
    return voxels.astype(np.float64) * slope + inter
