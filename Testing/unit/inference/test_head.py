"""A head measured, on a drawn one: an egg with a dark skull, fluid inside, and no second half behind."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.geometry import RAS, Geometry
from SESegmentationLib.inference.head import HeadMeasurements

RADII = np.array([70.0, 90.0, 75.0])


def draw(
    size: tuple[int, int, int] = (60, 76, 64),
    spacing: tuple[float, float, float] = (3.0, 3.0, 3.0),
    fluid: float = 30.0,
    vessels: float = 100.0,
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
    seed: int = 0,
) -> sitk.Image:
    """RAS; ``shift`` moves the head to the right, front and head, in mm."""
    middle = [(n - 1) / 2 * s for n, s in zip(size, spacing, strict=True)]
    grids = [np.arange(n) * s - m - d for n, s, m, d in zip(size, spacing, middle, shift, strict=True)]
    x, y, z = np.meshgrid(*grids, indexing="ij")
    narrow = 1 + 0.2 * y / RADII[1] - 0.25 * z / RADII[2]  # broad behind and below
    depth = 1 - np.sqrt((x * narrow / RADII[0]) ** 2 + (y / RADII[1]) ** 2 + (z / RADII[2]) ** 2)
    array = np.where(depth > 0, 100.0, 0.0)
    array[(depth > 0.05) & (depth < 0.12)] = 20  # bone
    ventricles = ((np.abs(x) - 12) / 10) ** 2 + ((y + 10) / 35) ** 2 + ((z - 5) / 14) ** 2 < 1
    array[ventricles] = fluid
    array[((np.abs(x) - 10) ** 2 + (y - 32) ** 2 < 40) & (np.abs(z) < 25)] = vessels
    array += np.random.default_rng(seed).normal(0, 3, array.shape)
    geometry = Geometry(size, spacing, (0.0, 0.0, 0.0), RAS)
    return geometry.image(np.ascontiguousarray(array.clip(0).T.astype(np.float32)))


def measured(**changes) -> HeadMeasurements:
    return HeadMeasurements.of(draw(**changes))


def test_a_good_head_is_unremarkable():
    found = measured()
    assert not (found.sideways or found.fluid_is_bright or found.vessels_are_bright or found.cut_sides)
    assert found.symmetry[2] > max(found.symmetry[:2])


def test_the_grid_does_not_matter():
    """Spacing, order and direction of the axes change the measurements a little at most."""
    plain = measured()
    fine = draw(size=(120, 152, 96), spacing=(1.5, 1.5, 2.0))
    turned = sitk.Flip(sitk.PermuteAxes(fine, (2, 0, 1)), (True, False, True))
    for other in map(HeadMeasurements.of, (fine, turned)):
        assert other.symmetry == pytest.approx(plain.symmetry, abs=0.05)
        assert other.skewness == pytest.approx(plain.skewness, abs=0.1)


@pytest.mark.parametrize(("order", "words"), [((2, 1, 0), "from bottom to top"), ((1, 0, 2), "from back to front")])
def test_directions_that_lie_are_noticed(order, words):
    """The voxels' axes change places, and the header says nothing of it."""
    image = draw()
    wrong = sitk.GetImageFromArray(sitk.GetArrayFromImage(sitk.PermuteAxes(image, order)))
    wrong.SetSpacing(image.GetSpacing())
    wrong.SetDirection(image.GetDirection())
    found = HeadMeasurements.of(wrong)
    assert found.sideways
    assert found.symmetry_axis == words


def test_fluid_brighter_than_the_rest_is_noticed():
    assert measured(fluid=300.0).fluid_is_bright


def test_vessels_brighter_than_the_rest_are_noticed():
    found = measured(vessels=180.0)
    assert found.vessels_are_bright
    assert not found.fluid_is_bright


SHIFTS = {"top": (0, 0, 45), "front": (0, 45, 0), "back": (0, -45, 0), "right": (45, 0, 0), "left": (-45, 0, 0)}


@pytest.mark.parametrize("side", SHIFTS)
def test_what_is_cut_off_is_named(side):
    assert measured(shift=SHIFTS[side]).cut_sides == [side]


def test_the_neck_may_leave_the_volume():
    assert measured(shift=(0, 0, -45)).cut_sides == []


NOTHING: dict[str, Callable[[tuple[int, ...]], np.ndarray]] = {
    "one voxel": lambda shape: np.eye(1, np.prod(shape)).reshape(shape),
    "a checkerboard": lambda shape: np.indices(shape).sum(0) % 2.0,
    "noise": lambda shape: np.random.default_rng(0).normal(0, 1, shape),
    "a ramp": lambda shape: np.indices(shape)[0] * 1.0,
    "huge numbers": lambda shape: np.random.default_rng(0).uniform(-1e15, 1e15, shape),
    "tiny numbers": lambda shape: np.random.default_rng(0).uniform(0, 1e-38, shape),
    "constant": lambda shape: np.ones(shape),
}


@pytest.mark.parametrize(("kind", "spacing"), list(itertools.product(NOTHING, [0.01, 1.0, 7.0])))
def test_what_is_no_head_does_no_harm(kind, spacing):
    array = NOTHING[kind]((24, 2, 31)).astype(np.float32)
    found = HeadMeasurements.of(Geometry((31, 2, 24), (spacing,) * 3, (0.0,) * 3).image(array))
    assert found is None or np.isfinite([*found.symmetry, found.skewness, found.bright_share]).all()
