"""Islands and holes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from SESegmentationLib.inference.cleanup import _hanging_loose, clean
from SESegmentationLib.models.store import SCHEMA_PATH

VALUES = (1, 2, 300)


@pytest.fixture
def array() -> np.ndarray:
    """Of 1 a large piece with a hole and a small one, of 2 two pieces, of 300 one far from all."""
    array = np.zeros((20, 24, 28), np.uint16)
    array[2:9, 2:9, 2:9] = 1
    array[5, 5, 5] = 0
    array[12:14, 2:4, 2:4] = 1  # 8 voxels
    array[2:9, 9:12, 2:9] = 2  # beside the first
    array[12:15, 12:15, 12:15] = 2  # 27 voxels
    array[18:20, 20:23, 24:27] = 300  # 18 voxels
    return array


def cleaned(array: np.ndarray, **cleanup: object) -> np.ndarray:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 2.0, 5.0))
    image.SetOrigin((3, 4, 5))
    before = array.copy()
    result = clean(image, VALUES, cleanup)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), before)
    assert result.GetPixelID() == image.GetPixelID()
    assert (result.GetSpacing(), result.GetOrigin()) == (image.GetSpacing(), image.GetOrigin())
    return sitk.GetArrayFromImage(result)


def test_nothing_asked_nothing_done(array):
    np.testing.assert_array_equal(cleaned(array), array)


def test_the_largest_piece_of_all_structures(array):
    array[12:14, 2:4, 2:4] = 0
    array[12:15, 12:15, 12:15] = 0
    expected = array.copy()
    array[12:14, 2:4, 2:4] = 1
    array[12:15, 12:15, 12:15] = 2
    np.testing.assert_array_equal(cleaned(array, largest_component="all"), expected)


def test_the_largest_piece_of_some_structures(array):
    expected = array.copy()
    expected[12:15, 12:15, 12:15] = 0
    np.testing.assert_array_equal(cleaned(array, largest_component=[2]), expected)


def test_what_touches_by_an_edge_may_count_as_a_piece_of_its_own(array):
    array[9, 2:9, 1] = 1  # touches the first of 1 by edges
    expected = array.copy()
    expected[12:14, 2:4, 2:4] = 0
    np.testing.assert_array_equal(cleaned(array, largest_component=[1]), expected)
    expected[9, 2:9, 1] = 0
    np.testing.assert_array_equal(cleaned(array, largest_component=[1], faces=True), expected)


def test_the_largest_piece_of_them_together(array):
    expected = array.copy()
    expected[12:] = 0
    np.testing.assert_array_equal(cleaned(array, largest_union=True), expected)


def test_holes_are_filled_with_what_surrounds_them(array):
    expected = array.copy()
    expected[5, 5, 5] = 1
    np.testing.assert_array_equal(cleaned(array, fill_holes=True), expected)


def test_other_structures_inside_are_no_holes(array):
    array[5, 5, 5] = 2
    np.testing.assert_array_equal(cleaned(array, fill_holes=True), array)


def test_pieces_hang_together_by_corners():
    array = np.zeros((6, 6, 6), np.uint8)
    array[1:3, 1:3, 1:3] = 1
    array[3, 3, 3] = 1
    np.testing.assert_array_equal(cleaned(array, largest_component="all"), array)


def test_what_is_not_there_stays_away():
    array = np.zeros((6, 6, 6), np.uint8)
    assert not cleaned(array, largest_component="all", largest_union=True, fill_holes=True).any()


def test_what_hangs_on_by_thin_bridges_is_removed_as_far_as_it_reaches():
    array = np.zeros((20, 40, 60), np.uint8)
    array[4:16, 4:24, 4:24] = 8
    array[9:11, 9:11, 24:50] = 16  # a bridge two voxels thin
    array[6:14, 6:14, 50:56] = 8  # what hangs on it
    array[2:5, 30:33, 2:5] = 17  # not among the values
    loose = {"values": [8, 16], "erosion_mm": 1.5, "reach_mm": 6.0}
    expected = array.copy()
    expected[..., 28:][np.isin(array[..., 28:], (8, 16))] = 0  # the core ends in column 21
    np.testing.assert_array_equal(cleaned(array, loose=loose), expected)
    thin = np.zeros((6, 20, 20), np.uint8)
    thin[3, 3:17, 3:17] = 8
    np.testing.assert_array_equal(cleaned(thin, loose=loose), thin)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.tuples(*[st.tuples(st.integers(0, 5), st.integers(0, 5))] * 3))
def test_loose_pieces_are_those_in_the_whole_image(seed, air):
    """Only the part round the structures is looked at; depths in it are as in all of the image, at its borders too."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(14, 18, 16)), 1.6)
    array = np.pad((noise > 0.02).astype(np.uint8), air)
    hanging = _hanging_loose(array > 0, (1.0, 2.0, 5.0), 1.0, 2.0)
    expected = np.where(hanging, 0, array)
    np.testing.assert_array_equal(cleaned(array, loose={"values": [1], "erosion_mm": 1.0, "reach_mm": 2.0}), expected)


class Noted(dict):
    """Entries that note which of them are looked up."""

    def __init__(self, **entries: object) -> None:
        super().__init__(entries)
        self.read: set[str] = set()

    def get(self, key, default=None):
        self.read.add(key)
        return super().get(key, default)


def test_every_entry_that_a_card_may_have_is_read(array):
    noted = Noted(largest_component="all")
    clean(sitk.GetImageFromArray(array), VALUES, noted)
    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))["properties"]["cleanup"]["properties"]
    # these are read before, see inference.smoothing and inference.ventricle_wall
    assert noted.read | {"smoothing", "fluid"} == set(schema)
