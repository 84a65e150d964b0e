"""The box of the body."""

from __future__ import annotations

import numpy as np
import pytest

from SESegmentationLib.inference.roi import foreground_box

SPACING = (1.0, 2.0, 4.0)
BODY = (slice(12, 32), slice(20, 44), slice(24, 56))


@pytest.fixture
def array() -> np.ndarray:
    """A body in noisy air, which is below 0 here."""
    array = np.random.default_rng(0).normal(-100, 3, (42, 61, 83)).astype(np.float32)
    array[BODY] += 300
    return array


def test_the_body_and_a_margin_in_millimetres(array):
    assert foreground_box(array, SPACING, 0.0) == BODY
    assert foreground_box(array, SPACING, 8.0) == (slice(10, 34), slice(16, 48), slice(16, 64))


def test_single_bright_voxels_and_thin_ghosts_do_not_count(array):
    array[2, 3, 4] += 300
    array[38, 2, :6] += 60
    assert foreground_box(array, SPACING, 0.0) == BODY


def test_the_margin_ends_at_the_edge(array):
    assert foreground_box(array, SPACING, 1000.0) == (slice(0, 42), slice(0, 61), slice(0, 83))


def test_voxels_beyond_the_last_whole_block_belong_to_a_body_that_reaches_it(array):
    array[:, :, 24:] += 300
    assert foreground_box(array, SPACING, 0.0)[2] == slice(24, 83)


def test_where_there_is_no_air_everything_is_kept():
    noise = np.random.default_rng(0).normal(100, 10, (30, 30, 30)).astype(np.float32)
    assert foreground_box(noise, SPACING, 0.0) == (slice(0, 30),) * 3
    assert foreground_box(np.full((30, 30, 30), 7.0, np.float32), SPACING, 0.0) == (slice(0, 30),) * 3


def test_small_volumes_are_kept_whole(array):
    small = array[10:20]
    assert foreground_box(small, SPACING, 0.0) == tuple(slice(0, n) for n in small.shape)
