"""Results as segmentation nodes: named, coloured, with terminology, beside the volume they were found in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util.numpy_support import get_vtk_array_type, numpy_to_vtk, vtk_to_numpy

from ..errors import InputError
from ..models import Label
from .history import UndoHistory
from .volume import check_volume_node, ijk_to_ras

_BINARY_LABELMAP = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
_CLOSED_SURFACE = slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName()
_REFERENCE_GEOMETRY = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
_LOGIC = slicer.vtkSlicerSegmentationsModuleLogic
#: tells which label a segment was made for, however the user calls it
_LABEL_TAG = "SESegmentation.Label"


def add_segmentation(
    labels: sitk.Image, structures: Sequence[Label], volume: slicer.vtkMRMLScalarVolumeNode, name: str
) -> slicer.vtkMRMLSegmentationNode:
    """Put a result into the scene as a new segmentation; nothing that is there is changed.

    It gets the volume's geometry as its reference, the volume's parent transform and a place beside the volume in the
    subject hierarchy. Structures that were not found become empty segments.

    Args:
        labels: label map in the volume's own coordinates (LPS, mm), of unsigned integers.
        structures: what the values mean.
        volume: the volume that was segmented.
        name: of the node; a number is added where the scene has a node of that name.

    Raises:
        InputError: the volume is no longer in the scene, or cannot be segmented.
    """
    node = add_empty_segmentation(volume, name)
    update_segmentation(node, labels, structures)
    return node


def add_empty_segmentation(volume: slicer.vtkMRMLScalarVolumeNode, name: str) -> slicer.vtkMRMLSegmentationNode:
    """Put a segmentation without segments into the scene; see :func:`add_segmentation`."""
    check_volume_node(volume)
    scene = volume.GetScene()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GenerateUniqueName(name))
    node.CreateDefaultDisplayNodes()
    node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    _refer_to(node, volume)
    return node


def update_segmentation(
    node: slicer.vtkMRMLSegmentationNode,
    labels: sitk.Image,
    structures: Sequence[Label],
    history: UndoHistory | None = None,
    volume: slicer.vtkMRMLScalarVolumeNode | None = None,
) -> list[str]:
    """Write a result into a segmentation that is there, sparing what the user has finished.

    Segments marked completed keep every voxel, and no other segment gets one of theirs. Segments that mean nothing to
    the model are not touched. A segment is the one of a label if its terminology agrees, and its name as well (or it
    was made for that label and renamed since). Surfaces of the old voxels go away; they are made anew when they are
    shown (:func:`set_surfaces_visible`), because that takes seconds.

    Args:
        node: the segmentation, with any geometry; linear transforms between it and the volume must be the same.
        labels: as in :func:`add_segmentation`.
        structures: what the values mean.
        history: the state before is kept there, so that the whole update is one step to take back.
        volume: the volume that was segmented; a segmentation that refers to none refers to it from now on.

    Returns:
        Names of the completed segments that were spared.

    Raises:
        InputError: the segmentation is not made of voxels; nothing is changed then.
    """
    segmentation = node.GetSegmentation()
    _check_voxels(node)
    if volume is not None and node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is None:
        _refer_to(node, volume)
    node.RemoveClosedSurfaceRepresentation()
    if history is not None:
        history.save(node)
    spared = [segment for segment in _segments(segmentation) if is_completed(segment)]
    values = sitk.GetArrayViewFromImage(labels)
    if spared:
        values = np.where(_occupied(spared, labels), 0, values).astype(values.dtype)
    shared = _oriented_image(values, labels)
    modified = node.StartModify()
    if not segmentation.GetConversionParameter(_REFERENCE_GEOMETRY):
        grid = slicer.vtkSegmentationConverter.SerializeImageGeometry(_grid(labels))
        segmentation.SetConversionParameter(_REFERENCE_GEOMETRY, grid)
    for label in structures:
        segment = _find_segment(segmentation, label)
        if segment is None:
            identifier = segmentation.GenerateUniqueSegmentID(segment_id(label))
            segmentation.AddSegment(_segment(label, shared), identifier)
        elif not is_completed(segment):
            segment.SetLabelValue(label.value)
            segment.AddRepresentation(_BINARY_LABELMAP, shared)
    node.EndModify(modified)
    return [segment.GetName() for segment in spared]


def set_surfaces_visible(node: slicer.vtkMRMLSegmentationNode, visible: bool) -> None:
    """Show the segments in 3-D (surfaces are made when they are first shown), or hide them."""
    if visible and not node.GetSegmentation().ContainsRepresentation(_CLOSED_SURFACE):
        node.CreateClosedSurfaceRepresentation()
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetPreferredDisplayRepresentationName3D(_CLOSED_SURFACE)
    display.SetVisibility3D(visible)
    if visible:
        display.SetVisibility(True)


def is_completed(segment: slicer.vtkSegment) -> bool:
    """Whether the user has marked a segment as completed."""
    return _LOGIC.GetSegmentStatus(segment) == _LOGIC.Completed


def segment_id(label: Label) -> str:
    """The ID of a label's segment, the same in the scene and in files."""
    return f"Segment_{label.value}"


