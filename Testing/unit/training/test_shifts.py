"""Shifts of whole volumes: the same for the same seed, unlike the volume, and each of its own kind."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from drawn_hippocampus import draw_sample
from SESegmentationTraining.calibration import NOISE, SHIFTS, THICKNESS, shift_array, shift_volume


@pytest.fixture(scope="module")
def unit() -> np.ndarray:
    """The drawn sample, 0 to 1."""
    array = sitk.GetArrayFromImage(draw_sample().image)
    low, high = np.percentile(array, (0.5, 99.5))
    return np.clip((array - low) / (high - low), 0, 1)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.parametrize("name", SHIFTS)
def test_the_seed_decides(unit, name):
    first, again = shift_array(unit, name, 3), shift_array(unit, name, 3)
    assert (first == again).all()
    assert first.dtype == np.float32
    assert first.shape == unit.shape
    assert np.isfinite(first).all()
    if name != "other contrast":  # nothing about it is random
        assert any((shift_array(unit, name, seed) != first).any() for seed in (4, 5))


@given(st.sampled_from(list(SHIFTS)), st.floats(1e-2, 1e6), st.floats(-1000, 1000))
@settings(deadline=None, max_examples=15)
def test_gain_and_offset_of_a_scanner_do_not_matter(name, gain, offset):
    array = np.random.default_rng(0).gamma(2, size=(9, 10, 11))
    expected = shift_array(array, name, 1)
    assert shift_array(array * gain + offset, name, 1) == pytest.approx(expected, abs=2e-2)


def test_a_bias_field_is_smooth_and_scales(unit):
    ones = np.full((30, 32, 34), 0.5)
    field = np.log(SHIFTS["bias field"](ones, np.random.default_rng(0)) / 0.5)
    assert field.std() == pytest.approx(0.5, abs=0.01)
    steps = [np.abs(np.diff(field, axis=axis)).max() for axis in range(3)]
    assert max(steps) < 0.35
    shifted = SHIFTS["bias field"](unit, np.random.default_rng(0))
    assert (shifted[unit == 0] == 0).all()


def test_noise_is_rician():
    """In air its mean is that of a Rayleigh distribution, in bright tissue that of the tissue."""
    random = np.random.default_rng(0)
    air = SHIFTS["noise"](np.zeros((30, 30, 30)), random)
    assert air.min() >= 0
    assert air.mean() == pytest.approx(NOISE * np.sqrt(np.pi / 2), rel=0.02)
    tissue = SHIFTS["noise"](np.ones((30, 30, 30)), random)
    assert tissue.std() == pytest.approx(NOISE, rel=0.03)
    assert tissue.mean() == pytest.approx(1 + NOISE**2 / 2, abs=0.003)


def test_low_contrast_brings_grey_and_white_matter_together():
    grey, white = np.full((9, 9, 9), 0.64), np.full((9, 9, 9), 0.95)
    shifted = [SHIFTS["low contrast"](tissue, np.random.default_rng(0)).mean() for tissue in (grey, white)]
    assert 0 < shifted[1] - shifted[0] < 0.2 * (0.95 - 0.64)


def test_thick_slices_are_averages():
    """A single bright slice is spread over as many as are averaged, at least; what is even stays."""
    array = np.zeros((16, 4, 4))
    array[8] = 1
    for seed in range(4):
        shifted = SHIFTS["thick slices"](array, np.random.default_rng(seed))
        assert 1 / (THICKNESS + 1) < shifted.max() <= 1 / 2
        assert (shifted.any((1, 2))).sum() >= THICKNESS
    even = np.full((13, 4, 4), 0.7)
    assert SHIFTS["thick slices"](even, np.random.default_rng(0)) == pytest.approx(even)


def test_another_contrast_is_turned_over(unit):
    assert correlation(SHIFTS["other contrast"](unit, np.random.default_rng(0)), unit) == pytest.approx(-1)


def test_a_volume_keeps_its_geometry():
    image = draw_sample().image
    image.SetSpacing((0.8, 1.0, 1.3))
    shifted = shift_volume(image, "noise", 0)
    assert shifted.GetPixelID() == sitk.sitkFloat32
    for get in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(shifted, get)() == getattr(image, get)()


def test_an_even_volume_has_no_range_to_divide_by():
    for name in SHIFTS:
        assert np.isfinite(shift_array(np.full((6, 7, 8), 5.0), name, 0)).all()
