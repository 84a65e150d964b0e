"""Structures that meet at a plane."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from SESegmentationLib.inference.dividing_plane import divide
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.inference.views import PLANE_AXIS
from SESegmentationLib.models import DividingPlane

SIDED = [{"plane": "axial", "weight": 1.0, "network": "sided", "thickness": 1}]
LABELS = (SimpleNamespace(value=7), SimpleNamespace(value=1), SimpleNamespace(value=2))


def divided(probabilities: torch.Tensor, plane: str = "coronal") -> torch.Tensor:
    """With 1 and 2, the channels 2 and 3, divided."""
    before = probabilities.clone()
    card = SimpleNamespace(labels=LABELS, dividing_plane=DividingPlane(plane, (1, 2)))
    after = divide(probabilities, card)
    assert torch.equal(probabilities, before)
    return after


def softmax(seed: int, shape: tuple[int, ...] = (4, 6, 9, 7)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(2).softmax(0)


def test_without_a_division_nothing_is_done():
    probabilities = softmax(0)
    assert divide(probabilities, SimpleNamespace(labels=LABELS, dividing_plane=None)) is probabilities


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), plane=st.sampled_from(list(PLANE_AXIS)))
def test_a_slice_holds_the_one_or_the_other_and_nothing_else_changes(seed, plane):
    before = softmax(seed)
    after = divided(before, plane)
    assert torch.equal(after[:2], before[:2])
    assert torch.allclose(after.sum(0), before.sum(0), atol=1e-6)
    higher, lower = after[2:].movedim(PLANE_AXIS[plane] + 1, 1).flatten(2).amax(2)
    in_higher, in_lower = torch.nonzero(higher > 0).flatten(), torch.nonzero(lower > 0).flatten()
    assert sorted([*in_higher.tolist(), *in_lower.tolist()]) == list(range(before.shape[PLANE_AXIS[plane] + 1]))
    assert not len(in_higher) or not len(in_lower) or in_higher.min() > in_lower.max()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_meeting_is_the_most_likely_one(seed):
    before = softmax(seed, (4, 3, 8, 3))
    after = divided(before)
    found = int((after[3].amax((0, 2)) > 0).sum())
    counted = (before[2:].sum(0) > 0.5).double()
    higher, lower = (counted * channel.double().clamp(min=1e-4).log() for channel in before[2:])
    likelihood = [float(lower[:, :j].sum() + higher[:, j:].sum()) for j in range(9)]
    assert likelihood[found] == pytest.approx(max(likelihood), abs=1e-3)


def test_networks_that_agree_with_the_definition_are_left_as_they_are():
    labels = torch.zeros(6, 9, 7, dtype=torch.long)
    labels[1:5, 1:4, 2:5], labels[1:5, 4:8, 2:5] = 3, 2
    before = torch.nn.functional.one_hot(labels, 4).movedim(-1, 0).float()
    assert torch.equal(divided(before), before)


def test_voxels_that_neither_wins_alone_are_not_lost():
    before = torch.zeros(4, 3, 8, 3)
    before[0] = 1.0
    before[:, 1, 1:4, 1] = torch.tensor([0.1, 0.0, 0.0, 0.9])[:, None]
    before[:, 1, 4:7, 1] = torch.tensor([0.1, 0.0, 0.9, 0.0])[:, None]
    before[:, 1, 4, 1] = torch.tensor([0.4, 0.0, 0.32, 0.28])
    labels = divided(before).argmax(0)
    assert labels[1, :, 1].tolist() == [0, 3, 3, 3, 2, 2, 2, 0]


def test_structures_that_are_not_there_stay_away():
    background = torch.zeros(4, 3, 8, 3)
    background[0] = 1.0
    assert torch.equal(divided(background), background)


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "PIR"])
def test_the_engine_divides_however_the_volume_lies(make_package, make_phantom, orientation):
    """The phantom's left structure is the larger one: asked for on the right, it gets all of both."""
    image = sitk.DICOMOrient(make_phantom()[0], orientation)
    found = {}
    for values in (None, (53, 17), (17, 53)):
        dividing_plane = None if values is None else {"plane": "sagittal", "values": values}
        package = make_package(dividing_plane=dividing_plane, merged_pairs=[], views=SIDED)
        found[values] = sitk.GetArrayFromImage(Engine(package, "cpu").segment(image).labels)
    assert set(np.unique(found[None])) == {0, 17, 53}
    np.testing.assert_array_equal(found[53, 17], found[None])
    np.testing.assert_array_equal(found[17, 53], np.where(found[None] > 0, 17, 0))
