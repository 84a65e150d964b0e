"""The whole story with the real worker process: from the click on Segment to a scene that is loaded again."""

from __future__ import annotations

import os
import shutil
import signal
import time

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from panel_clicks import click, wait
from panel_story import load_sample, voxels

from harness import application


@pytest.fixture
def story(open_story, random_model, tmp_path):
    """With a model of random weights, in a folder that the test may spoil."""
    return open_story(shutil.copytree(random_model, tmp_path / "models" / random_model.name))


@pytest.fixture
def large_volume(make_volume):
    """A volume that takes some seconds."""
    return lambda name="head": make_volume((160, 160, 160), name)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_from_the_sample_to_a_scene_that_is_loaded_again(open_story, real_model, tmp_path):
    story = open_story(real_model)
    volume, ui = load_sample(), story.ui
    assert ui.volumeSelector.currentNode() is volume
    seen = []
    click(ui.segmentButton)
    while story.running:
        application.wait_until(lambda: ui.progressBar.value not in seen or not story.running, 60)
        seen.append(ui.progressBar.value)
    assert story.messages == [] and seen == sorted(seen) and len(set(seen)) > story.fewest_steps

    node = story.choices.resultSegmentation
    card = story.widget.panel.models.card
    segmentation = node.GetSegmentation()
    segments = [segmentation.GetNthSegment(index) for index in range(segmentation.GetNumberOfSegments())]
    assert [segment.GetName() for segment in segments] == [label.name for label in card.labels]
    assert node.GetName() == f"DrawnHippocampus {card.name}"
    tag = slicer.vtkSegment.GetTerminologyEntryTagName()
    for segment, label in zip(segments, card.labels, strict=True):
        assert np.allclose(segment.GetColor(), np.divide(label.color, 255))
        value = vtk.reference("")
        segment.GetTag(tag, value)
        assert f"~SCT^{label.type.value}^" in str(value)
    if card.name == "hippocampus-t1":
        from drawn_hippocampus import draw_sample

        drawn = sitk.GetArrayFromImage(draw_sample().labels)
        assert dice(voxels(node, "Segment_1", volume), drawn == 1) > 0.7
        assert dice(voxels(node, "Segment_2", volume), drawn == 2) > 0.7

    click(ui.show3DButton)
    surface = slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName()
    assert segments[0].GetRepresentation(surface).GetNumberOfPoints() > 100
    story.choices.fast = True
    before = voxels(node, "Segment_1", volume)
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear(False)
    assert not ui.resultSection.isVisible() and not ui.fastCheckBox.checked
    slicer.util.loadScene(path)
    application.process_events()
    assert story.choices.model == card.name and ui.fastCheckBox.checked
    assert ui.volumeSelector.currentNode().GetName() == "DrawnHippocampus"
    restored = story.choices.resultSegmentation
    assert (voxels(restored, "Segment_1", story.choices.inputVolume) == before).all()
    assert ui.structureTable.rowCount == len(card.labels)

    worker = story.worker
    assert story.segment() is not restored and story.worker == worker  # stayed warm; a new segmentation each time


def test_it_goes_on_where_the_event_loop_keeps_the_lock(story, locked_events):
    """What the worker says arrives although no other thread runs while the window waits."""
    load_sample()
    seen, end = set(), time.monotonic() + 60
    click(story.ui.segmentButton)
    while story.running and time.monotonic() < end:
        locked_events()
        seen.add(story.ui.progressBar.value)
    assert not story.running and story.messages == []
    assert len(seen) > story.fewest_steps and story.choices.resultSegmentation is not None


def test_cancel_then_kill_then_segment_as_if_nothing_had_happened(story, large_volume):
    volume = large_volume()
    story.start(until=lambda ui: ui.progressBar.value > 10)
    wait(lambda: story.widget.panel.run.elapsed > 0.6)
    click(story.ui.segmentButton)
    wait(lambda: not story.running, 5)
    assert story.messages == ["The segmentation was cancelled."]
    assert story.choices.resultSegmentation is None and not story.ui.logButton.isVisible()

    story.start()
    worker = story.worker
    os.kill(worker, signal.SIGKILL)
    wait(lambda: not story.running)
    (message,) = story.widget.panel.messages.shown
    assert message.level == "error" and "ended" in message.text and message.remedy
    assert story.choices.resultSegmentation is None

    story.choices.inputVolume = load_sample()
    assert story.segment() is not None and story.worker != worker
    assert slicer.mrmlScene.IsNodePresent(volume)


def test_volume_removed_then_scene_closed_mid_run(story, large_volume):
    volume = large_volume()
    story.start()
    slicer.mrmlScene.RemoveNode(volume)
    assert not story.running and story.messages == ["head was removed while the computation needed it."]

    large_volume()
    story.start(until=lambda ui: True)
    slicer.mrmlScene.Clear(False)
    assert not story.running and story.messages == []

    load_sample()
    assert story.segment().GetName() == "DrawnHippocampus tiny-t1"
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 1


def test_two_clicks_in_a_row_are_one(story):
    load_sample()
    click(story.ui.segmentButton)
    click(story.ui.segmentButton)
    wait(lambda: not story.running)
    assert story.messages == [] and len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 1


def test_a_volume_under_a_rotation_gets_the_same_voxels_under_the_same_rotation(story):
    volume = load_sample()
    straight = story.segment()
    rotation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "rotation")
    angle = np.radians(30)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    rotation.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    volume.SetAndObserveTransformNodeID(rotation.GetID())
    rotated = story.segment()
    assert rotated is not straight and rotated.GetParentTransformNode() is rotation
    for identifier in ("Segment_1", "Segment_2"):
        inside = [slicer.util.arrayFromSegmentInternalBinaryLabelmap(n, identifier) for n in (straight, rotated)]
        assert (inside[0] == inside[1]).all()


def test_weights_that_are_damaged_or_missing(story):
    load_sample()
    weights = story.widget.panel.models.package.weights_path
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    click(story.ui.segmentButton)
    wait(lambda: not story.running)
    (message,) = story.widget.panel.messages.shown
    assert "damaged" in message.text and "again from its source" in message.remedy

    weights.unlink()
    click(story.ui.segmentButton)
    wait(lambda: not story.running)
    assert "missing" in story.messages[0]

    weights.write_bytes(content)
    assert story.segment() is not None


def test_torch_that_cannot_be_imported(story, tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n", encoding="utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    load_sample()
    click(story.ui.segmentButton)
    wait(lambda: not story.running)
    (message,) = story.widget.panel.messages.shown
    assert message.text == "PyTorch is not installed." and "extension PyTorch" in message.remedy
    monkeypatch.delenv("PYTHONPATH")
    assert story.segment() is not None


def test_script_and_self_test_in_the_stand_in(open_story, real_model):
    open_story(real_model)
    slicer.selfTests["SESegmentation"]()
