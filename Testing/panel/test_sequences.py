"""Volumes in time: the selected frame or all of them, through the panel."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from panel_clicks import cells, click, draw, first_segment, wait
from panel_fakes import make_result

from harness import application
from SESegmentationLib.errors import WorkerError
from SESegmentationLib.mrml import find_corrected_slices

FRAMES = 3


@pytest.fixture
def browser(widget):
    """Browser of a sequence of volumes whose voxels tell the frame."""
    scene = slicer.mrmlScene
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "heart")
    for number in range(FRAMES):
        image = vtk.vtkImageData()
        image.SetDimensions(14, 13, 12)
        image.AllocateScalars(vtk.VTK_SHORT, 1)
        image.GetPointData().GetScalars().Fill(100 + number)
        frame = slicer.vtkMRMLScalarVolumeNode()
        frame.SetAndObserveImageData(image)
        sequence.SetDataNodeAtValue(frame, str(number))
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    browser.SetSelectedItemNumber(1)
    application.process_events()
    return browser


@pytest.fixture
def answer(widget, segmenter):
    """Function that lets the frame at hand succeed, with blocks at an index of its own."""

    def run():
        number = len(segmenter.jobs)
        corner = value_of(segmenter.jobs[-1]) - 99
        segmenter.succeed(make_result(segmenter.jobs[-1].image, widget.panel.models.card, corner=corner))
        wait(lambda: len(segmenter.jobs) > number or not widget.panel.run.running)

    return run


def value_of(job):
    return int(sitk.GetArrayFromImage(job.image)[0, 0, 0])


def first_voxel(node):
    return int(np.argwhere(slicer.util.arrayFromSegmentBinaryLabelmap(node, "Segment_1"))[0, 0])


def test_the_choice_is_offered_for_sequences_only(widget, choices, browser, make_volume):
    assert widget.ui.everyFrameCheckBox.isVisible()
    choices.inputVolume = make_volume()
    assert not widget.ui.everyFrameCheckBox.isVisible()


def test_a_frame_that_was_moved_meanwhile_keeps_its_corrections(widget, choices, browser, segmenter, answer):
    click(widget.ui.segmentButton)
    answer()
    node = choices.outputSegmentation = choices.resultSegmentation
    draw(node)
    click(widget.ui.segmentButton)
    shift = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    shift.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.eye(4) + 3 * np.eye(4, k=3)))
    node.SetAndObserveTransformNodeID(shift.GetID())
    node.HardenTransform()
    drawn = first_segment(node)
    browser.SetSelectedItemNumber(2)
    segmenter.succeed(make_result(segmenter.jobs[-1].image, widget.panel.models.card, corner=6))
    wait(lambda: not widget.panel.run.running)
    assert "was moved by a hardened transform" in widget.panel.messages.shown[-1].text
    browser.SetSelectedItemNumber(1)
    assert (first_segment(node) == drawn).all()


def test_the_selected_frame(widget, choices, browser, segmenter, answer):
    click(widget.ui.segmentButton)
    assert value_of(segmenter.jobs[0]) == 101 and widget.ui.progressLabel.text == "Starting…"
    answer()
    assert not widget.panel.run.running and len(segmenter.jobs) == 1
    node = choices.resultSegmentation
    assert browser.IsProxyNode(node.GetID()) and widget.ui.structureTable.rowCount == 2
    browser.SetSelectedItemNumber(2)
    assert not widget.ui.structureTable.isVisible()
    assert widget.ui.resultLabel.text == "No result of this module."
    browser.SetSelectedItemNumber(1)
    assert widget.ui.structureTable.rowCount == 2 and widget.ui.structureTable.isVisible()


def test_every_frame_beginning_with_the_selected_one(widget, choices, browser, segmenter, answer):
    click(widget.ui.everyFrameCheckBox)
    click(widget.ui.segmentButton)
    segmenter.progress("axial", 0.5)
    wait(lambda: widget.ui.progressBar.value == 17)
    assert widget.ui.progressLabel.text == "Frame 1 of 3: Segmenting axial slices…"
    answer()
    segmenter.progress("axial", 0.5)
    wait(lambda: widget.ui.progressBar.value == 50)
    assert widget.ui.progressLabel.text.startswith("Frame 2 of 3: Segmenting axial slices… ")
    assert widget.ui.progressLabel.text.endswith(" left")
    answer()
    answer()
    assert not widget.panel.run.running and [value_of(job) for job in segmenter.jobs] == [101, 100, 102]
    (node,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert choices.resultSegmentation is node and widget.panel.messages.shown == []
    for number in range(FRAMES):
        browser.SetSelectedItemNumber(number)
        assert first_voxel(node) == number + 1
        assert widget.ui.structureTable.rowCount == 2


def test_again_into_the_same_segmentation_and_back(widget, choices, browser, segmenter, answer):
    click(widget.ui.segmentButton)
    answer()
    node = choices.outputSegmentation = choices.resultSegmentation
    click(widget.ui.segmentButton)
    segmenter.succeed(make_result(segmenter.jobs[-1].image, widget.panel.models.card, corner=6))
    wait(lambda: not widget.panel.run.running)
    assert choices.resultSegmentation is node and first_voxel(node) == 6
    browser.SetSelectedItemNumber(0)
    assert not widget.ui.undoButton.enabled
    browser.SetSelectedItemNumber(1)
    click(widget.ui.undoButton)
    assert first_voxel(node) == 2 and widget.ui.structureTable.isVisible()


def test_a_region_leaves_the_earlier_result_of_a_frame_outside_of_it(widget, choices, browser, segmenter, answer):
    click(widget.ui.segmentButton)
    answer()  # a structure at 2 to 4
    node = choices.outputSegmentation = choices.resultSegmentation
    choices.region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    choices.region.SetCenter(7, 7, 7)
    choices.region.SetSize(6, 6, 6)
    click(widget.ui.segmentButton)
    segmenter.succeed(make_result(segmenter.jobs[-1].image, widget.panel.models.card, corner=6))
    wait(lambda: not widget.panel.run.running)
    places = np.argwhere(slicer.util.arrayFromSegmentBinaryLabelmap(node, "Segment_1", choices.inputVolume))
    assert len(places) == 27 + 27 - 1 and (places.min(0) == 2).all() and (places.max(0) == 8).all()  # one is in it
    assert "Only the region box was replaced" in widget.panel.messages.shown[-1].text
    click(widget.ui.undoButton)
    assert first_voxel(node) == 2


@pytest.mark.parametrize("box", ["recalibrateButton", "attentionCheckBox"])
def test_what_is_for_single_volumes_only_says_so(widget, browser, choices, segmenter, answer, box):
    click(widget.ui.segmentButton)
    answer()
    click(getattr(widget.ui, box))
    (message,) = widget.panel.messages.shown
    assert "shows the frames of a sequence" in message.text and "Clone the frame" in message.remedy
    assert len(segmenter.jobs) == 1 and not widget.panel.run.running


def test_cancelled_frames_that_are_done_stay(widget, choices, browser, segmenter, answer):
    choices.everyFrame = True
    click(widget.ui.segmentButton)
    answer()
    widget.panel.run.cancel()
    wait(lambda: not widget.panel.run.running)
    (message,) = widget.panel.messages.shown
    assert message.text == "The segmentation was cancelled." and message.remedy == "1 of 3 frames are done and kept."
    assert first_voxel(choices.resultSegmentation) == 2


def test_a_frame_that_fails_ends_the_run(widget, choices, browser, segmenter, answer):
    choices.everyFrame = True
    click(widget.ui.segmentButton)
    answer()
    segmenter.fail(WorkerError("It broke.", "Try again."))
    wait(lambda: not widget.panel.run.running)
    (message,) = widget.panel.messages.shown
    assert (message.text, message.remedy) == ("It broke.", "Try again. 1 of 3 frames are done and kept.")


def test_an_output_that_does_not_follow_the_frames(widget, choices, browser, segmenter, answer):
    plain = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "plain")
    plain.CreateDefaultDisplayNodes()
    choices.outputSegmentation, choices.everyFrame = plain, True
    click(widget.ui.segmentButton)
    assert widget.panel.messages.shown[0].text == "The segmentation plain does not follow the frames of heart."
    choices.everyFrame = False
    click(widget.ui.segmentButton)
    answer()
    assert choices.resultSegmentation is plain and first_voxel(plain) == 2


def test_frames_that_vanish_during_the_run(widget, choices, browser, segmenter, answer):
    choices.everyFrame = True
    click(widget.ui.segmentButton)
    slicer.mrmlScene.RemoveNode(browser)
    answer()
    assert "no longer in the scene" in widget.panel.messages.shown[0].text and not widget.panel.run.running


def test_a_script_segments_every_frame(widget, browser, choices, segmenter):
    import sys

    logic = sys.modules["SESegmentation"].SESegmentationLogic()
    card, submit = widget.panel.models.card, segmenter.submit

    def submit_and_answer(job):
        handle = submit(job)
        segmenter.succeed(make_result(job.image, card, corner=value_of(job) - 99))
        return handle

    segmenter.submit = submit_and_answer
    node = logic.segment(choices.inputVolume, "tiny-t1", everyFrame=True)
    assert len(segmenter.jobs) == FRAMES
    browser.SetSelectedItemNumber(2)
    assert first_voxel(node) == 3


def test_a_slice_that_was_corrected_in_a_frame_stays(widget, choices, browser, segmenter, answer):
    click(widget.ui.segmentButton)
    answer()
    node = choices.outputSegmentation = choices.resultSegmentation
    draw(node, k=3)
    before = first_segment(node)
    assert [str(entry) for entry in find_corrected_slices(node)] == ["k:3"]
    click(widget.ui.segmentButton)
    segmenter.succeed(make_result(segmenter.jobs[-1].image, widget.panel.models.card, corner=6))
    wait(lambda: not widget.panel.run.running)
    assert (first_segment(node)[3] == before[3]).all() and first_segment(node)[6].any()
    assert "Corrected slices, left as they are: axial 3." in [message.text for message in widget.panel.messages.shown]


def test_the_list_follows_edits_in_whichever_frame_is_on_show(widget, choices, browser, answer):
    choices.everyFrame = True
    click(widget.ui.segmentButton)
    for _frame in range(FRAMES):
        answer()
    browser.SetSelectedItemNumber(2)
    draw(choices.resultSegmentation, k=4)
    assert [row[-1] for row in cells(widget)] == ["to check", "corrected"]
    browser.SetSelectedItemNumber(0)
    assert [row[-1] for row in cells(widget)] == ["to check", "to check"]


@pytest.mark.parametrize("change", ["removed", "added"])
def test_results_go_into_their_own_frames_where_the_sequence_changes_meanwhile(
    widget, choices, browser, segmenter, answer, change
):
    click(widget.ui.everyFrameCheckBox)
    click(widget.ui.segmentButton)
    answer()
    assert value_of(segmenter.jobs[-1]) == 100
    volumes = browser.GetMasterSequenceNode()
    if change == "removed":
        volumes.RemoveDataNodeAtValue("0")
    else:
        volumes.SetIndexType(slicer.vtkMRMLSequenceNode.NumericIndex)
        volumes.SetDataNodeAtValue(volumes.GetNthDataNode(0), "-1")
    while widget.panel.run.running:
        answer()
    found = first_slices(browser.GetSequenceNode(choices.resultSegmentation))
    if change == "removed":
        (message,) = widget.panel.messages.shown
        assert message.text == "The frame 0 of heart was removed from its sequence."
        assert message.remedy == "Segment the sequence as it is now. 1 of 3 frames are done and kept." and found == {
            "1": 2
        }
    else:
        assert widget.panel.messages.shown == [] and found == {"0": 1, "1": 2, "2": 3}


def first_slices(sequence) -> dict[str, int]:
    """By index value of the frames that hold segments, the first slice of the first segment."""
    found = {}
    for number in range(sequence.GetNumberOfDataNodes()):
        segment = sequence.GetNthDataNode(number).GetSegmentation().GetSegment("Segment_1")
        if segment is not None:
            found[sequence.GetNthIndexValue(number)] = segment.GetRepresentation("Binary labelmap").GetExtent()[4]
    return found
