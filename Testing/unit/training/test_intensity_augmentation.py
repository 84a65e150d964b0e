"""Random changes of how an image looks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from SESegmentationTraining.transforms import (
    IntensityAugmentation,
    augment_intensity,
    augment_structures,
    gaussian_blur,
    random_bias_field,
    random_blur,
    random_contrast,
)

NOTHING = IntensityAugmentation(bias=0, blur_pixels=0, gamma=0, noise=0, gain=0)


def images(seed: int = 0) -> torch.Tensor:
    return torch.rand(4, 3, 20, 24, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_zero_strengths_change_nothing():
    assert torch.equal(augment_intensity(images(), NOTHING, generator()), images())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_changed_images_stay_finite_and_near_their_range(seed):
    strength = IntensityAugmentation(bias=0.3, blur_pixels=2, gamma=0.3, noise=0.05, gain=0.2, contrast=0.5)
    changed = augment_intensity(images(seed), strength, generator(seed))
    assert changed.shape == (4, 3, 20, 24)
    assert torch.isfinite(changed).all()
    assert float(changed.min()) > -6
    assert float(changed.max()) < 12


@pytest.mark.parametrize("change", ["bias", "blur_pixels", "gamma", "noise", "gain", "contrast"])
def test_every_change_does_something_by_itself_and_follows_the_seed(change):
    strength = IntensityAugmentation(**{**vars(NOTHING), change: 0.7})
    first, again, other = (augment_intensity(images(), strength, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, images())
    assert not torch.equal(first, other)


def test_gamma_keeps_black_white_and_the_order_of_intensities():
    ramp = torch.linspace(0, 1, 50).reshape(1, 1, 5, 10)
    changed = augment_intensity(ramp, IntensityAugmentation(**{**vars(NOTHING), "gamma": 0.5}), generator(3)).flatten()
    assert float(changed[-1]) == 1
    assert float(changed[0]) < 0.02
    assert (changed.diff() > 0).all()


def test_the_blur_is_gaussian_with_a_deviation_of_its_own_for_each_image_and_direction():
    sigmas = torch.tensor([[0.6, 1.5], [1.1, 0.6], [0.0, 1.0], [1.4, 0.1]])
    blurred = gaussian_blur(images(), sigmas)
    radius = round(2.5 * 1.5)
    for image, result, sigma in zip(images(), blurred, sigmas, strict=True):
        # no deviation below 0.1 pixels, which does nothing
        expected = ndimage.gaussian_filter(
            image.numpy(), (0, *sigma.clamp(min=0.1).tolist()), radius=(0, radius, radius), mode="constant"
        )
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_blur_mixes_slices_only_with_their_neighbours_and_leaves_some_images_sharp():
    impulse = torch.zeros(60, 5, 9, 9)
    impulse[:, 0, 4, 4] = 1
    blurred = random_blur(impulse, 1.0, generator())
    assert not blurred[:, 2:].any()
    assert blurred[:, 1].any()
    sharp = sum(torch.equal(one, two) for one, two in zip(impulse, blurred, strict=True))
    assert 5 < sharp < 30  # 30 % of them


def test_the_bias_field_is_positive_and_smooth():
    field = random_bias_field(torch.zeros(8, 3, 64, 64), 0.3, generator())
    assert field.shape == (8, 1, 64, 64)
    assert float(field.min()) > 0
    assert float(field.diff(dim=-1).abs().max()) < 0.08  # from pixel to pixel
    assert float(field.std()) > 0.02


def test_of_whole_volumes_the_bias_field_varies_from_slice_to_slice_too():
    field = random_bias_field(torch.zeros(8, 48, 40, 40), 0.3, generator())
    assert field.shape == (8, 48, 40, 40)
    assert float(field.min()) > 0
    for axis in (-3, -2, -1):
        assert float(field.log().diff(dim=axis).abs().max()) < 0.12, axis
        assert float(field.std(dim=axis).mean()) > 0.02, axis


def test_structures_change_each_by_a_factor_of_its_own():
    labels = torch.zeros(40, 3, 20, 24, dtype=torch.uint8)
    labels[:, :, 4:10], labels[:, :, 12:18] = 1, 4
    before = images().repeat(10, 1, 1, 1) + 0.1
    ratio = augment_structures(before, labels, IntensityAugmentation(structures=0.6), generator(3)) / before
    assert torch.equal(ratio[labels == 0], torch.ones_like(ratio[labels == 0]))
    factors = {}
    for value in (1, 4):
        each = ratio[labels == value].reshape(40, -1)
        assert torch.allclose(each, each[:, :1].expand_as(each), rtol=1e-5)
        factors[value] = each[:, 0]
        assert 0.54 < float(each.min()) < 0.9
        assert 1.1 < float(each.max()) < 1.83
    untouched = factors[1] == 1
    assert torch.equal(untouched, factors[4] == 1)
    assert 10 < int(untouched.sum()) < 30
    assert not torch.allclose(factors[1][~untouched], factors[4][~untouched])


def test_darkened_structures_grow_dark_together_and_others_stay():
    labels = torch.zeros(60, 1, 20, 24, dtype=torch.uint8)
    for channel in (1, 2, 4):
        labels[:, :, 4 * channel : 4 * channel + 3] = channel
    before = images().repeat(15, 1, 1, 1)[:, :1] + 0.1
    strength = IntensityAugmentation(darkening=1.5, darkened=(1, 4))
    ratio = augment_structures(before, labels, strength, generator(5)) / before
    liver, kidney, spleen = (ratio[labels == channel].reshape(60, -1) for channel in (1, 2, 4))
    assert torch.equal(kidney, torch.ones_like(kidney))
    assert torch.allclose(liver, spleen, rtol=1e-5)
    assert 0.22 < float(liver.min()) < 0.4
    assert float(liver.max()) < 1 + 1e-5
    assert 10 < int((liver[:, 0] < 0.999).sum()) < 30


def test_another_contrast_is_one_of_intensities_wherever_they_are():
    """Three tissues, two places of each: equal ones stay equal, in every slice, and which is brightest changes."""
    tissues = torch.tensor([0.1, 0.5, 0.9]).repeat(2).repeat_interleave(10)[:, None].expand(60, 30)
    before = tissues.expand(40, 3, -1, -1)
    after = random_contrast(before, 1.0, generator(2))
    assert 0 <= float(after.min()) < 0.01
    assert 0.99 < float(after.max()) <= 1
    inner = after[:, :, 5::10, 4:-4]  # the middle of each stripe
    torch.testing.assert_close(inner[:, :, :3], inner[:, :, 3:], atol=1e-4, rtol=0)
    torch.testing.assert_close(inner, inner[:, :1, :, :1].expand_as(inner), atol=1e-4, rtol=0)
    orders = {tuple(values.argsort().tolist()) for values in inner[:, 0, :3, 0]}
    assert len(orders) > 2
    assert (0, 1, 2) in orders


def test_only_a_share_of_the_images_gets_another_contrast_and_nothing_has_none():
    before = images().repeat(50, 1, 1, 1)
    changed = (random_contrast(before, 0.3, generator(4)) != before).flatten(1).any(1)
    assert 40 < int(changed.sum()) < 80
    nothing = torch.zeros(6, 3, 8, 8)
    assert torch.isfinite(random_contrast(nothing, 1.0, generator())).all()
