"""Wider layers instead of SE blocks: as many parameters."""

from __future__ import annotations

import pytest

from SESegmentationLib.errors import UsageError
from SESegmentationLib.networks import build_network, network_cost
from SESegmentationTraining.experiments.plan import widened_to


def parameters(description):
    return sum(parameter.numel() for parameter in build_network(description).parameters())


@pytest.mark.parametrize(("kernel", "reduction"), [(3, 1), (5, 2)])
@pytest.mark.parametrize(("channels", "blocks"), [(4, 1), (8, 2), (16, 4), (64, 4)])
def test_the_parameters_are_those_of_the_se_blocks(channels, blocks, kernel, reduction):
    shape = {"type": "UNet", "channels": channels, "blocks": blocks, "kernel": kernel, "classes": 3}
    recalibrated = shape | {"se": "scSE", "reduction": reduction}
    bare = shape | {"se": None}
    widened = widened_to(recalibrated)
    assert len(widened) == 2 * blocks
    one_more = parameters(bare | {"widened": [0] * (2 * blocks - 1) + [1]}) - parameters(bare)
    apart = abs(parameters(bare | {"widened": widened}) - parameters(recalibrated))
    assert apart <= one_more / 2
    if channels >= 16:
        assert apart < 0.004 * parameters(bare)


def test_the_wider_network_has_no_se_block_and_works():
    description = {"type": "UNet", "channels": 16, "kernel": 5, "se": None}
    network = build_network(description | {"widened": widened_to(description | {"se": "scSE"})})
    assert network_cost(network, 48, 56).se_parameters == 0


def test_only_a_unet_is_widened():
    with pytest.raises(UsageError) as refused:
        widened_to({"type": "SDNet", "se": "scSE"})
    assert refused.value.remedy


def test_a_width_for_every_block_is_needed():
    with pytest.raises(Exception, match="each of the 8 blocks"):
        build_network({"type": "UNet", "channels": 4, "widened": [1, 2, 3]})
