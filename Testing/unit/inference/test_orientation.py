"""However the scanner stored the volume: the same anatomy in the same place, left on the left."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import example, given, settings
from hypothesis import strategies as st

from SESegmentationLib.geometry import Geometry
from SESegmentationLib.inference.engine import Engine

PERMUTATIONS_AND_FLIPS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
LEFT_VALUE, RIGHT_VALUE = 17, 53


@pytest.fixture(scope="module")
def engine(phantom_package):
    return Engine(phantom_package, device="cpu")


@pytest.fixture(scope="module")
def plain(engine, make_phantom):
    """The phantom in RAS at the model's spacing, and its segmentation."""
    image, truth = make_phantom()
    return image, truth, engine.segment(image)


def permuted(image: sitk.Image, order, signs) -> sitk.Image:
    """The same anatomy in the same place with the axes in another order and direction."""
    return sitk.Flip(sitk.PermuteAxes(image, list(order)), [sign < 0 for sign in signs])


def rotation(axis, degrees) -> np.ndarray:
    turn = sitk.VersorTransform(axis, np.radians(degrees))
    return np.reshape(turn.GetMatrix(), (3, 3))


def test_the_phantom_is_segmented(plain, dice):
    _, truth, result = plain
    labels = sitk.GetArrayFromImage(result.labels)
    assert dice(labels == LEFT_VALUE, truth == 1) >= 0.99
    assert dice(labels == RIGHT_VALUE, truth == 2) >= 0.99


@pytest.mark.parametrize(("order", "signs"), PERMUTATIONS_AND_FLIPS)
def test_every_axis_permutation_and_flip_gives_exactly_the_same_labels(engine, plain, order, signs):
    image, _, expected = plain
    turned = permuted(image, order, signs)
    result = engine.segment(turned)
    assert result.labels.GetDirection() == turned.GetDirection()
    assert result.labels.GetOrigin() == turned.GetOrigin()
    back = sitk.GetArrayFromImage(permuted(expected.labels, order, signs))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result.labels), back)
    for one, other in zip(result.structures, expected.structures, strict=True):
        assert one.voxels == other.voxels > 0
        assert one.centre_lps == pytest.approx(other.centre_lps, abs=1e-6)


@pytest.mark.parametrize(("order", "signs"), PERMUTATIONS_AND_FLIPS[::5])
def test_permutations_with_resampling_agree(engine, make_phantom, dice, order, signs):
    """The spacing does not fit the model's, so that probabilities are interpolated on the way back."""
    image, _ = make_phantom(spacing=(1.0, 1.5, 2.6))
    expected = sitk.GetArrayFromImage(permuted(engine.segment(image).labels, order, signs))
    labels = sitk.GetArrayFromImage(engine.segment(permuted(image, order, signs)).labels)
    for value in (LEFT_VALUE, RIGHT_VALUE):
        assert dice(labels == value, expected == value) >= 0.99


millimetres = st.floats(0.5, 3.0)
unit = st.floats(-1, 1)


@settings(max_examples=15, deadline=None)
@given(
    spacing=st.tuples(millimetres, millimetres, millimetres),
    axis=st.tuples(unit, unit, unit).filter(lambda axis: np.linalg.norm(axis) > 0.1),
    degrees=st.floats(-180, 180),
    turn=st.sampled_from(PERMUTATIONS_AND_FLIPS),
)
# the finest grids are the hardest: they show what interpolation between the model's voxels makes of a surface
@example(spacing=(0.5, 0.5, 0.5), axis=(0.0, 0.0, 1.0), degrees=0.0, turn=PERMUTATIONS_AND_FLIPS[0])
@example(spacing=(0.5, 0.5, 1.0), axis=(0.0, 0.0, 1.0), degrees=0.0, turn=PERMUTATIONS_AND_FLIPS[0])
def test_any_spacing_and_obliquity(engine, make_phantom, dice, spacing, axis, degrees, turn):
    """The anatomy stays where it is in space; the grid lies over it as it likes."""
    order, signs = turn
    direction = rotation(axis, degrees) @ (np.eye(3)[:, list(order)] * signs)
    image, truth = make_phantom(spacing, direction, extent_mm=(72.0, 72.0, 72.0))
    result = engine.segment(image)
    labels = sitk.GetArrayFromImage(result.labels)
    assert result.labels.GetSize() == image.GetSize()
    assert result.labels.GetSpacing() == image.GetSpacing()
    assert result.labels.GetDirection() == pytest.approx(image.GetDirection(), abs=1e-8)
    for structure, true in zip(result.structures, (1, 2), strict=True):
        value = structure.label.value
        assert dice(labels == value, truth == true) >= 0.99
        assert structure.voxels == int((labels == value).sum())
        assert structure.volume_ml == pytest.approx(structure.voxels * np.prod(spacing) / 1000)
        assert structure.volume_ml == pytest.approx((truth == true).sum() * np.prod(spacing) / 1000, rel=0.02)
        # half a voxel of the input's or the model's grid would be 0.25 mm or more
        true_centre = Geometry.of(image).points(np.argwhere(truth == true).mean(0)[None, ::-1])[0]
        assert structure.centre_lps == pytest.approx(true_centre, abs=0.1)
        centre = image.TransformContinuousIndexToPhysicalPoint(np.argwhere(labels == value).mean(0)[::-1].tolist())
        assert structure.centre_lps == pytest.approx(centre, abs=1e-3)
    left, right = (structure.centre_lps[0] for structure in result.structures)
    assert left > 10 and right < -10  # LPS: x grows to the left


@settings(max_examples=8, deadline=None)
@given(
    axis=st.tuples(unit, unit, unit).filter(lambda axis: np.linalg.norm(axis) > 0.1),
    degrees=st.floats(-25, 25),
    spacing=st.sampled_from([(1.0, 1.0, 1.0), (0.8, 1.0, 1.3)]),
)
def test_a_rotated_patient_gives_the_rotated_result(engine, make_phantom, dice, axis, degrees, spacing):
    """The same voxels under an oblique header: the labels are those of the upright one."""
    upright, _ = make_phantom(spacing)
    oblique, _ = make_phantom(spacing, rotation(axis, degrees) @ np.diag([-1, -1, 1]), rotate_anatomy=True)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(upright), sitk.GetArrayFromImage(oblique))
    expected = sitk.GetArrayFromImage(engine.segment(upright).labels)
    labels = sitk.GetArrayFromImage(engine.segment(oblique).labels)
    for value in (LEFT_VALUE, RIGHT_VALUE):
        assert dice(labels == value, expected == value) >= 0.99
