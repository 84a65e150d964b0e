"""What a user's hands do: only what is seen and enabled can be clicked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import slicer
import vtk
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest

from harness import application
from harness.segment_editor import paint

SECONDS = 60
#: what a click begins a moment later is done when the hand is back, in ms
MOMENT_MS = 5


def click(widget: Any) -> None:
    """Click the middle of a button or the box of a check box."""
    assert widget.isVisible(), f"{widget.objectName} is not seen"
    assert widget.isEnabled(), f"{widget.objectName} is not enabled"
    place = widget.rect.center()
    if widget.className() == "QCheckBox":
        place.setX(8)
    if widget.className() == "ctkCollapsibleButton":
        place.setY(8)
    QTest.mouseClick(widget, Qt.LeftButton, Qt.NoModifier, place)
    wait_a_moment()


def wait_a_moment() -> None:
    """Let the application do what it will do next."""
    QTest.qWait(MOMENT_MS)
    application.process_events()


def click_item(view: Any, item: Any) -> None:
    """Click an item of a list or table."""
    assert view.isVisible(), f"{view.objectName} is not seen"
    view.scrollToItem(item)
    QTest.mouseClick(view.viewport(), Qt.LeftButton, Qt.NoModifier, view.visualItemRect(item).center())
    application.process_events()


def type_text(widget: Any, text: str) -> None:
    """Type into a widget, in place of what is there."""
    assert widget.isVisible() and widget.isEnabled(), f"{widget.objectName} cannot be typed into"
    widget.setFocus()
    widget.selectAll()
    QTest.keyClicks(widget, text) if text else QTest.keyClick(widget, Qt.Key_Delete)
    application.process_events()


def wait(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Let the application work until something is so."""
    assert application.wait_until(condition, seconds), "it did not come in time"


def draw(node: Any, k: int = 3, identifier: str = "Segment_1") -> None:
    """Draw a square in an axial slice."""
    volume = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    inside = np.zeros(slicer.util.arrayFromVolume(volume).shape, bool)
    inside[k, 6:10, 9:14] = True
    paint(node, identifier, inside, volume)


def reload_module() -> Any:
    """Load the module anew; its widget."""
    slicer.util.reloadScriptedModule("SESegmentation")
    application.process_events()
    return slicer.util.getModuleWidget("SESegmentation")


def texts(messages: Iterable[Any]) -> list[tuple[str, str]]:
    """Level and text of the panel's messages."""
    return [(message.level, message.text) for message in messages]


def cells(widget):
    """The texts of the table of structures, row by row."""
    table = widget.ui.structureTable
    return [[table.item(row, column).text() for column in range(4)] for row in range(table.rowCount)]


def first_segment(node):
    """A copy of the voxels of the segment Segment_1."""
    return slicer.util.arrayFromSegmentBinaryLabelmap(
        node, "Segment_1", node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    ).copy()


def transform_under(elements: dict[tuple[int, int], float], *nodes) -> None:
    """Put nodes under a new linear transform with these elements of its matrix, RAS in mm."""
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "transform")
    matrix = vtk.vtkMatrix4x4()
    for place, element in elements.items():
        matrix.SetElement(*place, element)
    transform.SetMatrixTransformToParent(matrix)
    for node in nodes:
        node.SetAndObserveTransformNodeID(transform.GetID())


def save_and_reopen(folder) -> None:
    path = str(folder / "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear(False)
    slicer.util.loadScene(path)
    application.process_events()
