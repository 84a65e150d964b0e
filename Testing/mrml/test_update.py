"""A result into a segmentation that is there: what the user finished is spared, and all of it is one step to undo."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from hypothesis import given, settings
from hypothesis import strategies as st

from SESegmentationLib.errors import InputError
from SESegmentationLib.io.segmentations import STRUCTURE_TAG
from SESegmentationLib.models.labels import LEFT, RIGHT, structure_label
from SESegmentationLib.mrml import UndoHistory, add_segmentation, image_from_volume_node, update_segmentation

STRUCTURES = [
    structure_label(17, "hippocampus", LEFT),
    structure_label(53, "hippocampus", RIGHT),
    structure_label(16, "brain stem"),
]
LOGIC = slicer.vtkSlicerSegmentationsModuleLogic
SURFACE = "Closed surface"
SHAPE = (5, 6, 7)


def label_image(volume, values):
    image = sitk.GetImageFromArray(values.astype(np.uint8))
    image.CopyInformation(image_from_volume_node(volume))
    return image


def blocks(**boxes):
    """Values (k, j, i), "s17" in the box given for it."""
    values = np.zeros(SHAPE, np.uint8)
    for name, box in boxes.items():
        values[box] = int(name[1:])
    return values


def state(node):
    """Everything that a user sees of a segmentation, by segment ID."""
    segmentation, found = node.GetSegmentation(), {}
    for identifier in segmentation.GetSegmentIDs():
        segment, tag = segmentation.GetSegment(identifier), vtk.reference("")
        segment.GetTag(segment.GetTerminologyEntryTagName(), tag)
        volume = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
        array = slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume)
        found[identifier] = (
            segment.GetName(),
            segment.GetColor(),
            str(tag),
            LOGIC.GetSegmentStatus(segment),
            (array > 0).tolist(),
        )
    return found


def voxels(node, identifier):
    return np.array(state(node)[identifier][-1])


def complete(node, *identifiers):
    for identifier in identifiers:
        LOGIC.SetSegmentStatus(node.GetSegmentation().GetSegment(identifier), LOGIC.Completed)


@pytest.fixture
def volume(make_volume):
    return make_volume(size=SHAPE[::-1], name="head")


@pytest.fixture
def node(volume):
    first = blocks(s17=np.s_[1:3, 2:4, 3:6], s53=np.s_[3, 2:4, 0:2])
    return add_segmentation(label_image(volume, first), STRUCTURES, volume, "head")


def test_a_second_result_replaces_the_first(volume, node):
    second = blocks(s17=np.s_[0, 0, 0:2], s16=np.s_[4, 4:6, 1:3])
    assert update_segmentation(node, label_image(volume, second), STRUCTURES) == []
    assert list(state(node)) == ["Segment_17", "Segment_53", "Segment_16"]
    for label in STRUCTURES:
        np.testing.assert_array_equal(voxels(node, f"Segment_{label.value}"), second == label.value)
    assert node.GetSegmentation().GetNumberOfLayers() == 1


def test_completed_segments_keep_every_voxel_and_others_get_none_of_them(volume, node):
    complete(node, "Segment_17")
    before = voxels(node, "Segment_17")
    second = np.full(SHAPE, 53, np.uint8)  # would swallow the left one
    second[0] = 17
    assert update_segmentation(node, label_image(volume, second), STRUCTURES) == ["left hippocampus"]
    np.testing.assert_array_equal(voxels(node, "Segment_17"), before)
    np.testing.assert_array_equal(voxels(node, "Segment_53"), (second == 53) & ~before)


def test_completed_segments_in_layers_of_their_own_keep_what_they_share(volume, node):
    """Two completed segments that overlap, as the user may draw them, both stay as they are."""
    overlapping = slicer.util.arrayFromSegmentBinaryLabelmap(node, "Segment_17", volume) * 0
    overlapping[1:4, 2:4, 2:5] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(overlapping, node, "Segment_53", volume)
    assert node.GetSegmentation().GetNumberOfLayers() == 2
    complete(node, "Segment_17", "Segment_53")
    left, right = voxels(node, "Segment_17"), voxels(node, "Segment_53")
    assert (left & right).any()
    update_segmentation(node, label_image(volume, np.full(SHAPE, 16)), STRUCTURES)
    np.testing.assert_array_equal(voxels(node, "Segment_17"), left)
    np.testing.assert_array_equal(voxels(node, "Segment_53"), right)
    np.testing.assert_array_equal(voxels(node, "Segment_16"), ~(left | right))


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), completed=st.sets(st.sampled_from([16, 17, 53])))
def test_whatever_is_completed_stays_and_the_rest_is_the_result(make_volume, seed, completed):
    random = np.random.default_rng(seed)
    first, second = random.choice([0, 0, 16, 17, 53], size=(2, *SHAPE)).astype(np.uint8)
    volume = make_volume(size=SHAPE[::-1], spacing=random.uniform(0.5, 3, 3), origin=random.uniform(-50, 50, 3))
    node = add_segmentation(label_image(volume, first), STRUCTURES, volume, "head")
    complete(node, *(f"Segment_{value}" for value in completed))
    update_segmentation(node, label_image(volume, second), STRUCTURES)
    spared = np.isin(first, list(completed))
    for value in (16, 17, 53):
        expected = first == value if value in completed else (second == value) & ~spared
        np.testing.assert_array_equal(voxels(node, f"Segment_{value}"), expected)
    for gone in (volume, node):
        slicer.mrmlScene.RemoveNode(gone)


def test_completed_voxels_are_spared_on_another_grid_too(make_volume, volume, node):
    complete(node, "Segment_17")
    fine = make_volume(size=(14, 12, 10), spacing=(0.5, 0.75, 1.0), origin=(-3.25, 3.625, 4.5), name="fine")
    image = sitk.GetImageFromArray(np.full((10, 12, 14), 53, np.uint8))
    image.CopyInformation(image_from_volume_node(fine))
    before = voxels(node, "Segment_17")
    update_segmentation(node, image, STRUCTURES)
    np.testing.assert_array_equal(voxels(node, "Segment_17"), before)
    right = slicer.util.arrayFromSegmentBinaryLabelmap(node, "Segment_53", fine) > 0
    left = np.kron(before, np.ones((2, 2, 2))) > 0  # each voxel is eight of the fine ones
    np.testing.assert_array_equal(right, ~left)


def test_segments_of_the_user_are_not_touched(volume, node):
    segmentation = node.GetSegmentation()
    tumour = segmentation.GetSegment(segmentation.AddEmptySegment("Segment_16_1", "tumour", (0.1, 0.2, 0.3)))
    slicer.util.updateSegmentBinaryLabelmapFromArray(np.ones(SHAPE, np.uint8), node, "Segment_16_1", volume)
    before = state(node)["Segment_16_1"]
    update_segmentation(node, label_image(volume, blocks(s17=np.s_[0, 0, 0])), STRUCTURES)
    assert state(node)["Segment_16_1"] == before and tumour.GetName() == "tumour"


def test_a_segment_of_the_user_with_the_same_id_and_code_is_another_one(volume):
    """Slicer numbers the user's segments: Segment_1 may be anything, and hippocampi have one code in all parts."""
    anterior, posterior = structure_label(1, "anterior hippocampus"), structure_label(2, "posterior hippocampus")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    own = node.GetSegmentation().GetSegment(node.GetSegmentation().AddEmptySegment("Segment_1", "my sketch"))
    own.SetTag(own.GetTerminologyEntryTagName(), anterior.terminology_entry())
    slicer.util.updateSegmentBinaryLabelmapFromArray(np.ones(SHAPE, np.uint8), node, "Segment_1", volume)
    update_segmentation(node, label_image(volume, blocks(s1=np.s_[0], s2=np.s_[1])), [anterior, posterior])
    names = {entry[0]: np.sum(entry[-1]) for entry in state(node).values()}
    assert names == {"my sketch": 5 * 6 * 7, "anterior hippocampus": 6 * 7, "posterior hippocampus": 6 * 7}


