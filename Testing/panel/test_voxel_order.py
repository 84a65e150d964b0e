"""Volumes that were made left-handed: Slicer reads their files in another order, and corrections are found again."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from panel_clicks import click, draw, first_segment, save_and_reopen, transform_under, wait
from panel_fakes import make_refined, make_result

from SESegmentationLib.geometry import Geometry, covering, same_grid
from SESegmentationLib.mrml import find_corrected_slices, volume_geometry
from SESegmentationLib.panel.reports import scene_report
from SESegmentationLib.panel.result_record import ResultRecord
from SESegmentationLib.panel.voxel_order import follow_voxel_order


@pytest.fixture
def left_handed(make_volume):
    """A volume with left-handed axes, which Slicer's files do not keep."""
    volume = make_volume()
    volume.SetIJKToRASDirections(-1, 0, 0, 0, 1, 0, 0, 0, 1)
    return volume


def region_of(node, volume):
    """The voxels of a volume that lie in the region of its result."""
    geometry = volume_geometry(volume)
    return ResultRecord.read(node).region.inside(geometry, geometry, volume.GetName())


def test_a_scene_with_a_left_handed_volume_is_learnt_from(widget, segment, segmenter, left_handed, choices, tmp_path):
    choices.region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    choices.region.SetCenter(-7, 7, 4)
    choices.region.SetSize(16, 16, 6)  # slices 1 to 7
    choices.outputSegmentation = segment(left_handed, corner=2)
    draw(choices.outputSegmentation, k=3)
    choices.outputSegmentation = segment(corner=4)  # the slice counts as corrected from now on
    draw(choices.outputSegmentation, k=6)
    save_and_reopen(tmp_path)
    choices = widget.logic.getParameterNode()
    node, volume = choices.resultSegmentation, choices.inputVolume
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    assert matrix.Determinant() > 0  # by Slicer's reading
    assert [str(entry) for entry in find_corrected_slices(node)] == ["k:9,12"]  # 16 slices, from the other end
    assert scene_report(node)["structures"][0]["corrected_voxels"] == 20 + 20
    drawn = first_segment(node)
    click(widget.ui.recalibrateButton)
    assert widget.panel.messages.shown == [] and segmenter.jobs[-1].kind == "refine"
    job = segmenter.jobs[-1]
    assert job.slices == ("k:9,12",) and same_grid(job.labels, job.image)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(job.labels) == 1, drawn)
    region = sitk.GetArrayFromImage(job.options.roi).any((1, 2))
    first = job.image.TransformPhysicalPointToIndex(job.options.roi.GetOrigin())[2]
    assert (first + np.flatnonzero(region)).tolist() == list(range(8, 15))
    segmenter.succeed_refinement(make_refined(job, widget.panel.models.card))
    wait(lambda: not widget.panel.run.running)
    click(widget.ui.acceptChangesButton)
    assert (first_segment(node)[[9, 12]] == drawn[[9, 12]]).all()


def test_a_region_on_the_finer_grid_of_thick_slices_is_counted_from_the_other_end(
    widget, segmenter, left_handed, choices, tmp_path
):
    left_handed.SetSpacing(1, 1, 4)
    choices.region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    choices.region.SetCenter(-7, 7, 16)
    choices.region.SetSize(16, 16, 24)  # slices 1 to 7 of 16
    click(widget.ui.segmentButton)
    geometry = Geometry.of(segmenter.jobs[-1].image)
    grid = covering(geometry, (1.0, 1.0, 1.0), geometry.direction)
    image = grid.image(np.zeros(grid.shape, np.uint8))
    segmenter.succeed(make_result(image, widget.panel.models.card, corner=6))
    wait(lambda: not widget.panel.run.running)
    inside = region_of(choices.resultSegmentation, choices.inputVolume)
    assert inside.any() and inside.any((1, 2)).nonzero()[0].tolist() == list(range(1, 8))
    save_and_reopen(tmp_path)
    choices = widget.logic.getParameterNode()
    np.testing.assert_array_equal(region_of(choices.resultSegmentation, choices.inputVolume), inside[::-1])
    assert not follow_voxel_order(choices.resultSegmentation, choices.inputVolume)  # once only
    np.testing.assert_array_equal(region_of(choices.resultSegmentation, choices.inputVolume), inside[::-1])


def test_corrections_stay_where_a_left_handed_volume_is_loaded_again(widget, segment, left_handed, choices, tmp_path):
    node = choices.outputSegmentation = segment(left_handed)
    draw(node, k=3)
    drawn = first_segment(node)
    assert slicer.util.saveNode(left_handed, str(tmp_path / "head.nrrd"))
    slicer.mrmlScene.RemoveNode(left_handed)
    choices.inputVolume = slicer.util.loadVolume(str(tmp_path / "head.nrrd"))
    assert segment(corner=6) is node and "axial 12" in widget.panel.messages.shown[0].text
    assert (first_segment(node)[12] == drawn[3]).all() and first_segment(node)[8].any()


def test_a_mirrored_scene_that_was_saved_is_learnt_from_once_it_is_mirrored_back(
    widget, segment, segmenter, choices, tmp_path
):
    node = segment()
    draw(node, k=3)
    mirror = {(0, 0): -1.0}
    transform_under(mirror, node, choices.inputVolume)
    for each in (node, choices.inputVolume):
        each.HardenTransform()
    save_and_reopen(tmp_path)
    choices = widget.logic.getParameterNode()
    nodes = (choices.resultSegmentation, choices.inputVolume)
    transform_under(mirror, *nodes)
    for each in nodes:
        each.HardenTransform()
    click(widget.ui.recalibrateButton)
    assert segmenter.jobs[-1].kind == "refine" and segmenter.jobs[-1].slices == ("k:12",)


@pytest.mark.parametrize("mirrored_box", [False, True])
def test_a_region_follows_where_a_scene_is_mirrored_saved_and_mirrored_back(
    widget, segment, choices, tmp_path, mirrored_box
):
    choices.region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    choices.region.SetCenter(7, 7, 4)
    choices.region.SetSize(16, 16, 6)  # slices 1 to 7
    mirror = {(0, 0): -1.0}
    if mirrored_box:
        choices.region.SetCenter(-7, 7, 4)
        transform_under(mirror, choices.region)
    node, volume = segment(), choices.inputVolume
    inside = region_of(node, volume)
    assert inside.any((1, 2)).nonzero()[0].tolist() == list(range(1, 8))
    assert not follow_voxel_order(node, volume)
    transform_under(mirror, node, volume)
    for each in (node, volume):
        each.HardenTransform()
    assert not follow_voxel_order(node, volume)  # the voxels are counted as before
    save_and_reopen(tmp_path)
    choices = widget.logic.getParameterNode()
    node, volume = choices.resultSegmentation, choices.inputVolume
    np.testing.assert_array_equal(region_of(node, volume), inside[::-1])
    transform_under(mirror, node, volume)
    for each in (node, volume):
        each.HardenTransform()
    follow_voxel_order(node, volume)
    np.testing.assert_array_equal(region_of(node, volume), inside[::-1])
