"""Losses: parity with MONAI, merging of left and right, and the known faults of other implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceCELoss, DiceLoss
from scipy import ndimage

from SESegmentationLib.networks.losses import (
    boundary_weights,
    distillation_loss,
    median_frequency_weights,
    merge_pairs,
    merge_target,
    segmentation_loss,
    soft_dice_loss,
)

PAIRS = [(1, 3), (2, 4)]


def example(seed: int = 0, classes: int = 5, batch: int = 3, size: int = 12):
    """Logits and a target in which every class occurs."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(classes, (batch, size, size), generator=generator)
    target.view(-1)[:classes] = torch.arange(classes)
    return 3 * torch.randn(batch, classes, size, size, generator=generator), target


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 8))
def test_the_dice_loss_is_monais(seed, classes):
    logits, target = example(seed, classes)
    theirs = DiceLoss(to_onehot_y=True, softmax=True, batch=True, smooth_nr=1, smooth_dr=1)(logits, target[:, None])
    torch.testing.assert_close(soft_dice_loss(logits.softmax(1), target), theirs, atol=1e-6, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 8))
def test_the_loss_is_monais(seed, classes):
    logits, target = example(seed, classes)
    theirs = DiceCELoss(to_onehot_y=True, softmax=True, batch=True, smooth_nr=1, smooth_dr=1)(logits, target[:, None])
    torch.testing.assert_close(segmentation_loss(logits, target), theirs, atol=1e-6, rtol=1e-5)


def test_class_weights_are_those_of_the_cross_entropy():
    logits, target = example()
    weights = torch.tensor([0.2, 1.0, 3.0, 0.5, 2.0])
    entropy = torch.nn.functional.cross_entropy(logits, target, weights)
    expected = entropy + soft_dice_loss(logits.softmax(1), target)
    torch.testing.assert_close(segmentation_loss(logits, target, class_weights=weights), expected)


def test_pixel_weights_choose_the_pixels_of_the_cross_entropy():
    logits, target = example()
    pixels = torch.zeros(target.shape)
    pixels[:, :4] = 5.0
    entropy = torch.nn.functional.cross_entropy(logits[:, :, :4], target[:, :4])
    expected = entropy + soft_dice_loss(logits.softmax(1), target)
    torch.testing.assert_close(segmentation_loss(logits, target, pixel_weights=pixels), expected)


@pytest.mark.parametrize("volumes", [False, True])
def test_distilling_labels_is_learning_them(volumes):
    logits, target = example()
    if volumes:
        logits, target = logits[:, :, None].repeat(1, 1, 2, 1, 1), target[:, None].repeat(1, 2, 1, 1)
    soft_target = torch.nn.functional.one_hot(target, 5).movedim(-1, 1).float()
    torch.testing.assert_close(distillation_loss(logits, soft_target), segmentation_loss(logits, target))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 8))
def test_the_distillation_loss_is_least_at_the_belief(seed, classes):
    soft_target = example(seed, classes)[0].softmax(1)
    at_target, sharper = soft_target.log().requires_grad_(), 2 * soft_target.log()
    least = distillation_loss(at_target, soft_target)
    assert least < distillation_loss(sharper, soft_target)
    assert least < distillation_loss(0.5 * at_target, soft_target)
    torch.testing.assert_close(least, -(soft_target * soft_target.log()).sum(1).mean())  # nothing but its entropy
    # whereas the soft Dice loss would have it sharper
    winners = soft_target.argmax(1)
    assert soft_dice_loss(sharper.softmax(1), winners) < soft_dice_loss(soft_target, winners)


def test_softmax_is_applied_once():
    """A network that is sure and right has no loss; a second softmax would leave Dice near 1 - 2 / (1 + C / e)."""
    _, target = example()
    sure = 50.0 * torch.nn.functional.one_hot(target, 5).movedim(-1, 1)
    assert float(segmentation_loss(sure, target)) < 1e-5
    assert float(soft_dice_loss(sure.softmax(1), target)) < 1e-5
    assert float(soft_dice_loss(sure.softmax(1).softmax(1), target)) > 0.3


