"""The region of interest of a result: it is learnt from there, and kept through undo, moves and saved scenes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from panel_clicks import click, draw, save_and_reopen, texts, wait
from panel_fakes import make_refined, make_result

from SESegmentationLib.geometry import Geometry
from SESegmentationLib.mrml import DOUBT, find_corrected_slices
from SESegmentationLib.panel.reports import scene_report
from SESegmentationLib.panel.result_record import RECORD_ATTRIBUTE, ResultRecord
from SESegmentationLib.result import Finding

LOGIC = slicer.vtkSlicerSegmentationsModuleLogic


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


# --- into a result of more than the region ------------------------------------------------------------------------


def held(node, identifier="Segment_1"):
    """Where a segment has voxels, (k, j, i)."""
    volume = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    return slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume) > 0


def cube(corner):
    """The voxels of the first structure of a result, see :func:`make_result`."""
    inside = np.zeros((16, 18, 20), bool)
    inside[(slice(corner, corner + 3),) * 3] = True
    return inside


@pytest.fixture
def around(choices, box, segment):
    """A result of the whole volume, outside of a region (voxels 0 to 8) that is chosen with it as the output."""
    choices.region = None
    choices.outputSegmentation = segment(corner=10)
    choices.region = box
    return choices.outputSegmentation


def test_a_result_of_a_region_leaves_the_earlier_result_outside_of_it(widget, segment, around):
    assert segment(corner=2) is around
    assert (held(around) == (cube(2) | cube(10))).all()
    (message,) = texts(widget.panel.messages.shown)
    told = "Only the region box was replaced; outside it, the earlier result is unchanged."
    assert message == ("information", told)
    (row,) = [entry for entry in scene_report(around)["structures"] if entry["voxels"]]
    assert row["voxels"] == 2 * 27 and row["corrected_voxels"] == 0
    segment(corner=5)  # what is in the region is replaced
    assert (held(around) == (cube(5) | cube(10))).all()


def test_undo_and_redo_of_a_result_of_a_region(widget, segment, choices, around):
    segment(corner=2)
    record = ResultRecord.read(around)
    click(widget.ui.undoButton)
    assert (held(around) == cube(10)).all() and ResultRecord.read(around).region is None
    click(widget.ui.redoButton)
    assert (held(around) == (cube(2) | cube(10))).all() and ResultRecord.read(around) == record
    choices.region = None
    segment(corner=4)  # the whole volume again
    assert (held(around) == cube(4)).all()


def test_a_region_that_cuts_through_a_structure_divides_old_from_new(segment, choices, box, around):
    box.SetSize(14, 14, 14)  # voxels 0 to 11
    segment(corner=2)
    left = cube(10)
    left[:12, :12, :12] = False
    assert (held(around) == (cube(2) | left)).all() and 0 < left.sum() < 27


@pytest.mark.parametrize("angle", [0, 30])
def test_nothing_changes_outside_the_box_whatever_the_directions(segment, choices, box, around, angle):
    volume, turn = choices.inputVolume, np.radians(angle)
    matrix = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, -1]])
    volume.SetIJKToRASDirections(*matrix.ravel())
    choices.region, choices.outputSegmentation = None, None
    node = choices.outputSegmentation = segment(corner=3)
    before = held(node)
    box.SetCenter(*(matrix @ [4, 4, 4]))
    box.SetSize(2.4, 2.4, 2.4)  # of the turned structure the corners are outside
    choices.region = box
    segment(corner=20)  # nothing is found
    places = np.argwhere(before)
    outside = (np.abs((places[:, ::-1] - 4) @ matrix.T) > 1.2).any(1)
    kept = np.zeros_like(before)
    kept[tuple(places[outside].T)] = True
    assert (held(node) == kept).all() and outside.any() == (angle != 0)


def test_corrections_and_accepted_structures_are_spared_in_and_outside_the_region(widget, segment, choices, around):
    draw(around, k=3)
    draw(around, k=12, identifier="Segment_2")
    drawn = {k: held(around)[k].copy() for k in (3, 12)}
    second = held(around, "Segment_2")
    LOGIC.SetSegmentStatus(around.GetSegmentation().GetSegment("Segment_2"), LOGIC.Completed)
    segment(corner=2)
    assert all((held(around)[k] == voxels).all() for k, voxels in drawn.items())
    assert (held(around, "Segment_2") == second).all() and held(around)[2, 2:5, 2:5].all()
    assert [str(entry) for entry in find_corrected_slices(around)] == ["k:3,12"]
    assert len(widget.panel.messages.shown) == 3


def test_a_structure_outside_the_region_is_reported_as_it_was_found(widget, segment, choices, around):
    before = ResultRecord.read(around).structures[0]
    segment(corner=20, voxels=0, confidence=0.0, findings=[Finding("noise", "It is noisy.", "Look.")])
    record = ResultRecord.read(around)
    for name in ("voxels", "confidence", "centre_lps", "doubtful_lps"):
        assert getattr(record.structures[0], name) == getattr(before, name)
    findings = {finding.code: finding.message for finding in record.findings}
    assert findings == {"noise": "It is noisy.", "not-found": "Not found: posterior hippocampus."}


def test_the_doubt_outside_the_region_stays(widget, segment, segmenter, choices, around):
    choices.region = None
    result = make_result(segmenter.jobs[-1].image, widget.panel.models.card)
    doubts = [Geometry.of(result.labels).image(np.full((16, 18, 20), value, np.float32)) for value in (0.25, 0.5)]
    for region, doubt in zip((None, slicer.util.getNode("box")), doubts, strict=True):
        choices.region = region
        click(widget.ui.segmentButton)
        segmenter.succeed(replace(result, doubt=doubt, labels=make_result(doubt, result.model, corner=10).labels))
        wait(lambda: not widget.panel.run.running)
    click(widget.ui.doubtCheckBox)
    shown = slicer.util.arrayFromVolume(DOUBT.volume(around))
    assert (shown[:9, :9, :9] == shown[0, 0, 0]).all() and (shown[9:] == shown[-1, 0, 0]).all()
    assert shown[0, 0, 0] == pytest.approx(2 * shown[-1, 0, 0], abs=2)


def test_what_is_learnt_in_the_region_changes_nothing_outside_of_it(widget, segment, segmenter, recalibrate, around):
    segment(corner=2)
    draw(around, k=3)
    click(widget.ui.recalibrateButton)
    refined = make_refined(segmenter.jobs[-1], widget.panel.models.card)
    labels = sitk.GetArrayFromImage(refined.result.labels)
    labels[9:], labels[:, 9:], labels[:, :, 9:] = 0, 0, 0  # the networks look in the region only
    missing = Finding("not-found", "Not found: anterior hippocampus.", "Look.")
    result = replace(refined.result, labels=Geometry.of(refined.result.labels).image(labels), findings=[missing])
    segmenter.succeed_refinement(replace(refined, result=result))
    wait(lambda: not widget.panel.run.running)
    assert "anterior hippocampus +6 \N{MINUS SIGN}0" in widget.ui.previewLabel.text
    assert "Not found: anterior" not in widget.ui.previewLabel.text
    drawn = held(around)
    click(widget.ui.acceptChangesButton)
    after = held(around)
    assert (after[9:] == drawn[9:]).all() and after[9:].any() and (after[3] == drawn[3]).all()
    assert (after & ~drawn).sum() == 6 and ResultRecord.read(around).region.name == "box"


@pytest.mark.parametrize("is_there", [True, False])
def test_the_result_of_another_volume_does_not_stay_outside_the_region(
    widget, segment, choices, make_volume, around, is_there
):
    other, first = make_volume(name="other"), choices.inputVolume
    if not is_there:
        slicer.mrmlScene.RemoveNode(first)
    assert segment(other, corner=2) is around
    assert (held(around) == cube(2)).all()
    (message,) = widget.panel.messages.shown
    assert f"All of {around.GetName()} was replaced" in message.text
    click(widget.ui.undoButton)
    choices.outputSegmentation.SetNodeReferenceID(around.GetReferenceImageGeometryReferenceRole(), other.GetID())
    assert (held(around) == cube(10)).all()
