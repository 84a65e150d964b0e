"""Volumes of thick slices: the result lies on the model's finer grid, and is reviewed and corrected there."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from panel_clicks import click, click_item, draw, wait
from panel_fakes import make_refined, make_result
from panel_story import load_sample

from harness import application
from harness.segment_editor import paint
from SESegmentationLib.geometry import Geometry, covering
from SESegmentationLib.mrml import find_corrected_slices, image_from_volume_node, result_grid

THICKNESS = 4.0
AXIAL = 9  # a slice of the fine grid


@pytest.fixture
def thick(make_volume):
    """A volume of four slices of 4 mm, oblique and away from the origin."""
    volume = make_volume((20, 18, 4), "thick")
    angle = np.radians(6)
    turned = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    volume.SetIJKToRASDirections(*turned.ravel())
    volume.SetSpacing(1, 1, THICKNESS)
    volume.SetOrigin(30, -12, 7)
    return volume


def fine_image(image):
    """An image without structures on the grid that a model of 1 mm has over another."""
    geometry = covering(Geometry.of(image), (1.0, 1.0, 1.0), image.GetDirection())
    return geometry.image(np.zeros(geometry.shape, np.uint8))


def fine_volume(node):
    """A volume on the grid on which a segmentation is edited, as the Segment Editor has it."""
    serialised = node.GetSegmentation().GetConversionParameter(
        slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    )
    geometry = slicer.vtkOrientedImageData()
    slicer.vtkSegmentationConverter.DeserializeImageGeometry(serialised, geometry, True)
    matrix = vtk.vtkMatrix4x4()
    geometry.GetImageToWorldMatrix(matrix)
    array = np.zeros(geometry.GetDimensions()[::-1], np.uint8)
    return slicer.util.addVolumeFromArray(array, matrix, "grid", "vtkMRMLLabelMapVolumeNode")


def voxels(node, grid):
    """The voxels of every segment."""
    ids = node.GetSegmentation().GetSegmentIDs()
    return {i: slicer.util.arrayFromSegmentBinaryLabelmap(node, i, grid) > 0 for i in ids}


@pytest.fixture
def segment_fine(widget, segmenter, choices):
    """Function that segments by a click and gives a result on the finer grid; the segmentation and its job."""

    def run(corner=2):
        click(widget.ui.segmentButton)
        assert widget.panel.run.running, widget.panel.messages.shown
        job = segmenter.jobs[-1]
        segmenter.succeed(make_result(fine_image(job.image), widget.panel.models.card, corner=corner))
        wait(lambda: not widget.panel.run.running)
        return choices.resultSegmentation, job

    return run


def test_a_result_on_the_finer_grid_is_shown_corrected_and_learnt_from(
    widget, thick, segmenter, choices, segment_fine, dialogs, tmp_path
):
    ui = widget.ui
    node, job = segment_fine()
    assert job.options.grid == "auto" and node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is thick
    grid = fine_volume(node)
    assert grid.GetSpacing() == pytest.approx((1, 1, 1)) and grid.GetImageData().GetDimensions() == (20, 18, 16)
    assert voxels(node, grid)["Segment_1"].sum() == 27
    assert voxels(node, grid)["Segment_1"][2:5, 2:5, 2:5].all()

    # the most doubtful slices and the map of doubt are those of the finer grid
    click_item(ui.structureTable, ui.structureTable.item(1, 0))
    centre = fine_image(job.image).TransformIndexToPhysicalPoint((5, 5, 5))
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    assert red.GetSliceToRAS().GetElement(2, 3) == pytest.approx(centre[2])
    click(ui.doubtCheckBox)
    assert slicer.util.getNode("* doubt").GetSpacing() == pytest.approx((1, 1, 1))
    click(ui.doubtCheckBox)

    # a slice is corrected; the editor is given the volume
    click(ui.correctButton)
    assert slicer.modules.SegmentEditorWidget.editor.sourceVolumeNode() is thick
    inside = np.zeros((16, 18, 20), bool)
    inside[AXIAL, 6:10, 9:14] = True
    paint(node, "Segment_1", inside, grid)
    slicer.util.selectModule("SESegmentation")
    assert [str(entry) for entry in find_corrected_slices(node)] == [f"k:{AXIAL}"]
    corrected = voxels(node, grid)

    # it is kept with the scene
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear(False)
    slicer.util.loadScene(path)
    application.process_events()
    choices = widget.logic.getParameterNode()
    node, grid = choices.resultSegmentation, slicer.util.getNode("grid")
    assert fine_volume(node).GetSpacing() == pytest.approx((1, 1, 1))
    assert [str(entry) for entry in find_corrected_slices(node)] == [f"k:{AXIAL}"]

    # learning: the labels are given on the finer grid, with the volume as it is
    click(ui.recalibrateButton)
    assert widget.panel.run.running, widget.panel.messages.shown
    job = segmenter.jobs[-1]
    assert job.slices == (f"k:{AXIAL}",) and job.labels.GetSize() == (20, 18, 16) and job.image.GetSize() == (20, 18, 4)
    assert (sitk.GetArrayFromImage(job.labels) == 1).sum() == 27 + 20
    like = replace(job, image=job.labels)
    segmenter.succeed_refinement(make_refined(like, widget.panel.models.card))
    wait(lambda: not widget.panel.run.running)
    assert "gained" in ui.previewLabel.text
    click(ui.acceptChangesButton)
    accepted = voxels(node, grid)
    assert (accepted["Segment_1"][AXIAL] == corrected["Segment_1"][AXIAL]).all()
    assert accepted["Segment_1"].sum() > corrected["Segment_1"].sum()

    # again, into the same segmentation: on the same grid, the corrected slice as it was left
    choices.outputSegmentation = node
    node, job = segment_fine(corner=7)
    assert job.options.grid == "model"
    after = voxels(node, grid)
    assert (after["Segment_1"][AXIAL] == corrected["Segment_1"][AXIAL]).all() and after["Segment_1"][
        7:9, 7:9, 7:9
    ].all()
    assert "Corrected slices, left as they are: axial 9." in [m.text for m in widget.panel.messages.shown]

    dialogs.answer(str(tmp_path / "report.json"))
    click(ui.saveReportButton)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["volume"]["size"] == [20, 18, 4] and report["grid"]["size"] == [20, 18, 16]
    assert report["structures"][0]["voxels"] == after["Segment_1"].sum()


def test_a_region_is_that_of_the_thick_slices_on_the_finer_grid_too(widget, thick, choices, segment_fine):
    node, job = segment_fine(corner=2)
    choices.outputSegmentation = node
    choices.region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    place = job.image.TransformIndexToPhysicalPoint((3, 3, 0))  # slice 0: slices 0 to 3 of the finer grid
    choices.region.SetCenter(-place[0], -place[1], place[2])
    choices.region.SetSize(20, 20, 1.5 * THICKNESS)  # reaches into slice 1, not to its middle
    segment_fine(corner=12)
    held = voxels(node, fine_volume(node))["Segment_1"]
    assert np.unique(np.argwhere(held)[:, 0]).tolist() == [4]


def test_what_is_written_into_keeps_its_grid(widget, thick, segmenter, choices, segment, segment_fine):
    node = choices.outputSegmentation = segment(thick)  # on the volume's grid
    draw(node, k=1)
    segment(thick, corner=1)
    assert segmenter.jobs[-1].options.grid == "input" and [str(entry) for entry in find_corrected_slices(node)] == [
        "k:1"
    ]
    users = choices.outputSegmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    users.SetReferenceImageGeometryParameterFromVolumeNode(thick)
    segment(thick)
    assert segmenter.jobs[-1].options.grid == "auto"  # nothing is in it
    segment(thick)
    assert segmenter.jobs[-1].options.grid == "input"


def test_corrected_slices_of_another_volume_are_not_mistaken(widget, thick, choices, segment_fine, make_volume):
    node, _ = segment_fine()
    grid = fine_volume(node)
    inside = np.zeros((16, 18, 20), bool)
    inside[AXIAL, 6:10, 9:14] = True
    paint(node, "Segment_1", inside, grid)
    other = make_volume((20, 18, 4), "other")
    other.SetSpacing(1, 1, THICKNESS)
    choices.inputVolume, choices.outputSegmentation = other, node
    click(widget.ui.segmentButton)
    assert "holds corrected slices of another volume" in widget.panel.messages.shown[0].text


def test_with_a_real_worker(open_story, real_model):
    story = open_story(real_model)
    sample = load_sample()
    array = slicer.util.arrayFromVolume(sample)
    thin = array[: len(array) // 3 * 3].reshape(-1, 3, *array.shape[1:]).mean(1)
    volume = slicer.util.addVolumeFromArray(thin.astype(np.float32), name="thick")
    volume.CopyOrientation(sample)
    volume.SetSpacing(*sample.GetSpacing()[:2], 3 * sample.GetSpacing()[2])
    story.choices.inputVolume = volume
    node = story.segment()
    image = image_from_volume_node(volume)
    grid = result_grid(node, volume)
    assert grid.GetSize() != image.GetSize() and max(grid.GetSpacing()) < 1.1
    reference = fine_volume(node)
    assert reference.GetImageData().GetDimensions() == grid.GetSize()
    k = grid.GetSize()[2] // 2
    stroke = np.zeros(grid.GetSize()[::-1], bool)
    stroke[k, 20:28, 12:20] = True
    paint(node, "Segment_1", stroke, reference)
    corrected = voxels(node, reference)
    click(story.ui.recalibrateButton)
    assert story.running, story.messages
    wait(lambda: not story.running)
    assert story.messages == [] and story.ui.previewFrame.isVisible()
    click(story.ui.acceptChangesButton)
    after = voxels(node, reference)
    assert all((after[i][k] == corrected[i][k]).all() for i in after)
