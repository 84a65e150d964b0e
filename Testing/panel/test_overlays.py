"""Maps over the slice views, by clicks: where there is doubt, and what the networks looked at."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from panel_clicks import click, draw, wait, wait_a_moment
from panel_fakes import make_package

from harness import application
from SESegmentationLib.client import AttentionJob
from SESegmentationLib.errors import UsageError
from SESegmentationLib.mrml import ATTENTION, DOUBT


@pytest.fixture
def foreground():
    """Function that gives the volume over the axial view."""
    view = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    return lambda: slicer.mrmlScene.GetNodeByID(view.GetForegroundVolumeID() or "")


@pytest.fixture
def attend(widget, segmenter):
    """Function that ticks the box and lets the worker answer with gates that rise along i."""

    def run():
        click(widget.ui.attentionCheckBox)
        assert widget.panel.run.running, widget.panel.messages.shown
        segmenter.succeed_attention(gates(segmenter.jobs[-1].image))
        wait(lambda: not widget.panel.run.running)

    return run


def gates(image):
    shape = sitk.GetArrayFromImage(image).shape
    rising = np.broadcast_to(np.linspace(0.9, 1, shape[2], dtype=np.float32), shape)
    attention = sitk.GetImageFromArray(np.ascontiguousarray(rising))
    attention.CopyInformation(image)
    return attention


def test_doubt_is_shown_hidden_renewed_and_taken_back(widget, segment, choices):
    node = segment()
    ui, view = widget.ui, slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    click(ui.doubtCheckBox)
    volume = DOUBT.volume(node)
    assert view.GetForegroundVolumeID() == volume.GetID() and ui.doubtCheckBox.checked
    assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")) == 2
    before = slicer.util.arrayFromVolume(volume).copy()
    assert before.max() > 200 and before[0, 0, 0] == 0
    choices.outputSegmentation = node
    segment(corner=5)
    assert DOUBT.volume(node) is volume and ui.doubtCheckBox.checked
    click(ui.doubtCheckBox)
    assert view.GetForegroundVolumeID() is None and not ui.doubtCheckBox.checked
    choices.outputSegmentation = None
    assert segment() is not node and not ui.doubtCheckBox.checked and ui.doubtCheckBox.enabled


def test_the_map_of_doubt_of_a_scene_that_was_loaded(widget, segment, tmp_path):
    node = segment()
    for shown in (False, True):
        if shown:
            click(widget.ui.doubtCheckBox)
        path = str(tmp_path / f"{shown}.mrb")
        assert slicer.util.saveScene(path)
        slicer.mrmlScene.Clear(False)
        slicer.util.loadScene(path)
        application.process_events()
        assert widget.ui.doubtCheckBox.enabled is shown
        assert ("only if it was shown" in widget.ui.doubtCheckBox.toolTip) is not shown
        node = segment()
    assert DOUBT.volume(node) is None and "only if it was shown" not in widget.ui.doubtCheckBox.toolTip


@pytest.fixture
def shift():
    """Function that puts nodes under a new transform by 30 mm."""

    def under(*nodes):
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "shift")
        matrix = vtk.vtkMatrix4x4()
        matrix.SetElement(0, 3, 30)
        transform.SetMatrixTransformToParent(matrix)
        for node in nodes:
            node.SetAndObserveTransformNodeID(transform.GetID())

    return under


def bounds(node):
    found = [0.0] * 6
    node.GetRASBounds(found)
    return found


def test_the_map_follows_the_result(widget, segment, choices, foreground, shift):
    node, volume = segment(), choices.inputVolume
    click(widget.ui.doubtCheckBox)
    shift(volume, node)
    assert bounds(volume)[0] == 29.5 and bounds(foreground()) == bounds(volume)
    for moved in (volume, node):
        moved.SetAndObserveTransformNodeID(None)
    assert bounds(volume)[0] == -0.5 and bounds(foreground()) == bounds(volume)


def test_the_map_is_put_right_where_another_result_was_on_show(widget, segment, choices, foreground, shift):
    node, volume = segment(), choices.inputVolume
    click(widget.ui.doubtCheckBox)
    click(widget.ui.doubtCheckBox)
    choices.resultSegmentation = None
    shift(volume, node)
    choices.resultSegmentation = node
    click(widget.ui.doubtCheckBox)
    assert bounds(volume)[0] == 29.5 and bounds(foreground()) == bounds(volume)


def test_the_map_is_where_the_result_is_after_its_transform_was_hardened(widget, segment, choices, foreground, shift):
    node, volume = segment(), choices.inputVolume
    click(widget.ui.doubtCheckBox)
    shift(volume, node)
    for hardened in (volume, node):
        hardened.HardenTransform()
    assert bounds(volume)[0] == 29.5 and bounds(foreground()) == pytest.approx(bounds(volume))
    shift(volume, node)
    assert bounds(volume)[0] == 59.5 and bounds(foreground()) == pytest.approx(bounds(volume))


def test_the_map_of_another_result_is_taken_off_the_views(widget, segment, choices, foreground, make_volume):
    first = segment(make_volume(name="first"))
    click(widget.ui.doubtCheckBox)
    assert foreground().GetName() == "first tiny-t1 doubt"
    segment(make_volume(name="second"))
    assert foreground() is None and not widget.ui.doubtCheckBox.checked
    click(widget.ui.doubtCheckBox)
    assert foreground().GetName() == "second tiny-t1 doubt"
    choices.resultSegmentation = first
    assert foreground() is None and not widget.ui.doubtCheckBox.checked


@pytest.mark.parametrize("on_show", [True, False])
def test_maps_go_with_their_result(widget, segment, choices, foreground, make_volume, attend, on_show):
    node = segment(make_volume(name="first"))
    attend()
    click(widget.ui.doubtCheckBox)
    maps = [DOUBT.volume(node), ATTENTION.volume(node)]
    assert all(map_.GetScene() is not None for map_ in maps)
    if not on_show:
        segment(make_volume(name="second"))
        click(widget.ui.doubtCheckBox)
        other = foreground()
    slicer.mrmlScene.RemoveNode(node)
    wait_a_moment()
    assert all(map_.GetScene() is None for map_ in maps) and foreground() is (None if on_show else other)


def test_a_copy_of_a_result_keeps_the_maps(widget, segment, foreground):
    node = segment()
    click(widget.ui.doubtCheckBox)
    map_ = foreground()
    copy = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    copy.Copy(node)
    assert DOUBT.volume(copy) is map_
    slicer.mrmlScene.RemoveNode(node)
    wait_a_moment()
    assert map_.GetScene() is slicer.mrmlScene
    slicer.mrmlScene.RemoveNode(copy)
    wait_a_moment()
    assert map_.GetScene() is None


def test_a_folder_is_removed_with_a_result_and_its_maps(widget, segment, choices):
    node = segment()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "folder")
    for moved in (choices.inputVolume, node):
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(moved), folder)
    click(widget.ui.doubtCheckBox)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(DOUBT.volume(node))) == folder
    hierarchy.RemoveItem(folder)
    wait_a_moment()
    assert slicer.util.getNodesByClass("vtkMRMLVolumeNode") == []


# --- what the networks looked at --------------------------------------------------------------------------------------


def test_attention_is_asked_for_once_shown_and_hidden(widget, segment, segmenter, choices, foreground, attend):
    node = segment()
    ui = widget.ui
    count = len(segmenter.jobs)
    attend()
    job = segmenter.jobs[-1]
    assert isinstance(job, AttentionJob) and job.options.roi is None and not job.options.fast and job.adapted is None
    assert job.model == widget.panel.models.package.path
    volume = ATTENTION.volume(node)
    assert foreground() is volume and ui.attentionCheckBox.checked and not ui.doubtCheckBox.checked
    array = slicer.util.arrayFromVolume(volume)
    assert array.dtype == np.float32 and np.allclose(array[0, 0, [0, -1]], (2.2, 15.9), atol=0.3)
    assert volume.GetDisplayNode().GetWindowLevelMin() == pytest.approx(2.2, abs=0.1)
    (message,) = widget.panel.messages.shown
    assert message.level == "information" and message.text.startswith("Gate of the last decoder: 0.90")
    click(ui.attentionCheckBox)
    assert foreground() is None and not ui.attentionCheckBox.checked
    click(ui.attentionCheckBox)
    assert foreground() is volume and len(segmenter.jobs) == count + 1
    click(ui.doubtCheckBox)
    assert foreground() is DOUBT.volume(node)
    assert ui.doubtCheckBox.checked and not ui.attentionCheckBox.checked


def test_attention_has_progress_can_be_cancelled_and_may_fail(widget, segment, segmenter, monkeypatch):
    from SESegmentationLib.panel import run_control

    monkeypatch.setattr(run_control, "DOUBLE_CLICK_SECONDS", 0.0)
    node = segment()
    ui = widget.ui
    click(ui.attentionCheckBox)
    segmenter.progress("look", 0.5)
    wait(lambda: ui.progressBar.value == 50)
    assert ui.progressLabel.text == "Mapping what the network looked at…"
    assert not ui.attentionCheckBox.enabled and not ui.attentionCheckBox.checked and not ui.recalibrateButton.enabled
    click(ui.segmentButton)
    wait(lambda: not widget.panel.run.running)
    assert widget.panel.messages.shown[0].text == "The segmentation was cancelled."
    assert ui.attentionCheckBox.enabled and not ui.attentionCheckBox.checked
    click(ui.attentionCheckBox)
    segmenter.fail(UsageError("The networks of Tiny have no spatial gate (sSE).", "Choose a model that has."))
    wait(lambda: not widget.panel.run.running)
    (message,) = widget.panel.messages.shown
    assert (message.level, message.remedy) == ("error", "Choose a model that has.")
    assert ATTENTION.volume(node) is None and not ui.attentionCheckBox.checked


def test_attention_is_of_the_result_on_show(widget, segment, choices, segmenter, attend, foreground, make_volume):
    node = segment()
    attend()
    second = segment(make_volume(name="second"))
    assert not widget.ui.attentionCheckBox.checked and widget.ui.attentionCheckBox.enabled
    choices.resultSegmentation = node
    count = len(segmenter.jobs)
    click(widget.ui.attentionCheckBox)
    assert widget.ui.attentionCheckBox.checked and len(segmenter.jobs) == count
    choices.outputSegmentation = node
    slicer.mrmlScene.RemoveNode(second)
    choices.inputVolume = slicer.util.getNode("head")
    segment(corner=5)
    assert ATTENTION.volume(node) is None and foreground() is None and not widget.ui.attentionCheckBox.checked
    attend()
    click(widget.ui.undoButton)
    assert ATTENTION.volume(node) is None and foreground() is None


def test_a_result_that_changed_meanwhile(widget, segment, choices, segmenter):
    node = choices.outputSegmentation = segment()
    segment(corner=5)
    click(widget.ui.attentionCheckBox)
    click(widget.ui.undoButton)
    segmenter.succeed_attention(gates(segmenter.jobs[-1].image))
    wait(lambda: not widget.panel.run.running)
    assert widget.panel.messages.shown[0].text == "The result has changed meanwhile."
    assert ATTENTION.volume(node) is None


def test_the_result_whose_attention_was_asked_for_is_shown_with_it(
    widget, segment, choices, segmenter, make_volume, foreground
):
    first = segment(make_volume(name="first"))
    second = segment(make_volume(name="second"))
    click(widget.ui.attentionCheckBox)
    choices.resultSegmentation = first
    segmenter.succeed_attention(gates(segmenter.jobs[-1].image))
    wait(lambda: not widget.panel.run.running)
    assert choices.resultSegmentation is second and foreground() is ATTENTION.volume(second)
    assert widget.ui.attentionCheckBox.checked


def test_what_is_removed_meanwhile_ends_it(widget, segment, choices):
    segment()
    click(widget.ui.attentionCheckBox)
    slicer.mrmlScene.RemoveNode(choices.inputVolume)
    assert "was removed" in widget.panel.messages.shown[0].text and not widget.panel.run.running


def test_attention_looks_where_the_result_looked_and_as_it_is_told(widget, segment, segmenter, choices, make_volume):
    make_volume()
    choices.region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    choices.region.SetCenter(8, 8, 8)
    choices.region.SetSize(14, 14, 14)
    segment()
    choices.region, choices.fast, choices.lowMemory, choices.device = None, True, True, "cpu"
    click(widget.ui.attentionCheckBox)
    job = segmenter.jobs[-1]
    assert job.options.roi is not None and (job.options.fast, job.options.low_memory, job.device) == (True, True, "cpu")


def test_attention_is_of_the_recalibrated_network_where_the_result_is(widget, segment, segmenter, recalibrate):
    draw(segment())
    recalibrate()
    click(widget.ui.acceptChangesButton)
    adapted = segmenter.jobs[-1]
    click(widget.ui.attentionCheckBox)
    assert segmenter.jobs[-1] is not adapted and segmenter.jobs[-1].adapted is not None


def test_attention_needs_the_model_and_its_terms(widget, segment, segmenter, models):
    segment()
    make_package(models, "tiny-t1", licence={"spdx": "CC-BY-NC-4.0", "name": "CC", "free": False})
    widget.enter()
    click(widget.ui.attentionCheckBox)
    assert "not accepted" in widget.panel.messages.shown[0].text and len(segmenter.jobs) == 1
    assert not widget.ui.attentionCheckBox.checked


def test_segmentations_of_others_have_neither_map(widget, choices, segment):
    segment()
    choices.resultSegmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    assert not widget.ui.attentionCheckBox.enabled and not widget.ui.doubtCheckBox.enabled


def test_attention_is_saved_with_the_scene(widget, segment, attend, tmp_path):
    segment()
    attend()
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear(False)
    slicer.util.loadScene(path)
    application.process_events()
    node = widget.logic.getParameterNode().resultSegmentation
    volume = ATTENTION.volume(node)
    assert np.allclose(slicer.util.arrayFromVolume(volume)[0, 0, [0, -1]], (2.2, 15.9), atol=0.3)
    assert widget.ui.attentionCheckBox.enabled
