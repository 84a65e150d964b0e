"""What the clinician does to segments in other modules: deletes, copies, turns into surfaces."""

from __future__ import annotations

import pytest
import SimpleITK as sitk
import slicer
from panel_clicks import cells, click, draw, first_segment, save_and_reopen, wait
from panel_fakes import make_refined

from SESegmentationLib.errors import InputError
from SESegmentationLib.models.labels import structure_label
from SESegmentationLib.mrml import EditRecord, find_corrected_slices, review_state
from SESegmentationLib.panel.reports import scene_report


def test_a_deleted_segment_is_said_to_be_deleted_at_once(widget, segment):
    node = segment()
    node.GetSegmentation().RemoveSegment("Segment_1")
    states = {row[0]: row[-1] for row in cells(widget)}
    assert states == {"anterior hippocampus": "deleted", "posterior hippocampus": "to check"}
    widget.enter()
    assert [row[1] for row in cells(widget)] == ["not found", "0.00"]


def test_it_is_not_learnt_that_a_deleted_structure_is_not_there(widget, segment, segmenter):
    node = segment()
    written = sitk.GetArrayFromImage(EditRecord.read(node).written[-1].labels) == 1
    node.GetSegmentation().RemoveSegment("Segment_1")
    draw(node, k=3, identifier="Segment_2")
    click(widget.ui.recalibrateButton)
    learnt = sitk.GetArrayFromImage(segmenter.jobs[-1].labels)
    assert segmenter.jobs[-1].kind == "refine" and (learnt == 2).any()
    assert ((learnt == 1) == (written & (learnt != 2))).all() and (learnt == 1).any()


@pytest.mark.parametrize("what", ["terminology", "name", "both"])
def test_a_segment_that_is_called_otherwise_is_not_deleted(widget, segment, segmenter, recalibrate, tmp_path, what):
    node = segment()
    first = node.GetSegmentation().GetSegment("Segment_1")
    if what != "name":
        first.SetTag(first.GetTerminologyEntryTagName(), structure_label(1, "amygdala").terminology_entry())
    if what != "terminology":
        first.SetName("lesion")
    first.SetColor(0.5, 0.25, 0.125)
    assert {row[-1] for row in cells(widget)} == {"to check"}
    draw(node)
    save_and_reopen(tmp_path)
    node = widget.logic.getParameterNode().resultSegmentation
    drawn = first_segment(node)
    assert scene_report(node)["structures"][0]["corrected_voxels"] == 20
    recalibrate()
    assert (sitk.GetArrayFromImage(segmenter.jobs[-1].labels) == 1).sum() == drawn.sum()
    click(widget.ui.acceptChangesButton)
    assert (first_segment(node)[3] == drawn[3]).all() and first_segment(node).sum() > drawn.sum()
    assert node.GetSegmentation().GetSegmentIDs() == ("Segment_1", "Segment_2")


@pytest.mark.parametrize("renamed", [True, False])
def test_a_copy_of_a_segment_is_not_taken_for_the_segment(widget, segment, renamed):
    node = segment()
    segmentation, copy = node.GetSegmentation(), slicer.vtkSegment()
    copy.DeepCopy(segmentation.GetSegment("Segment_1"))
    if renamed:
        copy.SetName("anterior hippocampus before")
    segmentation.AddSegment(copy, "copy")
    segmentation.SetSegmentIndex("copy", 0)
    draw(node)
    widget.enter()
    assert [str(slices) for slices in find_corrected_slices(node)] == ["k:3"]
    states = [review_state(segmentation.GetSegment(name)) for name in ("copy", "Segment_1")]
    assert states == ["to check", "corrected"]


def test_a_result_that_was_made_surfaces_is_not_corrected_but_refused(widget, segment, segmenter):
    node = segment()
    node.CreateClosedSurfaceRepresentation()
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    widget.enter()
    assert find_corrected_slices(node) == [] and {row[-1] for row in cells(widget)} == {"to check"}
    for button in (widget.ui.recalibrateButton, widget.ui.tableButton):
        click(button)
        (message,) = widget.panel.messages.shown
        assert message.level == "error" and "is made of surfaces" in message.text
    assert len(segmenter.jobs) == 1
    with pytest.raises(InputError, match="made of surfaces"):
        scene_report(node)


def test_a_copy_of_a_result_says_why_nothing_can_be_learnt_from_it_and_what_helps(widget, segment, segmenter):
    node, choices = segment(), widget.logic.getParameterNode()
    draw(node)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    clone = slicer.vtkSlicerSubjectHierarchyModuleLogic.CloneSubjectHierarchyItem
    copy = hierarchy.GetItemDataNode(clone(hierarchy, hierarchy.GetItemByDataNode(node)))
    choices.resultSegmentation = copy
    click(widget.ui.recalibrateButton)
    (message,) = widget.panel.messages.shown
    assert "is a copy" in message.text and f"{copy.GetName()} as the output" in message.remedy
    choices.outputSegmentation = copy
    assert segment(corner=6) is copy
    click(widget.ui.recalibrateButton)
    assert segmenter.jobs[-1].kind == "refine" and [str(entry) for entry in segmenter.jobs[-1].slices] == ["k:3"]


@pytest.mark.parametrize("of", ["a volume of the same size", "a larger volume", "a region"])
def test_a_geometry_that_was_specified_in_the_segment_editor_moves_no_result(
    widget, segment, segmenter, choices, make_volume, of
):
    """Slicer lets the segmentation refer to the node that gave it the geometry, whatever that is."""
    node, ui = segment(), widget.ui
    draw(node)
    volume = choices.inputVolume
    other = make_volume((25, 25, 25) if of == "a larger volume" else (20, 18, 16), "other")
    other.SetOrigin(2, 0, 0)
    node.SetReferenceImageGeometryParameterFromVolumeNode(other)
    if of == "a region":
        region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
        node.SetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole(), region.GetID())
    widget.enter()
    report = scene_report(node)
    assert report["input"] == "head" and report["corrected_slices"] == ["k:3"]
    click(ui.nextButton)
    click(ui.correctButton)
    assert slicer.modules.SegmentEditorWidget.editor.sourceVolumeNode() is volume
    slicer.util.selectModule("SESegmentation")
    click(ui.recalibrateButton)
    job = segmenter.jobs[-1]
    assert job.slices == ("k:3",) and job.image.GetOrigin() == (0, 0, 0) and job.image.GetSize() == (20, 18, 16)
    segmenter.succeed_refinement(make_refined(job, widget.panel.models.card))
    wait(lambda: not widget.panel.run.running)
    click(ui.acceptChangesButton)
    assert widget.panel.messages.shown[-1].level == "information" and ui.undoButton.enabled
    click(ui.undoButton)
    assert [str(slices) for slices in find_corrected_slices(node)] == ["k:3"]
