"""Proposals from corrections, accepted, rejected and undone, by clicks, with a fake behind the panel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from panel_clicks import cells, click, draw, first_segment, wait
from panel_fakes import adapted_file, make_package, make_refined

from harness import application
from SESegmentationLib.errors import WorkerError
from SESegmentationLib.mrml import EditRecord, adapted_parameters, find_corrected_slices, review_state
from SESegmentationLib.panel.result_record import ResultRecord
from SESegmentationLib.result import NO_GAIN, NOTHING_CORRECTED, NOTHING_SAID

STATUS = slicer.vtkSlicerSegmentationsModuleLogic


def test_a_proposal_is_told_and_changes_nothing_until_it_is_accepted(widget, segment, segmenter, recalibrate):
    node = segment()
    draw(node)
    before = first_segment(node)
    recalibrate()
    job = segmenter.jobs[-1]
    assert job.slices == ("k:3",) and job.options.roi is None
    assert (first_segment(node) == before).all() and cells(widget)[1][3].startswith("+")
    assert widget.ui.acceptButton.enabled is False and widget.ui.recalibrateButton.enabled is False
    click(widget.ui.acceptChangesButton)
    assert (first_segment(node)[3] == before[3]).all() and (first_segment(node) != before).any()
    assert adapted_parameters(node) == adapted_file(widget.panel.models.card)
    click(widget.ui.undoButton)
    assert (first_segment(node) == before).all() and adapted_parameters(node) is None
    assert [str(entry) for entry in find_corrected_slices(node)] == ["k:3"]


def test_an_accepted_proposal_is_taken_back_and_made_again(widget, segment, recalibrate):
    node = segment()
    ui = widget.ui
    draw(node)
    recalibrate()
    assert not ui.redoButton.enabled
    before = first_segment(node)
    click(ui.acceptChangesButton)
    after, adapted = first_segment(node), adapted_parameters(node)
    assert (after != before).any() and not ui.redoButton.enabled
    for _ in range(2):
        click(ui.undoButton)
        assert (first_segment(node) == before).all() and adapted_parameters(node) is None
        assert "recalibrated" not in ui.resultLabel.text and not ui.undoButton.enabled
        click(ui.redoButton)
        assert (first_segment(node) == after).all() and adapted_parameters(node) == adapted
        assert "recalibrated" in ui.resultLabel.text and not ui.redoButton.enabled
    assert [str(entry) for entry in find_corrected_slices(node)] == ["k:3"]
    assert ui.doubtCheckBox.enabled and cells(widget)[1][3] == "corrected"


@pytest.mark.parametrize("change", ["stroke", "status", "result"])
def test_what_was_done_after_an_undo_is_never_lost_to_a_redo(widget, segment, choices, change):
    node = choices.outputSegmentation = segment()
    segment(corner=5)
    click(widget.ui.undoButton)
    assert widget.ui.redoButton.enabled
    if change == "stroke":
        draw(node)
    elif change == "status":
        click(widget.ui.nextButton)
        click(widget.ui.acceptButton)
    else:
        segment(corner=7)
    application.process_events()
    assert not widget.ui.redoButton.enabled


def test_accepted_structures_are_in_no_proposal(widget, segment, recalibrate):
    node = segment()
    draw(node)
    STATUS.SetSegmentStatus(node.GetSegmentation().GetSegment("Segment_1"), STATUS.Completed)
    before = first_segment(node)
    recalibrate(grow=2)
    assert not widget.ui.previewFrame.isVisible() and (first_segment(node) == before).all()
    assert "already agree with what would be proposed" in widget.panel.messages.shown[-1].text
    assert review_state(node.GetSegmentation().GetSegment("Segment_1")) == "accepted"


@pytest.mark.parametrize("when", ["before", "while it is shown"])
def test_no_proposal_brings_back_a_structure_that_was_deleted(widget, segment, segmenter, recalibrate, when):
    node = segment()
    written = sitk.GetArrayFromImage(EditRecord.read(node).written[-1].labels) == 1
    segmentation, ui = node.GetSegmentation(), widget.ui
    draw(node, identifier="Segment_2")
    if when == "before":
        segmentation.RemoveSegment("Segment_1")
    recalibrate()
    if when == "before":  # it was the only one to grow
        assert not ui.previewFrame.isVisible() and "already agree" in widget.panel.messages.shown[-1].text
        draw(node, k=5, identifier="Segment_2")
        recalibrate_with_more(widget, segmenter)
    else:
        segmentation.RemoveSegment("Segment_1")
    click(ui.acceptChangesButton)
    assert segmentation.GetSegmentIDs() == ("Segment_2",) and ResultRecord.read(node).adapted
    values = slicer.util.arrayFromSegmentInternalBinaryLabelmap(node, "Segment_2")
    assert set(np.unique(values)) <= {0, 2}
    draw(node, k=6, identifier="Segment_2")
    click(ui.recalibrateButton)  # nor is it learnt that it is not there
    learnt = sitk.GetArrayFromImage(segmenter.jobs[-1].labels)
    assert ((learnt == 1) == (written & (learnt != 2))).all() and (learnt == 1).any()


def test_a_proposal_that_is_accepted_after_all_structures_were_deleted_leaves_the_record_usable(
    widget, segment, recalibrate
):
    node = segment()
    draw(node)
    recalibrate()
    node.GetSegmentation().RemoveAllSegments()
    click(widget.ui.acceptChangesButton)
    assert node.GetSegmentation().GetNumberOfSegments() == 0 and EditRecord.is_valid(node)


@pytest.mark.parametrize("what", ["deleted", "taken back"])
def test_nothing_is_learnt_from_corrections_that_are_gone_meanwhile(widget, segment, segmenter, what):
    node = segment()
    before = first_segment(node)
    draw(node)
    click(widget.ui.recalibrateButton)
    if what == "deleted":
        node.GetSegmentation().RemoveSegment("Segment_1")
    else:
        volume = widget.logic.getParameterNode().inputVolume
        slicer.util.updateSegmentBinaryLabelmapFromArray(before, node, "Segment_1", volume)
    segmenter.succeed_refinement(make_refined(segmenter.jobs[-1], widget.panel.models.card))
    wait(lambda: not widget.panel.run.running)
    (message,) = widget.panel.messages.shown
    assert message.level == "error" and "taken back, or their segments deleted" in message.text
    assert not widget.ui.previewFrame.isVisible()


def recalibrate_with_more(widget, segmenter) -> None:
    """Recalibrate by a click, with a proposal in which both structures have grown."""
    click(widget.ui.recalibrateButton)
    job = segmenter.jobs[-1]
    labels = sitk.GetArrayFromImage(job.labels)
    labels[8, 2:5, 2:5], labels[9, 2:5, 2:5] = 1, 2
    grown = sitk.GetImageFromArray(labels)
    grown.CopyInformation(job.labels)
    refined = make_refined(job, widget.panel.models.card)
    segmenter.succeed_refinement(replace(refined, result=replace(refined.result, labels=grown)))
    wait(lambda: not widget.panel.run.running)


@pytest.mark.parametrize("reason", [NO_GAIN, NOTHING_CORRECTED, NOTHING_SAID])
def test_where_nothing_is_to_be_gained_nothing_is_proposed(widget, segment, segmenter, reason):
    node = segment()
    draw(node)
    before = first_segment(node)
    click(widget.ui.recalibrateButton)
    refined = make_refined(segmenter.jobs[-1], widget.panel.models.card)
    segmenter.succeed_refinement(replace(refined, adapted=None, parameters=0, kept_because=reason))
    wait(lambda: widget.panel.messages.shown)
    told = widget.panel.messages.shown[-1].text
    assert told == f"Your corrections are kept; nothing else was changed, because {reason}."
    assert not widget.ui.previewFrame.isVisible() and (first_segment(node) == before).all()
    assert widget.ui.recalibrateButton.enabled and [str(entry) for entry in find_corrected_slices(node)] == ["k:3"]


@pytest.mark.parametrize(
    ("how", "said"), [("batch_norms_adapted", "was adapted to"), ("contrast_reversed", "dark exchanged")]
)
@pytest.mark.parametrize("adapted", [False, True])
def test_a_proposal_tells_whether_the_network_was_adapted_to_the_scan(widget, segment, segmenter, adapted, how, said):
    node = segment()
    draw(node)
    click(widget.ui.recalibrateButton)
    refined = make_refined(segmenter.jobs[-1], widget.panel.models.card)
    segmenter.succeed_refinement(replace(refined, **{how: adapted}))
    wait(lambda: widget.ui.previewFrame.isVisible())
    assert (said in widget.ui.previewLabel.text) == adapted


@pytest.mark.parametrize(("asked", "done"), [(True, True), (True, False), (False, False)])
def test_a_proposal_tells_that_recalibration_showed_no_gain(widget, segment, segmenter, choices, asked, done):
    draw(segment())
    choices.recalibrate = asked
    click(widget.ui.recalibrateButton)
    refined = make_refined(segmenter.jobs[-1], widget.panel.models.card)
    segmenter.succeed_refinement(refined if done else replace(refined, adapted=None, parameters=0))
    wait(lambda: widget.ui.previewFrame.isVisible())
    assert ("was not recalibrated" in widget.ui.previewLabel.text) == (asked and not done)


def test_a_proposal_tells_what_changes_outside_of_the_corrected_slices(widget, segment, recalibrate):
    node = segment()
    draw(node)
    before = first_segment(node)
    recalibrate()
    told = widget.ui.previewLabel.text
    click(widget.ui.acceptChangesButton)
    after = first_segment(node)
    gained, lost = (after & ~before).sum(), (before & ~after).sum()
    name = node.GetSegmentation().GetSegment("Segment_1").GetName()
    assert f"{name} +{gained} \N{MINUS SIGN}{lost}" in told and "axial 3" in told


def test_what_is_drawn_during_a_recalibration_is_kept(widget, segment, segmenter):
    node = segment()
    draw(node)
    click(widget.ui.recalibrateButton)
    draw(node, k=4)
    before = first_segment(node)
    segmenter.succeed_refinement(make_refined(segmenter.jobs[-1], widget.panel.models.card, 3))
    wait(lambda: not widget.panel.run.running)
    draw(node, k=2)
    at_last = first_segment(node)
    click(widget.ui.acceptChangesButton)
    assert (first_segment(node)[[3, 4]] == before[[3, 4]]).all() and (first_segment(node)[2] == at_last[2]).all()


@pytest.mark.parametrize("end", ["remove", "another", "segment", "close"])
def test_a_proposal_ends_with_what_it_is_about(widget, segment, recalibrate, choices, end):
    other, node = segment(), segment()
    draw(node)
    recalibrate()
    assert widget.ui.previewFrame.isVisible()
    if end == "remove":
        slicer.mrmlScene.RemoveNode(node)
    elif end == "another":
        choices.resultSegmentation = other
    elif end == "segment":
        segment()
    else:
        slicer.mrmlScene.Clear(False)
    assert not widget.ui.previewFrame.isVisible()
    nodes = [slicer.util.getNodesByClass(f"vtkMRMLSegmentation{kind}Node") for kind in ("", "Display")]
    assert not [each for each in nodes[0] if each.GetName().endswith("proposal")]
    assert {"close": 0, "segment": 3}.get(end, 2) == len(nodes[1])
    assert widget.panel.messages.shown == []


@pytest.mark.parametrize("gone", ["volume", "segmentation", "scene"])
def test_what_is_removed_during_a_recalibration_ends_it(widget, segment, choices, gone):
    node = segment()
    draw(node)
    click(widget.ui.recalibrateButton)
    if gone == "scene":
        slicer.mrmlScene.Clear(False)
        assert widget.panel.messages.shown == []
    else:
        slicer.mrmlScene.RemoveNode(node if gone == "segmentation" else choices.inputVolume)
        assert "was removed" in widget.panel.messages.shown[0].text
    assert not widget.panel.run.running


@pytest.mark.parametrize("gone", ["volume", "segment"])
def test_a_proposal_stays_where_there_is_nothing_to_correct(widget, segment, recalibrate, choices, gone):
    node = segment()
    click(widget.ui.nextButton)
    draw(
        node, identifier=node.GetSegmentation().GetSegmentIdBySegmentName(widget.panel.result.review.current.label.name)
    )
    recalibrate()
    if gone == "volume":
        slicer.mrmlScene.RemoveNode(choices.inputVolume)
    else:
        node.GetSegmentation().RemoveSegment(node.GetSegmentation().GetNthSegmentID(1))
    click(widget.ui.correctButton)
    (message,) = widget.panel.messages.shown
    assert message.level == "error" and widget.ui.previewFrame.isVisible()


def test_a_recalibration_that_fails_or_cannot_begin(widget, segment, segmenter, choices, models):
    node = segment()
    draw(node)
    click(widget.ui.recalibrateButton)
    segmenter.fail(WorkerError("It broke.", "Again."))
    wait(lambda: not widget.panel.run.running)
    assert widget.panel.messages.shown[0].text == "It broke." and widget.ui.recalibrateButton.enabled

    make_package(models.parent / "elsewhere")
    card = models / "tiny-t1" / "model.json"
    text = card.read_text(encoding="utf-8")
    sha = widget.panel.models.card.weights_sha256
    card.write_text(text.replace(sha, "0" * 64), encoding="utf-8")
    click(widget.ui.recalibrateButton)
    assert "has changed since" in widget.panel.messages.shown[0].text
    card.write_text(text, encoding="utf-8")

    shift = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetAndObserveTransformNodeID(shift.GetID())
    click(widget.ui.recalibrateButton)
    assert "not under the same transform" in widget.panel.messages.shown[0].text
    node.SetAndObserveTransformNodeID(None)
    slicer.mrmlScene.RemoveNode(choices.inputVolume)
    click(widget.ui.recalibrateButton)
    assert "no longer in the scene" in widget.panel.messages.shown[0].text


def test_recalibration_needs_consent_to_the_models_terms_too(widget, segment, segmenter, choices, models):
    make_package(models, "tiny-t1", licence={"spdx": "CC-BY-NC-4.0", "name": "CC", "free": False})
    widget.enter()
    click(widget.ui.licenceCheckBox)
    draw(segment())
    click(widget.ui.licenceCheckBox)  # as on another computer, to which the scene was brought
    click(widget.ui.recalibrateButton)
    assert "not accepted" in widget.panel.messages.shown[0].text and len(segmenter.jobs) == 1
    click(widget.ui.licenceCheckBox)
    click(widget.ui.recalibrateButton)
    assert len(segmenter.jobs) == 2


def test_the_region_of_the_result_is_that_of_its_recalibration(widget, segment, segmenter, choices, make_volume):
    make_volume()
    choices.region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    choices.region.SetCenter(8, 8, 8)
    choices.region.SetSize(14, 14, 14)
    node = segment()
    choices.region = None
    draw(node)
    click(widget.ui.recalibrateButton)
    assert segmenter.jobs[-1].options.roi is not None
