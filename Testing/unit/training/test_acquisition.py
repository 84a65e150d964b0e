"""Thick slices: what a matrix does to an axis."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from SESegmentationTraining.transforms import random_anisotropy, slice_profile_matrix, thick_slabs


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 60), st.floats(1.5, 8), st.floats(1, 1.3), st.floats(0, 1))
def test_what_is_even_stays_even_and_a_ramp_stays_where_it_is(length, thickness, gap, offset):
    matrix = slice_profile_matrix(length, thickness, thickness * gap, offset * thickness * gap)
    assert torch.allclose(matrix.sum(1), torch.ones(length), atol=1e-4)
    samples = torch.arange(length, dtype=torch.float32)
    inside = slice(int(2 * thickness * gap), length - int(2 * thickness * gap))
    assert (matrix @ samples - samples)[inside].abs().le(0.5).all()


def test_a_thin_line_is_as_wide_as_the_slices_are_thick():
    matrix = slice_profile_matrix(81, 6.0, 6.0, 0.0)
    line = torch.zeros(81)
    line[40] = 1
    seen = matrix @ line
    assert 0.1 < float(seen.max()) < 0.25
    assert 5 <= int((seen > 0.5 * seen.max()).sum()) <= 9


def test_thick_slices_lie_along_rows_or_columns():
    images = torch.rand(12, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    thick = random_anisotropy(images, 1.0, 7.0, torch.Generator().manual_seed(1))
    roughness = [thick.diff(dim=axis).abs().flatten(1).mean(1) / thick.flatten(1).std(1) for axis in (2, 3)]
    along_rows = roughness[0] < roughness[1]
    assert along_rows.any() and not along_rows.all()
    assert (torch.minimum(*roughness) < 0.7 * torch.maximum(*roughness)).all()
    assert torch.equal(random_anisotropy(images, 0.0, 7.0, torch.Generator()), images)


def test_slabs_across_thick_slices_are_averages_of_their_neighbours():
    slabs = torch.zeros(4, 11, 8, 8)
    slabs[:, 5] = 1.0
    thick = thick_slabs(slabs, 3, 6.0, torch.Generator().manual_seed(0))
    assert thick.shape == (4, 3, 8, 8)
    assert float(thick.max()) < 0.8
    assert torch.allclose(thick_slabs(torch.ones(2, 11, 4, 4), 3, 6.0, torch.Generator()), torch.ones(2, 3, 4, 4))