def test_names_and_colours_that_the_user_chose_stay(volume, node):
    segment = node.GetSegmentation().GetSegment("Segment_17")
    segment.SetName("HC left")
    segment.SetColor(0.5, 0.25, 0.125)
    update_segmentation(node, label_image(volume, blocks(s17=np.s_[0, 0, 0])), STRUCTURES)
    assert list(state(node)) == ["Segment_17", "Segment_53", "Segment_16"]
    assert state(node)["Segment_17"][:2] == ("HC left", (0.5, 0.25, 0.125))
    assert voxels(node, "Segment_17").sum() == 1


def test_a_segment_of_the_same_name_and_code_is_the_one(volume):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    drawn = node.GetSegmentation().GetSegment(node.GetSegmentation().AddEmptySegment("drawn", "left hippocampus"))
    drawn.SetTag(drawn.GetTerminologyEntryTagName(), STRUCTURES[0].terminology_entry())
    update_segmentation(node, label_image(volume, blocks(s17=np.s_[0, 0])), STRUCTURES, volume=volume)
    assert list(state(node)) == ["drawn", "Segment_53", "Segment_16"]
    assert voxels(node, "drawn").sum() == 7


def test_undo_takes_all_of_it_back_and_redo_makes_it_again(volume, node):
    complete(node, "Segment_53")
    node.GetSegmentation().GetSegment("Segment_17").SetName("HC left")
    node.GetSegmentation().RemoveSegment("Segment_16")
    history = UndoHistory()
    before, objects = state(node), node.GetSegmentation().GetSegment("Segment_17")
    assert not history.can_undo(node) and not history.can_redo(node) and not history.undo(node)
    update_segmentation(node, label_image(volume, blocks(s16=np.s_[0], s17=np.s_[1])), STRUCTURES, history)
    after = state(node)
    assert after != before and list(after) == ["Segment_17", "Segment_53", "Segment_16"]
    assert history.undo(node) and not history.can_undo(node)
    assert state(node) == before
    assert node.GetSegmentation().GetSegment("Segment_17") is objects
    assert history.redo(node) and not history.can_redo(node)
    assert state(node) == after


