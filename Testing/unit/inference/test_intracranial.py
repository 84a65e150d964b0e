"""Intracranial volume: the sum of what was found, where there is a skull round it."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.inference.geometry import Geometry
from SESegmentationLib.inference.intracranial import intracranial_ml


def head(spacing: float, skull: bool, floor: float = 0.0) -> tuple[sitk.Image, sitk.Image]:
    """A ball of fluid with a brain in it, in a skull with a scalp or in nothing; image and labels."""
    half = round(110 / spacing)
    k, j, i = (np.arange(2 * half + 1) - half) * spacing * np.ones((3, 1))
    radius = np.sqrt(k[:, None, None] ** 2 + j[None, :, None] ** 2 + i[None, None, :] ** 2)
    image = np.select([radius < 60, radius < 70], [200.0, 60.0], 0.0)
    if skull:
        image = np.where((radius > 76) & (radius < 90), 250.0, image)
    labels = np.select([radius < 60, radius < 70], [3, 24], 0).astype(np.uint8)
    geometry = Geometry(labels.shape[::-1], (spacing,) * 3, (0.0,) * 3)
    return geometry.image((image + floor).astype(np.float32)), geometry.image(labels)


@pytest.mark.parametrize("spacing", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("floor", [0.0, -500.0])
def test_it_is_the_volume_inside_the_skull(spacing, floor):
    assert intracranial_ml(*head(spacing, True, floor)) == pytest.approx(4 / 3 * np.pi * 7**3, rel=0.03)


def test_without_a_skull_there_is_none():
    assert intracranial_ml(*head(2.0, False)) is None


def test_of_nothing_there_is_none():
    image, labels = head(5.0, True)
    assert intracranial_ml(image, labels * 0) is None


def test_the_labels_may_lie_on_another_grid():
    image, _ = head(5.0, True)
    _, labels = head(2.0, True)
    assert intracranial_ml(image, labels) == pytest.approx(4 / 3 * np.pi * 7**3, rel=0.03)
