"""A region of interest, drawn in the scene, as a mask on a volume's voxels."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from slicer.i18n import tr as _

from ..errors import InputError
from .volume import check_linear_transform, check_volume_node, ijk_to_ras, image_from_volume_node


def region_image(
    roi: slicer.vtkMRMLMarkupsROINode, volume: slicer.vtkMRMLScalarVolumeNode, image: sitk.Image | None = None
) -> sitk.Image:
    """The voxels of a volume whose centres lie in a box.

    Both may be under linear transforms; what counts is where they appear in the world.

    Args:
        roi: the box.
        volume: the node that shows the volume.
        image: the volume's voxels where they were read already, or another frame of its sequence.

    Returns:
        uint8 image of the part of the volume round the box, 1 inside and 0 outside.

    Raises:
        InputError: the box is not drawn, lies outside the volume, or either is under a non-linear transform.
    """
    check_volume_node(volume)
    check_linear_transform(roi)
    image = image_from_volume_node(volume) if image is None else image
    name = roi.GetName()
    if roi.GetNumberOfControlPoints() == 0 or min(roi.GetSize()) <= 0:
        raise InputError(
            _("The region {name} is not drawn yet.").format(name=name),
            _("Place it in the views, or choose the whole volume."),
        )
    to_box = _voxels_to_box(roi, volume, image)
    half = np.array(roi.GetSize()) / 2
    size = np.array(image.GetSize())
    low, high = _bounds(np.linalg.inv(to_box), half, size)
    i, j, k = np.ogrid[tuple(map(slice, low, high))]
    axes = (to_box[row, 0] * i + to_box[row, 1] * j + to_box[row, 2] * k + to_box[row, 3] for row in range(3))
    inside = np.logical_and.reduce([np.abs(axis) <= limit for axis, limit in zip(axes, half, strict=True)])
    if not inside.any():
        raise InputError(
            _("The region {name} lies outside the volume {volume}.").format(name=name, volume=volume.GetName()),
            _("Move it over the volume."),
        )
    region = sitk.GetImageFromArray(np.ascontiguousarray(inside.T, np.uint8))
    region.SetSpacing(image.GetSpacing())
    region.SetOrigin(image.TransformIndexToPhysicalPoint(low.tolist()))
    region.SetDirection(image.GetDirection())
    return region


def _voxels_to_box(
    roi: slicer.vtkMRMLMarkupsROINode, volume: slicer.vtkMRMLScalarVolumeNode, image: sitk.Image
) -> np.ndarray:
    """4 x 4 matrix from the image's voxel indices to the box's own axes, in mm from its centre."""
    volume_to_world = vtk.vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(volume.GetParentTransformNode(), None, volume_to_world)
    box_to_world = slicer.util.arrayFromVTKMatrix(roi.GetObjectToWorldMatrix())
    voxels_to_world = slicer.util.arrayFromVTKMatrix(volume_to_world) @ slicer.util.arrayFromVTKMatrix(
        ijk_to_ras(image)
    )
    return np.linalg.inv(box_to_world) @ voxels_to_world


def _bounds(to_voxels: np.ndarray, half: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last voxel index on each axis that the box can hold, within the volume."""
    corners = np.array(np.meshgrid(*([-1, 1],) * 3)).reshape(3, -1) * half[:, None]
    voxels = to_voxels[:3, :3] @ corners + to_voxels[:3, 3:]
    low = np.clip(np.floor(voxels.min(axis=1)), 0, size).astype(int)
    high = np.clip(np.ceil(voxels.max(axis=1)) + 1, 0, size).astype(int)
    return low, high
