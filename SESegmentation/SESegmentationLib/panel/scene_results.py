"""Results into the scene and out of it again, and what of a scene that was read cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from ..errors import InputError
from ..models.segments import algorithm_name
from ..mrml import (
    ATTENTION,
    DOUBT,
    EDIT_ATTRIBUTES,
    EditNotes,
    SegmentationSequence,
    UndoHistory,
    VolumeSequence,
    adapted_parameters,
    adapted_text,
    add_segmentation,
    corrected_mask,
    edited_voxels,
    find_corrections,
    keep_adapted_parameters,
    label_map,
    note_algorithm,
    remember_written,
    update_segmentation,
)
from ..refine.adapted_file import AdaptedNotes
from ..result import SegmentationResult
from .messages import WARNING, Message
from .result_record import RECORD_ATTRIBUTE, ResultRecord

_ATTRIBUTES = (RECORD_ATTRIBUTE, *EDIT_ATTRIBUTES)
#: role of the box to which the search for a result was limited
REGION_ROLE = "SESegmentation.Region"


@dataclass(frozen=True)
class Target:
    """Where a result goes. Nodes are named by ID: the user may remove them while the segmentation runs.

    Attributes:
        volume_id: the volume that is segmented.
        output_id: the segmentation to write into; None for a new one.
        name: of a new segmentation.
        frame: number of the frame, where the volume is one of a sequence.
        region_id: the box to which the search was limited.
    """

    volume_id: str
    output_id: str | None
    name: str
    frame: int | None = None
    region_id: str | None = None


@dataclass(frozen=True)
class Written:
    """What was done with a result.

    Attributes:
        node: the segmentation in the scene.
        spared: names of segments marked completed, which were left as they are.
        kept: corrected slices that were left as they are, for example "k:12,17".
    """

    node: slicer.vtkMRMLSegmentationNode
    spared: list[str]
    kept: str = ""


@dataclass(frozen=True)
class _Kept:
    """What is kept with a segmentation besides its voxels, before it changes."""

    attributes: dict[str, str | None]
    adapted: bytes | None
    doubt: sitk.Image | None

    def put_back(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        for name, value in self.attributes.items():
            node.SetAttribute(name, value)
        if node.GetScene() is slicer.mrmlScene:
            keep_adapted_parameters(node, self.adapted)


_Entry = tuple[slicer.vtkMRMLSegmentationNode, _Kept]


def moves_with(node: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode) -> bool:
    """Whether both are under the same transform: only then do voxels of one lie on those of the other."""
    return node.GetParentTransformNode() is volume.GetParentTransformNode()


def find_frames(volume: slicer.vtkMRMLScalarVolumeNode) -> VolumeSequence:
    """The frames behind a volume; InputError where there are none any more."""
    frames = VolumeSequence.of(volume)
    if frames is None:
        raise InputError(
            _("The frames of {volume} are no longer in the scene.").format(volume=volume.GetName()),
            _("Load the sequence again."),
        )
    return frames


class SceneResults:
    """Writes results into the scene; changes of segmentations that were there can be taken back.

    Segments marked completed and corrected slices stay as they are, whatever is written.
    """

    def __init__(self) -> None:
        self._history = UndoHistory()
        #: segmentations and what was kept with them before a change, oldest first; and after one that was undone
        self._before: list[_Entry] = []
        self._after: list[_Entry] = []
        self._doubts: list[tuple[slicer.vtkMRMLSegmentationNode, sitk.Image]] = []

    def write(self, result: SegmentationResult, target: Target, adapted: bytes | None = None) -> Written:
        """Put a result where it belongs; into a new segmentation if the one that was chosen no longer fits.

        Args:
            result: labels on the volume's grid, or on the model's.
            target: where it belongs.
            adapted: the file of parameters adapted to this patient with which it was made; None: the model as it is.

        Raises:
            InputError: the volume is gone, or the segmentation cannot be written into.
        """
        scene = slicer.mrmlScene
        volume = scene.GetNodeByID(target.volume_id)
        if volume is None:
            raise InputError(_("The volume was removed while it was segmented."), _("Load it again and click Segment."))
        node = scene.GetNodeByID(target.output_id) if target.output_id else None
        if node is not None and not moves_with(node, volume):
            node = None
        notes = AdaptedNotes.read(adapted)
        record = ResultRecord.of_result(result, volume.GetName(), notes.count if notes else 0)
        if target.frame is not None:
            frames = find_frames(volume)
            output = SegmentationSequence.of(node, frames)
            if node is None:
                output = SegmentationSequence.add(frames, target.name)
            if output is not None:  # otherwise one frame is wanted in a segmentation that stands by itself
                return self._write_frame(result, record, output, target.frame, target.frame == frames.selected)
        if node is None:
            node, spared, corrected = add_segmentation(result.labels, record.labels, volume, target.name), [], []
        else:
            corrected = find_corrections(node)
            kept, before = corrected_mask(node, result.labels, corrected), self._kept_with(node)
            record = record.continued(ResultRecord.read(node), edited_voxels(node, record.labels))
            spared = update_segmentation(node, result.labels, record.labels, self._history, volume, kept)
            self._note(node, before)
        _keep_with([node], record, result.labels, corrected)
        node.SetNodeReferenceID(REGION_ROLE, target.region_id)
        self._set_maps(node, result.doubt)
        if adapted is not None:
            keep_adapted_parameters(node, adapted)
        return Written(node, spared, " ".join(map(str, corrected)))

    def doubt(self, node: slicer.vtkMRMLSegmentationNode | None) -> sitk.Image | None:
        """The map of doubt of a result, 0 to 1; None where there is none, as in scenes that were loaded."""
        return next((doubt for known, doubt in self._doubts if known is node), None)

    def can_undo(self, node: slicer.vtkMRMLSegmentationNode | None) -> bool:
        """Whether the last result can be taken out of this segmentation again."""
        return self._history.can_undo(node)

    def can_redo(self, node: slicer.vtkMRMLSegmentationNode | None) -> bool:
        """Whether a result that was taken out can be put back: not if the segmentation was changed since."""
        return self._history.can_redo(node)

    def undo(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Take the last result out of a segmentation; what was in it before is there again."""
        now = self._kept_with(node)
        if self._history.undo(node):
            self._put_back(node, now, self._before, self._after)

    def redo(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Put the result back that was taken out last."""
        now = self._kept_with(node)
        if self._history.redo(node):
            self._put_back(node, now, self._after, self._before)

    def _put_back(
        self, node: slicer.vtkMRMLSegmentationNode, now: _Kept, source: list[_Entry], target: list[_Entry]
    ) -> None:
        """Keep with a segmentation what the last entry of ``source`` says; what was kept ``now`` goes to ``target``."""
        own = [entry for entry in source if entry[0].GetSegmentation() is node.GetSegmentation()]
        if not own:
            return
        holder, kept = own[-1]
        source.remove(own[-1])
        target.append((holder, now))
        kept.put_back(node)
        if holder is not node:
            kept.put_back(holder)
        self._set_maps(node, kept.doubt)

    def _note(self, node: slicer.vtkMRMLSegmentationNode, before: _Kept) -> None:
        """A segmentation was changed that had this kept with it; what was undone before cannot be redone any more."""
        self._before.append((node, before))
        segmentation = node.GetSegmentation()
        self._after = [entry for entry in self._after if entry[0].GetSegmentation() is not segmentation]

    def _write_frame(
        self, result: SegmentationResult, record: ResultRecord, output: SegmentationSequence, frame: int, shown: bool
    ) -> Written:
        """The result of one frame of a sequence; the segmentations of the others are left as they are."""
        held = output.frame(frame)
        corrected = [] if held is None else find_corrections(held)
        kept = None if held is None else corrected_mask(held, result.labels, corrected)
        before = _Kept(dict.fromkeys(_ATTRIBUTES), None, None) if held is None else self._kept_with(held)
        if held is not None:
            record = record.continued(ResultRecord.read(held), edited_voxels(held, record.labels))
        spared = output.write(frame, result.labels, record.labels, self._history, kept)
        held = output.frame(frame)
        self._note(held, before)
        # the node in the scene takes over attributes only when another frame is selected
        _keep_with([held, output.node] if shown else [held], record, result.labels, corrected)
        return Written(output.node, spared, " ".join(map(str, corrected)))

    def _kept_with(self, node: slicer.vtkMRMLSegmentationNode) -> _Kept:
        for entries in (self._before, self._after):
            entries[:] = [entry for entry in entries if entry[0].GetScene() is not None]
        attributes = {name: node.GetAttribute(name) for name in _ATTRIBUTES}
        return _Kept(attributes, adapted_parameters(node), self.doubt(node))

    def _set_maps(self, node: slicer.vtkMRMLSegmentationNode, doubt: sitk.Image | None) -> None:
        """The segmentation holds another result now, with this doubt; nobody has asked what its networks looked at."""
        ATTENTION.forget(node)
        self._doubts = [entry for entry in self._doubts if entry[0] is not node and entry[0].GetScene() is not None]
        if doubt is None:
            DOUBT.forget(node)
            return
        self._doubts.append((node, doubt))
        if DOUBT.volume(node) is not None:
            DOUBT.make(node, doubt)


def _keep_with(
    nodes: Sequence[slicer.vtkMRMLSegmentationNode], record: ResultRecord, geometry: sitk.Image, corrected: Sequence
) -> None:
    """Keep with segmentations, which hold the same, what a result measures, what it wrote, and what wrote it."""
    changed = {structure.label.value for structure in record.structures if structure.corrected or record.adapted}
    for node in nodes:
        note_algorithm(node, record.labels, algorithm_name(record.model, record.model_version), changed)
    remember_written(nodes[0], record.labels, geometry, corrected)
    record.measured(label_map(nodes[0], record.labels, geometry)).write(nodes[0])
    for node in nodes[1:]:
        for name in _ATTRIBUTES:
            node.SetAttribute(name, nodes[0].GetAttribute(name))


#: names that are told of each kind
_TOLD = 5


def unusable_notes(choices: list[str]) -> list[Message]:
    """Messages on the segmentations of the scene whose notes cannot be used, and on ``choices`` that were left out."""
    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    records = [node.GetName() for node in nodes if ResultRecord.is_kept(node) and ResultRecord.read(node) is None]
    edits = [node.GetName() for node in nodes if not _edits_are_usable(node)]
    networks = [node.GetName() for node in nodes if adapted_text(node) is not None and adapted_parameters(node) is None]
    found = (
        (
            records,
            _("What the scene says of these results cannot be used: {names}."),
            _("Segment again to review them."),
        ),
        (
            edits,
            _("What the scene says of edits in these segmentations cannot be used: {names}."),
            _("They are not written into, so that no correction is lost: choose a new segmentation as the output."),
        ),
        (
            networks,
            _("The networks that were recalibrated with these segmentations cannot be used: {names}."),
            _("Recalibrate again."),
        ),
        (choices, _("These choices of the scene cannot be used: {names}."), _("They are as in a new scene.")),
    )
    return [Message(WARNING, text.format(names=_listed(names)), remedy) for names, text, remedy in found if names]


def _edits_are_usable(node: slicer.vtkMRMLSegmentationNode) -> bool:
    try:
        EditNotes.read(node)
    except InputError:
        return False
    return True


def _listed(names: list[str]) -> str:
    told = ", ".join(name[:64] for name in names[:_TOLD])
    return told if len(names) <= _TOLD else _("{names} and {count} more").format(names=told, count=len(names) - _TOLD)
