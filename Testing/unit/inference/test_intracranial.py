"""Intracranial volume: the sum of what was found, where there is a skull round it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.geometry import Geometry
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.inference.intracranial import intracranial_ml
from SESegmentationLib.report import build_report
from SESegmentationLib.worker.jobs import pack_result, unpack_result


def head(spacing: float, skull: bool, floor: float = 0.0, scalp: float = 250.0) -> tuple[sitk.Image, sitk.Image]:
    """A ball of fluid with a brain in it, in a skull with a scalp or in nothing; image and labels."""
    half = round(110 / spacing)
    k, j, i = (np.arange(2 * half + 1) - half) * spacing * np.ones((3, 1))
    radius = np.sqrt(k[:, None, None] ** 2 + j[None, :, None] ** 2 + i[None, None, :] ** 2)
    image = np.select([radius < 60, radius < 70], [200.0, 60.0], 0.0)
    if skull:
        image = np.where((radius > 76) & (radius < 90), scalp, image)
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


@pytest.mark.parametrize("axis", range(3))
def test_of_thin_slabs_it_is_what_they_hold(axis):
    image, labels = head(1.0, True)
    slab = [slice(None)] * 3
    slab[axis] = slice(110, 112)
    image, labels = image[tuple(slab)], labels[tuple(slab)]
    assert intracranial_ml(image, labels) == pytest.approx(np.count_nonzero(sitk.GetArrayFromImage(labels)) / 1000)


def test_the_labels_may_lie_on_another_grid():
    image, _ = head(5.0, True)
    _, labels = head(2.0, True)
    assert intracranial_ml(image, labels) == pytest.approx(4 / 3 * np.pi * 7**3, rel=0.03)


def test_a_result_tells_it_where_the_card_tells_its_error(make_package):
    image, _ = head(2.0, True, scalp=80.0)
    silent = Engine(make_package(), device="cpu").segment(image)
    told = Engine(make_package(intracranial_error=0.02), device="cpu").segment(image)
    assert silent.intracranial is None
    assert told.intracranial.error_ml == pytest.approx(0.02 * told.intracranial.ml)
    assert told.intracranial.ml == pytest.approx(sum(structure.volume_ml for structure in told.structures))
    report = build_report(told, image, Path("head.nii"))
    assert report["intracranial"]["volume_ml"] == pytest.approx(told.intracranial.ml, abs=0.1)
    shares = [structure["intracranial_share"] for structure in report["structures"]]
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert unpack_result(*pack_result(told)).intracranial == told.intracranial
