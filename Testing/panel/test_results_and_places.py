"""Results in the scene: what they were made of is kept, and what was moved or changed since is noticed."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from panel_clicks import click, click_item, draw, first_segment, save_and_reopen, transform_under, wait
from panel_fakes import make_refined, make_result

from harness import application
from SESegmentationLib.mrml import DOUBT, EditRecord, edited_voxels, find_corrected_slices, review_state, source_volume
from SESegmentationLib.panel.reports import scene_report
from SESegmentationLib.panel.result_record import ResultRecord


def own_corner(node) -> int:
    """First slice of what the notes say that a network wrote."""
    return int(np.argwhere(sitk.GetArrayFromImage(EditRecord.read(node).written[-1].labels) == 1)[0, 0])


def corner(node) -> int:
    return int(np.argwhere(first_segment(node))[0, 0])


# --- undo ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("then", ["undo", "redo", "segment"])
def test_notes_and_voxels_are_those_of_one_result_after_an_edit_that_follows_an_undo(widget, segment, choices, then):
    node = choices.outputSegmentation = segment(corner=2)
    segment(corner=5)
    segment(corner=7)
    click(widget.ui.undoButton)
    draw(node, k=12)
    application.process_events()
    if then == "segment":
        segment(corner=9)
        click(widget.ui.undoButton)
        assert [str(entry) for entry in find_corrected_slices(node)] == ["k:12"]
    click(widget.ui.undoButton)
    if then == "redo":
        click(widget.ui.redoButton)
        assert [str(entry) for entry in find_corrected_slices(node)] == ["k:12"]
        click(widget.ui.undoButton)
    assert corner(node) == own_corner(node) == 5
    assert find_corrected_slices(node) == []
    assert scene_report(node)["structures"][0]["corrected_voxels"] == 0


# --- the volume ---------------------------------------------------------------------------------------------------


def test_a_result_refers_to_the_volume_it_was_made_of(widget, segment, segmenter, choices, make_volume):
    first = make_volume(name="first")
    node = segment(first)
    second = make_volume(name="second")
    slicer.util.arrayFromVolume(second)[:] = 7
    choices.outputSegmentation = node
    assert segment(second) is node
    assert source_volume(node) is second and scene_report(node)["input"] == "second"
    click(widget.ui.nextButton)
    click(widget.ui.correctButton)
    assert slicer.modules.SegmentEditorWidget.editor.sourceVolumeNode() is second
    slicer.util.selectModule("SESegmentation")
    draw(node)
    click(widget.ui.recalibrateButton)
    assert (sitk.GetArrayFromImage(segmenter.jobs[-1].image) == 7).all()
    widget.panel.run.cancel()
    wait(lambda: not widget.panel.run.running)
    while widget.ui.undoButton.enabled:
        click(widget.ui.undoButton)
    assert source_volume(node) is first


def test_a_volume_that_is_moved_while_it_is_segmented(widget, segmenter, choices, make_volume, move):
    volume = choices.inputVolume = make_volume()
    move(30, volume)
    click(widget.ui.segmentButton)
    result = make_result(segmenter.jobs[-1].image, widget.panel.models.card)
    volume.HardenTransform()
    segmenter.succeed(result)
    wait(lambda: not widget.panel.run.running)
    (message,) = widget.panel.messages.shown
    assert "was moved, cropped or emptied before" in message.text and message.remedy == "Segment again."
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []


@pytest.mark.parametrize("change", ["cropped", "moved"])
def test_nothing_is_made_of_a_result_whose_volume_has_other_voxels_now(widget, segment, segmenter, choices, change):
    node, volume = segment(), choices.inputVolume
    draw(node)
    voxels, ui = slicer.util.arrayFromVolume(volume).copy(), widget.ui
    if change == "cropped":
        slicer.util.updateVolumeFromArray(volume, voxels[:12])
    else:
        volume.SetOrigin(0, 0, 7)
    for button in (ui.recalibrateButton, ui.attentionCheckBox):
        click(button)
        (message,) = widget.panel.messages.shown
        assert f"head was cropped, resampled, moved or mirrored since {node.GetName()} was made of it." == message.text
        assert len(segmenter.jobs) == 1
    slicer.util.updateVolumeFromArray(volume, voxels)
    volume.SetOrigin(0, 0, 0)
    click(ui.recalibrateButton)
    assert segmenter.jobs[-1].kind == "refine"


@pytest.mark.parametrize("then", ["the result comes", "it is learnt from", "a proposal is accepted"])
def test_a_volume_without_voxels_is_named_as_the_cause(
    widget, segment, segmenter, recalibrate, choices, make_volume, then
):
    volume = choices.inputVolume = make_volume()
    if then == "the result comes":
        click(widget.ui.segmentButton)
        result = make_result(segmenter.jobs[-1].image, widget.panel.models.card)
    else:
        draw(segment())
    if then == "a proposal is accepted":
        recalibrate()
    volume.SetAndObserveImageData(None)
    if then == "the result comes":
        segmenter.succeed(result)
        wait(lambda: not widget.panel.run.running)
    else:
        click(widget.ui.recalibrateButton if then == "it is learnt from" else widget.ui.acceptChangesButton)
    (message,) = widget.panel.messages.shown
    assert "has no voxels" in message.text or "was moved, cropped or emptied" in message.text


def test_corrections_are_not_written_over_where_they_were_moved_while_a_proposal_was_open(
    widget, segment, recalibrate, move
):
    node = segment()
    draw(node)
    recalibrate()
    move(3, node)
    node.HardenTransform()
    before = first_segment(node)
    click(widget.ui.acceptChangesButton)
    (message,) = widget.panel.messages.shown
    assert "was moved by a hardened transform" in message.text and "Move it back" in message.remedy
    assert (first_segment(node) == before).all() and widget.ui.previewFrame.isVisible()
    move(-3, node)
    node.HardenTransform()
    click(widget.ui.acceptChangesButton)
    assert widget.panel.messages.shown[-1].level == "information"
    assert [str(entry) for entry in find_corrected_slices(node)] == ["k:3"]


@pytest.mark.parametrize("change", ["moved and hardened", "moved", "removed"])
def test_a_result_goes_elsewhere_where_its_output_was_moved_meanwhile(
    widget, segment, segmenter, choices, move, change
):
    node = choices.outputSegmentation = segment()
    draw(node)
    click(widget.ui.segmentButton)
    move(3, node)
    if change == "moved and hardened":
        node.HardenTransform()
    before = first_segment(node)
    if change == "removed":
        slicer.mrmlScene.RemoveNode(node)
    segmenter.succeed(make_result(segmenter.jobs[-1].image, widget.panel.models.card, corner=5))
    wait(lambda: not widget.panel.run.running)
    assert change == "removed" or (first_segment(node) == before).all()
    assert choices.resultSegmentation is not node and corner(choices.resultSegmentation) == 5
    (message,) = widget.panel.messages.shown
    assert f"a new segmentation, {choices.resultSegmentation.GetName()}" in message.text


def test_a_hardened_transform_makes_no_corrections(widget, segment, segmenter, choices, move):
    node = segment()
    volume, before = choices.inputVolume, scene_report(node)["structures"]
    move(100, volume, node)
    assert scene_report(node)["structures"] == before
    volume.HardenTransform()
    node.HardenTransform()
    assert volume.GetTransformNodeID() is None and node.GetTransformNodeID() is None
    widget.enter()
    assert scene_report(node)["structures"] == before
    draw(node)
    jobs = len(segmenter.jobs)
    click(widget.ui.recalibrateButton)
    (message,) = widget.panel.messages.shown
    assert "was moved by a hardened transform" in message.text and len(segmenter.jobs) == jobs
    drawn = first_segment(node)
    choices.outputSegmentation = node
    click(widget.ui.segmentButton)
    assert "was moved by a hardened transform" in widget.panel.messages.shown[-1].text
    assert (first_segment(node) == drawn).all() and len(segmenter.jobs) == jobs


def test_a_scene_tells_that_a_hardened_transform_has_moved_a_result_and_how_to_go_on(
    widget, segment, segmenter, choices, move, tmp_path
):
    node = segment()
    draw(node)
    move(40, node, choices.inputVolume)
    for each in (node, choices.inputVolume):
        each.HardenTransform()
    save_and_reopen(tmp_path)
    (message,) = widget.panel.messages.shown
    choices = widget.logic.getParameterNode()
    node = choices.resultSegmentation
    assert message.level == "warning" and "moved by hardened transforms" in message.text
    assert node.GetName() in message.text and "harden the inverse" in message.remedy
    move(-40, node, choices.inputVolume)
    for each in (node, choices.inputVolume):
        each.HardenTransform()
    click(widget.ui.recalibrateButton)
    assert segmenter.jobs[-1].kind == "refine" and segmenter.jobs[-1].slices == ("k:3",)


def test_surfaces_that_are_no_result_are_no_matter_of_a_scene_that_is_read(widget, segment, tmp_path):
    segment()
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(False)
    surfaces, sphere = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode"), vtk.vtkSphereSource()
    sphere.Update()
    surfaces.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "sphere", [1, 0, 0])
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    application.process_events()
    assert widget.panel.messages.shown == []


SHIFT = {(0, 3): 40.0}
SCALE = {(0, 0): 1.5, (2, 3): -7.0}
SHEAR = {(0, 1): 0.3}
TURN = {(0, 0): 0.6, (0, 1): -0.8, (1, 0): 0.8, (1, 1): 0.6, (2, 3): 11.0}


def view_centre() -> list[float]:
    """Where the axial view is centred along x and y, and its slice along z, RAS in mm."""
    to_ras = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode().GetSliceToRAS()
    return [to_ras.GetElement(row, 3) for row in range(3)]


@pytest.mark.parametrize("matrix", [SHIFT, SCALE, SHEAR], ids=["shift", "scale", "shear"])
def test_the_review_goes_where_a_hardened_transform_has_put_the_result(widget, segment, choices, matrix):
    node = segment()
    volume, ui = choices.inputVolume, widget.ui
    transform_under(matrix, volume, node)
    click(ui.nextButton)
    click(ui.nextButton)
    place = view_centre()
    volume.HardenTransform()
    node.HardenTransform()
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, 0, 0, 0)
    click_item(ui.structureTable, ui.structureTable.item(ui.structureTable.currentRow(), 0))
    np.testing.assert_allclose(view_centre(), place, atol=1e-3)
    click(ui.doubtCheckBox)
    to_ras = vtk.vtkMatrix4x4()
    DOUBT.volume(node).GetIJKToRASMatrix(to_ras)
    expected = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(expected)
    np.testing.assert_allclose(*map(slicer.util.arrayFromVTKMatrix, (to_ras, expected)), atol=1e-6)


@pytest.mark.parametrize("matrix", [SCALE, SHEAR], ids=["scale", "shear"])
def test_no_hardened_linear_transform_makes_corrections(widget, segment, segmenter, choices, matrix):
    node = segment()
    volume = choices.inputVolume
    transform_under(matrix, volume, node)
    volume.HardenTransform()
    node.HardenTransform()
    widget.enter()
    assert find_corrected_slices(node) == [] and not any(edited_voxels(node, ResultRecord.read(node).labels).values())
    jobs = len(segmenter.jobs)
    click(widget.ui.recalibrateButton)
    assert widget.panel.messages.shown[-1].level == "error" and len(segmenter.jobs) == jobs


@pytest.mark.parametrize("moved", ["both", "segmentation"])
@pytest.mark.parametrize("matrix", [SHIFT, TURN, SCALE], ids=["shift", "turn", "scale"])
def test_corrections_are_reported_where_a_hardened_transform_has_put_them(widget, segment, choices, matrix, moved):
    node = segment()
    draw(node)
    before = scene_report(node)
    nodes = [node, choices.inputVolume] if moved == "both" else [node]
    transform_under(matrix, *nodes)
    for each in nodes:
        each.HardenTransform()
    report = scene_report(node)
    assert report["structures"][0]["corrected_voxels"] == 20 and report["corrected_slices"] == ["k:3"]
    volumes = [entry["structures"][0]["volume_ml"] for entry in (report, before)]
    assert volumes[0] == pytest.approx(volumes[1] * (1.5 if matrix is SCALE else 1))
    widget.enter()
    assert review_state(node.GetSegmentation().GetSegment("Segment_1")) == "corrected"


def test_corrections_of_a_segmentation_that_was_sheared_are_reported_too(widget, segment):
    node = segment()
    draw(node)
    transform_under(SHEAR, node)
    node.HardenTransform()
    report = scene_report(node)
    assert report["structures"][0]["corrected_voxels"] == 20 and report["corrected_slices"] == ["k:3"]


def test_nothing_is_proposed_for_a_result_that_is_moved_meanwhile(widget, segment, segmenter, move):
    node = segment()
    draw(node)
    click(widget.ui.recalibrateButton)
    move(3, node)
    node.HardenTransform()
    segmenter.succeed_refinement(make_refined(segmenter.jobs[-1], widget.panel.models.card))
    wait(lambda: not widget.panel.run.running)
    (message,) = widget.panel.messages.shown
    assert "was moved by a hardened transform" in message.text and not widget.ui.previewFrame.isVisible()


def test_undo_never_puts_voxels_back_where_the_volume_no_longer_is(widget, segment, choices, move):
    node = choices.outputSegmentation = segment(corner=2)
    segment(corner=5)
    tip = widget.ui.undoButton.toolTip
    move(100, choices.inputVolume, node)
    assert widget.ui.undoButton.enabled
    for each in (choices.inputVolume, node):
        each.HardenTransform()
    assert not widget.ui.undoButton.enabled and "was moved by a hardened transform" in widget.ui.undoButton.toolTip
    assert corner(node) == 5
    move(-100, choices.inputVolume, node)
    for each in (choices.inputVolume, node):
        each.HardenTransform()
    assert widget.ui.undoButton.enabled and widget.ui.undoButton.toolTip == tip
    click(widget.ui.undoButton)
    assert corner(node) == 2


# --- proposals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["while it is made", "while it is shown"])
def test_a_proposal_is_for_the_result_it_was_made_for(widget, segment, segmenter, choices, when):
    node = choices.outputSegmentation = segment(corner=2)
    segment(corner=5)
    draw(node, k=3)
    click(widget.ui.recalibrateButton)
    if when == "while it is made":
        click(widget.ui.undoButton)
    segmenter.succeed_refinement(make_refined(segmenter.jobs[-1], widget.panel.models.card, 1))
    wait(lambda: not widget.panel.run.running)
    if when == "while it is shown":
        assert widget.ui.previewFrame.isVisible()
        while corner(node) != 2 or find_corrected_slices(node):
            click(widget.ui.undoButton)
    else:
        (message,) = widget.panel.messages.shown
        assert "was changed or undone" in message.text
    assert not widget.ui.previewFrame.isVisible()


def test_a_proposal_goes_into_its_own_segmentation_or_nowhere(widget, segment, recalibrate, choices, move):
    node = segment()
    draw(node)
    before = first_segment(node)
    recalibrate()
    move(1, choices.inputVolume)
    click(widget.ui.acceptChangesButton)
    (message,) = widget.panel.messages.shown
    assert "is not under the same transform as head" in message.text
    assert [n for n in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if not n.GetHideFromEditors()] == [node]
    choices.inputVolume.SetAndObserveTransformNodeID(None)
    assert (first_segment(node) == before).all() and [str(s) for s in find_corrected_slices(node)] == ["k:3"]
    click(widget.ui.acceptChangesButton)  # it took long to make, and is still there
    assert (first_segment(node) != before).any() and not widget.ui.previewFrame.isVisible()
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == [node]
