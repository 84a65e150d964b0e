"""Results whose volume has its voxels in another order by now.

Slicer reverses the third axis of left-handed volumes when it reads their files, but not that of segmentations. So a
volume that was made left-handed (by hardening a mirroring transform, for example) comes back from a saved scene with
every voxel in its place, but counted from the other end.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import slicer

from ..errors import InputError
from ..geometry import Geometry, Slices, same_grid, triple
from ..io.volume_image import voxels_of
from ..mrml import EditRecord, WrittenLabels, movement, volume_geometry
from .result_record import ResultRecord


def follow_voxel_order(node: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode) -> bool:
    """Count what is stored with a segmentation from the end from which the volume's voxels are counted now.

    Args:
        node: the segmentation; its segments stay as they are.
        volume: of which its result was made.

    Returns:
        Whether some of it was counted from the other end, along the third axis.
    """
    now = volume_geometry(volume)
    edits, region = _follow_edits(node, now), _follow_region(node, now)
    return edits or region


def _follow_edits(node: slicer.vtkMRMLSegmentationNode, now: Geometry) -> bool:
    """What was written and corrected on the volume's own grid; a finer one is that of the segments, and stays."""
    try:
        edits = EditRecord.read(node)
    except InputError:  # what cannot be used stays, and is reported elsewhere
        return False
    then = _reversed(now)
    if not edits.written or not all(same_grid(result.labels, then) for result in edits.written):
        return False
    last = now.size[2] - 1
    written = (
        WrittenLabels(now.image(np.ascontiguousarray(voxels_of(result.labels)[::-1])), result.structures)
        for result in edits.written
    )
    corrected = (
        Slices("k", tuple(sorted(last - number for number in slices.numbers))) if slices.axis == "k" else slices
        for slices in edits.corrected
    )
    EditRecord(tuple(written), tuple(corrected)).write(node)
    return True


def _follow_region(node: slicer.vtkMRMLSegmentationNode, now: Geometry) -> bool:
    """The region of interest, which is counted in the volume's voxels whatever the grid of the result."""
    record = ResultRecord.read(node)
    if record is None or record.region is None:
        return False
    moved = movement(node)
    mirrored = moved is not None and np.linalg.det(moved) < 0  # in place: the voxels are counted as before
    if (np.linalg.det(now.axes) > 0) == (record.region.right_handed != mirrored):
        return False
    replace(record, region=record.region.reversed(now.size[2] - 1)).write(node)
    return True


def _reversed(geometry: Geometry) -> Geometry:
    """The same voxels, counted from the other end of the third axis."""
    axes, last = geometry.axes, geometry.points(np.array([[0, 0, geometry.size[2] - 1]]))[0]
    return replace(geometry, origin=triple(last.tolist()), direction=tuple((axes * (1, 1, -1)).ravel().tolist()))
