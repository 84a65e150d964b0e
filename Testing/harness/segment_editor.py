"""The module Segment Editor, as far as other modules use it: its editor, and a stroke of its brush."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer


class SegmentEditorWidget:
    """What ``slicer.modules.SegmentEditorWidget`` is once the module was opened."""

    def __init__(self) -> None:
        self.editor = slicer.qMRMLSegmentEditorWidget()
        self.editor.setMRMLScene(slicer.mrmlScene)
        node = slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
        if node is None:
            node = slicer.vtkMRMLSegmentEditorNode()
            node.SetSingletonTag("SegmentEditor")
            node = slicer.mrmlScene.AddNode(node)
        self.editor.setMRMLSegmentEditorNode(node)


class SegmentEditor:
    """The module; opening it makes its widget, as in the application."""

    name = "SegmentEditor"

    def __init__(self) -> None:
        self._holder = _Holder()

    def widgetRepresentation(self) -> Any:
        return self._holder


class _Holder:
    def __init__(self) -> None:
        self._widget: SegmentEditorWidget | None = None

    def enter(self) -> None:
        self._widget = slicer.modules.SegmentEditorWidget = SegmentEditorWidget()

    def exit(self) -> None:
        """Nothing is active that would have to end."""

    def self(self) -> SegmentEditorWidget | None:  # noqa: N805 - the real name
        return self._widget


def paint(
    node: slicer.vtkMRMLSegmentationNode,
    identifier: str,
    inside: np.ndarray,
    volume: slicer.vtkMRMLScalarVolumeNode,
    erase: bool = False,
) -> None:
    """Add voxels to a segment, or take them away, as the editor's effects do; other segments give way.

    Args:
        inside: (k, j, i) of the volume, bool.
    """
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    segment = node.GetSegmentation().GetSegment(identifier)
    others = [i for i in node.GetSegmentation().GetSegmentIDs() if i != identifier]
    if erase:
        held = slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume) > 0
        slicer.util.updateSegmentBinaryLabelmapFromArray((held & ~inside).astype(np.uint8), node, identifier, volume)
    else:
        for other in others:  # "overwrite all segments", the editor's default
            held = slicer.util.arrayFromSegmentBinaryLabelmap(node, other, volume) > 0
            if (held & inside).any():
                slicer.util.updateSegmentBinaryLabelmapFromArray((held & ~inside).astype(np.uint8), node, other, volume)
        held = slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume) > 0
        slicer.util.updateSegmentBinaryLabelmapFromArray((held | inside).astype(np.uint8), node, identifier, volume)
    if logic.GetSegmentStatus(segment) == logic.NotStarted:  # qSlicerSegmentEditorAbstractEffect does so
        logic.SetSegmentStatus(segment, logic.InProgress)
