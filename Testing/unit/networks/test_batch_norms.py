"""Batch norms: statistics of a scan, how far they lie from those of the training, and networks that take a share."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from SESegmentationLib.networks import PyramidUNet
from SESegmentationLib.networks.batch_norms import Statistics, divergence, scan_statistics, with_statistics


@pytest.fixture
def network() -> PyramidUNet:
    """One that learnt from noise around 0, so that its batch norms hold something."""
    torch.manual_seed(3)
    trained = PyramidUNet(in_channels=1, classes=3, channels=[4, 8], dimensions=3)
    for _ in range(20):
        trained(torch.randn(2, 1, 8, 8, 8))
    return trained.eval()


@pytest.fixture
def scan() -> torch.Tensor:
    return 3 + 2 * torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(4))


def test_the_divergence_is_that_of_normal_distributions():
    mean, variance = torch.tensor([0.0, 2.0, -1.0]), torch.tensor([1.0, 0.5, 4.0])
    other_mean, other_variance = torch.tensor([0.5, 2.0, 1.0]), torch.tensor([2.0, 0.5, 0.25])
    expected = kl_divergence(Normal(mean, variance.sqrt()), Normal(other_mean, other_variance.sqrt())).mean()
    found = Statistics(mean, variance).divergence_from(Statistics(other_mean, other_variance))
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_a_channel_that_is_the_same_everywhere_diverges_by_no_more_than_can_be_told():
    flat, usual = Statistics(torch.zeros(1), torch.zeros(1)), Statistics(torch.zeros(1), torch.ones(1))
    assert 0 < flat.divergence_from(usual) < 10
    assert usual.divergence_from(flat) > 1e6


def test_statistics_are_those_of_the_maps_that_come_to_a_norm(network, scan):
    first = network.encoders[0][0]
    maps = first(scan)
    found = scan_statistics(network, [scan])
    torch.testing.assert_close(found[0].mean, maps.mean((0, 2, 3, 4)))
    torch.testing.assert_close(found[0].variance, maps.var((0, 2, 3, 4)))
    assert len(found) == sum(isinstance(module, nn.BatchNorm3d) for module in network.modules())


def test_of_several_inputs_the_mean_counts(network, scan):
    both = scan_statistics(network, [scan, scan / 2])[0].mean
    each = [scan_statistics(network, [one])[0].mean for one in (scan, scan / 2)]
    torch.testing.assert_close(both, (each[0] + each[1]) / 2)


def test_the_network_stays_as_it_is(network, scan):
    before = copy.deepcopy(network.state_dict())
    with_statistics(network, scan_statistics(network, [scan]), 0.5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not network.training


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_between_training_and_scan(network, scan, share):
    adapted = with_statistics(network, scan_statistics(network, [scan]), share)
    norm, was = adapted.encoders[0][1], network.encoders[0][1]
    maps = network.encoders[0][0](scan)
    expected = (1 - share) * was.running_mean + share * maps.mean((0, 2, 3, 4))
    torch.testing.assert_close(norm.running_mean, expected.detach())
    expected = (1 - share) * was.running_var + share * maps.var((0, 2, 3, 4))
    torch.testing.assert_close(norm.running_var, expected.detach())
    if share == 0:
        assert torch.equal(adapted(scan), network(scan))


def test_what_is_normalised_by_itself_diverges_no_more(network, scan):
    statistics = scan_statistics(network, [scan])
    assert divergence(network, statistics) > 0.1
    adapted = with_statistics(network, statistics, 1.0)
    assert divergence(adapted, statistics) == pytest.approx(0, abs=1e-5)
    half = with_statistics(network, statistics, 0.5)
    assert 0 < divergence(half, statistics) < divergence(network, statistics)


def test_a_network_without_batch_norms_does_not_diverge():
    plain = nn.Conv2d(1, 2, 3)
    assert scan_statistics(plain, [torch.zeros(1, 1, 8, 8)]) == []
    assert divergence(plain, []) == 0
