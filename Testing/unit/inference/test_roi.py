"""Regions of interest: from a label file or Slicer, in the right place whatever their axes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.errors import InputError
from SESegmentationLib.geometry import Geometry
from SESegmentationLib.inference.roi import inside, read_roi, region_box

CENTRE_LPS = (5.3, -8.2, 12.1)
SIZE = (10.0, 20.0, 40.0)
#: columns are the box's axes in LPS: turned by 30 degrees about x
AXES_LPS = np.array([[1, 0, 0], [0, math.cos(0.5236), -math.sin(0.5236)], [0, math.sin(0.5236), math.cos(0.5236)]])
VOLUME = Geometry((80, 90, 100), (1.0, 1.0, 1.0), (-35.0, -50.0, -40.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))


def write_markups(path: Path, *markups: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"markups": list(markups)}), encoding="utf-8")
    return path


def markup(**changes: Any) -> dict[str, Any]:
    entries = {
        "type": "ROI",
        "coordinateSystem": "LPS",
        "center": CENTRE_LPS,
        "size": SIZE,
        "orientation": AXES_LPS.ravel().tolist(),
        "insideOut": False,
    }
    return {key: value for key, value in (entries | changes).items() if value is not None}


def expected_mask() -> np.ndarray:
    """Which voxels of ``VOLUME`` lie in the box, from its definition."""
    k, j, i = np.indices(VOLUME.shape)
    points = VOLUME.points(np.stack([i, j, k], -1).reshape(-1, 3)) - CENTRE_LPS
    return (np.abs(points @ AXES_LPS) < np.array(SIZE) / 2).all(1).reshape(VOLUME.shape)


def assert_expected(roi: sitk.Image) -> None:
    mask, expected = inside(region_box(roi), VOLUME), expected_mask()
    differing = (mask != expected).sum()  # voxel centres on the surface may fall to either side
    assert expected.sum() == pytest.approx(np.prod(SIZE), rel=0.03)
    assert differing <= 0.01 * expected.sum()


@pytest.mark.parametrize("system", ["LPS", "RAS", 1, 0, None])
def test_a_box_in_either_coordinate_system(tmp_path, system):
    flip = np.diag([-1, -1, 1]) if system in ("RAS", 0) else np.eye(3)
    entry = markup(
        coordinateSystem=system,
        center=(flip @ CENTRE_LPS).tolist(),
        orientation=(flip @ AXES_LPS).ravel().tolist(),
    )
    assert_expected(read_roi(write_markups(tmp_path / "a.mrk.json", {"type": "Fiducial"}, entry)))


def test_a_box_that_slicer_wrote(tmp_path):
    slicer = pytest.importorskip("slicer", reason="needs slicer-core")
    vtk = pytest.importorskip("vtk", reason="needs slicer-core")
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    to_node = vtk.vtkMatrix4x4()
    flip = np.diag([-1, -1, 1])  # Slicer's nodes are RAS
    for row in range(3):
        for column in range(3):
            to_node.SetElement(row, column, (flip @ AXES_LPS)[row, column])
        to_node.SetElement(row, 3, (flip @ CENTRE_LPS)[row])
    node.SetAndObserveObjectToNodeMatrix(to_node)
    node.SetSize(*SIZE)
    storage = slicer.vtkMRMLMarkupsROIJsonStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(tmp_path / "a.mrk.json"))
    assert storage.WriteData(node)
    assert_expected(read_roi(tmp_path / "a.mrk.json"))


def test_without_an_orientation_the_axes_are_the_patient_s(tmp_path):
    box = region_box(read_roi(write_markups(tmp_path / "a.json", markup(orientation=None))))
    np.testing.assert_allclose(np.ptp(box.corners(), axis=0), SIZE)
    np.testing.assert_allclose(box.corners().mean(0), CENTRE_LPS)


def test_the_box_round_what_is_painted_in_a_label_file(tmp_path):
    """Of any value; along the file's own axes, outer voxels in full."""
    direction = sitk.VersorTransform((0, 0, 1), 0.3).GetMatrix()
    geometry = Geometry((12, 14, 16), (2.0, 3.0, 4.0), (7.0, 8.0, 9.0), direction)
    array = np.zeros(geometry.shape, np.uint8)
    array[3, 2, 5] = 1
    array[6, 8, 5:7] = 40
    sitk.WriteImage(geometry.image(array), str(tmp_path / "roi.nii.gz"))
    box = region_box(read_roi(tmp_path / "roi.nii.gz"))
    expected = geometry.cropped((slice(3, 7), slice(2, 9), slice(5, 7)))
    assert box.spacing == pytest.approx(expected.extent_mm)
    np.testing.assert_allclose(sorted(box.corners().tolist()), sorted(expected.corners().tolist()), atol=1e-4)
    mask = inside(box, geometry)
    assert mask.sum() == 4 * 7 * 2
    assert mask[3:7, 2:9, 5:7].all()


def test_what_nobody_painted_is_no_region():
    with pytest.raises(InputError, match="empty"):
        region_box(sitk.Image(4, 4, 4, sitk.sitkUInt8))


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as raised:
        read_roi(path)
    assert raised.value.remedy
    assert len(raised.value.cause.splitlines()) == 1
    return raised.value.cause


@pytest.mark.parametrize(
    "changes",
    [
        {"size": None},
        {"size": (10, 0, 10)},
        {"size": (10, 10)},
        {"size": ("wide", 1, 1)},
        {"center": (None, 0, 0)},
        {"orientation": [0.0] * 9},
        {"orientation": [1.0, 0.5, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]},
        {"orientation": [1.0, 0.0]},
        {"insideOut": True},
    ],
)
def test_boxes_that_are_none_are_refused(tmp_path, changes):
    assert "not a region of interest" in refusal(write_markups(tmp_path / "a.mrk.json", markup(**changes)))


def test_one_region_is_wanted(tmp_path):
    assert "holds 2 regions" in refusal(write_markups(tmp_path / "a.mrk.json", markup(), markup()))
    assert "holds 0 regions" in refusal(write_markups(tmp_path / "a.mrk.json", {"type": "Line"}))


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"markups": 3}', '{"markups": [3]}', '"markups"', "\xff"])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "a.mrk.json").write_bytes(text.encode("latin-1"))
    assert "not a region of interest" in refusal(tmp_path / "a.mrk.json")


def test_absent_files_are_refused(tmp_path):
    assert "cannot be read: No such file" in refusal(tmp_path / "a.mrk.json")
    assert "There is no file" in refusal(tmp_path / "a.nrrd")
