"""Counting parameters and multiply-adds."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from SESegmentationLib.networks import NetworkCost, build_network, network_cost

NETWORKS = ["UNet", "SDNet", "DenseFCN", "PyramidUNet"]


def test_counts_are_those_made_by_hand():
    """U-Net of one level, 4 channels, 3x3, for 7 x 5 pixels, which are padded to 8 x 6."""
    network = build_network({"type": "UNet", "in_channels": 2, "classes": 3, "channels": 4, "blocks": 1, "kernel": 3})
    fine, coarse = 8 * 6, 4 * 3
    encoder = 2 * 4 * 9 + 4 * 4 * 9
    decoder = 8 * 4 * 9 + 4 * 4 * 9
    channel, spatial = 4 * 2 + 2 * 4, 4
    assert network_cost(network, 7, 5) == NetworkCost(
        parameters=encoder + 4 * 4 * 9 + decoder + 5 * 2 * 4 + (4 * 4 * 4 + 4) + (4 * 3 + 3) + 2 * (16 + 6 + 4 + 1),
        se_parameters=2 * (channel + 2 + 4 + spatial + 1),
        multiply_adds=fine * (encoder + decoder + 4 * 3)
        + coarse * (4 * 4 * 9)
        + coarse * (4 * 4 * 4)  # each input pixel of the transposed convolution meets every weight
        + 2 * (channel + fine * spatial),
        se_multiply_adds=2 * (channel + fine * spatial),
    )


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("se", [None, "cSE", "sSE", "scSE"])
def test_multiply_adds_are_half_of_pytorchs_flops(make_network, kind, se):
    network = make_network(kind, se=se).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 2, 13, 22))
    assert 2 * network_cost(network, 13, 22).multiply_adds == counter.get_total_flops()


def test_volumes_are_counted_too():
    network = build_network({"type": "PyramidUNet", "channels": [4, 8], "se": "scSE", "dimensions": 3}).eval()
    # the counter does not know oneDNN's convolution
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        network(torch.zeros(1, 1, 5, 6, 9))
    cost = network_cost(network, 5, 6, 9)
    assert 2 * cost.multiply_adds == counter.get_total_flops()
    assert (
        cost.se_parameters
        == network_cost(build_network({"type": "PyramidUNet", "channels": [4, 8]}), 8, 8).se_parameters
    )


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("se", ["cSE", "sSE", "scSE"])
def test_se_blocks_cost_what_their_absence_saves(make_network, kind, se):
    plain, full = (network_cost(make_network(kind, se=choice), 16, 16) for choice in (None, se))
    assert (plain.se_parameters, plain.se_multiply_adds) == (0, 0)
    assert full.parameters - plain.parameters == full.se_parameters > 0
    assert full.multiply_adds - plain.multiply_adds == full.se_multiply_adds > 0


def test_the_unets_share_is_the_published_one():
    cost = network_cost(build_network({"type": "UNet", "classes": 28}), 256, 256)
    assert (cost.parameters, cost.se_parameters) == (2_153_444, 34_056)
    assert 0.014 < cost.se_parameters / cost.parameters < 0.018
    assert cost.se_multiply_adds < 0.001 * cost.multiply_adds


def test_the_network_stays_as_it_is(make_network):
    network = make_network("DenseFCN").train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network_cost(network, 9, 9)
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_other_layers_are_counted():
    """Groups, strides, three dimensions."""

    class Volume(nn.Module):
        in_channels = 4

        def __init__(self):
            super().__init__()
            self.grouped = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
            self.deep = nn.Conv3d(8, 2, (1, 3, 3))
            self.linear = nn.Linear(2, 5)

        def forward(self, maps):
            return self.linear(self.deep(self.grouped(maps)[:, :, None]).mean((2, 3, 4)))

    cost = network_cost(Volume(), 10, 10)
    assert cost.multiply_adds == 25 * 8 * 2 * 9 + 9 * 2 * 8 * 9 + 10
    assert cost.parameters == 8 * 2 * 9 + 8 + 2 * 8 * 9 + 2 + 15
