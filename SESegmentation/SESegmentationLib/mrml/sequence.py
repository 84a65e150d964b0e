"""Volumes in time (4-D): the frames of a sequence one by one, and their segmentations as a sequence beside it.

A sequence holds its frames outside the scene. A sequence browser selects one, and a volume node in the scene shows it;
that node is what the user sees and chooses. Segmentations get a sequence of their own with the same index values, which
the same browser selects from: each frame shows its own segmentation, and edits are kept with the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from ..errors import InputError
from ..models import Label
from .history import UndoHistory
from .segmentation import add_empty_segmentation, update_segmentation
from .volume import check_volume_node, image_from_volume_node


@dataclass(frozen=True)
class VolumeSequence:
    """The frames behind a volume node.

    Attributes:
        volume: the node in the scene, which shows the selected frame.
        browser: selects it.
        sequence: holds the frames, numbered from 0.

    Example::

        frames = VolumeSequence.of(volume)
        output = SegmentationSequence.add(frames, "Heart")
        for number in frames.numbers(every=True):
            output.write(number, segment(frames.image(number)), structures)
    """

    volume: slicer.vtkMRMLScalarVolumeNode
    browser: slicer.vtkMRMLSequenceBrowserNode
    sequence: slicer.vtkMRMLSequenceNode

    @classmethod
    def of(cls, volume: slicer.vtkMRMLScalarVolumeNode | None) -> VolumeSequence | None:
        """The frames of a volume; None if it shows no sequence, or one of a single frame."""
        found = _find_sequence(volume)
        if found is None or found[1].GetNumberOfDataNodes() < 2:
            return None
        return cls(volume, *found)

    def __len__(self) -> int:
        return self.sequence.GetNumberOfDataNodes()

    @property
    def selected(self) -> int:
        """The number of the frame that the volume node shows."""
        master = self.browser.GetMasterSequenceNode()
        value = master.GetNthIndexValue(max(self.browser.GetSelectedItemNumber(), 0))
        # the browser may follow another sequence with more items: the frame before is shown then
        return max(self.sequence.GetItemNumberFromIndexValue(value, False), 0)

    def numbers(self, every: bool) -> list[int]:
        """Which frames are to be segmented: each, the one on show first; or that one alone."""
        selected = self.selected
        return [selected] + [number for number in range(len(self)) if every and number != selected]

    def image(self, number: int) -> sitk.Image:
        """A frame as an image; the browser stays where it is.

        Raises:
            InputError: the sequence is no longer in the scene, or the frame cannot be segmented.
        """
        self.check()
        return image_from_volume_node(self.sequence.GetNthDataNode(number))

    def check(self) -> None:
        """Raise InputError if the sequence is no longer in the scene, or the node that shows it cannot be segmented."""
        check_volume_node(self.volume)
        if self.browser.GetScene() is None or self.sequence.GetScene() is None:
            raise InputError(
                _("The frames of {volume} are no longer in the scene.").format(volume=self.volume.GetName()),
                _("Load the sequence again."),
            )


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
        found = _find_sequence(node)
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
                _("The segmentation was removed while frames were segmented."),
                _("Segment again into a new segmentation."),
            )
        frame = self.frame(number)
        if frame is None:
            value = self._frames.sequence.GetNthIndexValue(number)
            frame = self._sequence.SetDataNodeAtValue(slicer.vtkMRMLSegmentationNode(), value)
        return update_segmentation(frame, labels, structures, history, protected=protected)


def _find_sequence(
    node: slicer.vtkMRMLNode | None,
) -> tuple[slicer.vtkMRMLSequenceBrowserNode, slicer.vtkMRMLSequenceNode] | None:
    """The browser that selects what a node shows, and the sequence that it selects from."""
    if node is None or node.GetScene() is None:
        return None
    for browser in slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode", node.GetScene()):
        if browser.IsProxyNode(node.GetID()):
            return browser, browser.GetSequenceNode(node)
    return None
