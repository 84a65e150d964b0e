"""Where a segmentation's result was written, and how a hardened transform has moved it since."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import slicer
import vtk

from ..geometry import Geometry, triple
from ..io.volume_image import RAS_TO_LPS

#: conversion parameter with the grid on which a segmentation is edited
REFERENCE_GEOMETRY = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
#: attribute with the grid on which a segmentation was edited when a result was written into it
PLACE_ATTRIBUTE = "SESegmentation.Place"
#: roles of the volume that was segmented, and of the node that gave the segmentation its geometry. Slicer changes the
#: latter, to any kind of node, where the user specifies a geometry.
VOLUME_ROLE = "SESegmentation.Volume"
GEOMETRY_ROLE = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
_LONGEST = 2**10  # characters


def record_place(node: slicer.vtkMRMLSegmentationNode) -> None:
    """Store where the segments of a segmentation are now."""
    node.SetAttribute(PLACE_ATTRIBUTE, _place(node))


def movement(node: slicer.vtkMRMLSegmentationNode) -> np.ndarray | None:
    """How hardened transforms have moved the segments since a result was written.

    Slicer keeps the grid on which a segmentation is edited as a text, and moves it with the segments: it has the same
    numbers of voxels then, in another place. Transforms that bend space give it other numbers: these are not noticed.
    A geometry that was specified in the Segment Editor is no movement, unless it is that of the volume itself, which
    was moved.

    Returns:
        The 4 x 4 matrix from where they were to where they are, RAS in mm; None where they were not moved.
    """
    segmented = node.GetNodeReferenceID(VOLUME_ROLE)
    if segmented and node.GetNodeReferenceID(GEOMETRY_ROLE) != segmented:  # another geometry was specified
        return None
    texts = [node.GetAttribute(PLACE_ATTRIBUTE) or "", _place(node)]
    if not all(texts) or len(set(texts)) == 1 or len(texts[0]) > _LONGEST:
        return None
    grids = [slicer.vtkOrientedImageData() for _text in texts]
    for text, grid in zip(texts, grids, strict=True):
        if not slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, grid, False):
            return None
    before, now = grids
    if before.GetExtent() != now.GetExtent():
        return None
    if slicer.vtkOrientedImageDataResample.DoGeometriesMatch(before, now):
        return None
    return _to_ras(now) @ np.linalg.inv(_to_ras(before))


def segments_as_written(node: slicer.vtkMRMLSegmentationNode) -> slicer.vtkSegmentation:
    """The segments where the result was written: those of the node, or copies moved back there."""
    moved = movement(node)
    if moved is None:
        return node.GetSegmentation()
    segmentation, back = slicer.vtkSegmentation(), vtk.vtkTransform()
    segmentation.DeepCopy(node.GetSegmentation())
    back.SetMatrix(slicer.util.vtkMatrixFromArray(np.linalg.inv(moved)))
    segmentation.ApplyLinearTransform(back)
    return segmentation


def grid_now(node: slicer.vtkMRMLSegmentationNode, written: Geometry) -> Geometry | None:
    """Where the voxels of a result's grid are now; None where they are no longer boxes, because they were sheared."""
    moved = movement(node)
    if moved is None:
        return written
    moved_lps = RAS_TO_LPS @ moved @ RAS_TO_LPS
    steps = moved_lps[:3, :3] @ written.axes * written.spacing
    spacing = np.linalg.norm(steps, axis=0)
    axes = steps / spacing
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-4):
        return None
    origin = moved_lps @ (*written.origin, 1.0)
    return replace(
        written,
        spacing=triple(spacing.tolist()),
        origin=triple(origin[:3].tolist()),
        direction=tuple(axes.ravel().tolist()),
    )


def point_now(
    node: slicer.vtkMRMLSegmentationNode, point_lps: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Where a point of the result is now: LPS in mm, in the segmentation's own coordinates."""
    moved = movement(node)
    if moved is None:
        return point_lps
    left, posterior, superior = point_lps
    x, y, z, _one = (moved @ (-left, -posterior, superior, 1.0)).tolist()
    return -x, -y, z


def _place(node: slicer.vtkMRMLSegmentationNode) -> str:
    return node.GetSegmentation().GetConversionParameter(REFERENCE_GEOMETRY)


def _to_ras(grid: slicer.vtkOrientedImageData) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    grid.GetImageToWorldMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)
