"""Results into the scene, and out of it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import SimpleITK as sitk
import slicer

from ..client import RefinedResult
from ..errors import InputError
from ..inference.result import SegmentationResult
from ..mrml import (
    EDIT_ATTRIBUTES,
    SegmentationSequence,
    UndoHistory,
    VolumeSequence,
    adapted_parameters,
    add_segmentation,
    corrected_mask,
    doubt_volume,
    edited_voxels,
    find_corrections,
    forget_doubt,
    keep_adapted_parameters,
    label_map,
    make_doubt_volume,
    remember_written,
    update_segmentation,
)
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


def moves_with(node: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode) -> bool:
    """Whether both are under the same transform: only then do voxels of one lie on those of the other."""
    return node.GetParentTransformNode() is volume.GetParentTransformNode()


def find_frames(volume: slicer.vtkMRMLScalarVolumeNode) -> VolumeSequence:
    """The frames behind a volume; InputError where there are none any more."""
    frames = VolumeSequence.of(volume)
    if frames is None:
        raise InputError(f"The frames of {volume.GetName()} are no longer in the scene.", "Load the sequence again.")
    return frames


class SceneResults:
    """Writes results into the scene; changes of segmentations that were there can be taken back.

    Segments marked completed and corrected slices stay as they are, whatever is written.
    """

    def __init__(self) -> None:
        self._history = UndoHistory()
        #: segmentation and what was kept with it before a change, oldest first
        self._before: list[tuple[slicer.vtkMRMLSegmentationNode, _Kept]] = []
        self._doubts: list[tuple[slicer.vtkMRMLSegmentationNode, sitk.Image]] = []

    def write(self, result: SegmentationResult, target: Target, refined: RefinedResult | None = None) -> Written:
        """Put a result where it belongs; into a new segmentation if the one that was chosen no longer fits.

        Args:
            result: labels on the volume's grid.
            target: where it belongs.
            refined: what it came of, where networks were adapted for it.

        Raises:
            InputError: the volume is gone, or the segmentation cannot be written into.
        """
        scene = slicer.mrmlScene
        volume = scene.GetNodeByID(target.volume_id)
        if volume is None:
            raise InputError("The volume was removed while it was segmented.", "Load it again and click Segment.")
        node = scene.GetNodeByID(target.output_id) if target.output_id else None
        if node is not None and not moves_with(node, volume):
            node = None
        record = ResultRecord.of_result(result, volume.GetName(), refined.parameters if refined else 0)
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
            self._before.append((node, before))
        _keep_with([node], record, result.labels, corrected)
        node.SetNodeReferenceID(REGION_ROLE, target.region_id)
        self._set_doubt(node, result.doubt)
        if refined is not None:
            keep_adapted_parameters(node, refined.adapted)
        return Written(node, spared, " ".join(map(str, corrected)))

    def doubt(self, node: slicer.vtkMRMLSegmentationNode | None) -> sitk.Image | None:
        """The map of doubt of a result, 0 to 1; None where there is none, as in scenes that were loaded."""
        return next((doubt for known, doubt in self._doubts if known is node), None)

    def can_undo(self, node: slicer.vtkMRMLSegmentationNode | None) -> bool:
        """Whether the last result can be taken out of this segmentation again."""
        return self._history.can_undo(node)

    def undo(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Take the last result out of a segmentation; what was in it before is there again."""
        if not self._history.undo(node):
            return
        own = [entry for entry in self._before if entry[0].GetSegmentation() is node.GetSegmentation()]
        if own:
            self._before.remove(own[-1])
            own[-1][1].put_back(node)
            if own[-1][0] is not node:
                own[-1][1].put_back(own[-1][0])
            self._set_doubt(node, own[-1][1].doubt)

    def _write_frame(
        self, result: SegmentationResult, record: ResultRecord, output: SegmentationSequence, frame: int, shown: bool
    ) -> Written:
        """The result of one frame of a sequence; the segmentations of the others are left as they are."""
        held = output.frame(frame)
        corrected = [] if held is None else find_corrections(held)
        kept = None if held is None else corrected_mask(held, result.labels, corrected)
        before = _Kept(dict.fromkeys(_ATTRIBUTES), None, None) if held is None else self._kept_with(held)
        spared = output.write(frame, result.labels, record.labels, self._history, kept)
        held = output.frame(frame)
        self._before.append((held, before))
        # the node in the scene takes over attributes only when another frame is selected
        _keep_with([held, output.node] if shown else [held], record, result.labels, corrected)
        return Written(output.node, spared, " ".join(map(str, corrected)))

    def _kept_with(self, node: slicer.vtkMRMLSegmentationNode) -> _Kept:
        self._before = [entry for entry in self._before if entry[0].GetScene() is not None]
        attributes = {name: node.GetAttribute(name) for name in _ATTRIBUTES}
        return _Kept(attributes, adapted_parameters(node), self.doubt(node))

    def _set_doubt(self, node: slicer.vtkMRMLSegmentationNode, doubt: sitk.Image | None) -> None:
        self._doubts = [entry for entry in self._doubts if entry[0] is not node and entry[0].GetScene() is not None]
        if doubt is None:
            forget_doubt(node)
            return
        self._doubts.append((node, doubt))
        if doubt_volume(node) is not None:
            make_doubt_volume(node, doubt)


def _keep_with(
    nodes: Sequence[slicer.vtkMRMLSegmentationNode], record: ResultRecord, geometry: sitk.Image, corrected: Sequence
) -> None:
    """Keep with segmentations, which hold the same, what a result measures and what it wrote."""
    remember_written(nodes[0], record.labels, geometry, corrected)
    record.measured(label_map(nodes[0], record.labels, geometry)).write(nodes[0])
    for node in nodes[1:]:
        for name in _ATTRIBUTES:
            node.SetAttribute(name, nodes[0].GetAttribute(name))
