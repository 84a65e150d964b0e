"""The region of interest of a result: it is learnt from there, and kept through undo, moves and saved scenes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from panel_clicks import click, draw, save_and_reopen, wait
from panel_fakes import make_result

from SESegmentationLib.panel.result_record import RECORD_ATTRIBUTE


@pytest.fixture
def box(choices):
    """A region of interest, chosen."""
    choices.region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    choices.region.SetCenter(4, 4, 4)
    choices.region.SetSize(8, 8, 8)
    return choices.region


@pytest.mark.parametrize("change", ["moved", "removed", "volume moved"])
def test_what_is_learnt_from_lies_in_the_region_of_the_result(widget, segment, segmenter, choices, box, move, change):
    node = segment()
    used = segmenter.jobs[-1].options.roi
    if change == "moved":
        box.SetCenter(14, 14, 12)
    elif change == "removed":
        slicer.mrmlScene.RemoveNode(box)
    else:
        move(50, node, choices.inputVolume)
    draw(node)
    click(widget.ui.recalibrateButton)
    again = segmenter.jobs[-1].options.roi
    assert segmenter.jobs[-1].kind == "refine"
    assert again.GetOrigin() == used.GetOrigin() and again.GetSize() == used.GetSize()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(used))


def test_undo_brings_back_the_region_too(widget, segment, segmenter, choices, box):
    choices.region = None
    node = choices.outputSegmentation = segment()
    choices.region = box
    segment(corner=7)
    click(widget.ui.undoButton)
    draw(node)
    click(widget.ui.recalibrateButton)
    assert segmenter.jobs[-1].kind == "refine" and segmenter.jobs[-1].options.roi is None


def test_a_region_that_moves_during_the_run_is_kept_as_it_was(widget, segmenter, choices, make_volume, box):
    choices.inputVolume = make_volume()
    click(widget.ui.segmentButton)
    used = segmenter.jobs[-1].options.roi
    box.SetCenter(14, 14, 12)
    segmenter.succeed(make_result(segmenter.jobs[-1].image, widget.panel.models.card))
    wait(lambda: not widget.panel.run.running)
    draw(choices.resultSegmentation)
    click(widget.ui.recalibrateButton)
    assert segmenter.jobs[-1].options.roi.GetOrigin() == used.GetOrigin()


@pytest.fixture
def as_before(tmp_path):
    """Function that saves the scene as versions did which had no regions in their records, and reads it again."""

    def reopen(node, box, box_is="there") -> None:
        record = json.loads(node.GetAttribute(RECORD_ATTRIBUTE))
        del record["region"]
        node.SetAttribute(RECORD_ATTRIBUTE, json.dumps(record))
        node.SetNodeReferenceID("SESegmentation.Region", box.GetID())
        if box_is == "removed":
            slicer.mrmlScene.RemoveNode(box)
        elif box_is == "not drawn":
            box.RemoveAllControlPoints()
        save_and_reopen(tmp_path)

    return reopen


def test_the_region_of_a_result_of_an_earlier_version_is_that_of_its_box(
    widget, segment, segmenter, choices, box, as_before
):
    node = segment()
    used = segmenter.jobs[-1].options.roi
    as_before(node, box)
    node = widget.logic.getParameterNode().resultSegmentation
    slicer.util.getNode("box").SetCenter(14, 14, 12)
    draw(node)
    click(widget.ui.recalibrateButton)
    again = segmenter.jobs[-1].options.roi
    assert segmenter.jobs[-1].kind == "refine" and widget.panel.messages.shown == []
    assert again.GetOrigin() == used.GetOrigin() and again.GetSize() == used.GetSize()


@pytest.mark.parametrize("box_is", ["removed", "not drawn"])
def test_a_result_of_an_earlier_version_without_a_region_counts_as_of_the_whole_volume(
    widget, segment, segmenter, choices, box, as_before, box_is
):
    as_before(segment(), box, box_is)
    assert widget.panel.messages.shown == []  # results of whole volumes look the same: nothing to do about them
    draw(widget.logic.getParameterNode().resultSegmentation)
    click(widget.ui.recalibrateButton)
    assert segmenter.jobs[-1].kind == "refine" and segmenter.jobs[-1].options.roi is None
