"""Volumes in time: frames out, a segmentation for each frame in, synchronised with the browser of the volume."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import slicer

from SESegmentationLib.errors import InputError
from SESegmentationLib.geometry import Geometry
from SESegmentationLib.models.labels import LEFT, RIGHT, structure_label
from SESegmentationLib.mrml import SegmentationSequence, UndoHistory, VolumeSequence, region_image

STRUCTURES = [structure_label(17, "hippocampus", LEFT), structure_label(53, "hippocampus", RIGHT)]
LOGIC = slicer.vtkSlicerSegmentationsModuleLogic
TIMES = ("0", "40", "80", "120")  # ms


@pytest.fixture
def volume(scene):
    """The node that shows one of four frames; every voxel of a frame is its number."""
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "heart")
    sequence.SetIndexName("time")
    sequence.SetIndexUnit("ms")
    sequence.SetIndexType(slicer.vtkMRMLSequenceNode.NumericIndex)
    for number, time in enumerate(TIMES):
        frame = slicer.vtkMRMLScalarVolumeNode()
        slicer.util.updateVolumeFromArray(frame, np.full((4, 5, 6), number, np.int16))
        frame.SetSpacing(1, 2, 3)
        frame.SetOrigin(10, 20, 30)
        sequence.SetDataNodeAtValue(frame, time)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    return browser.GetProxyNode(sequence)


@pytest.fixture
def frames(volume):
    return VolumeSequence.of(volume)


def result(frames, number):
    """What a network might find in a frame: a left part that grows with time, and a right one."""
    values = np.zeros((4, 5, 6), np.uint8)
    values[0, 0, : number + 1] = 17
    values[2, 3, 4] = 53
    labels = sitk.GetImageFromArray(values)
    labels.CopyInformation(frames.image(number))
    return labels


def sizes(node):
    """Number of voxels by segment ID in what the node shows."""
    volume = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    return {
        identifier: int((slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume) > 0).sum())
        for identifier in node.GetSegmentation().GetSegmentIDs()
    }


def test_a_volume_by_itself_has_no_frames(make_volume, frames):
    assert len(frames) == 4
    assert VolumeSequence.of(make_volume()) is None
    assert VolumeSequence.of(None) is None


def test_the_frame_on_show_comes_first(frames):
    assert frames.numbers(every=True) == [0, 1, 2, 3]
    frames.browser.SetSelectedItemNumber(2)
    assert frames.selected == 2
    assert frames.numbers(every=True) == [2, 0, 1, 3]
    assert frames.numbers(every=False) == [2]


def test_frames_are_read_without_moving_the_browser(frames):
    frames.browser.SetSelectedItemNumber(1)
    for number in range(4):
        image = frames.image(number)
        assert (sitk.GetArrayFromImage(image) == number).all()
        assert image.GetSpacing() == (1, 2, 3) and image.GetOrigin() == (-10, -20, 30)
    assert frames.browser.GetSelectedItemNumber() == 1
    assert (slicer.util.arrayFromVolume(frames.volume) == 1).all()


def test_frames_follow_a_browser_that_is_led_by_another_sequence(scene, volume, frames):
    leader = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "leader")
    leader.SetIndexName("time")
    leader.SetIndexUnit("ms")
    for time in range(0, 160, 10):
        leader.SetDataNodeAtValue(slicer.vtkMRMLLinearTransformNode(), str(time))
    frames.browser.SetAndObserveMasterSequenceNodeID(leader.GetID())
    frames.browser.AddSynchronizedSequenceNodeID(frames.sequence.GetID())
    frames = VolumeSequence.of(frames.browser.GetProxyNode(frames.sequence))
    frames.browser.SetSelectedItemNumber(9)  # 90 ms: what is shown is the frame of 80 ms
    assert frames.selected == 2
    assert (slicer.util.arrayFromVolume(frames.volume) == 2).all()


def test_each_frame_shows_its_own_segmentation(scene, frames, make_transform):
    transform = make_transform(np.diag([1, 1, 2, 1]), frames.volume)
    output = SegmentationSequence.add(frames, "heart parts")
    for number in frames.numbers(every=True):
        assert output.write(number, result(frames, number), STRUCTURES) == []
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1
    for number in (3, 0, 2, 1):
        frames.browser.SetSelectedItemNumber(number)
        assert sizes(output.node) == {"Segment_17": number + 1, "Segment_53": 1}
        segment = output.node.GetSegmentation().GetSegment("Segment_17")
        assert segment.GetName() == "left hippocampus"
        assert segment.GetColor() == pytest.approx([channel / 255 for channel in STRUCTURES[0].color])
        assert output.node.GetName() == "heart parts"
        assert output.node.GetParentTransformNode() is transform
        assert output.node.GetNodeReference(output.node.GetReferenceImageGeometryReferenceRole()) is frames.volume
        name = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
        assert output.node.GetSegmentation().GetConversionParameter(name).endswith("0;5;0;4;0;3;")


def test_it_lies_beside_the_volume(scene, frames):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(frames.volume), study)
    output = SegmentationSequence.add(frames, "parts")
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(output.node)) == study


def test_frames_without_a_result_show_nothing_and_keep_what_the_user_draws(frames):
    frames.browser.SetSelectedItemNumber(1)
    output = SegmentationSequence.add(frames, "parts")
    output.write(1, result(frames, 1), STRUCTURES)
    assert sizes(output.node) == {"Segment_17": 2, "Segment_53": 1}
    assert output.frame(3) is None
    frames.browser.SetSelectedItemNumber(3)
    assert sizes(output.node) == {}
    segmentation = output.node.GetSegmentation()
    segmentation.AddEmptySegment("drawn", "drawn")
    slicer.util.updateSegmentBinaryLabelmapFromArray(np.ones((4, 5, 6), np.uint8), output.node, "drawn", frames.volume)
    frames.browser.SetSelectedItemNumber(1)
    assert sizes(output.node) == {"Segment_17": 2, "Segment_53": 1}
    frames.browser.SetSelectedItemNumber(3)
    assert sizes(output.node) == {"drawn": 120}
    output.write(3, result(frames, 3), STRUCTURES)
    assert sizes(output.node) == {"drawn": 120, "Segment_17": 4, "Segment_53": 1}


def test_edits_stay_with_their_frame_and_completed_segments_are_spared_frame_by_frame(frames):
    output = SegmentationSequence.add(frames, "parts")
    for number in range(4):
        output.write(number, result(frames, number), STRUCTURES)
    frames.browser.SetSelectedItemNumber(2)
    edited = np.zeros((4, 5, 6), np.uint8)
    edited[3] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(edited, output.node, "Segment_17", frames.volume)
    LOGIC.SetSegmentStatus(output.node.GetSegmentation().GetSegment("Segment_17"), LOGIC.Completed)
    frames.browser.SetSelectedItemNumber(0)
    spared = [output.write(number, result(frames, 0), STRUCTURES) for number in range(4)]
    assert spared == [[], [], ["left hippocampus"], []]
    for number, expected in enumerate((1, 1, 30, 1)):
        frames.browser.SetSelectedItemNumber(number)
        assert sizes(output.node) == {"Segment_17": expected, "Segment_53": 1}


def test_each_frame_has_its_own_undo(frames):
    output, history = SegmentationSequence.add(frames, "parts"), UndoHistory()
    for written in (3, 0):
        for number in frames.numbers(every=True):
            output.write(number, result(frames, written), STRUCTURES, history)
    frames.browser.SetSelectedItemNumber(2)
    assert history.undo(output.node) and sizes(output.node)["Segment_17"] == 4
    frames.browser.SetSelectedItemNumber(1)
    assert sizes(output.node)["Segment_17"] == 1 and history.can_undo(output.node)
    assert not history.can_redo(output.node)
    frames.browser.SetSelectedItemNumber(2)
    assert sizes(output.node)["Segment_17"] == 4
    assert history.redo(output.node) and sizes(output.node)["Segment_17"] == 1


def test_an_existing_one_is_found_again_and_nothing_else_is_taken_for_one(scene, make_volume, frames):
    output = SegmentationSequence.add(frames, "parts")
    again = SegmentationSequence.of(output.node, frames)
    again.write(0, result(frames, 0), STRUCTURES)
    assert sizes(output.node) == {"Segment_17": 1, "Segment_53": 1}
    assert SegmentationSequence.of(None, frames) is None
    assert SegmentationSequence.of(scene.AddNewNodeByClass("vtkMRMLSegmentationNode"), frames) is None
    other = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "other")
    other.SetAndObserveMasterSequenceNodeID(frames.sequence.GetID())
    elsewhere = VolumeSequence.of(other.GetProxyNode(frames.sequence))
    assert SegmentationSequence.of(output.node, elsewhere) is None


def test_a_saved_scene_gives_the_segmentations_of_all_frames_back(scene, frames, tmp_path):
    output = SegmentationSequence.add(frames, "parts")
    for number in range(3):
        output.write(number, result(frames, number), STRUCTURES)
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    scene.Clear(False)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    volume = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")[0]
    frames, node = VolumeSequence.of(volume), slicer.util.getNode("parts")
    assert len(frames) == 4
    for number in range(3):
        frames.browser.SetSelectedItemNumber(number)
        assert sizes(node) == {"Segment_17": number + 1, "Segment_53": 1}
    output = SegmentationSequence.of(node, frames)
    output.write(3, result(frames, 3), STRUCTURES)
    frames.browser.SetSelectedItemNumber(3)
    assert sizes(node) == {"Segment_17": 4, "Segment_53": 1}


def test_regions_of_interest_lie_in_frames_as_in_the_volume_on_show(scene, frames, make_transform):
    make_transform(np.array([[1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), frames.volume)
    roi = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    roi.SetCenter(15 + 2.0, 20 + 4.0, 30 + 3.0)
    roi.SetSize(2.0, 4.0, 6.0)
    image = frames.image(3)
    region = region_image(roi, frames.volume, Geometry.of(image))
    mask = sitk.GetArrayFromImage(sitk.Resample(region, image, sitk.Transform(), sitk.sitkNearestNeighbor))
    assert np.argwhere(mask).min(axis=0).tolist() == [0, 1, 1]
    assert np.argwhere(mask).max(axis=0).tolist() == [2, 3, 3]


@pytest.mark.parametrize(
    ("remove", "cause"),
    [
        (lambda frames, output: frames.volume, "no longer in the scene"),
        (lambda frames, output: frames.browser, "frames of heart are no longer in the scene"),
        (lambda frames, output: frames.sequence, "frames of heart are no longer in the scene"),
        (lambda frames, output: output.node, "segmentation was removed"),
    ],
)
def test_what_the_user_removes_meanwhile_is_a_clear_error(scene, frames, remove, cause):
    output = SegmentationSequence.add(frames, "parts")
    labels = result(frames, 1)
    scene.RemoveNode(remove(frames, output))
    with pytest.raises(InputError, match=cause) as caught:
        output.write(1, labels, STRUCTURES)
    assert caught.value.remedy


def test_a_transform_that_bends_the_volume_on_show_is_refused_for_every_frame(frames, bend):
    bend(frames.volume)
    with pytest.raises(InputError, match="heart is under the non-linear transform"):
        frames.image(2)
    with pytest.raises(InputError, match="heart is under the non-linear transform"):
        SegmentationSequence.add(frames, "parts")
