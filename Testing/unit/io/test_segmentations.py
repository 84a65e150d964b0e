"""Segmentation files: read back by Slicer's own reader and by SimpleITK."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.errors import SegmentationError
from SESegmentationLib.io.writing import write_segmentation
from SESegmentationLib.models.labels import LEFT, RIGHT, structure_label

STRUCTURES = (
    structure_label(17, "hippocampus", LEFT),
    structure_label(53, "hippocampus", RIGHT),
    structure_label(300, "brain stem"),  # does not fit a byte
    structure_label(54, "amygdala", RIGHT),  # not in the volume
)


@pytest.fixture
def labels() -> sitk.Image:
    """An oblique, anisotropic label map with three structures."""
    array = np.zeros((9, 11, 13), np.uint16)  # k, j, i
    array[2:4, 3:6, 1:5] = 17
    array[5:8, 3:6, 7:12] = 53
    array[4, 7:10, 2:9] = 300
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7, 1.3, 2.1))
    image.SetOrigin((-12.345, 67.8901, -3.25))
    turn = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5)
    image.SetDirection(turn.GetMatrix())
    return image


def moments(image: sitk.Image, value: int) -> tuple[np.ndarray, float]:
    """Centre (LPS, mm) and volume (mm^3) of one value."""
    indices = np.argwhere(sitk.GetArrayFromImage(image) == value)[:, ::-1]
    centre = image.TransformContinuousIndexToPhysicalPoint(indices.mean(axis=0).tolist())
    return np.array(centre), len(indices) * float(np.prod(image.GetSpacing()))


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.seg.nrrd"])
def test_values_and_geometry_survive(tmp_path, labels, name):
    write_segmentation(tmp_path / name, labels, STRUCTURES)
    again = sitk.ReadImage(str(tmp_path / name))
    assert np.array_equal(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(labels))
    assert again.GetPixelID() == labels.GetPixelID()
    for value in (17, 53, 300):
        assert np.allclose(moments(again, value)[0], moments(labels, value)[0], atol=1e-3)
        assert moments(again, value)[1] == pytest.approx(moments(labels, value)[1], rel=1e-5)


def test_slicer_reads_names_colours_terminology_and_geometry(tmp_path, labels):
    slicer = pytest.importorskip("slicer", reason="needs slicer-core")
    from vtk.util.numpy_support import vtk_to_numpy

    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, labels, STRUCTURES)
    scene = slicer.vtkMRMLScene()
    node = slicer.vtkMRMLSegmentationNode()
    scene.AddNode(node)
    storage = slicer.vtkMRMLSegmentationStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    segmentation = node.GetSegmentation()
    assert segmentation.GetSourceRepresentationName() == "Binary labelmap"
    assert segmentation.GetNumberOfSegments() == len(STRUCTURES)
    assert segmentation.GetNumberOfLayers() == 1
    for index, label in enumerate(STRUCTURES):
        segment = segmentation.GetNthSegment(index)
        assert segmentation.GetNthSegmentID(index) == f"Segment_{label.value}"
        assert segment.GetName() == label.name
        assert segment.GetLabelValue() == label.value
        assert np.allclose(np.array(segment.GetColor()) * 255, label.color, atol=0.01)
        entry = slicer.vtkSlicerTerminologyEntry()
        tag = segment.GetTerminology()
        assert slicer.vtkSlicerTerminologiesModuleLogic.DeserializeTerminologyEntry(tag, entry)
        assert entry.GetTypeObject().GetCodeValue() == label.type.value
        assert (entry.GetTypeModifierObject().GetCodeValue() or None) == (label.modifier and label.modifier.value)
        image = slicer.vtkOrientedImageData()
        node.GetBinaryLabelmapRepresentation(f"Segment_{label.value}", image)
        expected = (sitk.GetArrayFromImage(labels) == label.value).sum()
        scalars = image.GetPointData().GetScalars()
        found = np.flatnonzero(vtk_to_numpy(scalars)) if scalars else np.empty(0)
        assert len(found) == expected
        if expected:
            centre_ras = voxel_centre(image, found)
            assert np.allclose(centre_ras * (-1, -1, 1), moments(labels, label.value)[0], atol=1e-3)


def voxel_centre(image, voxels: np.ndarray) -> np.ndarray:
    """Mean position (RAS, mm) of voxels of a vtkOrientedImageData, given by their flat numbers."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    extent = image.GetExtent()
    shape = [extent[5] - extent[4] + 1, extent[3] - extent[2] + 1, extent[1] - extent[0] + 1]
    k, j, i = (part.mean() for part in np.unravel_index(voxels, shape))
    return np.array(matrix.MultiplyPoint((i + extent[0], j + extent[2], k + extent[4], 1))[:3])


def test_the_inputs_own_fields_are_not_passed_on(tmp_path, labels):
    labels.SetMetaData("PatientName", "Doe^Jane")
    write_segmentation(tmp_path / "a.seg.nrrd", labels, STRUCTURES)
    assert b"Doe" not in (tmp_path / "a.seg.nrrd").read_bytes()
    assert labels.GetMetaData("PatientName") == "Doe^Jane"


def test_a_file_that_cannot_be_written_says_so(tmp_path, labels):
    with pytest.raises(SegmentationError, match=r"a\.nii\.gz cannot be written"):
        write_segmentation(tmp_path / "absent" / "a.nii.gz", labels, STRUCTURES)
