"""Simulated corrections: the slices that were asked for, changed as they were asked for, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from SESegmentationTraining.simulated_corrections import (
    APART,
    MANNERS,
    POLICIES,
    choose_slices,
    coarse,
    simulate_correction,
)


def labels(seed: int, shift: int = 0) -> np.ndarray:
    """Two blocks side by side, with ragged ends."""
    random = np.random.default_rng(seed)
    array = np.zeros((14, 16, 12), np.uint8)
    array[3 : 10 + shift, 4:9, 3:9] = 1
    array[3:10, 9 : 13 + shift, 3:9] = 2
    array[random.random(array.shape) < 0.03] = 0
    return array


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(POLICIES), st.sampled_from(MANNERS), st.integers(1, 8), st.integers(0, 2), st.integers(0, 50))
def test_what_is_changed_lies_in_the_slices_and_is_as_it_should_be(policy, manner, count, axis, seed):
    own, truth = labels(seed), labels(seed + 1, shift=1)
    doubt = np.random.default_rng(seed).random(own.shape)
    slices = choose_slices(policy, own, truth, doubt, count, axis)
    assert len(set(slices)) == len(slices) <= count
    assert policy == "mixed" or {a for a, _ in slices} <= {axis}
    made = simulate_correction(own, truth, slices, manner)
    expected = np.zeros(own.shape, bool)
    for a, number in slices:
        np.moveaxis(expected, a, 0)[number] = True
    assert (made.seen == expected).all()
    assert (made.edited == (made.labels != own)).all() and not (made.edited & ~made.seen).any()
    if manner == "exact":
        assert (made.labels[made.seen] == truth[made.seen]).all()
    if manner == "coarse":
        assert (made.labels[made.seen] == coarse(truth)[made.seen]).all()
    if manner == "stroke":
        assert (made.labels[made.edited] == truth[made.edited]).all()
    if manner == "one structure":
        assert (
            len(np.unique(np.where(made.labels[made.seen] > 0, made.labels[made.seen], 0)[made.edited[made.seen]])) <= 2
        )


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(0, 2), st.integers(0, 20))
def test_policies_do_what_they_are_called(count, axis, seed):
    own, truth = labels(seed), labels(seed + 1, shift=1)
    doubt = np.random.default_rng(seed).random(own.shape)
    wrong = np.moveaxis(own != truth, axis, 0).sum((1, 2))
    most = [number for _, number in choose_slices("wrong", own, truth, doubt, count, axis)]
    assert min(wrong[most]) >= max(np.delete(wrong, most))
    together = [number for _, number in choose_slices("neighbours", own, truth, doubt, count, axis)]
    assert together == list(range(together[0], together[0] + len(together))) and int(wrong.argmax()) in together
    mixed = choose_slices("mixed", own, truth, doubt, count, axis)
    assert all(a != b or abs(m - n) >= APART for a, m in mixed for b, n in mixed if (a, m) != (b, n))


def test_a_stroke_mends_the_largest_piece_alone():
    own, truth = np.zeros((2, 3, 9, 9), np.uint8)
    truth[1, 1:4, 1:4] = 1
    truth[1, 6:8, 6:8] = 1
    made = simulate_correction(own, truth, [(0, 1)], "stroke")
    assert made.edited.sum() == 9 and made.labels[1, 1:4, 1:4].all() and not made.labels[1, 6:8, 6:8].any()
    pieces = sitk.GetArrayFromImage(sitk.ConnectedComponent(sitk.GetImageFromArray(made.edited.astype(np.uint8))))
    assert pieces.max() == 1


def test_unknown_names_are_refused():
    own, truth = labels(0), labels(1)
    with pytest.raises(ValueError, match="no policy"):
        choose_slices("best", own, truth, own * 0.0, 1, 0)
    with pytest.raises(ValueError, match="no manner"):
        simulate_correction(own, truth, [(0, 1)], "well")
