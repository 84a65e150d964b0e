"""The result on show, by clicks: list, slices, 3-D, opacity, undo, earlier results."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from panel_clicks import cells, click, click_item, draw, first_segment, save_and_reopen, texts

from SESegmentationLib.result import Finding


def test_result_is_listed_the_least_certain_first(widget, segment):
    assert not widget.ui.resultSection.isVisible()
    finding = Finding("contrast", "It looks like T2.", "It may be wrong.")
    node = segment(findings=[finding])
    table = widget.ui.structureTable
    rows = [[table.item(row, column).text() for column in range(3)] for row in range(table.rowCount)]
    assert rows == [["posterior hippocampus", "not found", "\u2013"], ["anterior hippocampus", "0.03", "90"]]
    assert widget.ui.resultLabel.text == "head: tiny-t1 1.0.0, 2 s on cpu"
    assert texts(widget.panel.result.findings) == [("warning", "It looks like T2.")]
    assert widget.ui.resultSelector.currentNode() is node and widget.ui.resultSection.isVisible()
    assert node.GetName() == "head tiny-t1"


def test_a_click_on_a_structure_moves_the_slices_there(widget, segment, make_volume):
    volume = make_volume()
    volume.SetOrigin(100, 0, 0)
    shift = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    shift.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.diag([1.0, 1, 1, 1]) + np.eye(4, k=3) * 7))
    volume.SetAndObserveTransformNodeID(shift.GetID())
    segment(volume)
    table = widget.ui.structureTable
    click_item(table, table.item(1, 0))
    sagittal = slicer.app.layoutManager().sliceWidget("Yellow").mrmlSliceNode()
    assert sagittal.GetSliceToRAS().GetElement(0, 3) == pytest.approx(112)  # 100 + 7 + the most doubtful slice
    sagittal.SetSliceOffset(0)
    click_item(table, table.item(1, 1))  # the same row again
    assert sagittal.GetSliceToRAS().GetElement(0, 3) == pytest.approx(112)
    click_item(table, table.item(0, 0))  # was not found
    assert sagittal.GetSliceToRAS().GetElement(0, 3) == pytest.approx(112)


def test_show_3d(widget, segment):
    node = segment()
    closed = slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName()
    click(widget.ui.show3DButton)
    assert node.GetSegmentation().ContainsRepresentation(closed) and node.GetDisplayNode().GetVisibility3D()
    click(widget.ui.show3DButton)
    assert not node.GetSegmentation().ContainsRepresentation(closed)


def test_opacity(widget, choices, segment):
    node = segment()
    widget.ui.opacitySlider.value = 0.3
    assert choices.opacity == 0.3 and node.GetDisplayNode().GetOpacity() == 0.3
    node.GetDisplayNode().SetOpacity(0.8)  # in another module
    choices.fast = True
    assert node.GetDisplayNode().GetOpacity() == 0.8
    assert segment().GetDisplayNode().GetOpacity() == 0.3


def test_an_update_is_undone_in_one_step(widget, choices, segment):
    node = segment()
    assert not widget.ui.undoButton.enabled
    before = slicer.util.arrayFromSegmentBinaryLabelmap(node, "Segment_1", choices.inputVolume).copy()
    choices.outputSegmentation = node
    segment(corner=6, findings=[Finding("a", "b", "c")])
    assert (slicer.util.arrayFromSegmentBinaryLabelmap(node, "Segment_1", choices.inputVolume) != before).any()
    assert widget.panel.result.findings
    click(widget.ui.undoButton)
    assert (slicer.util.arrayFromSegmentBinaryLabelmap(node, "Segment_1", choices.inputVolume) == before).all()
    assert widget.panel.result.findings == [] and not widget.ui.undoButton.enabled


def test_completed_segments_are_spared_and_named(widget, choices, segment):
    node = segment()
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetSegmentStatus(node.GetSegmentation().GetSegment("Segment_1"), logic.Completed)
    choices.outputSegmentation = node
    segment(corner=6)
    assert "anterior hippocampus" in widget.panel.messages.shown[0].text
    assert slicer.util.arrayFromSegmentBinaryLabelmap(node, "Segment_1", choices.inputVolume)[2:5, 2:5, 2:5].all()


def test_an_earlier_result_can_be_shown_again(widget, choices, segment, make_volume):
    first, second = segment(), segment(make_volume(name="second"))
    assert widget.ui.resultLabel.text.startswith("second: ")
    widget.ui.resultSelector.setCurrentNode(first)
    assert widget.ui.resultLabel.text.startswith("head: ") and choices.resultSegmentation is first
    slicer.mrmlScene.RemoveNode(first)
    assert choices.resultSegmentation is None and not widget.ui.structureTable.isVisible()
    assert widget.ui.resultSection.isVisible()  # the other one can be chosen
    slicer.mrmlScene.RemoveNode(second)
    assert not widget.ui.resultSection.isVisible()


def test_the_list_shows_the_volumes_after_corrections(widget, choices, segment, tmp_path):
    first = segment()
    draw(first)
    draw(first, k=5, identifier="Segment_2")  # it was not found
    widget.enter()
    assert volumes(widget) == {"anterior hippocampus": "0.05", "posterior hippocampus": "0.02"}
    segment()
    assert volumes(widget) == {"anterior hippocampus": "0.03", "posterior hippocampus": "not found"}
    widget.ui.resultSelector.setCurrentNode(first)
    assert volumes(widget)["anterior hippocampus"] == "0.05"
    save_and_reopen(tmp_path)
    assert volumes(widget)["anterior hippocampus"] == "0.05"


def test_the_list_shows_the_volumes_before_corrections_that_are_taken_back(widget, choices, segment):
    node = segment()
    before = first_segment(node)
    draw(node)
    widget.enter()
    click_item(widget.ui.structureTable, widget.ui.structureTable.item(1, 0))
    slicer.util.updateSegmentBinaryLabelmapFromArray(before, node, "Segment_1", choices.inputVolume)
    widget.enter()
    assert volumes(widget)["anterior hippocampus"] == "0.03"
    assert widget.panel.result.review.current.label.name == "anterior hippocampus"


def volumes(widget) -> dict[str, str]:
    """The volumes in the list, by name."""
    return {row[0]: row[1] for row in cells(widget)}


def test_the_list_shows_the_colours_of_the_segments(widget, segment):
    node = segment()
    node.GetSegmentation().GetSegment("Segment_1").SetColor(0.2, 0.4, 1.0)
    widget.enter()
    name = widget.ui.structureTable.item(1, 0)
    assert name.text() == "anterior hippocampus"
    assert name.icon().pixmap(8, 8).toImage().pixelColor(4, 4).getRgb()[:3] == (51, 102, 255)
