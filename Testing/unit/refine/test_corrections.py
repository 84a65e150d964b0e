"""Which slices are corrected, and where their voxels lie on a model's grid."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from SESegmentationLib.errors import InputError, UsageError
from SESegmentationLib.geometry import AXES, Geometry, Slices, edited_slices
from SESegmentationLib.inference.model_grid import to_model_grid
from SESegmentationLib.models import ModelCard
from SESegmentationLib.refine.corrections import Corrections, check_place, check_values


@given(st.sampled_from("ijk"), st.sets(st.integers(0, 999), min_size=1))
def test_slices_are_read_as_they_are_written(axis, numbers):
    slices = Slices(axis, tuple(sorted(numbers)))
    assert Slices.parse(str(slices)) == slices


@pytest.mark.parametrize("text", ["", "k", "k:", "12", "x:3", "k:3,", "k:-1", "k:1.5", "k:a", "K:3", "k:3;4", "k:3-5"])
def test_what_names_no_slices_is_refused(text):
    with pytest.raises(UsageError, match="does not name slices") as caught:
        Slices.parse(text)
    assert "k:12,17" in caught.value.remedy


def test_slices_are_known_as_a_whole_and_nothing_else(label_map):
    labels = label_map(np.zeros((4, 5, 6)))
    known = Corrections.in_slices(labels, [Slices("k", (1,)), Slices("i", (0, 5))]).known
    expected = np.zeros((4, 5, 6), bool)
    expected[1] = True
    expected[:, :, [0, 5]] = True
    assert (known == expected).all()


@pytest.mark.parametrize(("axis", "count"), [("i", 6), ("j", 5), ("k", 4)])
def test_a_slice_outside_is_refused(label_map, axis, count):
    labels = label_map(np.zeros((4, 5, 6)))
    Corrections.in_slices(labels, [Slices(axis, (count - 1,))])
    with pytest.raises(InputError, match=f"no slice {axis}:{count}.*has {count} slices"):
        Corrections.in_slices(labels, [Slices(axis, (0, count))])


def test_no_corrected_slice_is_refused(label_map):
    with pytest.raises(InputError, match="No slice is corrected"):
        Corrections.in_slices(label_map(np.zeros((4, 5, 6))), [])


@pytest.mark.parametrize("change", ["SetSpacing", "SetOrigin", "SetDirection", "size"])
def test_labels_of_another_place_are_refused(label_map, change):
    image, labels = label_map(np.zeros((4, 5, 6))), label_map(np.zeros((4, 5, 6)))
    check_place(image, labels)
    if change == "size":
        labels = labels[:, :, 1:]
    else:
        values = {"SetSpacing": (1, 1, 1.2), "SetOrigin": (0, 3, 0), "SetDirection": (-1, 0, 0, 0, 1, 0, 0, 0, -1)}
        getattr(labels, change)(values[change])
    with pytest.raises(InputError, match="differ in size, spacing, origin or direction"):
        check_place(image, labels)


def test_values_that_the_model_does_not_have_are_refused(label_map):
    array = np.zeros((3, 3, 3))
    array[0, 0] = (0, 1, 2)
    check_values(label_map(array), [2, 1, 17])
    array[1, 1, 1] = 9
    with pytest.raises(InputError, match="does not have: 9") as caught:
        check_values(label_map(array), [1, 2])
    assert "1, 2" in caught.value.remedy
    with pytest.raises(InputError, match="does not have: 3, 4, 5, 6, 7, 8, 9, 10 and 16 more."):
        check_values(label_map(np.arange(27).reshape(3, 3, 3)), [1, 2])


@given(st.data())
@settings(deadline=None, max_examples=30)
def test_strokes_in_a_few_slices_are_found(data):
    """Strokes with a width and height of several pixels, in slices of one axis."""
    axis = data.draw(st.sampled_from("kji"))
    numbers = data.draw(st.sets(st.integers(0, 9), min_size=1, max_size=2))
    differs = np.zeros((10, 10, 10), bool)
    planes = np.moveaxis(differs, AXES[axis], 0)
    for number in numbers:
        row, column = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))
        planes[number, row : row + 4, column : column + 4] = True
    assert edited_slices(differs) == [Slices(axis, tuple(sorted(numbers)))]


def test_without_strokes_nothing_is_found():
    assert edited_slices(np.zeros((3, 3, 3), bool)) == []


DIRECTIONS = [
    np.eye(3)[list(order)] * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


@given(st.sampled_from(DIRECTIONS), st.sampled_from("ijk"), st.integers(0, 4))
@settings(deadline=None, max_examples=40)
def test_known_voxels_lie_at_the_same_places_of_an_exact_grid(direction, axis, number):
    card = _card((1.0, 1.0, 1.0))
    random = np.random.default_rng(number)
    labels = sitk.GetImageFromArray(random.integers(0, 3, (5, 6, 7)).astype(np.uint8))
    labels.SetDirection(direction.ravel().tolist())
    _, grid = to_model_grid(labels, card)
    assert grid.exact
    on_grid, known = Corrections.in_slices(labels, [Slices(axis, (number,))]).on_grid(grid)
    array, expected = sitk.GetArrayFromImage(labels), np.zeros((5, 6, 7), bool)
    np.moveaxis(expected, AXES[axis], 0)[number] = True
    there = np.argwhere(known)
    places = Geometry.of(labels).indices(grid.geometry.points(there[:, ::-1])).round().astype(int)[:, ::-1]
    assert {tuple(place) for place in places} == {tuple(place) for place in np.argwhere(expected)}
    assert (on_grid[known] == array[tuple(places.T)]).all()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 0.4), (0.5, 0.5, 0.5), (0.9, 0.9, 3.0), (2.0, 1.0, 1.3)])
@pytest.mark.parametrize("axis", ["i", "j", "k"])
def test_slices_of_any_thickness_reach_the_grid_with_their_labels(label_map, spacing, axis):
    """A slice of one label among slices of another: where it is known on the grid, it has its own label."""
    array = np.full((20, 22, 24), 1)
    np.moveaxis(array, AXES[axis], 0)[7] = 2
    labels = label_map(array, spacing)
    _, grid = to_model_grid(labels, _card((1.0, 1.0, 1.0)))
    assert not grid.exact
    on_grid, known = Corrections.in_slices(labels, [Slices(axis, (7,))]).on_grid(grid)
    assert known.any()
    assert set(on_grid[known].tolist()) == {2}
    # as large as the slice, and as thick as it or as one voxel of the grid
    thickness = spacing["ijk".index(axis)]
    area = np.prod([n * s for n, s, a in zip((24, 22, 20), spacing, "ijk", strict=True) if a != axis])
    assert known.sum() >= 0.8 * area * min(thickness, 1)
    assert known.sum() <= 1.4 * area * (thickness + 1)


def test_known_voxels_are_kept(label_map):
    labels = label_map(np.full((3, 4, 5), 2))
    corrections = Corrections.in_slices(labels, [Slices("j", (1,))])
    kept = sitk.GetArrayFromImage(corrections.kept_in(label_map(np.ones((3, 4, 5)))))
    assert (kept[:, 1] == 2).all()
    assert (np.delete(kept, 1, axis=1) == 1).all()


def _card(spacing) -> ModelCard:
    from ..conftest import make_card

    card = ModelCard.from_dict(make_card() | {"weights": {"file": "w", "sha256": "0" * 64}})
    return replace(card, spacing=spacing)
