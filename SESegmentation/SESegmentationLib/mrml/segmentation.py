"""Results as segmentation nodes: named, coloured, with terminology, review state and who drew them.

What a network wrote is "not started", in scenes and in the command's files: no person has worked on it yet. Slicer's
Segment Editor makes that "in progress" with the first stroke; "completed" is what the clinician accepts, and nothing is
written into it any more. "Flagged" is for the clinician's own use, and still to be checked.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from ..errors import InputError
from ..geometry import Geometry
from ..io.segmentations import ALGORITHM_TYPE_TAG, AUTOMATIC, SEMIAUTOMATIC, algorithm_tags, origin_tags, segment_tags
from ..io.volume_image import voxels_of
from ..models import Label
from .layers import (
    BINARY_LABELMAP,
    find_layers,
    find_segment,
    oriented_geometry,
    oriented_image,
    segment_id,
    segments_mask,
    segments_of,
    tag,
)
from .place import GEOMETRY_ROLE, REFERENCE_GEOMETRY, VOLUME_ROLE
from .references import UndoHistory, place_beside
from .volume import VolumeSequence, check_volume_node, find_sequence

_LOGIC = slicer.vtkSlicerSegmentationsModuleLogic
TO_CHECK, CORRECTED, ACCEPTED = "to check", "corrected", "accepted"
_STATUS = {TO_CHECK: _LOGIC.NotStarted, CORRECTED: _LOGIC.InProgress, ACCEPTED: _LOGIC.Completed}
#: SNOMED CT types of what surrounds an organ: its surface would hide all others
_SURROUNDING = {"65216001"}  # cerebrospinal fluid


def review_state(segment: slicer.vtkSegment) -> str:
    """One of ``TO_CHECK``, ``CORRECTED`` and ``ACCEPTED``."""
    status = _LOGIC.GetSegmentStatus(segment)
    return next((state for state, known in _STATUS.items() if known == status), TO_CHECK)


def set_review_state(segment: slicer.vtkSegment, state: str) -> None:
    """Mark a segment; see :func:`review_state`."""
    _LOGIC.SetSegmentStatus(segment, _STATUS[state])


def set_algorithm_tags(
    node: slicer.vtkMRMLSegmentationNode, structures: Sequence[Label], name: str, corrected: Collection[int]
) -> None:
    """Store which algorithm has just written into a segmentation; segments marked completed were not written.

    Args:
        node: the segmentation.
        structures: that were written.
        name: of the algorithm, see :func:`..io.segmentations.algorithm_name`.
        corrected: values of the structures that a clinician has edited, see :func:`.algorithm_tags`.
    """
    for label in structures:
        segment = find_segment(node.GetSegmentation(), label)
        if segment is not None and not is_completed(segment):
            for key, value in algorithm_tags(name, label.value in corrected).items():
                segment.SetTag(key, value)


def mark_semiautomatic(segment: slicer.vtkSegment) -> None:
    """Mark a segment that a network wrote as semiautomatic: a clinician has edited it."""
    if tag(segment, ALGORITHM_TYPE_TAG) == AUTOMATIC:
        segment.SetTag(ALGORITHM_TYPE_TAG, SEMIAUTOMATIC)


def mark_edited_semiautomatic(segmentation: slicer.vtkSegmentation) -> None:
    """Mark every segment that a clinician has begun to edit, by its status; see :func:`mark_semiautomatic`."""
    for segment in segments_of(segmentation):
        if review_state(segment) == CORRECTED:
            mark_semiautomatic(segment)


def add_segmentation(
    labels: sitk.Image, structures: Sequence[Label], volume: slicer.vtkMRMLScalarVolumeNode, name: str
) -> slicer.vtkMRMLSegmentationNode:
    """Put a result into the scene as a new segmentation; no other node is changed.

    It refers to the volume, with the geometry of the labels, which may be finer than the volume's. It gets the volume's
    parent transform and a place beside the volume in the subject hierarchy. Structures that were not found become empty
    segments.

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
    protected: np.ndarray | None = None,
) -> list[str]:
    """Write a result into an existing segmentation, except for what the user has completed.

    Segments marked completed keep every voxel, and no other segment gets one of theirs. Segments that mean nothing to
    the model are not touched; see :func:`.find_segment`. Old surfaces are removed; Slicer's
    button "Show 3D" makes new ones, which takes seconds. New segments of fluid round the brain are not shown in 3D.

    Args:
        node: the segmentation, with any geometry; linear transforms between it and the volume must be the same.
        labels: as in :func:`add_segmentation`.
        structures: what the values mean.
        history: gets the state before, so that the whole update is one step to undo.
        volume: the volume that was segmented; the segmentation refers to it from now on.
        protected: (k, j, i) on the grid of ``labels``: where no voxel of any segment that is there changes,
            because the user has corrected them.

    Returns:
        Names of the segments marked completed, which were not changed.

    Raises:
        InputError: the segmentation is not made of voxels; nothing is changed then.
    """
    segmentation = node.GetSegmentation()
    check_voxels(node)
    segmentation.SetSourceRepresentationName(BINARY_LABELMAP)
    is_empty = not segmentation.GetNumberOfSegments()
    if volume is not None:
        _refer_to_another(node, volume)
    node.RemoveClosedSurfaceRepresentation()
    if history is not None:
        history.save(node)
    completed = [segment for segment in segments_of(segmentation) if is_completed(segment)]
    values = voxels_of(labels)
    if completed:
        values = np.where(segments_mask(completed, labels), 0, values).astype(values.dtype)
    values, apart = _with_protected(values, protected, segmentation, structures, labels)
    shared = oriented_image(values, labels)
    surrounding = []
    modified = node.StartModify()
    _set_geometry(segmentation, labels, is_empty)
    for label in structures:
        segment = find_segment(segmentation, label)
        voxels = oriented_image(apart[label.value], labels) if label.value in apart else shared
        if segment is None:
            identifier = segmentation.GenerateUniqueSegmentID(segment_id(label))
            segmentation.AddSegment(_segment(label, voxels), identifier)
            if label.type.value in _SURROUNDING:
                surrounding.append(identifier)
        elif not is_completed(segment):
            for key, text in origin_tags(label).items():  # also where it was drawn, or of an earlier version
                segment.SetTag(key, text)
            segment.SetLabelValue(label.value)
            segment.AddRepresentation(BINARY_LABELMAP, voxels)
    node.EndModify(modified)
    if (display := node.GetDisplayNode()) is not None:
        for identifier in surrounding:
            display.SetSegmentVisibility3D(identifier, False)
    return [segment.GetName() for segment in completed]


