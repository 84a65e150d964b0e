"""Doubt: voxel by voxel, mapped on the input's grid; the expected Dice of the card."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from doubt import correlation  # noqa: E402

from SESegmentationLib.inference.confidence import voxel_doubt
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.result import SegmentOptions


def test_doubt_is_what_the_winner_lacks():
    sure, torn, three = (1.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.2, 0.2, 0.6)
    probabilities = torch.tensor([sure, torn, three, sure]).T.reshape(3, 1, 2, 2).half()
    assert voxel_doubt(probabilities).ravel() == pytest.approx([0, 0.5, 0.4, 0], abs=1e-3)
    assert voxel_doubt(probabilities).dtype == np.float32


@given(st.integers(0, 999))
@settings(deadline=None, max_examples=20)
def test_of_sampled_labels_as_many_are_wrong_as_doubt_says(seed):
    """Labels drawn with the very probabilities that are given: doubt adds up to the number of wrong voxels."""
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet((0.5, 0.5, 0.5), size=(12, 12, 12))
    truth = (random.random((12, 12, 12, 1)) > probabilities.cumsum(-1)).sum(-1).clip(0, 2)
    doubt = voxel_doubt(torch.from_numpy(probabilities).movedim(-1, 0))
    wrong = (probabilities.argmax(-1) != truth).sum()
    assert abs(doubt.sum() - wrong) < 5 * np.sqrt(doubt.sum())


def test_the_engine_maps_doubt_on_the_grid_of_the_input(phantom_package, make_phantom):
    """Doubt lies at the surface of the phantom, on any axes, and is nowhere without being asked for."""
    engine = Engine(phantom_package, "cpu")
    image, truth = make_phantom(direction=np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0.0]]), spacing=(1.0, 1.2, 0.9))
    assert engine.segment(image).doubt is None
    doubt = engine.segment(image, SegmentOptions(doubt=True)).doubt
    assert doubt.GetSize() == image.GetSize()
    assert doubt.GetDirection() == pytest.approx(image.GetDirection())
    array = sitk.GetArrayFromImage(doubt)
    assert array.min() >= 0
    assert array.max() <= 1
    mask = sitk.GetImageFromArray((truth > 0).astype(np.uint8))
    inner = sitk.GetArrayFromImage(sitk.BinaryErode(mask, [3] * 3)) > 0
    outer = sitk.GetArrayFromImage(sitk.BinaryDilate(mask, [3] * 3)) == 0
    surface = ~inner & ~outer
    assert array[surface].mean() > 3 * max(array[inner].mean(), array[outer].mean())
    assert array[surface].max() > 0.4


def test_doubt_stays_in_the_region(phantom_package, make_phantom):
    image, _ = make_phantom()
    inside = np.zeros(image.GetSize()[::-1], np.uint8)
    inside[10:30, 10:30, 10:60] = 1
    roi = sitk.GetImageFromArray(inside)
    roi.CopyInformation(image)
    doubt = sitk.GetArrayFromImage(
        Engine(phantom_package, "cpu").segment(image, SegmentOptions(roi=roi, doubt=True)).doubt
    )
    assert doubt.any()
    assert not doubt[inside == 0].any()


def test_the_expected_dice_comes_from_the_card(phantom_package, make_package, make_phantom):
    """A calibrated card gives the Dice to be expected; one without calibration gives none."""
    image, _ = make_phantom()
    curve = {"confidence": [0.2, 1.0], "dice": [0.1, 0.9]}
    calibrated = make_package(name="calibrated", calibration={"views": {"17": curve}, "fast": {"17": curve}})
    for fast in (False, True):
        found = {
            s.label.value: s for s in Engine(calibrated, "cpu").segment(image, SegmentOptions(fast=fast)).structures
        }
        assert found[17].expected_dice == pytest.approx(np.interp(found[17].confidence, *curve.values()), abs=1e-6)
        assert found[53].expected_dice is None
    plain = Engine(phantom_package, "cpu").segment(image).structures
    assert all(structure.expected_dice is None for structure in plain)


def test_volumes_of_one_case_are_not_counted_as_independent():
    """The interval of the benchmark is as wide where every case is there ten times as where it is there once."""
    random = np.random.default_rng(3)
    expected = random.random(30)
    pairs = [
        {"case": str(number), "expected": value, "dice": value + random.normal(0, 0.3)}
        for number, value in enumerate(expected)
    ]
    once, often = correlation(pairs), correlation(pairs * 10)
    assert [often[key] for key in ("spearman", "low", "high")] == pytest.approx(
        [once[key] for key in ("spearman", "low", "high")]
    )
    assert once["low"] < once["spearman"] < once["high"]
