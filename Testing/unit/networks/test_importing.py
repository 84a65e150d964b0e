"""Weights of the authors' SE blocks, by name: laid out as their classes lay them out, computed as their code does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from SESegmentationLib.errors import ModelError
from SESegmentationLib.networks import build_network
from SESegmentationLib.networks.se import build_se
from SESegmentationLib.networks.se_import import load_se_weights, se_prefixes

CHANNELS = 6


def authors_weights(prefix: str = "", channels: int = CHANNELS, reduction: int = 2, seed: int = 0):
    """State dict of their ChannelSpatialSELayer: linear fc1 and fc2 in cSE, a 1x1 convolution conv in sSE."""
    random = torch.Generator().manual_seed(seed)
    hidden = channels // reduction
    shapes = {
        "cSE.fc1.weight": (hidden, channels),
        "cSE.fc1.bias": (hidden,),
        "cSE.fc2.weight": (channels, hidden),
        "cSE.fc2.bias": (channels,),
        "sSE.conv.weight": (1, channels, 1, 1),
        "sSE.conv.bias": (1,),
    }
    return {prefix + name: torch.randn(shape, generator=random) for name, shape in shapes.items()}


def authors_output(maps, weights, kind="scSE", prefix=""):
    """Their forward pass: the maximum of both recalibrated maps."""
    weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    squeezed = maps.flatten(2).mean(2)
    hidden = F.relu(F.linear(squeezed, weights["cSE.fc1.weight"], weights["cSE.fc1.bias"]))
    gates = torch.sigmoid(F.linear(hidden, weights["cSE.fc2.weight"], weights["cSE.fc2.bias"]))
    by_channel = maps * gates[:, :, None, None]
    by_position = maps * torch.sigmoid(F.conv2d(maps, weights["sSE.conv.weight"], weights["sSE.conv.bias"]))
    return {"cSE": by_channel, "sSE": by_position, "scSE": torch.max(by_channel, by_position)}[kind]


@pytest.fixture
def maps():
    return torch.randn(2, CHANNELS, 5, 7, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("kind", ["scSE", "cSE", "sSE"])
@pytest.mark.parametrize("prefix", ["", "encode1.SELayer.", "module.encode1.SELayer."])
def test_a_block_computes_what_theirs_does(maps, kind, prefix):
    weights = authors_weights(prefix)
    block = build_se(kind, CHANNELS)
    assert not torch.allclose(block(maps), authors_output(maps, weights, kind, prefix))
    load_se_weights(block, weights)
    torch.testing.assert_close(block(maps), authors_output(maps, weights, kind, prefix))


@pytest.mark.parametrize(("kind", "branch"), [("cSE", "cSE."), ("sSE", "sSE.")])
def test_a_branch_that_stands_alone_loads(maps, kind, branch):
    """Their ChannelSELayer and SpatialSELayer by themselves have no cSE or sSE before their names."""
    both = authors_weights()
    alone = {f"SELayer.{name.removeprefix(branch)}": v for name, v in both.items() if name.startswith(branch)}
    block = build_se(kind, CHANNELS)
    load_se_weights(block, alone, "SELayer")
    torch.testing.assert_close(block(maps), authors_output(maps, both, kind))


def test_every_block_of_a_network_finds_its_own_by_prefix(maps):
    """The layout of their QuickNAT: encode1 to 4, decode1 to 4, among convolutions also called conv."""
    weights = {}
    for number in range(1, 5):
        weights |= authors_weights(f"encode{number}.SELayer.", 4, seed=number)
        weights |= {f"encode{number}.conv.weight": torch.zeros(4, 4, 5, 5)}
        weights |= authors_weights(f"decode{number}.SELayer.", 4, seed=10 + number)
    network = build_network({"type": "DenseFCN", "in_channels": 1, "classes": 3, "channels": 4, "kernel": 3})
    assert len(se_prefixes(network.encoders[0], weights)) == 8
    for number, encoder in enumerate(network.encoders, start=1):
        load_se_weights(encoder, weights, f"encode{number}.SELayer")
    for number, encoder in enumerate(network.encoders, start=1):
        for name, tensor in encoder.se.state_dict().items():
            torch.testing.assert_close(tensor, weights[f"encode{number}.SELayer.{name}"])
    with pytest.raises(ModelError, match=r"8 ConcurrentSE blocks: encode1\.SELayer\.") as caught:
        load_se_weights(network.encoders[0], weights)
    assert "prefix" in caught.value.remedy


def test_a_whole_network_at_once_is_refused():
    network = build_network({"type": "SDNet", "channels": 4, "kernel": 3})
    with pytest.raises(ModelError, match="8 SE blocks"):
        load_se_weights(network, authors_weights(channels=4))
    with pytest.raises(ModelError, match="0 SE blocks"):
        load_se_weights(nn.Conv2d(1, 1, 1), authors_weights())


@pytest.mark.parametrize("change", ["missing", "other size", "other prefix", "no prefix boundary"])
def test_what_does_not_fit_is_named_and_changes_nothing(change):
    weights = authors_weights("encode1.SELayer.")
    prefix = "encode1.SELayer"
    if change == "missing":
        del weights["encode1.SELayer.sSE.conv.bias"]
    elif change == "other size":
        weights = authors_weights("encode1.SELayer.", reduction=3)
    elif change == "other prefix":
        prefix = "encode2.SELayer"
    else:
        weights, prefix = {f"x{name}": tensor for name, tensor in authors_weights().items()}, ""
    block = build_se("scSE", CHANNELS)
    before = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    with pytest.raises(ModelError) as caught:
        load_se_weights(block, weights, prefix)
    assert caught.value.remedy
    assert ("shape" in caught.value.cause) == (change == "other size")
    for name, tensor in block.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
