"""Weights of 8 bits: how exact they are, and that a network does the same with them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from SESegmentationLib.networks import build_network
from SESegmentationLib.networks.quantisation import SCALE, from_eight_bits, to_eight_bits


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), power=st.floats(-6, 6), empty=st.booleans())
def test_a_weight_is_restored_to_half_a_step_of_its_channel(seed, power, empty):
    weights = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(seed)) * 10**power
    if empty:
        weights[2] = 0
    stored = to_eight_bits({"w": weights})
    assert stored["w"].dtype == torch.int8
    restored = from_eight_bits(stored)["w"]
    step = weights.flatten(1).abs().amax(1) / 127
    assert ((restored - weights).abs() <= 0.5001 * step[:, None, None, None] + 1e-30).all()


def test_vectors_and_counters_stay_as_they_are():
    tensors = {"bias": torch.randn(7), "counter": torch.tensor(3)}
    stored = to_eight_bits(tensors)
    assert stored.keys() == tensors.keys()
    assert all(torch.equal(from_eight_bits(stored)[key], tensor) for key, tensor in tensors.items())


def test_a_network_says_nearly_the_same():
    description = {"type": "PyramidUNet", "channels": [8, 16, 32], "se": "scSE", "in_channels": 3, "classes": 4}
    torch.manual_seed(0)
    network, other = build_network(description).eval(), build_network(description).eval()
    other.load_state_dict(from_eight_bits(to_eight_bits(network.state_dict())))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        first, second = network(images), other(images)
    assert not torch.equal(first, second)
    assert float((first - second).abs().max()) < 0.05 * float(first.std())


@pytest.mark.parametrize("change", ["no weights", "another length", "floats"])
def test_scales_that_fit_nothing_are_refused(change):
    stored = to_eight_bits({"w": torch.randn(4, 2)})
    if change == "no weights":
        del stored["w"]
    elif change == "another length":
        stored["w" + SCALE] = torch.ones(3)
    else:
        stored["w"] = stored["w"].float()
    with pytest.raises(ValueError, match="w.scale"):
        from_eight_bits(stored)