def test_several_updates_are_taken_back_one_by_one(volume, node):
    history, states = UndoHistory(), [state(node)]
    for k in range(3):
        update_segmentation(node, label_image(volume, blocks(s17=np.s_[k])), STRUCTURES, history)
        states.append(state(node))
    for expected in reversed(states[:-1]):
        assert history.undo(node)
        assert state(node) == expected
    assert not history.can_undo(node)


def test_edits_after_an_update_are_taken_back_with_it_and_come_again(volume, node):
    history, before = UndoHistory(), state(node)
    update_segmentation(node, label_image(volume, blocks(s17=np.s_[0])), STRUCTURES, history)
    slicer.util.updateSegmentBinaryLabelmapFromArray(blocks(s1=np.s_[4]), node, "Segment_17", volume)
    edited = state(node)
    assert history.undo(node) and state(node) == before
    assert history.redo(node) and state(node) == edited


def test_a_history_forgets_segmentations_that_left_the_scene(scene, volume, node):
    history, labels = UndoHistory(), label_image(volume, blocks(s17=np.s_[0]))
    update_segmentation(node, labels, STRUCTURES, history)
    assert history.can_undo(node)
    scene.RemoveNode(node)
    other = add_segmentation(label_image(volume, blocks()), STRUCTURES, volume, "other")
    update_segmentation(other, labels, STRUCTURES, history)
    assert history.can_undo(other) and not history.can_undo(node) and not history.can_undo(None)
    scene.Clear(False)
    fresh = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")  # has the ID of the first one
    assert not history.can_undo(fresh)


def test_surfaces_of_old_voxels_go_away(volume, node):
    assert node.CreateClosedSurfaceRepresentation()
    complete(node, "Segment_53")
    segmentation, history = node.GetSegmentation(), UndoHistory()
    update_segmentation(node, label_image(volume, blocks(s17=np.s_[0:2, 0:2, 0:2])), STRUCTURES, history)
    assert not any(segmentation.GetSegment(s).GetRepresentation(SURFACE) for s in segmentation.GetSegmentIDs())
    assert node.CreateClosedSurfaceRepresentation()
    bounds = segmentation.GetSegment("Segment_17").GetRepresentation(SURFACE).GetBounds()
    assert bounds[1] < 0 and bounds[5] < 10  # where the new voxels are, not the old ones
    history.undo(node)
    assert segmentation.GetSegment("Segment_17").GetRepresentation(SURFACE) is None