def test_absent_classes_do_not_count():
    logits, target = example()
    target[target == 4] = 0
    present = soft_dice_loss(logits.softmax(1), target)
    probabilities = logits.softmax(1)
    per_class = [
        1 - (2 * float(probabilities[:, c][target == c].sum()) + 1)
        / (float(probabilities[:, c].sum()) + int((target == c).sum()) + 1)
        for c in range(4)
    ]  # fmt: skip
    assert float(present) == pytest.approx(np.mean(per_class), abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    offset=st.floats(-200, 200),
    which=st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_merging_sums_the_probabilities(seed, offset, which):
    logits, _ = example(seed)
    logits += offset  # a softmax does not notice
    merged = torch.tensor(which)
    before = logits.double().softmax(1)
    after = merge_pairs(logits, PAIRS, merged).double().softmax(1)
    expected = before.clone()
    for left, right in PAIRS:
        expected[merged, left] = before[merged, left] + before[merged, right]
        expected[merged, right] = 0
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-4)


def test_merging_replaces_right_by_left_in_targets():
    _, target = example()
    merged = torch.tensor([True, False, True])
    result = merge_target(target, PAIRS, merged)
    assert torch.equal(result[1], target[1])
    expected = torch.tensor([0, 1, 2, 1, 2])[target]
    assert torch.equal(result[merged], expected[merged])


def test_nothing_is_merged_without_pairs_or_merged_images():
    logits, target = example()
    for pairs, merged in (([], torch.ones(3).bool()), (PAIRS, torch.zeros(3).bool())):
        assert torch.equal(merge_pairs(logits, pairs, merged), logits)
        assert torch.equal(merge_target(target, pairs, merged), target)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("merged", [False, True])
def test_gradients_are_finite_and_reach_every_channel(scale, merged):
    logits, target = example()
    logits = (logits * scale).requires_grad_()
    which = torch.full((3,), merged)
    joined = merge_pairs(logits, PAIRS, which)
    loss = segmentation_loss(joined, merge_target(target, PAIRS, which))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum(dim=(0, 2, 3)).all()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32])
def test_frequent_classes_weigh_more_than_nothing(dtype):
    """Counts are integers: dividing them as such would give the frequent classes 0."""
    weights = median_frequency_weights(torch.tensor([900_000, 9_000, 1_000], dtype=dtype))
    assert weights.tolist() == pytest.approx([0.01, 1.0, 9.0])


def test_the_median_of_an_even_number_of_classes_lies_between_two():
    counts = torch.tensor([800, 400, 200, 100])
    frequencies = counts.numpy() / counts.sum().item()
    expected = np.median(frequencies) / frequencies
    np.testing.assert_allclose(median_frequency_weights(counts), expected, rtol=1e-6)


def test_a_class_that_never_occurs_has_no_weight():
    weights = median_frequency_weights(torch.tensor([600, 0, 300, 100]))
    assert weights.tolist() == pytest.approx([0.5, 0.0, 1.0, 3.0])
    assert not median_frequency_weights(torch.zeros(3)).any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_boundaries_are_those_within_a_slice(seed):
    target = np.random.default_rng(seed).integers(0, 3, (4, 9, 11))
    weights = boundary_weights(torch.from_numpy(target), 2.0)
    cross = ndimage.generate_binary_structure(2, 1)
    for plane, weight in zip(target, weights, strict=True):
        low, high = (
            f(plane, footprint=cross, mode="nearest") for f in (ndimage.minimum_filter, ndimage.maximum_filter)
        )
        np.testing.assert_array_equal(weight, np.where(low != high, 3.0, 1.0))


def test_slices_that_differ_from_their_neighbours_are_no_boundary():
    target = torch.arange(4)[:, None, None].expand(4, 6, 6)
    assert torch.equal(boundary_weights(target), torch.ones(4, 6, 6))
