"""Taking a change of a segmentation back, and making it again."""

from __future__ import annotations

import slicer


class UndoHistory:
    """States of segmentations before this program changed them.

    A state holds everything: voxels, names, colours, terminology, status. Segments keep their IDs. In a sequence each
    frame has its own history, and what is undone is the frame that the node shows.

    Args:
        maximum: states kept for each segmentation; older ones are forgotten.

    Example::

        history.save(node)
        update_segmentation(node, labels, structures)
        history.undo(node)
    """

    def __init__(self, maximum: int = 5) -> None:
        self._maximum = maximum
        # the nodes tell whether the segmentations are still in use
        self._histories: list[tuple[slicer.vtkMRMLSegmentationNode, slicer.vtkSegmentationHistory]] = []

    def save(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Keep the present state; the next change can be taken back."""
        self._histories = [entry for entry in self._histories if entry[0].GetScene() is not None]
        history = self._find(node)
        if history is None:
            history = slicer.vtkSegmentationHistory()
            history.SetMaximumNumberOfStates(self._maximum)
            history.SetSegmentation(node.GetSegmentation())
            self._histories.append((node, history))
        history.SaveState()

    def can_undo(self, node: slicer.vtkMRMLSegmentationNode | None) -> bool:
        """Whether there is a change of this segmentation to take back."""
        history = self._find(node)
        return history is not None and bool(history.IsRestorePreviousStateAvailable())

    def can_redo(self, node: slicer.vtkMRMLSegmentationNode | None) -> bool:
        """Whether a change of this segmentation was taken back and can be made again."""
        history = self._find(node)
        return history is not None and bool(history.IsRestoreNextStateAvailable())

    def undo(self, node: slicer.vtkMRMLSegmentationNode) -> bool:
        """Take the last change back. Returns whether there was one."""
        history = self._find(node)
        return history is not None and self.can_undo(node) and bool(history.RestorePreviousState())

    def redo(self, node: slicer.vtkMRMLSegmentationNode) -> bool:
        """Make the change again that was taken back last. Returns whether there was one."""
        history = self._find(node)
        return history is not None and self.can_redo(node) and bool(history.RestoreNextState())

    def _find(self, node: slicer.vtkMRMLSegmentationNode | None) -> slicer.vtkSegmentationHistory | None:
        segmentation = node.GetSegmentation() if node is not None else None
        return next((history for _, history in self._histories if history.GetSegmentation() is segmentation), None)