def test_an_empty_segmentation_of_the_user_becomes_one_of_the_volume(scene, volume):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(volume), study)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    update_segmentation(node, label_image(volume, blocks(s17=np.s_[0, 0])), STRUCTURES, volume=volume)
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is volume
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study
    assert voxels(node, "Segment_17").sum() == 7


def test_a_segmentation_stays_in_the_folder_that_the_user_chose_and_refers_to_the_segmented_volume(
    scene, make_volume, volume, node
):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "results")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), folder)
    other = make_volume(size=SHAPE[::-1], name="other")
    update_segmentation(node, label_image(other, blocks(s17=np.s_[0, 0])), STRUCTURES, volume=other)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == folder
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is other


def test_a_segmentation_of_surfaces_is_refused_and_unchanged(scene, volume):
    node, sphere = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mesh"), vtk.vtkSphereSource()
    sphere.Update()
    node.GetSegmentation().SetSourceRepresentationName(SURFACE)
    node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "ball", (1, 0, 0), "ball")
    history = UndoHistory()
    with pytest.raises(InputError, match="mesh is made of surfaces") as caught:
        update_segmentation(node, label_image(volume, blocks(s17=np.s_[0])), STRUCTURES, history)
    assert caught.value.remedy and not history.can_undo(node)
    assert list(node.GetSegmentation().GetSegmentIDs()) == ["ball"]
    assert node.GetSegmentation().GetSegment("ball").GetRepresentation(SURFACE).GetNumberOfPoints() > 0


OTHER_ENTRY = structure_label(17, "amygdala").terminology_entry()


def change(node, what, identifier="Segment_17"):
    """What the clinician does to a segment in the Segment Editor."""
    segment = node.GetSegmentation().GetSegment(identifier)
    if what in ("terminology", "all"):
        segment.SetTag(segment.GetTerminologyEntryTagName(), OTHER_ENTRY)
    if what in ("name", "all"):
        segment.SetName("lesion")
    if what in ("colour", "all"):
        segment.SetColor(0.5, 0.25, 0.125)


@pytest.mark.parametrize("what", ["terminology", "name", "colour", "all"])
def test_a_segment_is_the_one_that_was_made_for_a_structure_whatever_the_user_calls_it(scene, volume, node, what):
    change(node, what)
    chosen = state(node)["Segment_17"][:3]
    update_segmentation(node, label_image(volume, blocks(s17=np.s_[0, 0, 0])), STRUCTURES)
    assert list(state(node)) == ["Segment_17", "Segment_53", "Segment_16"]
    assert state(node)["Segment_17"][:3] == chosen and voxels(node, "Segment_17").sum() == 1


@pytest.mark.parametrize("what", ["terminology", "name", "colour"])
def test_segments_of_an_earlier_version_say_what_they_are_less_clearly(volume, node, what):
    node.GetSegmentation().GetSegment("Segment_17").RemoveTag(STRUCTURE_TAG)
    change(node, what)
    update_segmentation(node, label_image(volume, blocks(s17=np.s_[0, 0, 0])), STRUCTURES)
    change(node, "all")  # after it was written into, that is no matter either
    update_segmentation(node, label_image(volume, blocks(s17=np.s_[0, 0])), STRUCTURES)
    assert list(state(node)) == ["Segment_17", "Segment_53", "Segment_16"]
    assert voxels(node, "Segment_17").sum() == 7


def test_another_models_structure_of_the_same_value_is_another_one(volume, node):
    change(node, "all")
    before = state(node)["Segment_17"]
    update_segmentation(node, label_image(volume, blocks(s17=np.s_[4])), [structure_label(17, "amygdala")])
    assert state(node)["Segment_17"] == before and list(state(node))[-1] == "Segment_17_1"


def test_a_copy_is_not_taken_for_the_segment_whose_terminology_was_changed(volume, node):
    segmentation, copy = node.GetSegmentation(), slicer.vtkSegment()
    copy.DeepCopy(segmentation.GetSegment("Segment_17"))
    segmentation.AddSegment(copy, "copy")
    segmentation.SetSegmentIndex("copy", 0)
    change(node, "terminology")
    before = state(node)["copy"]
    update_segmentation(node, label_image(volume, blocks(s17=np.s_[0, 0, 0])), STRUCTURES)
    assert state(node)["copy"] == before and voxels(node, "Segment_17").sum() == 1
