"""Writing results into the scene, and undoing that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from ..adapted_notes import AdaptedNotes
from ..errors import InputError
from ..geometry import Geometry, Slices
from ..io.segmentations import algorithm_name
from ..models import Label
from ..mrml import (
    ATTENTION,
    DOUBT,
    EDIT_ATTRIBUTES,
    GEOMETRY_ROLE,
    VOLUME_ROLE,
    EditRecord,
    SegmentationSequence,
    UndoHistory,
    VolumeRegion,
    VolumeSequence,
    adapted_parameters,
    add_segmentation,
    corrected_mask,
    edited_voxels,
    find_corrected_slices,
    label_map,
    record_written_labels,
    set_adapted_parameters,
    set_algorithm_tags,
    update_segmentation,
    volume_geometry,
    without_deleted,
)
from ..result import SegmentationResult
from .earlier_result import EarlierResult
from .messages import slice_names
from .result_record import RECORD_ATTRIBUTE, ResultRecord
from .segment_editor import forget_editor_undo
from .written_result import WrittenResult

_ATTRIBUTES = (RECORD_ATTRIBUTE, *EDIT_ATTRIBUTES)


@dataclass(frozen=True)
class ResultTarget:
    """Where a result is written, and what of the scene it was made of.

    Nodes are named by ID: the user may remove them while the segmentation runs.

    Attributes:
        volume_id: the volume that is segmented.
        output_id: the segmentation to write into; None for a new one.
        name: of a new segmentation.
        frame: index value of the frame, where the volume is one of a sequence.
        region: to which the search was limited.
        is_limited: whether the result holds nothing outside ``region``: what is there before stays.
        fast: whether fewer views were taken.
        geometry: of the volume that was sent; None for frames.
        existing_only: the result belongs to the segmentation ``output_id`` and is not written into a new one, nor into
            segments that were deleted.
    """

    volume_id: str
    output_id: str | None
    name: str
    frame: str | None = None
    region: VolumeRegion | None = None
    is_limited: bool = True
    fast: bool = False
    geometry: Geometry | None = None
    existing_only: bool = False

    @property
    def limit(self) -> VolumeRegion | None:
        """The region outside of which an earlier result stays; None where the result is of the whole volume."""
        return self.region if self.is_limited else None

    def find_volume(self) -> slicer.vtkMRMLScalarVolumeNode:
        """The volume; InputError if it was removed, or its voxels lie elsewhere than when it was sent."""
        volume = slicer.mrmlScene.GetNodeByID(self.volume_id)
        if volume is None:
            raise InputError(
                _("The volume was removed before the result was written."), _("Load it again and click Segment.")
            )
        emptied = volume.GetImageData() is None
        if emptied or (self.geometry is not None and volume_geometry(volume) != self.geometry):
            raise InputError(
                _("The volume {volume} was moved, cropped or emptied before the result was written.").format(
                    volume=volume.GetName()
                ),
                _("Put it back as it was, or segment again.") if self.existing_only else _("Segment again."),
            )
        return volume

    def find_output(self, volume: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLSegmentationNode | None:
        """The segmentation to write into; None for a new one.

        Where it is not known what was corrected in the chosen one, because a hardened transform has moved it since, the
        result goes into a new one.

        Raises:
            InputError: the result belongs to one that was removed or moved.
        """
        node = slicer.mrmlScene.GetNodeByID(self.output_id) if self.output_id else None
        if node is not None and share_parent_transform(node, volume):
            try:
                EditRecord.read(node)
            except InputError:
                if self.existing_only or self.frame is not None:
                    raise
                return None
            return node
        if self.existing_only:
            raise InputError(
                _("The segmentation {name} was removed, or is not under the same transform as {volume}.").format(
                    name=self.name, volume=volume.GetName()
                ),
                _("Put both under the same transform in the module Data, or segment again."),
            )
        return None


@dataclass(frozen=True)
class _NodeState:
    """What belongs to a segmentation besides its segments, as it was before a change."""

    attributes: dict[str, str | None]
    adapted: bytes | None = None
    doubt: sitk.Image | None = None
    references: Mapping[str, str] = field(default_factory=dict)

    def apply_to(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        _set_attributes(node, self.attributes)
        if node.GetScene() is slicer.mrmlScene:
            set_adapted_parameters(node, self.adapted)
            for role, volume_id in self.references.items():
                node.SetNodeReferenceID(role, volume_id)


_Change = tuple[slicer.vtkMRMLSegmentationNode, _NodeState]


def share_parent_transform(node: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode) -> bool:
    """Whether both are under the same parent transform: only then do voxels of one lie on those of the other."""
    return node.GetParentTransformNode() is volume.GetParentTransformNode()


def find_frames(volume: slicer.vtkMRMLScalarVolumeNode) -> VolumeSequence:
    """The frames of the sequence that a volume shows; InputError where they were removed."""
    frames = VolumeSequence.of(volume)
    if frames is None:
        raise InputError(
            _("The frames of {volume} are no longer in the scene.").format(volume=volume.GetName()),
            _("Load the sequence again."),
        )
    return frames


def find_frame(volume: slicer.vtkMRMLScalarVolumeNode, value: str) -> slicer.vtkMRMLScalarVolumeNode:
    """The frame with this index value; InputError where it was removed."""
    frames = find_frames(volume)
    return frames.node(frames.number_of(value))


class SceneResults:
    """Writes results into the scene; changes of existing segmentations can be undone.

    Segments marked completed and corrected slices stay as they are, whatever is written.
    """

    def __init__(self) -> None:
        self._history = UndoHistory()
        #: changed segmentations with their states before the change, and after one that was undone; oldest first
        self._undo_states: list[_Change] = []
        self._redo_states: list[_Change] = []
        self._doubts: list[tuple[slicer.vtkMRMLSegmentationNode, sitk.Image]] = []

    def write(
        self,
        result: SegmentationResult,
        target: ResultTarget,
        adapted: bytes | None = None,
        taken_over: Mapping[int, int] | None = None,
    ) -> WrittenResult:
        """Write a result into its target; into a new segmentation if the chosen one no longer fits.

        Args:
            result: labels on the volume's grid, or on the model's.
            target: where it is written.
            adapted: the file of parameters adapted to this patient with which it was made; None: the model as it is.
            taken_over: voxels that come from a clinician's corrections of another scan, by value.

        Raises:
            InputError: the volume was removed or moved, or the segmentation cannot be written into.
        """
        volume = target.find_volume()
        node = target.find_output(volume)
        is_elsewhere = node is None and target.output_id is not None
        notes = AdaptedNotes.read(adapted)
        count = notes.count if notes else 0
        if target.frame is not None:
            frames = find_frames(volume)
            number = frames.number_of(target.frame)
            output = SegmentationSequence.of(node, frames)
            if node is None:
                output = SegmentationSequence.add(frames, target.name)
            if output is not None:  # otherwise one frame goes into a segmentation that follows no sequence
                written = self._write_frame(result, target, number, count, frames, output)
                return replace(written, is_elsewhere=is_elsewhere)
        completed: list[str] = []
        corrected: list[Slices] = []
        earlier: EarlierResult | None = None
        labels, structures = result.labels, [structure.label for structure in result.structures]
        record = ResultRecord.of_result(result, volume.GetName(), count, target.region, target.fast)
        if node is None:
            node = add_segmentation(labels, structures, volume, target.name)
        else:
            self._count_edit(node)
            corrected = find_corrected_slices(node)
            earlier = EarlierResult.of(node, target.limit, volume, volume_geometry(volume), result, self.doubt(node))
            protected, before = earlier.protected(corrected_mask(node, labels, corrected)), self._state_of(node)
            edited = edited_voxels(node, structures)
            for value, voxels in (taken_over or {}).items():
                edited[value] = edited.get(value, 0) + voxels
            if target.existing_only:
                labels, structures = without_deleted(node, labels, structures)
            completed = update_segmentation(node, labels, structures, self._history, volume, protected)
            self._record_change(node, before)
            if earlier.outside is not None:
                result = earlier.joined(result, label_map(node, record.labels, labels), structures)
            record = ResultRecord.of_result(result, volume.GetName(), count, target.region, target.fast)
            record = record.with_corrections(earlier.record, edited)
        _store_with([node], record, structures, labels, corrected)
        self._update_maps(node, result.doubt)
        if adapted is not None:
            set_adapted_parameters(node, adapted)
        slices = slice_names(corrected, Geometry.of(result.labels))
        return WrittenResult(node, completed, slices, earlier, is_elsewhere)

    def doubt(self, node: slicer.vtkMRMLSegmentationNode | None) -> sitk.Image | None:
        """The map of doubt of a result, 0 to 1; None where there is none, as in scenes that were loaded."""
        return next((doubt for known, doubt in self._doubts if known is node), None)

    def can_undo(self, node: slicer.vtkMRMLSegmentationNode | None) -> bool:
        """Whether the last result can be removed from this segmentation."""
        return self._history.can_undo(node)

    def can_redo(self, node: slicer.vtkMRMLSegmentationNode | None) -> bool:
        """Whether the result removed last can be restored: not if the segmentation has changed since."""
        return self._history.can_redo(node)

    def undo(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Remove the last result from a segmentation, and restore what was in it before."""
        self._count_edit(node)
        present = self._state_of(node)
        if self._history.undo(node):
            self._restore(node, present, self._undo_states, self._redo_states)

    def redo(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Restore the result that was removed last."""
        present = self._state_of(node)
        if self._history.redo(node):
            self._restore(node, present, self._redo_states, self._undo_states)

    def _count_edit(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Follow the history, in which an edit after an undo is a step of its own, from the state that was put back."""
        if self._history.can_redo(node):
            return
        segmentation = node.GetSegmentation()
        others = [change for change in self._redo_states if change[0].GetSegmentation() is not segmentation]
        if len(others) < len(self._redo_states):
            self._redo_states = others
            self._undo_states.append((node, self._state_of(node)))

    def _restore(
        self, node: slicer.vtkMRMLSegmentationNode, present: _NodeState, source: list[_Change], target: list[_Change]
    ) -> None:
        """Give a segmentation the last state that ``source`` has for it; the ``present`` one goes to ``target``."""
        forget_editor_undo(node)
        changes = [change for change in source if change[0].GetSegmentation() is node.GetSegmentation()]
        if not changes:
            return
        changed, state = changes[-1]
        source.remove(changes[-1])
        target.append((changed, present))
        state.apply_to(node)
        if changed is not node:
            state.apply_to(changed)
        self._update_maps(node, state.doubt)

    def _record_change(self, node: slicer.vtkMRMLSegmentationNode, before: _NodeState) -> None:
        """A segmentation was changed; what was undone before cannot be redone any more."""
        forget_editor_undo(node)
        self._undo_states.append((node, before))
        segmentation = node.GetSegmentation()
        self._redo_states = [change for change in self._redo_states if change[0].GetSegmentation() is not segmentation]

    def _write_frame(
        self,
        result: SegmentationResult,
        target: ResultTarget,
        number: int,
        adapted: int,
        frames: VolumeSequence,
        output: SegmentationSequence,
    ) -> WrittenResult:
        """Write the result of one frame of a sequence; the segmentations of the others are left as they are."""
        volume, structures = frames.volume, [structure.label for structure in result.structures]
        present = output.frame(number)
        corrected: list[Slices] = []
        protected, edited = None, {}
        earlier: EarlierResult | None = None
        before = _NodeState(dict.fromkeys(_ATTRIBUTES))
        if present is not None:
            EditRecord.read(present)  # raises the error if it is not known what was corrected
            self._count_edit(present)
            corrected = find_corrected_slices(present)
            frame = volume_geometry(frames.node(number))
            earlier = EarlierResult.of(present, target.limit, volume, frame, result)
            protected = earlier.protected(corrected_mask(present, result.labels, corrected))
            before, edited = self._state_of(present), edited_voxels(present, structures)
        completed = output.write(number, result.labels, structures, self._history, protected)
        written = output.frame(number)
        self._record_change(written, before)
        if earlier is not None and earlier.outside is not None:
            result = earlier.joined(result, label_map(written, structures, result.labels), structures)
        record = ResultRecord.of_result(result, volume.GetName(), adapted, target.region, target.fast)
        record = record.with_corrections(earlier.record if earlier is not None else None, edited)
        # the node in the scene takes over attributes only when another frame is selected
        nodes = [written, output.node] if number == frames.selected else [written]
        _store_with(nodes, record, record.labels, result.labels, corrected)
        return WrittenResult(output.node, completed, slice_names(corrected, Geometry.of(result.labels)), earlier)

    def _state_of(self, node: slicer.vtkMRMLSegmentationNode) -> _NodeState:
        for changes in (self._undo_states, self._redo_states):
            changes[:] = [change for change in changes if change[0].GetScene() is not None]
        attributes = {name: node.GetAttribute(name) for name in _ATTRIBUTES}
        found = {role: node.GetNodeReferenceID(role) for role in (GEOMETRY_ROLE, VOLUME_ROLE)}
        references = {
            role: volume_id for role, volume_id in found.items() if volume_id
        }  # frames of sequences have none
        return _NodeState(attributes, adapted_parameters(node), self.doubt(node), references)

    def _update_maps(self, node: slicer.vtkMRMLSegmentationNode, doubt: sitk.Image | None) -> None:
        """The segmentation holds another result now, with this doubt, and no map of attention yet."""
        ATTENTION.remove(node)
        self._doubts = [entry for entry in self._doubts if entry[0] is not node and entry[0].GetScene() is not None]
        if doubt is None:
            DOUBT.remove(node)
            return
        self._doubts.append((node, doubt))
        if DOUBT.volume(node) is not None:
            DOUBT.make(node, doubt)


def _store_with(
    nodes: Sequence[slicer.vtkMRMLSegmentationNode],
    record: ResultRecord,
    structures: Sequence[Label],
    geometry: sitk.Image,
    corrected: Sequence[Slices],
) -> None:
    """Store the record, the ``structures`` written and the algorithm of a result with nodes of the same content."""
    changed = {structure.label.value for structure in record.structures if structure.corrected or record.adapted}
    for node in nodes:
        set_algorithm_tags(node, structures, algorithm_name(record.model, record.model_version), changed)
    record_written_labels(nodes[0], structures, geometry, corrected)
    record.with_volumes(label_map(nodes[0], record.labels, geometry)).write(nodes[0])
    stored = {name: nodes[0].GetAttribute(name) for name in _ATTRIBUTES}
    for node in nodes[1:]:
        _set_attributes(node, stored)


def _set_attributes(node: slicer.vtkMRMLSegmentationNode, attributes: Mapping[str, str | None]) -> None:
    """Set all of them as one change: after each change of the node in the scene, Slicer copies it into the frame."""
    with slicer.util.NodeModify(node):
        for name, value in attributes.items():
            node.SetAttribute(name, value)
