"""Results into the scene, and out of it again."""

from __future__ import annotations

from dataclasses import dataclass

import slicer

from ..errors import InputError
from ..inference.result import SegmentationResult
from ..mrml import SegmentationSequence, UndoHistory, VolumeSequence, add_segmentation, update_segmentation
from .result_record import ResultRecord


@dataclass(frozen=True)
class Target:
    """Where a result goes. Nodes are named by ID: the user may remove them while the segmentation runs.

    Attributes:
        volume_id: the volume that is segmented.
        output_id: the segmentation to write into; None for a new one.
        name: of a new segmentation.
        frame: number of the frame, where the volume is one of a sequence.
    """

    volume_id: str
    output_id: str | None
    name: str
    frame: int | None = None


@dataclass(frozen=True)
class Written:
    """What was done with a result.

    Attributes:
        node: the segmentation in the scene.
        spared: names of segments marked completed, which were left as they are.
    """

    node: slicer.vtkMRMLSegmentationNode
    spared: list[str]


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
    """Writes results into the scene; changes of segmentations that were there can be taken back."""

    def __init__(self) -> None:
        self._history = UndoHistory()
        #: segmentation and what it held before a change, oldest first
        self._records: list[tuple[slicer.vtkMRMLSegmentationNode, ResultRecord | None]] = []

    def write(self, result: SegmentationResult, target: Target) -> Written:
        """Put a result where it belongs; into a new segmentation if the one that was chosen no longer fits.

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
        record = ResultRecord.of_result(result, volume.GetName())
        if target.frame is not None:
            frames = find_frames(volume)
            output = SegmentationSequence.of(node, frames)
            if node is None:
                output = SegmentationSequence.add(frames, target.name)
            if output is not None:  # otherwise one frame is wanted in a segmentation that stands by itself
                return self._write_frame(result, record, output, target.frame, target.frame == frames.selected)
        labels = [structure.label for structure in result.structures]
        if node is None:
            node, spared = add_segmentation(result.labels, labels, volume, target.name), []
        else:
            before = ResultRecord.read(node)
            spared = update_segmentation(node, result.labels, labels, self._history, volume)
            self._remember(node, before)
        record.write(node)
        return Written(node, spared)

    def can_undo(self, node: slicer.vtkMRMLSegmentationNode | None) -> bool:
        """Whether the last result can be taken out of this segmentation again."""
        return self._history.can_undo(node)

    def undo(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Take the last result out of a segmentation; what was in it before is there again."""
        if not self._history.undo(node):
            return
        own = [entry for entry in self._records if entry[0].GetSegmentation() is node.GetSegmentation()]
        record = own[-1][1] if own else None
        if own:
            self._records.remove(own[-1])
        if record is None:
            ResultRecord.clear(node)
        else:
            record.write(node)

    def _write_frame(
        self, result: SegmentationResult, record: ResultRecord, output: SegmentationSequence, frame: int, shown: bool
    ) -> Written:
        """The result of one frame of a sequence; the segmentations of the others are left as they are."""
        before = ResultRecord.read(output.frame(frame))
        labels = [structure.label for structure in result.structures]
        spared = output.write(frame, result.labels, labels, self._history)
        held = output.frame(frame)
        self._remember(held, before)
        record.write(held)
        if shown:  # the node in the scene takes over attributes only when another frame is selected
            record.write(output.node)
        return Written(output.node, spared)

    def _remember(self, node: slicer.vtkMRMLSegmentationNode, record: ResultRecord | None) -> None:
        self._records = [entry for entry in self._records if entry[0].GetScene() is not None]
        self._records.append((node, record))
