"""A box in the scene as a mask on a volume's voxels, wherever transforms put the two."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from hypothesis import given, settings
from hypothesis import strategies as st

from SESegmentationLib.errors import InputError
from SESegmentationLib.geometry import Geometry
from SESegmentationLib.mrml import image_from_volume_node, region_image


def add_box(centre, size, name="box"):
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name)
    roi.SetCenter(*map(float, centre))
    roi.SetSize(*map(float, size))
    return roi


def voxels_in_box(roi, volume):
    """The voxels whose centres lie in the box as Slicer draws it, and those too near a face to tell."""
    to_volume, to_world = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(to_volume)
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(volume.GetParentTransformNode(), None, to_world)
    affine = slicer.util.arrayFromVTKMatrix(to_world) @ slicer.util.arrayFromVTKMatrix(to_volume)
    indices = np.stack(np.indices(volume.GetImageData().GetDimensions()), -1)  # (i, j, k, 3)
    points = indices @ affine[:3, :3].T + affine[:3, 3]
    size, axes = [0.0] * 3, np.zeros((3, 3))
    roi.GetSizeWorld(size)
    for axis in range(3):
        roi.GetAxisWorld(axis, axes[axis])
    beyond = np.abs((points - roi.GetCenterWorld()) @ axes.T) - np.array(size) / 2  # mm beyond the nearest face
    return (beyond.max(axis=-1) <= 0).T, (np.abs(beyond) < 1e-4).any(axis=-1).T


def affine_matrix(angles, shift, scale):
    transform = vtk.vtkTransform()
    transform.Translate(shift)
    for angle, rotate in zip(angles, (transform.RotateX, transform.RotateY, transform.RotateZ), strict=True):
        rotate(angle)
    transform.Scale(scale)
    return slicer.util.arrayFromVTKMatrix(transform.GetMatrix())


def numbers(low, high):
    return st.tuples(*[st.floats(low, high)] * 3)


def voxels_of_volume(region, image):
    """The region (k, j, i) on all voxels of the volume, of which its own must be a part."""
    first = image.TransformPhysicalPointToIndex(region.GetOrigin())
    assert np.allclose(image.TransformIndexToPhysicalPoint(first), region.GetOrigin(), atol=1e-9)
    assert region.GetSpacing() == image.GetSpacing() and region.GetDirection() == image.GetDirection()
    part = sitk.GetArrayFromImage(region)
    last = np.add(first[::-1], part.shape)
    assert min(first) >= 0 and (last <= image.GetSize()[::-1]).all() and part.dtype == np.uint8
    mask = np.zeros(image.GetSize()[::-1], np.uint8)
    mask[tuple(map(slice, first[::-1], last))] = part
    return mask


angles, shifts, scales = numbers(-180, 180), numbers(-5, 5), numbers(0.5, 2)


@settings(max_examples=25, deadline=None)
@given(
    of_volume=st.builds(affine_matrix, angles, shifts, scales),
    of_roi=st.builds(affine_matrix, angles, shifts, scales),
    turn=st.builds(affine_matrix, angles, shifts, st.just((1, 1, 1))),
    size=numbers(1, 12),
    signs=st.tuples(*[st.sampled_from([1, -1])] * 3),
)
def test_the_mask_is_what_the_box_holds_in_the_world(make_volume, make_transform, of_volume, of_roi, turn, size, signs):
    volume = make_volume(size=(6, 7, 5), origin=(-3, -5, -5), directions=np.eye(3)[:, [1, 0, 2]] * signs)
    roi = add_box((0, 0, 0), size)
    # the box is turned in its own coordinates, and both are under transforms of their own
    roi.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(turn))
    transforms = [make_transform(of_volume, volume), make_transform(of_roi, roi)]
    expected, doubtful = voxels_in_box(roi, volume)
    try:
        region = region_image(roi, volume)
    except InputError as error:
        assert "lies outside" in error.cause and not (expected & ~doubtful).any()
    else:
        mask = voxels_of_volume(region, image_from_volume_node(volume))
        assert ((mask > 0) == expected)[~doubtful].all()
    for node in (volume, roi, *transforms):
        slicer.mrmlScene.RemoveNode(node)


def test_voxels_on_the_faces_are_inside(make_volume):
    volume = make_volume(size=(10, 10, 10), spacing=(1, 1, 1), origin=(0, 0, 0))
    region = region_image(add_box((4, 5, 6), (2, 4, 6)), volume)
    mask = voxels_of_volume(region, image_from_volume_node(volume))
    assert np.argwhere(mask).min(axis=0).tolist() == [3, 3, 3]
    assert np.argwhere(mask).max(axis=0).tolist() == [9, 7, 5]
    assert mask.sum() == 3 * 5 * 7


def test_only_the_part_of_the_volume_round_the_box_is_copied(make_volume):
    volume = make_volume(size=(100, 100, 100), spacing=(1, 1, 1), origin=(0, 0, 0))
    assert region_image(add_box((40, 50, 60), (2, 4, 6)), volume).GetNumberOfPixels() <= 5 * 7 * 9


def test_a_box_larger_than_the_volume_holds_all_of_it(make_volume):
    volume = make_volume()
    region = region_image(add_box((0, 0, 0), (500, 500, 500)), volume)
    assert voxels_of_volume(region, image_from_volume_node(volume)).all()


def test_another_frame_may_have_a_grid_of_its_own(make_volume):
    volume = make_volume(size=(10, 10, 10), spacing=(1, 1, 1), origin=(0, 0, 0))
    finer = sitk.Image([20, 20, 20], sitk.sitkUInt8)  # another frame, on another grid
    finer.SetSpacing((0.5, 0.5, 0.5))
    finer.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    region = region_image(add_box((2, 2, 2), (2, 2, 2)), volume, Geometry.of(finer))
    assert voxels_of_volume(region, finer).sum() == 5**3


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda: slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box"), "box is not drawn yet"),
        (lambda: add_box((0, 0, 0), (3, 0, 3)), "box is not drawn yet"),
        (lambda: add_box((500, 0, 0), (3, 3, 3)), "box lies outside the volume head"),
        (lambda: add_box((-2.5, 4.75, 6.0), (0.1, 0.1, 0.1)), "box lies outside the volume head"),  # between voxels
    ],
)
def test_boxes_that_hold_nothing_are_refused(make_volume, make, cause):
    with pytest.raises(InputError, match=cause) as caught:
        region_image(make(), make_volume(name="head"))
    assert caught.value.remedy


def test_boxes_and_volumes_under_transforms_that_bend_space_are_refused(make_volume, bend):
    volume, roi = make_volume(), add_box((0, 6, 9), (3, 3, 3))
    warp = bend(roi)
    with pytest.raises(InputError, match="box is under the non-linear transform warp"):
        region_image(roi, volume)
    roi.SetAndObserveTransformNodeID(None)
    volume.SetAndObserveTransformNodeID(warp.GetID())
    with pytest.raises(InputError, match="volume is under the non-linear transform warp"):
        region_image(roi, volume)