def without_deleted(
    node: slicer.vtkMRMLSegmentationNode, labels: sitk.Image, structures: Sequence[Label]
) -> tuple[sitk.Image, list[Label]]:
    """A result without the structures that have no segment in a segmentation, as where the user has deleted it.

    Args:
        node: the segmentation.
        labels: label map.
        structures: what its values mean.

    Returns:
        The label map and the structures that are left.
    """
    left = [label for label in structures if find_segment(node.GetSegmentation(), label) is not None]
    if len(left) == len(structures):
        return labels, left
    values = voxels_of(labels)
    kept = np.isin(values, [label.value for label in left])
    return Geometry.of(labels).image(np.where(kept, values, 0).astype(values.dtype)), left


def is_completed(segment: slicer.vtkSegment) -> bool:
    """Whether the user has marked a segment as completed."""
    return _LOGIC.GetSegmentStatus(segment) == _LOGIC.Completed


def completed_voxels(node: slicer.vtkMRMLSegmentationNode, geometry: sitk.Image) -> np.ndarray:
    """Where segments marked completed lie on an image's grid, (k, j, i), bool."""
    return segments_mask(list(filter(is_completed, segments_of(node.GetSegmentation()))), geometry)


def _refer_to(node: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Let a segmentation refer to its volume, and place it beside that."""
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.SetNodeReferenceID(VOLUME_ROLE, volume.GetID())
    place_beside(node, volume)


def _refer_to_another(node: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Let a segmentation that may refer to another volume refer to this one; its own geometry stays."""
    if node.GetNodeReference(GEOMETRY_ROLE) is None:
        _refer_to(node, volume)
    for role in (GEOMETRY_ROLE, VOLUME_ROLE):
        if node.GetNodeReference(role) is not volume:
            node.SetNodeReferenceID(role, volume.GetID())


def _set_geometry(segmentation: slicer.vtkSegmentation, labels: sitk.Image, is_empty: bool) -> None:
    """Let a segmentation that was empty, or has no geometry, be edited on the grid of the labels."""
    converter, grid = slicer.vtkSegmentationConverter, oriented_geometry(labels)
    known, present = segmentation.GetConversionParameter(REFERENCE_GEOMETRY), slicer.vtkOrientedImageData()
    if known:
        converter.DeserializeImageGeometry(known, present, False)
    if not known or (is_empty and not slicer.vtkOrientedImageDataResample.DoGeometriesMatch(grid, present)):
        segmentation.SetConversionParameter(REFERENCE_GEOMETRY, converter.SerializeImageGeometry(grid))


def check_voxels(node: slicer.vtkMRMLSegmentationNode) -> None:
    """Refuse a segmentation whose segments are surfaces, e.g. from STL files: writing voxels would delete them.

    Raises:
        InputError: its segments are surfaces.
    """
    segmentation = node.GetSegmentation()
    if segmentation.GetNumberOfSegments() and segmentation.GetSourceRepresentationName() != BINARY_LABELMAP:
        raise InputError(
            _("The segmentation {node} is made of surfaces, not of voxels.").format(node=node.GetName()),
            _("Choose a new segmentation, or make the binary labelmap its source in the module Segmentations."),
        )


def _segment(label: Label, voxels: slicer.vtkOrientedImageData) -> slicer.vtkSegment:
    segment = slicer.vtkSegment()
    segment.SetName(label.name)
    segment.SetNameAutoGenerated(False)
    segment.SetColor(*(channel / 255 for channel in label.color))
    segment.SetColorAutoGenerated(False)
    for key, value in segment_tags(label).items():
        segment.SetTag(key, value)
    segment.SetLabelValue(label.value)
    segment.AddRepresentation(BINARY_LABELMAP, voxels)
    return segment


def _with_protected(
    values: np.ndarray,
    protected: np.ndarray | None,
    segmentation: slicer.vtkSegmentation,
    structures: Sequence[Label],
    geometry: sitk.Image,
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """``values`` with the segments' voxels where ``protected``; and by value, apart, segments that overlap there.

    Structures without a segment have nothing there that could be kept: they get what the segments leave free.
    """
    if protected is None or not protected.any():
        return values, {}
    layers = find_layers(segmentation, structures, geometry)
    new = [label.value for label in structures if find_segment(segmentation, label) is None]
    merged = np.where(protected & ~np.isin(values, new), 0, values).astype(values.dtype)
    for layer in layers:
        np.copyto(merged, layer.values, where=protected & (layer.values > 0))
    apart = {}
    for layer in layers:
        for value in layer.labels:
            held = protected & (layer.values == value)
            if (held & (merged != value)).any():
                apart[value] = np.where(held | (~protected & (values == value)), value, 0).astype(values.dtype)
    for value, voxels in apart.items():  # nothing of it in the shared layer
        merged[(merged == value) & (voxels == value)] = 0
    return merged, apart


class SegmentationSequence:
    """Segmentations of a volume's frames.

    Attributes:
        node: the segmentation node in the scene; it shows that of the selected frame.

    Args:
        frames: the frames.
        node: see above.
        sequence: holds the segmentations.
    """

    def __init__(
        self, frames: VolumeSequence, node: slicer.vtkMRMLSegmentationNode, sequence: slicer.vtkMRMLSequenceNode
    ) -> None:
        self.node = node
        self._frames = frames
        self._sequence = sequence

    @classmethod
    def add(cls, frames: VolumeSequence, name: str) -> SegmentationSequence:
        """Put a new, empty one into the scene, beside the volume, following its browser and its parent transform.

        Raises:
            InputError: the volume or its sequence is no longer in the scene, or cannot be segmented.
        """
        frames.check()
        node = add_empty_segmentation(frames.volume, name)
        source = frames.sequence
        scene = source.GetScene()
        sequence = scene.AddNewNodeByClass(
            "vtkMRMLSequenceNode", scene.GenerateUniqueName(f"{node.GetName()}-Sequence")
        )
        sequence.SetIndexName(source.GetIndexName())
        sequence.SetIndexUnit(source.GetIndexUnit())
        sequence.SetIndexType(source.GetIndexType())
        # a sequence without items cannot be browsed
        sequence.SetDataNodeAtValue(node, source.GetNthIndexValue(frames.selected))
        browser = frames.browser
        modified = browser.StartModify()  # or it would make a node of its own to show the sequence
        browser.AddSynchronizedSequenceNodeID(sequence.GetID())
        browser.SetOverwriteProxyName(sequence, False)
        # frames without a result get an empty segmentation when they are shown: what the user draws there is kept
        browser.SetMissingItemMode(sequence, browser.MissingItemCreateFromDefault)
        browser.SetSaveChanges(sequence, True)
        browser.AddProxyNode(node, sequence, False)
        browser.EndModify(modified)
        return cls(frames, node, sequence)

    @classmethod
    def of(cls, node: slicer.vtkMRMLSegmentationNode | None, frames: VolumeSequence) -> SegmentationSequence | None:
        """The one that a segmentation node shows; None if it shows none, or one that follows another browser."""
        found = find_sequence(node)
        if found is None or found[0] is not frames.browser:
            return None
        return cls(frames, node, found[1])

    def frame(self, number: int) -> slicer.vtkMRMLSegmentationNode | None:
        """The segmentation of a frame as the sequence holds it; None while there is none."""
        return self._sequence.GetDataNodeAtValue(self._frames.sequence.GetNthIndexValue(number), True)

    def write(
        self,
        number: int,
        labels: sitk.Image,
        structures: Sequence[Label],
        history: UndoHistory | None = None,
        protected: np.ndarray | None = None,
    ) -> list[str]:
        """Write the result of a frame, as :func:`.update_segmentation` does.

        Args:
            number: of the frame.
            labels: label map in the frame's own coordinates.
            structures: what the values mean.
            history: takes the change of this frame back while the frame is shown.
            protected: where no voxel of this frame changes.

        Returns:
            Names of the segments marked completed, which were not changed.

        Raises:
            InputError: the volume, its sequence or the segmentation is no longer in the scene.
        """
        self._frames.check()
        if self.node.GetScene() is None or self._sequence.GetScene() is None:
            raise InputError(
                _("The segmentation was removed while frames were being segmented."),
                _("Segment again into a new segmentation."),
            )
        frame = self.frame(number)
        if frame is None:
            value = self._frames.sequence.GetNthIndexValue(number)
            frame = self._sequence.SetDataNodeAtValue(slicer.vtkMRMLSegmentationNode(), value)
        return update_segmentation(frame, labels, structures, history, protected=protected)
