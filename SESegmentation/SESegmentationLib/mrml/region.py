"""Regions of interest: boxes that limit where structures are looked for in a volume."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from slicer.i18n import tr as _

from ..errors import InputError
from ..files.json_files import Fields
from ..geometry import Geometry, triple
from ..io.volume_image import voxels_of
from ..plain_text import plain
from .volume import check_linear_transform, check_volume_node, ijk_to_ras, volume_geometry

#: bounds of what a scene may say, in mm
_FARTHEST_MM, _LARGEST_MM = 1e6, 1e5
_LONGEST_NAME = 200


@dataclass(frozen=True)
class VolumeRegion:
    """A box in a volume, relative to its voxels: it stays in its place when the volume is moved, or the box removed.

    Attributes:
        name: of the box.
        to_box: the 3 x 4 matrix, row by row, from voxel indices (i, j, k) to the box's own axes, in mm from its centre.
            Its determinant has the sign of the volume's axes, see :attr:`right_handed`.
        half_size: of the box along its axes, in mm.
    """

    name: str
    to_box: tuple[float, ...]
    half_size: tuple[float, float, float]

    @classmethod
    def of(
        cls,
        roi: slicer.vtkMRMLMarkupsROINode,
        volume: slicer.vtkMRMLScalarVolumeNode,
        geometry: Geometry | None = None,
    ) -> VolumeRegion:
        """The region that a box marks in a volume.

        Both may be under linear transforms; what counts is where they appear in the world.

        Args:
            roi: the box.
            volume: the node that shows the volume.
            geometry: of another frame of its sequence, which may have a grid of its own.

        Raises:
            InputError: the box is not drawn, or either is under a non-linear transform.
        """
        check_volume_node(volume)
        check_linear_transform(roi)
        if roi.GetNumberOfControlPoints() == 0 or min(roi.GetSize()) <= 0:
            raise InputError(
                _("The region {name} is not drawn yet.").format(name=roi.GetName()),
                _("Place it in the views, or choose the whole volume."),
            )
        geometry = volume_geometry(volume) if geometry is None else geometry
        to_box = _voxels_to_box(roi, volume, geometry)
        if np.linalg.det(to_box) * np.linalg.det(geometry.axes) < 0:  # one of them is under a mirroring transform
            to_box[0] *= -1  # a box is symmetric
        matrix = tuple(to_box[:3].ravel().tolist())
        return cls(plain(roi.GetName())[:_LONGEST_NAME], matrix, triple(length / 2 for length in roi.GetSize()))

    def image(self, geometry: Geometry, volume: str) -> sitk.Image:
        """The voxels of a volume whose centres lie in the region.

        Args:
            geometry: of the volume.
            volume: its name.

        Returns:
            uint8 image of the part of the volume around the box, 1 inside and 0 outside.

        Raises:
            InputError: the region lies outside the volume.
        """
        to_box, half = np.vstack([np.reshape(self.to_box, (3, 4)), [0, 0, 0, 1]]), np.array(self.half_size)
        low, high = _bounds_in_voxels(np.linalg.inv(to_box), half, np.array(geometry.size))
        i, j, k = np.ogrid[tuple(map(slice, low, high))]
        axes = (to_box[row, 0] * i + to_box[row, 1] * j + to_box[row, 2] * k + to_box[row, 3] for row in range(3))
        inside = np.logical_and.reduce([np.abs(axis) <= limit for axis, limit in zip(axes, half, strict=True)])
        if not inside.any():
            raise InputError(
                _("The region {name} lies outside the volume {volume}.").format(name=self.name, volume=volume),
                _("Move it over the volume."),
            )
        box = triple(slice(int(first), int(last)) for first, last in zip(low[::-1], high[::-1], strict=True))
        return geometry.cropped(box).image(np.ascontiguousarray(inside.T, np.uint8))

    def inside(self, geometry: Geometry, grid: Geometry, volume: str) -> np.ndarray:
        """Which voxels (k, j, i, bool) of a grid over the volume lie in the region: those whose nearest voxel does.

        Args and errors: as of :meth:`image`; ``grid`` is the volume's own, or a model's.
        """
        return voxels_of(grid.resample(self.image(geometry, volume), sitk.sitkNearestNeighbor)) > 0

    @property
    def right_handed(self) -> bool:
        """Whether the axes of the volume's voxels were right-handed where the voxels were counted as they are here."""
        return bool(np.linalg.det(np.reshape(self.to_box, (3, 4))[:, :3]) > 0)

    def reversed(self, last: int) -> VolumeRegion:
        """The same region where slices are counted from the other end; ``last`` is the number of the last one."""
        to_box = np.reshape(self.to_box, (3, 4)) @ [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, last], [0, 0, 0, 1]]
        return replace(self, to_box=tuple(to_box.ravel().tolist()))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"name": self.name, "to_box": self.to_box, "half_size": self.half_size}

    @classmethod
    def from_dict(cls, entry: Any) -> VolumeRegion:
        """What :meth:`to_dict` returned; ModelError or ValueError if it is something else."""
        fields = Fields(entry, "region")
        fields.only("name", "to_box", "half_size")
        to_box = fields.numbers("to_box", 12, low=-_FARTHEST_MM, high=_FARTHEST_MM)
        if abs(np.linalg.det(np.reshape(to_box, (3, 4))[:, :3])) < 1e-12:
            raise ValueError("to_box")
        name = fields.text("name", "", longest=_LONGEST_NAME)
        return cls(name, to_box, triple(fields.numbers("half_size", 3, low=1e-6, high=_LARGEST_MM)))


def region_image(
    roi: slicer.vtkMRMLMarkupsROINode, volume: slicer.vtkMRMLScalarVolumeNode, geometry: Geometry | None = None
) -> sitk.Image:
    """The voxels of a volume whose centres lie in a box; see :class:`VolumeRegion` for arguments and errors."""
    geometry = volume_geometry(volume) if geometry is None else geometry
    return VolumeRegion.of(roi, volume, geometry).image(geometry, volume.GetName())


def _voxels_to_box(
    roi: slicer.vtkMRMLMarkupsROINode, volume: slicer.vtkMRMLScalarVolumeNode, geometry: Geometry
) -> np.ndarray:
    """4 x 4 matrix from voxel indices to the box's own axes, in mm from its centre."""
    volume_to_world = vtk.vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(volume.GetParentTransformNode(), None, volume_to_world)
    box_to_world = slicer.util.arrayFromVTKMatrix(roi.GetObjectToWorldMatrix())
    voxels_to_world = slicer.util.arrayFromVTKMatrix(volume_to_world) @ slicer.util.arrayFromVTKMatrix(
        ijk_to_ras(geometry)
    )
    return np.linalg.inv(box_to_world) @ voxels_to_world


def _bounds_in_voxels(to_voxels: np.ndarray, half: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last voxel index on each axis that the box can hold, within the volume."""
    corners = np.array(np.meshgrid(*([-1, 1],) * 3)).reshape(3, -1) * half[:, None]
    voxels = to_voxels[:3, :3] @ corners + to_voxels[:3, 3:]
    low = np.clip(np.floor(voxels.min(axis=1)), 0, size).astype(int)
    high = np.clip(np.ceil(voxels.max(axis=1)) + 1, 0, size).astype(int)
    return low, high
