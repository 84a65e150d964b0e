"""Intensity recipes: what a network sees does not depend on the scanner's scale."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from SESegmentationLib.errors import ModelError
from SESegmentationLib.inference.intensity import normalise

RECIPES = {
    "zscore": {"type": "zscore"},
    "clipped": {"type": "zscore", "clip": [0.5, 99.5]},
    "bright": {"type": "zscore", "foreground": "bright"},
    "percentile": {"type": "percentile", "lower": 0.5, "upper": 99.5},
    "bright percentile": {"type": "percentile", "lower": 0.0, "upper": 99.0, "foreground": "bright"},
}


def volume(seed: int = 0) -> np.ndarray:
    """Half air."""
    array = np.random.default_rng(seed).normal(500, 100, (8, 20, 20)).astype(np.float32)
    array[:4] = 0
    return array


@pytest.mark.parametrize("name", RECIPES)
@given(scale=st.floats(1e-3, 1e5), offset=st.floats(-1000, 1000))
def test_scale_and_offset_of_the_scanner_do_not_matter(name, scale, offset):
    plain = normalise(volume(), RECIPES[name])
    other = normalise((volume().astype(np.float64) + offset) * scale, RECIPES[name])
    np.testing.assert_allclose(other, plain, atol=5e-3)


def test_zscore():
    result = normalise(volume(), {"type": "zscore"})
    assert result.dtype == np.float32
    assert result.mean() == pytest.approx(0, abs=1e-4)
    assert result.std() == pytest.approx(1, abs=1e-4)


def test_zscore_of_what_is_not_zero():
    result = normalise(volume(), {"type": "zscore", "foreground": "nonzero"})
    assert result[4:].mean() == pytest.approx(0, abs=1e-4)
    assert result[4:].std() == pytest.approx(1, abs=1e-4)
    assert result[:4] == pytest.approx(-5, abs=0.2)


def test_clipping_takes_the_extremes_out_before_measuring():
    array = volume()
    array[5, 0, 0] = 1e6
    result = normalise(array, {"type": "zscore", "clip": [0.5, 99.5]})
    assert result.max() < 4
    assert result.std() == pytest.approx(1, abs=1e-3)


def test_percentiles_become_0_and_1():
    array = np.arange(1001, dtype=np.float32).reshape(7, 11, 13)
    result = normalise(array, {"type": "percentile", "lower": 10, "upper": 90})
    np.testing.assert_allclose(result, np.clip((array - 100) / 800, 0, 1), atol=1e-6)


def test_the_upper_percentile_is_the_foreground_s_and_the_lower_one_everything_s():
    array = np.concatenate([np.zeros(3000), np.arange(1001) + 1000]).astype(np.float32).reshape(1, 1, -1)
    result = normalise(array, {"type": "percentile", "lower": 0, "upper": 50, "foreground": "bright"})
    np.testing.assert_allclose(result, np.clip(array / 1500, 0, 1), atol=1e-3)


def test_windows_are_in_absolute_units():
    array = np.array([-1000, -160, 40, 240, 3000], np.int16).reshape(1, 1, 5)
    result = normalise(array, {"type": "window", "lower": -160, "upper": 240})
    np.testing.assert_allclose(result.ravel(), [0, 0, 0.5, 1, 1])


def test_the_array_is_left_as_it_is():
    array = volume()
    before = array.copy()
    for recipe in RECIPES.values():
        normalise(array, recipe)
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("value", [0.0, 7.0])
def test_constant_volumes_stay_finite(name, value):
    assert np.isfinite(normalise(np.full((3, 3, 3), value), RECIPES[name])).all()


def test_a_few_bright_voxels_on_nothing_are_seen():
    """Both percentiles are 0."""
    array = np.zeros((10, 10, 10), np.float32)
    array[5, 5, 5] = 40
    result = normalise(array, {"type": "percentile", "lower": 1, "upper": 99})
    assert result[5, 5, 5] == 1
    assert result.sum() == 1


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"type": "whitening"},
        {"type": "percentile", "lower": 1},
        {"type": "percentile", "lower": 1, "upper": 200},
        {"type": "window", "lower": "low", "upper": 1},
        {"type": "zscore", "foreground": "beautiful"},
        {"type": "zscore", "clip": [5]},
    ],
)
def test_impossible_recipes_are_the_model_s_fault(recipe):
    with pytest.raises(ModelError) as raised:
        normalise(volume(), recipe)
    assert "model.json" in raised.value.remedy
