"""The network that learns to correct: what it sees, and that it leaves things alone before it has learnt."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from SESegmentationLib.networks.correction import INPUTS, Corrected, CorrectionNetwork


def corrected(seed: int, shape=(12, 14, 10), known: float = 1.0) -> Corrected:
    generator = torch.Generator().manual_seed(seed)
    own = torch.zeros(shape)
    own[3:9, 3:9, 3:8] = 1
    labels = own.clone()
    labels[3:9, 8:11, 3:8] = 1
    mask = torch.zeros(shape)
    mask[5] = known
    image = torch.rand(shape, generator=generator) + labels * 2
    return Corrected(image, own, own * 0.8 + 0.1, torch.zeros(shape), mask, labels, torch.zeros(shape))


@given(st.integers(0, 99), st.tuples(*[st.integers(9, 17)] * 3))
@settings(deadline=None, max_examples=10)
def test_before_it_has_learnt_it_changes_nothing_and_expects_nothing(seed, shape):
    torch.manual_seed(seed)
    network = CorrectionNetwork((4, 8, 8)).eval()
    seen = corrected(seed, shape)
    with torch.no_grad():
        logits, expected = network(seen.inputs()[None], seen.base()[None])
    assert logits.shape == (1, *shape) and ((logits[0] > 0) == (seen.own > 0)).all()
    assert float(expected) == 0


def test_it_sees_where_what_and_how_far():
    seen = corrected(1)
    inputs = seen.inputs()
    assert inputs.shape == (INPUTS, *seen.own.shape) and bool(torch.isfinite(inputs).all())
    error, spread, odds = inputs[7], inputs[8], inputs[9]
    assert (error[5] == seen.labels[5] - seen.own[5]).all() and not error[4].any()
    assert float(spread[4, 9, 5]) > 0 and abs(float(spread[4, 1, 1])) < abs(float(spread[4, 9, 5]))
    # brighter voxels are the structure's, as the corrected slice shows
    assert float(odds[seen.labels > 0].mean()) > 0 > float(odds[seen.labels == 0].mean())


def test_slices_that_were_only_looked_at_count_half():
    whole, glance = corrected(2).inputs(), corrected(2, known=0.5).inputs()
    assert (glance[4] == whole[4] / 2).all() and (glance[5] == whole[5] / 2).all()


def test_brightness_and_contrast_do_not_matter():
    seen = corrected(3)
    other = Corrected(seen.image * 700 + 40, *[getattr(seen, n) for n in list(vars(seen))[1:]])
    assert torch.allclose(seen.inputs(), other.inputs(), atol=1e-3)


@pytest.mark.parametrize("mask", [torch.zeros(12, 14, 10), torch.ones(12, 14, 10)], ids=["nothing", "everything"])
def test_extremes_of_what_is_known(mask):
    seen = corrected(5)
    known = Corrected(seen.image, seen.own, seen.probability, seen.others, mask, seen.labels, seen.other_labels)
    assert bool(torch.isfinite(known.inputs()).all())


@pytest.mark.parametrize("shape", [(3, 12, 14), (12, 2, 4), (1, 2, 1)])
def test_errors_spread_in_volumes_thinner_than_what_they_spread_over(shape):
    """An error everywhere spreads evenly, less towards the ends, beyond which nothing is known."""
    ones = torch.ones(shape)
    seen = Corrected(ones, ones, ones, 0 * ones, ones, 0 * ones, 0 * ones)
    spread = seen.inputs()[8]
    assert spread.shape == shape and bool(torch.isfinite(spread).all())
    for axis in range(3):
        assert torch.allclose(spread, spread.flip(axis), atol=1e-6)
    assert bool((spread < 0).all()) and float(spread.min()) > -10
