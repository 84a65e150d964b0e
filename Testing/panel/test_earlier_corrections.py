"""Corrections of an earlier scan as a start for a later one, by clicks, with a fake behind the panel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from panel_clicks import click, draw, first_segment, wait
from panel_fakes import make_result

from SESegmentationLib.io.segmentations import ALGORITHM_TYPE_TAG, AUTOMATIC, SEMIAUTOMATIC
from SESegmentationLib.mrml import find_corrected_slices, source_volume
from SESegmentationLib.mrml.layers import tag
from SESegmentationLib.panel.result_record import ResultRecord


@pytest.fixture
def two_times(widget, segmenter, choices):
    """Function that segments one head at two times, moved in between; the earlier and the later result."""

    def scan(name: str, origin: tuple[float, float, float], side: int) -> slicer.vtkMRMLSegmentationNode:
        places = np.indices((32, 36, 40)).astype(float)
        spots = [(10, 12, 14), (20, 22, 26), (14, 26, 12)]
        head = sum(np.exp(-sum((p - c) ** 2 for p, c in zip(places, spot, strict=True)) / 40) for spot in spots)
        choices.inputVolume = slicer.util.addVolumeFromArray((1000 * head).astype(np.int16), name=name)
        choices.inputVolume.SetOrigin(*origin)
        choices.outputSegmentation = None
        click(widget.ui.segmentButton)
        result = make_result(segmenter.jobs[-1].image, widget.panel.models.card)
        array = np.zeros(places.shape[1:], np.uint8)
        array[6 : 6 + side, 8 : 8 + side, 8 : 8 + side] = 1
        labels = sitk.GetImageFromArray(array)
        labels.CopyInformation(result.labels)
        segmenter.succeed(replace(result, labels=labels))
        wait(lambda: not widget.panel.run.running)
        return choices.resultSegmentation

    def both(later_side: int = 14):
        return scan("earlier", (0, 0, 0), 14), scan("later", (12.0, -7.0, 5.0), later_side)

    return both


def test_corrections_of_an_earlier_scan_are_a_start_for_the_later(widget, two_times):
    earlier, later = two_times()
    ui = widget.ui
    click(ui.takeOverButton)
    assert widget.panel.messages.shown[-1].text == "No earlier result is chosen."
    ui.earlierSelector.setCurrentNode(earlier)
    click(ui.takeOverButton)
    assert "Nothing was corrected in" in widget.panel.messages.shown[-1].text
    draw(earlier, k=4)
    drawn = first_segment(earlier)
    before = first_segment(later)
    assert (drawn != before).sum() == 20
    for end in (ui.rejectChangesButton, ui.acceptChangesButton):
        click(ui.takeOverButton)
        assert earlier.GetName() in ui.previewLabel.text and "+20" in ui.previewLabel.text
        assert (first_segment(later) == before).all() and not ui.takeOverButton.enabled
        click(end)
    assert (first_segment(later) == drawn).all() and (first_segment(earlier) == drawn).all()
    segment = later.GetSegmentation().GetSegment("Segment_1")
    assert tag(segment, ALGORITHM_TYPE_TAG) == SEMIAUTOMATIC
    assert ResultRecord.read(later).structures[0].corrected == 20
    click(ui.takeOverButton)
    assert "would change nothing" in widget.panel.messages.shown[-1].text
    click(ui.undoButton)
    assert (first_segment(later) == before).all() and tag(segment, ALGORITHM_TYPE_TAG) == AUTOMATIC


def test_corrections_are_taken_over_outside_the_region_of_the_later_result_too(widget, two_times, choices):
    choices.region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    choices.region.SetCenter(25, 20, 20)
    choices.region.SetSize(10, 10, 10)
    earlier, later = two_times()
    draw(earlier, k=4)
    drawn = first_segment(earlier)
    widget.ui.earlierSelector.setCurrentNode(earlier)
    click(widget.ui.takeOverButton)
    assert "+20" in widget.ui.previewLabel.text
    click(widget.ui.acceptChangesButton)
    assert (first_segment(later) == drawn).all() and ResultRecord.read(later).region.name == "box"


def test_corrections_that_find_no_place_are_not_taken_over(widget, two_times):
    earlier, later = two_times(later_side=3)
    draw(earlier, k=4)
    before = first_segment(later)
    widget.ui.earlierSelector.setCurrentNode(earlier)
    click(widget.ui.takeOverButton)
    assert "could not be aligned" in widget.panel.messages.shown[-1].text
    assert not widget.ui.previewFrame.isVisible() and (first_segment(later) == before).all()


def test_it_is_said_why_nothing_is_known_of_the_corrections_of_an_earlier_scan(widget, two_times):
    earlier, _later = two_times()
    draw(earlier, k=4)
    shift = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    shift.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.eye(4) + np.eye(4, k=3)))
    for node in (earlier, source_volume(earlier)):
        node.SetAndObserveTransformNodeID(shift.GetID())
        node.HardenTransform()
    widget.ui.earlierSelector.setCurrentNode(earlier)
    click(widget.ui.takeOverButton)
    assert "was moved by a hardened transform" in widget.panel.messages.shown[-1].text


def test_what_was_deleted_in_the_later_scan_is_not_taken_over(widget, two_times):
    earlier, later = two_times()
    draw(earlier, k=4)
    draw(earlier, k=9, identifier="Segment_2")
    later.GetSegmentation().RemoveSegment("Segment_2")
    widget.ui.earlierSelector.setCurrentNode(earlier)
    click(widget.ui.takeOverButton)
    assert "anterior" in widget.ui.previewLabel.text and "posterior" not in widget.ui.previewLabel.text
    click(widget.ui.acceptChangesButton)
    assert later.GetSegmentation().GetSegmentIDs() == ("Segment_1",)


def test_what_was_done_in_the_later_scan_stays(widget, two_times):
    earlier, later = two_times()
    draw(earlier, k=4)
    draw(later, k=2)
    before = first_segment(later)
    widget.ui.earlierSelector.setCurrentNode(earlier)
    click(widget.ui.takeOverButton)
    click(widget.ui.acceptChangesButton)
    after = first_segment(later)
    assert (after[2] == before[2]).all() and (after[4] != before[4]).sum() == 20
    assert [str(entry) for entry in find_corrected_slices(later)] == ["k:2"]