def place_beside(node: slicer.vtkMRMLNode, volume: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Put a node into the volume's folder or study, and say from which DICOM images it comes.

    DICOM export of a segmentation asks for both: the study, and the images that it refers to. A node that the user has
    put into another folder stays there.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volume.GetScene())
    beside = hierarchy.GetItemByDataNode(volume)
    if not beside:
        return
    top = hierarchy.GetSceneItemID()
    item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(top, node)
    if hierarchy.GetItemParent(item) == top:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(beside))
    constants = slicer.vtkMRMLSubjectHierarchyConstants
    images = volume.GetAttribute("DICOM.instanceUIDs") or hierarchy.GetItemUID(
        beside, constants.GetDICOMInstanceUIDName()
    )
    if images:
        hierarchy.SetItemAttribute(item, constants.GetDICOMReferencedInstanceUIDsAttributeName(), images)


def _refer_to(node: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Say which volume a segmentation belongs to, and put it there."""
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    place_beside(node, volume)


def _check_voxels(node: slicer.vtkMRMLSegmentationNode) -> None:
    """Refuse a segmentation whose segments are surfaces, for example from STL files: to write voxels would end them."""
    segmentation = node.GetSegmentation()
    if segmentation.GetNumberOfSegments() and segmentation.GetSourceRepresentationName() != _BINARY_LABELMAP:
        raise InputError(
            f"The segmentation {node.GetName()} is made of surfaces, not of voxels.",
            "Choose a new segmentation, or make the binary labelmap its source in the module Segmentations.",
        )
    segmentation.SetSourceRepresentationName(_BINARY_LABELMAP)


def _segment(label: Label, voxels: slicer.vtkOrientedImageData) -> slicer.vtkSegment:
    segment = slicer.vtkSegment()
    segment.SetName(label.name)
    segment.SetNameAutoGenerated(False)
    segment.SetColor(*(channel / 255 for channel in label.color))
    segment.SetColorAutoGenerated(False)
    segment.SetTag(segment.GetTerminologyEntryTagName(), label.terminology_entry())
    segment.SetTag(_LABEL_TAG, str(label.value))
    _LOGIC.SetSegmentStatus(segment, _LOGIC.InProgress)
    segment.SetLabelValue(label.value)
    segment.AddRepresentation(_BINARY_LABELMAP, voxels)
    return segment


def _segments(segmentation: slicer.vtkSegmentation) -> list[slicer.vtkSegment]:
    return [segmentation.GetNthSegment(index) for index in range(segmentation.GetNumberOfSegments())]


def _find_segment(segmentation: slicer.vtkSegmentation, label: Label) -> slicer.vtkSegment | None:
    """The segment of a label; None where there is none.

    IDs do not tell: Slicer calls the user's own segments Segment_1, Segment_2 as well.
    """
    for segment in _segments(segmentation):
        known = segment.GetName() == label.name or _tag(segment, _LABEL_TAG) == str(label.value)
        entry = _tag(segment, segment.GetTerminologyEntryTagName())
        if known and _codes(entry) == _codes(label.terminology_entry()):
            return segment
    return None


def _tag(segment: slicer.vtkSegment, name: str) -> str:
    value = vtk.reference("")
    return str(value) if segment.GetTag(name, value) else ""


def _codes(entry: str) -> list[tuple[str, ...]]:
    """Scheme and value of category, type and modifier; contexts and meanings depend on language and version."""
    return [tuple(code.split("^")[:2]) for code in entry.split("~")[1:4]]


def _oriented_image(values: np.ndarray, geometry: sitk.Image) -> slicer.vtkOrientedImageData:
    """A label map as VTK's, cut to the voxels that are not 0. All segments share it, each with its own value.

    Args:
        values: (k, j, i), whole numbers.
        geometry: image with this size.
    """
    bounds = _bounds(values)
    cut = values[tuple(slice(low, high + 1) for low, high in reversed(bounds))]
    return _make_image(bounds, ijk_to_ras(geometry), np.ascontiguousarray(cut))


def _bounds(values: np.ndarray) -> list[tuple[int, int]]:
    """First and last index along i, j and k with a value that is not 0; all of the image where there is none."""
    bounds = []
    for axis in (2, 1, 0):
        found = np.flatnonzero(values.any(axis=tuple({0, 1, 2} - {axis})))
        bounds.append((int(found[0]), int(found[-1])) if found.size else (0, values.shape[axis] - 1))
    return bounds


def _make_image(
    bounds: Sequence[tuple[int, int]], ijk_to_world: vtk.vtkMatrix4x4, values: np.ndarray | None = None
) -> slicer.vtkOrientedImageData:
    """An image with first and last index along i, j and k, and with voxels where ``values`` (in C order) are given."""
    image = slicer.vtkOrientedImageData()
    image.SetExtent(*(index for pair in bounds for index in pair))
    image.SetGeometryFromImageToWorldMatrix(ijk_to_world)
    if values is not None:
        scalars = numpy_to_vtk(values.ravel(), deep=True, array_type=get_vtk_array_type(values.dtype))
        scalars.SetName("ImageScalars")
        image.GetPointData().SetScalars(scalars)
    return image


def _grid(image: sitk.Image) -> slicer.vtkOrientedImageData:
    """All of an image, without voxels."""
    return _make_image([(0, size - 1) for size in image.GetSize()], ijk_to_ras(image))


def _occupied(segments: Sequence[slicer.vtkSegment], geometry: sitk.Image) -> np.ndarray:
    """Where segments lie on an image's grid, (k, j, i), bool.

    Segments that share a layer are brought to the grid together: one after the other they would take seconds.
    """
    layers: dict[slicer.vtkOrientedImageData | None, list[int]] = {}
    for segment in segments:
        layers.setdefault(segment.GetRepresentation(_BINARY_LABELMAP), []).append(segment.GetLabelValue())
    grid = _grid(geometry)
    occupied = np.zeros(geometry.GetSize()[::-1], bool)
    for layer, values in layers.items():
        if layer is None or layer.IsEmpty():
            continue
        inside = np.isin(vtk_to_numpy(layer.GetPointData().GetScalars()), values).astype(np.uint8)
        ijk_to_world, on_grid = vtk.vtkMatrix4x4(), slicer.vtkOrientedImageData()
        layer.GetImageToWorldMatrix(ijk_to_world)
        extent = layer.GetExtent()
        mask = _make_image(list(zip(extent[0::2], extent[1::2], strict=True)), ijk_to_world, inside)
        slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
            mask, grid, on_grid, False, False
        )
        occupied |= vtk_to_numpy(on_grid.GetPointData().GetScalars()).reshape(occupied.shape) > 0
    return occupied
