"""Choosing volume, region and output by clicks, and what is said of them at once."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk
from panel_clicks import click, texts, transform_under
from panel_fakes import make_package

from harness import application
from SESegmentationLib.errors import InputError
from SESegmentationLib.mrml import DOUBT


def test_a_volume_that_is_loaded_is_chosen(widget, choices, make_volume):
    volume = make_volume()
    assert choices.inputVolume is volume and widget.ui.volumeSelector.currentNode() is volume
    make_volume(name="second")
    assert choices.inputVolume is volume


def test_the_volume_on_show_is_preferred(widget, choices, make_volume):
    make_volume()
    shown = make_volume(name="shown")
    slicer.app.applicationLogic().GetSelectionNode().SetActiveVolumeID(shown.GetID())
    choices.inputVolume = None
    widget.enter()
    assert choices.inputVolume is shown


def test_label_maps_are_not_offered(widget, choices):
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    application.process_events()
    assert choices.inputVolume is None and widget.ui.volumeSelector.nodeCount() == 0


def test_the_map_of_a_result_is_not_chosen_as_the_volume(widget, choices, segment, make_volume):
    segment(make_volume())
    click(widget.ui.doubtCheckBox)
    slicer.mrmlScene.RemoveNode(choices.inputVolume)
    widget.enter()
    application.process_events()
    assert choices.inputVolume is None
    other = make_volume(name="other")
    assert choices.inputVolume is other


def test_the_map_of_a_result_is_not_offered_as_a_volume(widget, choices, segment, make_volume):
    volume, selector = make_volume(), widget.ui.volumeSelector
    node = segment(volume)
    click(widget.ui.doubtCheckBox)
    assert DOUBT.volume(node) is not None
    offered = [selector.nodeFromIndex(index) for index in range(selector.nodeCount())]
    assert offered == [volume] and choices.inputVolume is volume


def test_the_map_of_a_result_is_refused_where_a_script_has_chosen_it(widget, choices, segment, segmenter, make_volume):
    volume, selector = make_volume(), widget.ui.volumeSelector
    node = segment(volume)
    click(widget.ui.doubtCheckBox)
    doubt = choices.inputVolume = DOUBT.volume(node)
    said = ("error", f"{doubt.GetName()} is the map of a result, not a scan.")
    assert texts(widget.panel.inputs.messages) == [said]
    click(widget.ui.segmentButton)
    assert texts(widget.panel.messages.shown) == [said] and len(segmenter.jobs) == 1
    with pytest.raises(InputError, match="map of a result"):
        widget.logic.segment(doubt, "tiny-t1")
    selector.setCurrentNode(volume)
    assert choices.inputVolume is volume and selector.nodeCount() == 1 and widget.panel.inputs.messages == []


def test_choosing_a_volume(widget, choices, make_volume):
    make_volume()
    second = make_volume(name="second")
    widget.ui.volumeSelector.setCurrentNode(second)
    assert choices.inputVolume is second


def test_what_is_wrong_with_a_volume_is_said_at_once_and_until_it_is_mended(widget, choices, make_volume):
    volume = make_volume()
    assert not widget.ui.inputMessageFrame.isVisible()
    bend = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "bend")
    volume.SetAndObserveTransformNodeID(bend.GetID())
    assert texts(widget.panel.inputs.messages) == [("error", "head is under the non-linear transform bend.")]
    assert widget.ui.inputMessageFrame.isVisible()
    volume.SetAndObserveTransformNodeID(None)
    assert widget.panel.inputs.messages == [] and not widget.ui.inputMessageFrame.isVisible()


@pytest.mark.parametrize(
    "spacing, origin", [((0, 1, 1), 0), ((1, -1, 1), 0), ((1, 1, np.nan), 0), ((1, 1, 2000), 0), ((1, 1, 1), np.inf)]
)
def test_voxel_sizes_and_places_that_no_scan_has_are_refused_at_once(widget, segmenter, make_volume, spacing, origin):
    volume = make_volume()
    volume.SetSpacing(spacing)
    volume.SetOrigin(0, 0, origin)
    widget.enter()
    (said,) = widget.panel.inputs.messages
    assert said.text.startswith("No scan has the voxel sizes or the place of head") and "Volumes" in said.remedy
    click(widget.ui.segmentButton)
    assert widget.panel.messages.shown == [said] and segmenter.jobs == []


def test_a_label_map_that_a_script_has_chosen_is_refused(widget, choices, segmenter):
    labels = slicer.util.addVolumeFromArray(np.ones((4, 5, 6), np.uint8), None, "labels", "vtkMRMLLabelMapVolumeNode")
    choices.inputVolume = labels
    said = ("error", "labels is a label map, not a scan.")
    assert texts(widget.panel.inputs.messages) == [said]
    click(widget.ui.segmentButton)
    assert texts(widget.panel.messages.shown) == [said] and segmenter.jobs == []
    with pytest.raises(InputError, match="label map"):
        widget.logic.segment(labels, "tiny-t1")


def test_what_does_not_fit_the_model_is_said_at_once(widget, choices, make_volume, models):
    make_package(models, "large", title="Large", input={"kind": "head", "extent_mm": [100, 200]})
    widget.enter()
    volume = make_volume()
    volume.SetSpacing(1, 1, 4)
    choices.model = "large"
    assert texts(widget.panel.inputs.messages) == [
        ("warning", "The field of view (20 x 18 x 64 mm) is smaller than this model expects (100 x 100 x 100 mm)."),
        ("warning", "The voxels (1 x 1 x 4 mm) are coarser than the model's (1 x 1 x 1 mm)."),
    ]
    volume.GetImageData().GetPointData().GetScalars().Fill(-1000)
    volume.GetImageData().Modified()
    assert "Hounsfield" in widget.panel.inputs.messages[-1].text
    choices.model = "tiny-t1"
    assert len(widget.panel.inputs.messages) == 2


def test_extent_and_voxel_size_are_those_along_the_patients_axes(widget, choices, make_volume, models):
    make_package(models, "head", input={"kind": "head", "extent_mm": [[17, 19], [15, 17], [70, 90]]})
    choices.model = "head"
    volume = make_volume()  # 20 x 18 x 16
    volume.SetSpacing(4, 1, 1)
    volume.SetIJKToRASDirections(0, 1, 0, 0, 0, -1, 1, 0, 0)  # i to the head, j to the right, k to the back
    widget.enter()
    assert [message.text[:29] for message in widget.panel.inputs.messages] == ["The voxels (1 x 1 x 4 mm) are"]


def test_size_does_not_matter_where_a_region_is_chosen_or_another_model_looks_for_the_place(
    widget, choices, make_volume, models
):
    expected = {"kind": "crop", "extent_mm": [1, 10]}
    make_package(models, "crop", input=expected)
    make_package(
        models,
        "cascade",
        input=expected,
        pipeline={"locator": "tiny-t1", "targets": [{"locator_value": 1, "values": {"1": 1}}]},
    )
    make_volume()
    choices.model = "crop"
    widget.enter()
    assert len(widget.panel.inputs.messages) == 1
    choices.region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    assert widget.panel.inputs.messages == []
    choices.region, choices.model = None, "cascade"
    assert widget.panel.inputs.messages == []


def test_a_new_region_lies_round_the_middle_of_the_volume(widget, choices, make_volume, segmenter):
    volume = make_volume((20, 18, 16))
    volume.SetOrigin(100, 0, -50)
    assert widget.ui.regionSelector.noneDisplay == "Whole volume"
    region = widget.ui.regionSelector.addNode()
    assert choices.region is region
    assert np.allclose(region.GetSize(), (10, 9, 8)) and np.allclose(region.GetCenter(), (109.5, 8.5, -42.5))
    click(widget.ui.segmentButton)
    assert segmenter.jobs[0].options.roi is not None
    click(widget.ui.segmentButton)


def test_output_goes_into_a_new_segmentation_or_the_chosen_one(widget, choices, segment):
    first = segment()
    second = segment()
    assert first is not second and choices.outputSegmentation is None
    widget.ui.outputSelector.setCurrentNode(first)
    assert segment(corner=5) is first
    assert slicer.util.arrayFromSegmentBinaryLabelmap(first, "Segment_1", choices.inputVolume)[5:8, 5:8, 5:8].all()


def test_an_output_under_another_transform_is_refused(widget, choices, segment, segmenter):
    choices.outputSegmentation = segment()
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    choices.inputVolume.SetAndObserveTransformNodeID(transform.GetID())
    click(widget.ui.segmentButton)
    assert "not under the same transform" in widget.panel.messages.shown[0].text and len(segmenter.jobs) == 1


def test_an_output_made_of_surfaces_is_refused_before_anything_is_computed(widget, choices, make_volume, segmenter):
    make_volume()
    node, sphere = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mesh"), vtk.vtkSphereSource()
    sphere.Update()
    surface = slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName()
    node.GetSegmentation().SetSourceRepresentationName(surface)
    node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "ball", (1, 0, 0), "ball")
    choices.outputSegmentation = node
    click(widget.ui.segmentButton)
    (message,) = widget.panel.messages.shown
    assert message.text == "The segmentation mesh is made of surfaces, not of voxels." and message.remedy
    assert segmenter.jobs == [] and not widget.panel.run.running


def test_an_output_of_another_volume_is_told_before_it_is_written_into(widget, choices, segment, make_volume):
    first, second = make_volume(name="first"), make_volume(name="second")
    choices.outputSegmentation = segment(first)
    assert widget.panel.inputs.messages == []
    choices.inputVolume = second
    (message,) = widget.panel.inputs.messages
    assert message.level == "warning" and "is a segmentation of first; the result of second" in message.text
    choices.outputSegmentation = None
    assert widget.panel.inputs.messages == []


def test_a_transform_that_mirrors_the_volume_is_warned_of(widget, choices, make_volume):
    volume = choices.inputVolume = make_volume()
    transform_under({(0, 0): -1.0}, volume)
    (message,) = widget.panel.inputs.messages
    assert message.level == "warning" and message.text.startswith("The transform of head mirrors it")
    transform_under({(0, 0): -1.0, (1, 1): -1.0}, volume)  # half a turn
    assert widget.panel.inputs.messages == []
    transform_under({(1, 1): -1.0}, volume)
    assert len(widget.panel.inputs.messages) == 1
    volume.HardenTransform()
    assert widget.panel.inputs.messages == []
