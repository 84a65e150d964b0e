"""Regions of interest: a box drawn in Slicer covers the voxels that lie in it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.cli.region import read_region
from SESegmentationLib.errors import InputError


def write_box(path, **changes) -> None:
    """A markups ROI as Slicer writes it, with the fields that matter."""
    box = {
        "type": "ROI",
        "coordinateSystem": "LPS",
        "roiType": "Box",
        "center": [3.0, -4.0, 5.0],
        "orientation": [1, 0, 0, 0, 1, 0, 0, 0, 1],
        "size": [10.0, 6.0, 4.0],
    } | changes
    path.write_text(json.dumps({"markups": [box]}))


def inside(region: sitk.Image) -> np.ndarray:
    """Positions (N, 3), LPS in mm, of the points of a 0.5 mm grid that the region covers."""
    grid = sitk.Image((80, 80, 80), sitk.sitkUInt8)
    grid.SetSpacing((0.5, 0.5, 0.5))
    grid.SetOrigin((-19.8, -19.8, -19.8))
    covered = sitk.Resample(region, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return np.argwhere(sitk.GetArrayViewFromImage(covered))[:, ::-1] * 0.5 - 19.8


def test_a_box_covers_what_lies_in_it(tmp_path):
    write_box(tmp_path / "R.mrk.json")
    points = inside(read_region(tmp_path / "R.mrk.json"))
    assert np.allclose(points.mean(axis=0), (3, -4, 5), atol=0.3)
    assert np.allclose(np.ptp(points, axis=0), (10, 6, 4), atol=0.6)


def test_a_box_in_ras_is_turned(tmp_path):
    write_box(tmp_path / "R.mrk.json", coordinateSystem="RAS")
    assert np.allclose(inside(read_region(tmp_path / "R.mrk.json")).mean(axis=0), (-3, 4, 5), atol=0.3)


def test_a_turned_box_keeps_its_volume(tmp_path):
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    write_box(tmp_path / "R.mrk.json", orientation=turn.ravel().tolist())
    points = inside(read_region(tmp_path / "R.mrk.json"))
    assert len(points) * 0.5**3 == pytest.approx(10 * 6 * 4, rel=0.03)
    along = (points - (3, -4, 5)) @ turn
    assert np.allclose(np.ptp(along, axis=0), (10, 6, 4), atol=0.8)


def test_slicer_writes_what_is_read(tmp_path):
    slicer = pytest.importorskip("slicer", reason="needs slicer-core")
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    node.SetCenter(1, 2, 3)  # RAS
    node.SetSize(8, 6, 4)
    storage = scene.AddNewNodeByClass("vtkMRMLMarkupsROIJsonStorageNode") or slicer.vtkMRMLMarkupsROIJsonStorageNode()
    storage.SetFileName(str(tmp_path / "R.mrk.json"))
    assert storage.WriteData(node)
    points = inside(read_region(tmp_path / "R.mrk.json"))
    assert np.allclose(points.mean(axis=0), (-1, -2, 3), atol=0.3)
    assert np.allclose(np.ptp(points, axis=0), (8, 6, 4), atol=0.6)


def test_a_label_file_is_a_region(tmp_path):
    array = np.zeros((4, 5, 6), np.uint8)
    array[1, 2, 3] = 7
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "r.nii.gz"))
    region = sitk.GetArrayFromImage(read_region(tmp_path / "r.nii.gz"))
    assert region[1, 2, 3] == 1
    assert region.sum() == 1


@pytest.mark.parametrize("content", ["", "{}", '{"markups": []}', '{"markups": [{"type": "Fiducial"}]}', "[1]"])
def test_other_json_is_refused(tmp_path, content):
    (tmp_path / "R.mrk.json").write_text(content)
    with pytest.raises(InputError) as caught:
        read_region(tmp_path / "R.mrk.json")
    assert "Slicer" in caught.value.remedy


@pytest.mark.parametrize("changes", [{"size": [1, 0, 1]}, {"size": [1, 1]}, {"center": None}, {"orientation": [1]}])
def test_an_incomplete_box_is_refused(tmp_path, changes):
    write_box(tmp_path / "R.mrk.json", **changes)
    with pytest.raises(InputError):
        read_region(tmp_path / "R.mrk.json")


def test_absent_or_empty_regions_are_refused(tmp_path):
    with pytest.raises(InputError):
        read_region(tmp_path / "absent.mrk.json")
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkUInt8), str(tmp_path / "r.nii.gz"))
    with pytest.raises(InputError, match="empty"):
        read_region(tmp_path / "r.nii.gz")
