"""Volume nodes as images: the same voxels at the same places, or a refusal that says why."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from hypothesis import given, settings
from hypothesis import strategies as st

from SESegmentationLib.errors import InputError
from SESegmentationLib.geometry import Geometry
from SESegmentationLib.io.volume_image import SHEAR_DEGREES
from SESegmentationLib.mrml import check_volume_node, image_from_volume_node
from SESegmentationLib.mrml.volume import ijk_to_ras


def rotation(vector):
    """Rotation matrix about a vector, by its length in radians (Rodrigues)."""
    angle = np.linalg.norm(vector)
    if angle < 1e-9:
        return np.eye(3)
    x, y, z = np.asarray(vector) / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def file_image(directions=None, spacing=(0.8, 1.3, 2.9), origin=(11.0, -7.0, 3.5), dtype=np.int16):
    """A volume as SimpleITK writes it (LPS), each voxel another value."""
    image = sitk.GetImageFromArray(np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(dtype))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(np.ravel(np.eye(3) if directions is None else directions).tolist())
    return image


def as_slicer_loads(image):
    """Slicer turns the third axis of left-handed files round; every voxel stays where it is."""
    return image if np.linalg.det(np.reshape(image.GetDirection(), (3, 3))) > 0 else image[:, :, ::-1]


def assert_same_image(actual, expected, tolerance=1e-5):
    np.testing.assert_array_equal(sitk.GetArrayFromImage(actual), sitk.GetArrayFromImage(expected))
    for read in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(actual, read)(), getattr(expected, read)(), atol=tolerance, err_msg=read)


@pytest.mark.parametrize("axes", itertools.permutations(range(3)))
def test_every_orientation_of_a_file_is_read_as_simpleitk_reads_it(tmp_path, axes):
    path = tmp_path / "volume.nrrd"
    for signs in itertools.product((1, -1), repeat=3):
        sitk.WriteImage(file_image(np.eye(3)[:, axes] * signs), path)
        node = slicer.util.loadVolume(path)
        assert_same_image(image_from_volume_node(node), as_slicer_loads(sitk.ReadImage(path)))
        slicer.mrmlScene.RemoveNode(node)


def test_every_orientation_of_a_node_is_kept_left_handed_ones_too(make_volume):
    for axes, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        node = make_volume(directions=np.eye(3)[:, axes] * signs)
        image = image_from_volume_node(node)
        to_ras = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(to_ras)
        for index in ((0, 0, 0), (6, 0, 1), (2, 5, 4)):
            left, posterior, superior = image.TransformIndexToPhysicalPoint(index)
            assert to_ras.MultiplyPoint((*index, 1))[:3] == pytest.approx((-left, -posterior, superior))
            assert image[index] == slicer.util.arrayFromVolume(node)[index[::-1]]
        slicer.mrmlScene.RemoveNode(node)


@settings(max_examples=20, deadline=None)
@given(
    vector=st.tuples(*[st.floats(-3, 3)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
    origin=st.tuples(*[st.floats(-300, 300)] * 3),
)
def test_oblique_files_are_read_as_simpleitk_reads_them(tmp_path_factory, vector, spacing, origin):
    path = tmp_path_factory.mktemp("oblique") / "volume.nii.gz"
    sitk.WriteImage(file_image(rotation(vector), spacing, origin), path)
    node = slicer.util.loadVolume(path)
    assert_same_image(image_from_volume_node(node), sitk.ReadImage(path), tolerance=1e-3)  # NIfTI has single precision
    slicer.mrmlScene.RemoveNode(node)


@pytest.mark.parametrize(
    "name", ["t1-head-1p75mm.nii.gz", "t1-gd-stripped.nii.gz", "ct-head-rotated.nii.gz", "t1-head-lia-256.nii.gz"]
)
def test_real_files_are_read_as_simpleitk_reads_them(shared_data, name):
    path = shared_data / "volumes" / name
    assert_same_image(
        image_from_volume_node(slicer.util.loadVolume(path)), as_slicer_loads(sitk.ReadImage(path)), tolerance=1e-3
    )


def test_the_matrix_of_the_image_is_that_of_the_node(make_volume):
    node = make_volume(directions=rotation((0.3, -1.1, 0.4)) @ np.diag([1, -1, 1]))
    expected = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(expected)
    np.testing.assert_allclose(
        slicer.util.arrayFromVTKMatrix(ijk_to_ras(Geometry.of(image_from_volume_node(node)))),
        slicer.util.arrayFromVTKMatrix(expected),
        atol=1e-12,
    )


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "float32", "float64"])
def test_every_type_of_voxels_is_kept(make_volume, dtype):
    image = image_from_volume_node(make_volume(np.arange(60).astype(dtype).reshape(3, 4, 5)))
    assert sitk.GetArrayFromImage(image).dtype == dtype


def test_the_image_is_a_copy(make_volume):
    node = make_volume()
    image = image_from_volume_node(node)
    slicer.util.arrayFromVolume(node)[:] = 0
    assert sitk.GetArrayFromImage(image).max() > 0


def test_linear_parent_transforms_are_left_out(make_volume, make_transform):
    node = make_volume()
    before = image_from_volume_node(node)
    inner = make_transform(np.diag([1, 2, 1, 1]), node)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation((0, 0, 1)), (10, 20, 30)
    make_transform(matrix, inner)
    assert_same_image(image_from_volume_node(node), before)


def refusal(node):
    with pytest.raises(InputError) as caught:
        image_from_volume_node(node)
    assert caught.value.cause and caught.value.remedy
    return caught.value.cause


def test_a_transform_that_bends_space_is_refused_wherever_it_stands(make_volume, make_transform, bend):
    node = make_volume(name="head")
    warp = bend(node)
    assert refusal(node) == "head is under the non-linear transform warp."
    linear = make_transform(np.eye(4), node)
    linear.SetAndObserveTransformNodeID(warp.GetID())
    assert "non-linear" in refusal(node)
    linear.SetAndObserveTransformNodeID(None)
    check_volume_node(node)


@pytest.mark.parametrize("degrees", [0.5, 5.0, 20.0])
def test_sheared_axes_are_refused(make_volume, degrees):
    sheared = np.eye(3)
    sheared[:, 2] = (0, np.sin(np.radians(degrees)), np.cos(np.radians(degrees)))
    assert f"off by {degrees:.1f} degrees" in refusal(make_volume(directions=rotation((1, 0.2, 0)) @ sheared))


def test_what_rounding_makes_of_axes_is_not_refused(make_volume):
    sheared = np.eye(3)
    sheared[:, 2] = (0, np.sin(np.radians(SHEAR_DEGREES / 2)), np.cos(np.radians(SHEAR_DEGREES / 2)))
    check_volume_node(make_volume(directions=sheared))


def test_shear_that_slicer_drops_from_a_nifti_file_is_refused(tmp_path):
    path = tmp_path / "tilted.nii"
    sitk.WriteImage(file_image(), path)
    content = bytearray(path.read_bytes())
    rows = np.array([[-0.8, 0, 0, 0], [0, -1.3, 1.0, 0], [0, 0, 2.7, 0]], "<f4")  # a gantry tilted by 20 degrees
    content[254:256], content[280:328] = (1).to_bytes(2, "little"), rows.tobytes()
    path.write_bytes(content)
    node = slicer.util.loadVolume(path)
    check_volume_node(node)  # nothing of it is left in the scene
    assert refusal(node).startswith("The axes of tilted are sheared by 20.3 degrees in its file")


@pytest.mark.parametrize("mirrored", [1, 2, 3])
@pytest.mark.parametrize("right_handed", [True, False])
def test_a_volume_that_slicer_shows_otherwise_than_its_file_says_is_refused(tmp_path, mirrored, right_handed):
    """Slicer's reader takes a negative voxel size for a mirror image, where only the sform says how axes lie."""
    path = tmp_path / "volume.nii"
    sitk.WriteImage(file_image(np.diag([1, 1, 1 if right_handed else -1])), path)
    image_from_volume_node(slicer.util.loadVolume(path))
    content = bytearray(path.read_bytes())
    content[252:254] = bytes(2)
    sizes = np.frombuffer(content, "<f4", 3, 80).copy()
    sizes[mirrored - 1] *= -1
    content[80:92] = sizes.tobytes()
    path.write_bytes(content)
    node = slicer.util.loadVolume(path)
    try:
        image = image_from_volume_node(node)
    except InputError as error:
        assert "differently from what its file says" in error.cause
    else:  # a reader that knows better
        corner = image.TransformIndexToPhysicalPoint((0, 0, 0 if right_handed else 3))
        assert corner == pytest.approx((11, -7, 3.5), abs=1e-3)


