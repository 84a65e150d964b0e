"""Grids: positions, boxes, the way to the model's grid and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from SESegmentationLib import memory
from SESegmentationLib.errors import OutOfMemoryError
from SESegmentationLib.geometry import RAS, Geometry, covering, placed, within
from SESegmentationLib.inference.model_grid import smoothed, to_model_grid
from SESegmentationLib.models import ModelCard

lengths = st.floats(0.3, 4.0)
geometries = st.builds(
    lambda size, spacing, origin, axis, radians: Geometry(
        size, spacing, origin, sitk.VersorTransform(axis, radians).GetMatrix()
    ),
    size=st.tuples(*[st.integers(2, 12)] * 3),
    spacing=st.tuples(lengths, lengths, lengths),
    origin=st.tuples(*[st.floats(-100, 100)] * 3),
    axis=st.sampled_from([(1, 0, 0), (0, 1, 0), (1, 2, 3), (-3, 1, 0.5)]),
    radians=st.floats(-3, 3),
)


@pytest.fixture(scope="module")
def card(phantom_package) -> ModelCard:
    """Two labels, 17 and 53, on a grid of 1 mm."""
    return phantom_package.card


def noise(geometry: Geometry, seed: int = 0) -> sitk.Image:
    return geometry.image(np.random.default_rng(seed).normal(100, 20, geometry.shape).astype(np.float32))


@given(geometry=geometries)
def test_positions_are_those_of_simpleitk_and_lead_back(geometry):
    image = geometry.image(np.zeros(geometry.shape, np.uint8))
    indices = np.array([[0, 0, 0], [1.25, -0.5, 7.0], np.subtract(geometry.size, 1)], dtype=float)
    expected = [image.TransformContinuousIndexToPhysicalPoint(index.tolist()) for index in indices]
    np.testing.assert_allclose(geometry.points(indices), expected, atol=1e-9)
    np.testing.assert_allclose(geometry.indices(geometry.points(indices)), indices, atol=1e-9)
    assert Geometry.of(image) == geometry


@given(geometry=geometries, data=st.data())
def test_a_box_is_found_again_from_its_corners(geometry, data):
    sides = []
    for n in geometry.shape:
        first = data.draw(st.integers(0, n - 1))
        sides.append(slice(first, data.draw(st.integers(first + 1, n))))
    part = geometry.cropped(tuple(sides))
    assert part.shape == tuple(side.stop - side.start for side in sides)
    inside = geometry.points([[(side.start + side.stop - 1) / 2 for side in reversed(sides)]])
    np.testing.assert_allclose(part.corners().mean(0), inside[0], atol=1e-9)
    # corners lie between voxels, where rounding decides: look a little inside
    shrunk = inside + (part.corners() - inside) * (1 - 1e-6)
    assert geometry.box_of(shrunk) == tuple(sides)


def test_a_margin_is_in_millimetres_and_ends_at_the_edge():
    geometry = Geometry((20, 20, 20), (1.0, 2.0, 4.0), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    assert geometry.box_of(geometry.points([[10, 10, 10]]), 8.0) == (slice(8, 13), slice(6, 15), slice(2, 19))
    assert geometry.box_of(geometry.points([[19, 0, 10]]), 8.0) == (slice(8, 13), slice(0, 5), slice(11, 20))
    empty = geometry.box_of(geometry.points([[50, 50, 50]]))
    assert not np.zeros(geometry.shape)[empty].size


def test_extents_count_outer_voxels_in_full():
    geometry = Geometry((10, 20, 30), (1.0, 2.0, 3.0), (5.0, 6.0, 7.0))
    assert geometry.extent_mm == (10.0, 40.0, 90.0)
    np.testing.assert_allclose(np.ptp(geometry.corners(), axis=0), geometry.extent_mm)


@given(geometry=geometries, spacing=st.tuples(lengths, lengths, lengths))
def test_a_covering_grid_holds_every_corner_and_no_slice_too_many(geometry, spacing):
    grid = covering(geometry, spacing, RAS)
    indices = grid.indices(geometry.corners())
    tolerance = 2e-3  # of a voxel, that a rounding error shall not add a slice
    assert (indices > -0.5 - tolerance).all()
    assert (indices < np.array(grid.size) - 0.5 + tolerance).all()
    assert (np.array(grid.extent_mm) - np.ptp(geometry.corners(), axis=0) < np.array(spacing) + 1e-6).all()


def test_a_grid_that_fits_is_only_turned(card):
    image = noise(Geometry((9, 10, 11), (1.04, 0.97, 1.0), (1.0, 2.0, 3.0), (0, 0, 1, 1, 0, 0, 0, -1, 0)))
    on_grid, grid = to_model_grid(image, card)
    assert grid.exact
    oriented = sitk.DICOMOrient(image, "RAS")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(on_grid), sitk.GetArrayFromImage(oriented))
    assert on_grid.GetDirection() == RAS


@pytest.mark.parametrize(
    ("degrees", "spacing", "exact", "turned"),
    [(9, 1.0, True, False), (11, 1.0, False, True), (9, 1.06, False, False), (0, 1.06, False, False)],
)
def test_what_is_a_little_oblique_keeps_its_axes(card, degrees, spacing, exact, turned):
    rotation = np.reshape(sitk.VersorTransform((0, 0, 1), math.radians(degrees)).GetMatrix(), (3, 3))
    axes = rotation @ np.reshape(RAS, (3, 3))
    image = noise(Geometry((12, 12, 12), (spacing,) * 3, (0.0, 0.0, 0.0), tuple(axes.ravel())))
    on_grid, grid = to_model_grid(image, card)
    assert grid.exact == exact
    assert on_grid.GetDirection() == pytest.approx(RAS if turned else axes.ravel(), abs=1e-12)
    if not exact:
        assert on_grid.GetSpacing() == card.spacing


def test_beyond_the_volume_the_grid_has_the_lowest_value(card):
    axes = np.reshape(sitk.VersorTransform((0, 0, 1), math.pi / 4).GetMatrix(), (3, 3))
    image = noise(Geometry((12, 12, 12), (1.0,) * 3, (0.0, 0.0, 0.0), tuple(axes.ravel()))) - 500
    array = sitk.GetArrayFromImage(to_model_grid(image, card)[0])
    assert array[5, 0, 0] == pytest.approx(sitk.GetArrayFromImage(image).min())


def test_intensities_are_where_they_were(card):
    """A ramp stays the same function of the position, whatever the grid."""
    geometry = Geometry(
        (24, 20, 16), (0.6, 1.3, 2.1), (-5.0, 3.0, 8.0), sitk.VersorTransform((1, 2, 3), 0.9).GetMatrix()
    )
    slope = np.array([1.5, -2.0, 0.7])
    every = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape], indexing="ij"), -1)[..., ::-1]
    ramp = geometry.points(every.reshape(-1, 3)) @ slope
    on_grid, grid = to_model_grid(geometry.image(ramp.reshape(geometry.shape).astype(np.float32)), card)
    centre = geometry.points([[(n - 1) / 2 for n in geometry.size]])
    near = np.rint(grid.geometry.indices(centre))[0].astype(int)
    position = grid.geometry.points([near])[0]
    assert sitk.GetArrayFromImage(on_grid)[tuple(near[::-1])] == pytest.approx(position @ slope, abs=0.02)


def random_probabilities(shape: tuple[int, ...], classes: int = 3, seed: int = 0) -> torch.Tensor:
    """Smooth ones, of which the background has most."""
    logits = torch.from_numpy(np.random.default_rng(seed).normal(0, 6, (classes, *shape)).astype(np.float32))
    if min(shape) > 2:
        logits = torch.nn.functional.avg_pool3d(logits[None], 3, 1, 1)[0]
    logits[0] += 1
    return logits.softmax(0)


def test_without_interpolation_labels_are_turned_back(card):
    image = noise(Geometry((9, 10, 11), (1.0, 1.0, 1.0), (1.0, 2.0, 3.0), (0, 0, 1, 1, 0, 0, 0, -1, 0)))
    _, grid = to_model_grid(image, card)
    probabilities = random_probabilities(grid.geometry.shape)
    labels = grid.from_model_grid(probabilities)
    assert Geometry.of(labels) == Geometry.of(image)
    there = sitk.GetArrayFromImage(sitk.DICOMOrient(labels, "RAS"))
    np.testing.assert_array_equal(there, np.array([0, 17, 53])[probabilities.argmax(0)])


@settings(max_examples=25, deadline=None)
@given(geometry=geometries, seed=st.integers(0, 99), half=st.booleans())
def test_interpolated_labels_are_those_of_interpolating_every_class_everywhere(card, geometry, seed, half):
    """Only boxes in which a class can win are interpolated, which must not show."""
    _, grid = to_model_grid(noise(geometry), card)
    probabilities = random_probabilities(grid.geometry.shape, seed=seed)
    if half:
        probabilities = probabilities.half()
    if grid.exact:
        return
    everywhere = [
        sitk.GetArrayFromImage(
            geometry.resample(grid.geometry.image(channel.float().numpy()), sitk.sitkLinear, float(number == 0))
        )
        for number, channel in enumerate(probabilities)
    ]
    ranked = np.sort(everywhere, axis=0)
    labels = grid.from_model_grid(probabilities)
    assert Geometry.of(labels) == geometry
    same = sitk.GetArrayFromImage(labels) == np.array([0, 17, 53])[np.argmax(everywhere, axis=0)]
    assert (same | (ranked[-1] - ranked[-2] < 1e-6)).all()


@pytest.mark.parametrize("spacing", [1.0, 1.7])
def test_outside_the_box_in_use_is_background(card, spacing):
    image = noise(Geometry((16, 16, 16), (spacing,) * 3, (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    _, grid = to_model_grid(image, card)
    part = grid.cropped((slice(4, 12), slice(0, 16), slice(0, 16))).cropped((slice(1, 5), slice(2, 9), slice(3, 8)))
    assert part.box == (slice(5, 9), slice(2, 9), slice(3, 8))
    labels = part.from_model_grid(torch.tensor([0.1, 0.0, 0.9])[:, None, None, None].expand(3, 4, 7, 5))
    array = sitk.GetArrayFromImage(labels)
    points = Geometry.of(labels).points(np.argwhere(array < 99)[:, ::-1])
    corners = part.geometry.corners()
    inside = ((points > corners.min(0)) & (points < corners.max(0))).all(1)
    np.testing.assert_array_equal(array.ravel() == 53, inside)
    assert inside.sum() > 10


def test_values_above_255_need_16_bits(make_package):
    from SESegmentationLib.models.labels import LEFT, RIGHT, structure_label

    labels = [structure_label(17, "hippocampus", LEFT), structure_label(300, "hippocampus", RIGHT)]
    package = make_package(labels=[label.to_dict() for label in labels], merged_pairs=[[17, 300]])
    _, grid = to_model_grid(noise(Geometry((8, 8, 8), (1.0,) * 3, (0.0,) * 3)), package.card)
    labels = grid.from_model_grid(torch.tensor([0.0, 0.0, 1.0])[:, None, None, None].expand(3, 8, 8, 8))
    assert labels.GetPixelID() == sitk.sitkUInt16
    assert (sitk.GetArrayFromImage(labels) == 300).all()


def test_label_maps_come_to_the_grid_by_the_nearest_voxel(card):
    geometry = Geometry((10, 10, 10), (2.0,) * 3, (0.0,) * 3)
    values = np.random.default_rng(0).integers(0, 60, geometry.shape).astype(np.uint8)
    _, grid = to_model_grid(noise(geometry), card)
    expected = values.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(grid.labels_to_grid(geometry.image(values)), expected)


def test_smoothing_widens_a_voxel_to_the_coarser_one():
    """The variance of a Gaussian as wide at half its height, along the axes that are finer, and along no other."""
    geometry = Geometry((41, 41, 41), (0.5, 1.0, 3.0), (0.0,) * 3)
    point = np.zeros(geometry.shape, np.float32)
    point[20, 20, 20] = 1
    blurred = sitk.GetArrayFromImage(smoothed(geometry.image(point), (2.0, 1.02, 2.0)))
    assert blurred.sum() == pytest.approx(1, abs=0.02)
    for axis, step, expected in ((2, 0.5, (4 - 0.25) / (8 * math.log(2))), (1, 1.0, 0), (0, 3.0, 0)):
        profile = blurred.sum(axis=tuple(other for other in range(3) if other != axis))
        variance = (profile * ((np.arange(41) - 20) * step) ** 2).sum() / profile.sum()
        assert variance == pytest.approx(expected, rel=0.1)  # ITK cuts the kernel off


def test_a_grid_that_no_memory_holds_is_refused_before_it_is_made():
    image = noise(Geometry((4, 4, 4), (1.0,) * 3, (0.0,) * 3))
    with pytest.raises(OutOfMemoryError):
        Geometry((50_000,) * 3, (1.0,) * 3, (0.0,) * 3).resample(image, sitk.sitkLinear)


def test_all_components_of_a_voxel_need_memory(monkeypatch):
    monkeypatch.setattr(memory, "available_gigabytes", lambda: 5e-6)  # 5 kB, for 1000 voxels of 4 or 12 bytes
    grid = Geometry((10,) * 3, (1.0,) * 3, (0.0,) * 3)
    values = np.zeros((4, 4, 4, 3), np.float32)
    assert grid.resample(sitk.GetImageFromArray(values[..., 0]), sitk.sitkLinear).GetSize() == (10, 10, 10)
    with pytest.raises(OutOfMemoryError):
        grid.resample(sitk.GetImageFromArray(values, isVector=True), sitk.sitkLinear)


@given(st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=3, max_size=3))
def test_a_box_in_a_box_holds_the_same_voxels(sides):
    array = np.arange(20**3).reshape(20, 20, 20)
    outer = tuple(slice(start, start + before + length + 1) for start, before, length in sides)
    inner = tuple(slice(before, before + length + 1) for _, before, length in sides)
    assert (array[placed(inner, outer)] == array[outer][inner]).all()
    assert within(placed(inner, outer), outer) == inner
