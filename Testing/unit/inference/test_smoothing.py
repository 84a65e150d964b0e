"""Probabilities that are smoothed before labels are chosen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.inference.smoothing import channel_sigmas, smooth
from SESegmentationLib.models import find_model


def softmax(seed: int, shape: tuple[int, ...] = (4, 9, 11, 10)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(2).softmax(0)


def smoothed(
    probabilities: torch.Tensor, sigmas: dict[int, float], spacing: tuple[float, ...] = (1, 1, 1)
) -> torch.Tensor:
    after = probabilities.clone()
    smooth(after, [probabilities.argmax(0).to(torch.uint8)], sigmas, spacing)
    return after


def test_without_smoothing_nothing_is_done():
    assert torch.equal(smoothed(softmax(0), {}), softmax(0))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), sigma=st.floats(0.3, 2))
def test_probabilities_still_add_up_and_others_keep_their_proportions(seed, sigma):
    before = softmax(seed)
    after = smoothed(before, {2: sigma})
    assert torch.allclose(after.sum(0), torch.ones(after.shape[1:]), atol=1e-5)
    assert (after >= 0).all()
    assert torch.allclose(after[0] * before[1], after[1] * before[0], atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(sigma=st.floats(0.6, 2), spacing=st.tuples(*[st.floats(0.5, 2)] * 3))
def test_the_filter_is_as_wide_as_the_card_says_in_mm(sigma, spacing):
    before = torch.zeros(2, 41, 41, 41)
    before[0] = 1
    before[:, 20, 20, 20] = torch.tensor([0.1, 0.9])
    after = smoothed(before, {1: sigma}, spacing)
    # the background was not smoothed, so the ratio tells what the other was before both were made to add up
    filtered = (after[1] / after[0] * before[0]).numpy()
    assert filtered.sum() == pytest.approx(0.9, rel=0.01)
    for axis, length in enumerate(reversed(spacing)):
        profile = filtered.sum(tuple({0, 1, 2} - {axis})) / filtered.sum()
        variance = float((profile * ((np.arange(41) - 20) * length) ** 2).sum())
        assert math.sqrt(variance) == pytest.approx(sigma, rel=0.1)


def test_ragged_borders_become_straight():
    random = np.random.default_rng(3)
    ball = sum((axis - 20) ** 2 for axis in np.ogrid[:40, :40, :40]) < 144
    logits = 3.0 * np.where(ball, 1, -1) + random.normal(0, 2, ball.shape)
    chance = torch.sigmoid(torch.from_numpy(logits).float())
    after = smoothed(torch.stack([1 - chance, chance]), {0: 0.85, 1: 0.85})

    def dice(found: torch.Tensor) -> float:
        return float(2 * (found & torch.from_numpy(ball)).sum() / (found.sum() + ball.sum()))

    assert dice(chance > 0.5) + 0.1 < dice(after[1] > 0.5)


def test_a_structure_that_one_view_alone_found_is_smoothed():
    before = softmax(5)
    before[3] = 0
    before[3, 4, 5, 5] = 0.3
    before /= before.sum(0)
    votes = [torch.zeros(before.shape[1:], dtype=torch.uint8) for _ in range(2)]
    votes[1][4, 5, 5] = 3
    after = before.clone()
    smooth(after, votes, {3: 0.85}, (1, 1, 1))
    assert after[3, 4, 5, 5] < before[3, 4, 5, 5] and after[3, 4, 5, 6] > 0


def test_a_card_smooths_the_result_and_observers_see_what_the_networks_gave(make_package, make_phantom):
    image, _ = make_phantom()
    package = make_package(cleanup={"smoothing": [{"values": [17], "sigma_mm": 2.0}]})
    assert channel_sigmas(package.card) == {1: 2.0}
    seen = []
    engine = Engine(package, device="cpu")
    observed = engine.segment(image, observe=lambda crop, given: seen.append((crop, given)))
    ((crop, given),) = seen
    both = engine.predictor.predict(crop.volume, engine.views(), keep_unsmoothed=True)
    soft = engine.predictor.predict(crop.volume, engine.views())
    assert torch.equal(given, both.unsmoothed)
    assert torch.equal(both.probabilities, soft.probabilities)
    assert soft.unsmoothed is None
    unobserved = engine.segment(image)
    assert np.array_equal(*(sitk.GetArrayFromImage(each.labels) for each in (observed, unobserved)))

    before, after = (probabilities.float() for probabilities in (both.unsmoothed, both.probabilities))
    assert torch.allclose(after.sum(0), torch.ones_like(after[0]), atol=5e-3)
    steepness = [float(each[1].diff(dim=-1).abs().max()) for each in (before, after)]
    assert steepness[1] < 0.8 * steepness[0]
    assert torch.allclose(after[0] * before[2], after[2] * before[0], atol=5e-3)


def test_of_brain_mr_sheets_and_the_background_are_left_as_they_are():
    card = find_model("brain-mr").card
    sigmas = channel_sigmas(card)
    left = {label.name for label in card.labels if card.channels[label.value] not in sigmas}
    assert left == {
        *(f"{side} cerebral {tissue}" for side in ("left", "right") for tissue in ("white matter", "cortex")),
        "cerebrospinal fluid",
    }
    assert set(sigmas.values()) == {0.5, 0.85}