def test_units_that_slicer_does_not_know_are_refused(tmp_path):
    path = tmp_path / "volume.nrrd"
    sitk.WriteImage(file_image(), path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\nkinds:", b'\nspace units: "cm" "cm" "cm"\nkinds:', 1))
    assert "with voxels of [0.8, 1.3, 2.9] mm instead of [8.0, 13.0, 29.0] mm" in refusal(slicer.util.loadVolume(path))


def test_a_volume_that_was_moved_since_it_was_loaded_is_taken_as_it_is(tmp_path):
    path = tmp_path / "volume.nrrd"
    sitk.WriteImage(file_image(), path)
    node = slicer.util.loadVolume(path)
    turn = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(turn)
    for row in (0, 1):
        for column in range(4):
            turn.SetElement(row, column, -turn.GetElement(row, column))
    node.SetIJKToRASMatrix(turn)
    assert image_from_volume_node(node).GetSize() == (6, 5, 4)


def test_a_real_sheared_file_is_refused(shared_data):
    path = shared_data / "volumes" / "ct-head-sheared-affine.nii.gz"
    assert "sheared by 18.5 degrees in its file" in refusal(slicer.util.loadVolume(path))


def test_what_is_no_volume_is_refused(scene, make_volume):
    assert refusal(None) == "No volume is chosen."
    assert "single slice" in refusal(make_volume(size=(8, 8, 1)))
    assert "no voxels" in refusal(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"))
    colour = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "colour")
    slicer.util.updateVolumeFromArray(colour, np.zeros((3, 4, 5, 3), np.uint8))
    assert "colour has 3 values in each voxel" in refusal(colour)
    gone = make_volume(name="gone")
    scene.RemoveNode(gone)
    assert "no longer in the scene" in refusal(gone)
