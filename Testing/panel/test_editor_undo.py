"""Undo in the Segment Editor, which knows nothing of results: what it takes back is never taken for corrections."""

from __future__ import annotations

import pytest
import slicer
from panel_clicks import click, draw, first_segment

from harness import application
from SESegmentationLib.mrml import find_corrected_slices


@pytest.fixture
def corrected(widget, segment):
    """A result with a slice that was corrected in the Segment Editor, which could take that back; and its editor."""
    node = segment()
    click(widget.ui.nextButton)
    click(widget.ui.correctButton)
    editor = slicer.modules.SegmentEditorWidget.editor
    editor.saveStateForUndo()  # as before each stroke
    draw(node)
    slicer.util.selectModule("SESegmentation")
    return node, editor


@pytest.mark.parametrize("then", ["accept", "segment", "undo", "redo"])
def test_the_segment_editor_takes_back_no_result(widget, segment, recalibrate, choices, corrected, then):
    node, editor = corrected
    if then == "accept":
        recalibrate()
        click(widget.ui.acceptChangesButton)
    else:
        choices.outputSegmentation = node
        segment(corner=6)
    if then in ("undo", "redo"):
        editor.saveStateForUndo()
        click(widget.ui.undoButton)
    if then == "redo":
        editor.saveStateForUndo()
        click(widget.ui.redoButton)
    before, slices = first_segment(node), list(map(str, find_corrected_slices(node)))
    chosen = editor.currentSegmentID(), editor.sourceVolumeNode()
    slicer.util.selectModule("SegmentEditor")
    editor.undo()
    application.process_events()
    slicer.util.selectModule("SESegmentation")
    assert (first_segment(node) == before).all() and slices == ["k:3"]
    assert list(map(str, find_corrected_slices(node))) == slices
    assert editor.segmentationNode() is node and chosen == (editor.currentSegmentID(), editor.sourceVolumeNode())


def test_strokes_after_a_result_can_be_taken_back(widget, recalibrate, corrected):
    node, editor = corrected
    recalibrate()
    click(widget.ui.acceptChangesButton)
    before = first_segment(node)
    editor.saveStateForUndo()
    draw(node, k=9)
    editor.undo()
    assert (first_segment(node) == before).all() and list(map(str, find_corrected_slices(node))) == ["k:3"]
