"""What was edited is found and kept, overlapping segments too; doubt and differences lie where the volume lies."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import SimpleITK as sitk
import slicer

from SESegmentationLib.adapted_notes import FORMAT
from SESegmentationLib.errors import InputError
from SESegmentationLib.models.labels import LEFT, structure_label
from SESegmentationLib.mrml import (
    ATTENTION,
    DOUBT,
    adapted_parameters,
    add_segmentation,
    check_output_grid,
    corrected_mask,
    edited_voxels,
    find_corrected_slices,
    image_from_volume_node,
    record_written_labels,
    set_adapted_parameters,
    show_difference,
    update_segmentation,
    value_range,
)

STRUCTURES = [structure_label(17, "hippocampus", LEFT), structure_label(16, "brain stem")]
SHAPE = (8, 9, 10)


def label_image(volume, values):
    image = sitk.GetImageFromArray(values.astype(np.uint8))
    image.CopyInformation(image_from_volume_node(volume))
    return image


def written(make_volume, **geometry):
    """A volume and a segmentation of it that a network has just written."""
    volume = make_volume(size=SHAPE[::-1], **geometry)
    values = np.zeros(SHAPE)
    values[2:6, 2:5, 2:5], values[2:6, 5:8, 2:5] = 17, 16
    labels = label_image(volume, values)
    node = add_segmentation(labels, STRUCTURES, volume, "result")
    record_written_labels(node, STRUCTURES, labels, [])
    return volume, node, labels


def held(node, volume, value):
    return slicer.util.arrayFromSegmentBinaryLabelmap(node, f"Segment_{value}", volume).copy() > 0


def put(node, volume, value, voxels):
    slicer.util.updateSegmentBinaryLabelmapFromArray(voxels.astype(np.uint8), node, f"Segment_{value}", volume)


def test_nothing_is_edited_at_first(make_volume):
    volume, node, labels = written(make_volume)
    assert find_corrected_slices(node) == [] and corrected_mask(node, labels) is None
    assert edited_voxels(node, STRUCTURES) == {17: 0, 16: 0}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_found_and_kept_along_every_axis(make_volume, axis):
    directions = np.array([[0, 0.8, 0.6], [1, 0, 0], [0, 0.6, -0.8]])
    volume, node, labels = written(make_volume, directions=directions)
    before = held(node, volume, 17)
    np.moveaxis(before, axis, 0)[3, 1:7, 1:7] = True
    put(node, volume, 17, before)
    (slices,) = find_corrected_slices(node)
    assert (slices.axis, slices.numbers) == ("kji"[axis], (3,))
    mask = corrected_mask(node, labels)
    assert np.moveaxis(mask, axis, 0)[3].all() and mask.sum() == np.moveaxis(mask, axis, 0)[3].size
    empty = label_image(volume, np.zeros(SHAPE))
    update_segmentation(node, empty, STRUCTURES, protected=mask)
    after = held(node, volume, 17)
    assert (after == (before & mask)).all()


def test_strokes_under_another_structure_are_kept_too(make_volume):
    """Drawn with "allow overlap": both structures hold the same voxels."""
    volume, node, labels = written(make_volume)
    both = held(node, volume, 17)
    both[4, 2:8, 2:5] = True
    put(node, volume, 17, both)
    stem = held(node, volume, 16)
    assert (both & stem).any()
    mask = corrected_mask(node, labels)
    values = np.zeros(SHAPE)
    values[1:7, 1:4, 1:4] = 17
    update_segmentation(node, label_image(volume, values), STRUCTURES, protected=mask)
    for value, drawn in ((17, both), (16, stem)):
        found = held(node, volume, value)
        assert (found[mask] == drawn[mask]).all()
        assert (found[~mask] == (values == value)[~mask]).all()


def test_counts_are_of_voxels_added_and_removed(make_volume):
    volume, node, _ = written(make_volume)
    voxels = held(node, volume, 17)
    voxels[3, 2, 2] = False
    voxels[3, 1, 2:4] = True
    put(node, volume, 17, voxels)
    assert edited_voxels(node, STRUCTURES) == {17: 3, 16: 0}


def test_a_segment_that_was_deleted_is_no_correction(make_volume):
    _, node, _ = written(make_volume)
    node.GetSegmentation().RemoveSegment("Segment_17")
    assert find_corrected_slices(node) == []


def test_corrections_survive_what_another_model_writes(make_volume):
    volume, node, labels = written(make_volume)
    other = [structure_label(5, "thalamus")]
    update_segmentation(node, label_image(volume, np.zeros(SHAPE)), other)
    record_written_labels(node, other, labels, find_corrected_slices(node))
    voxels = held(node, volume, 17)
    voxels[4, 1:7, 1:7] = True
    put(node, volume, 17, voxels)
    assert [str(entry) for entry in find_corrected_slices(node)] == ["k:4"]


def test_other_grids_are_refused_where_there_are_corrections(make_volume):
    volume, node, _ = written(make_volume)
    other = make_volume(size=SHAPE[::-1], spacing=(1.0, 1.0, 1.0))
    check_output_grid(node, other, (1, 1, 1))
    voxels = held(node, volume, 17)
    voxels[4, 1:7, 1:7] = True
    put(node, volume, 17, voxels)
    check_output_grid(node, volume, (1, 1, 1))
    with pytest.raises(InputError, match="another volume"):
        check_output_grid(node, other, (1, 1, 1))
    with pytest.raises(InputError, match="another volume"):
        corrected_mask(node, image_from_volume_node(other))


def test_what_cannot_be_read_is_nothing(make_volume):
    _, node, _ = written(make_volume)
    for spoilt in ("{", "[1]", '[{"values": "AAAA"}]', "null"):
        node.SetAttribute("SESegmentation.Own", spoilt)
        assert find_corrected_slices(node) == []


def adapted_file(weights, count):
    """A file of so many parameters adapted to a patient."""
    tensor = {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}
    header = json.dumps({"__metadata__": {"format": FORMAT, "weights_sha256": weights}, "a.bias": tensor}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4 * count)


def test_adapted_parameters_are_a_text_beside_the_segmentation(make_volume):
    _, node, _ = written(make_volume)
    assert adapted_parameters(node) is None
    for content in (adapted_file("0" * 64, 1), adapted_file("f" * 64, 2)):
        set_adapted_parameters(node, content)
        assert adapted_parameters(node) == content
    (text,) = slicer.util.getNodesByClass("vtkMRMLTextNode")
    text.SetText("changed by hand!")
    assert adapted_parameters(node) is None
    set_adapted_parameters(node, None)
    assert slicer.util.getNodesByClass("vtkMRMLTextNode") == []


@pytest.mark.parametrize("overlay", [DOUBT, ATTENTION], ids=lambda overlay: overlay.name)
def test_maps_and_difference_lie_on_the_volume(make_volume, make_transform, overlay):
    volume, node, labels = written(make_volume, directions=np.array([[0, 0.8, 0.6], [1, 0, 0], [0, 0.6, -0.8]]))
    make_transform(np.diag([1.0, 1, 1, 1]) + 9 * np.eye(4, k=3), volume, node)
    doubt = sitk.Cast(labels, sitk.sitkFloat32) / 17
    overlay.make(node, doubt)
    shown = overlay.volume(node)
    matrices = [slicer.util.arrayFromVTKMatrix(_to_ras(n)) for n in (shown, volume)]
    assert np.allclose(*matrices) and shown.GetParentTransformNode() is volume.GetParentTransformNode()
    assert slicer.util.arrayFromVolume(shown).max() == (255 if overlay is DOUBT else pytest.approx(16.1, abs=0.1))
    after = sitk.GetArrayFromImage(labels)
    after[4, 2:5, 2:5], after[1, 2:5, 2:4] = 0, 16
    difference = show_difference(node, labels, label_image(volume, after))
    counts = [
        int((slicer.util.arrayFromSegmentBinaryLabelmap(difference, name, volume) > 0).sum())
        for name in ("gained", "lost")
    ]
    assert counts == [6, 9] and difference.GetHideFromEditors() and not difference.GetSaveWithScene()


def test_colours_go_over_what_the_networks_saw_only():
    attention = np.zeros((20, 20, 20), np.float32)
    assert value_range(attention) == (0, 1)
    attention[:, :, 5:] = 0.99
    attention[10:, :, 5:] = 0.97
    assert value_range(attention) == pytest.approx((0.97, 0.99))


def test_gates_that_are_all_but_open_are_told_apart(make_volume):
    _, node, labels = written(make_volume)
    gates = np.full(SHAPE, 0.999, np.float32)
    gates[0], gates[1], gates[-2:] = 0, 0.5, 0.99999
    attention = sitk.GetImageFromArray(gates)
    attention.CopyInformation(labels)
    ATTENTION.make(node, attention)
    shown = ATTENTION.volume(node)
    # the logarithm of the odds; what was not seen lies below what is shown
    values = slicer.util.arrayFromVolume(shown)[:, 0, 0]
    assert values[1:].tolist() == pytest.approx([0, *[6.907] * 4, *[11.51] * 2], abs=0.02)
    display = shown.GetDisplayNode()
    assert values[0] < display.GetLowerThreshold() < 0
    assert display.GetWindowLevelMax() == pytest.approx(11.51, abs=0.02)


def _to_ras(node):
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return matrix
