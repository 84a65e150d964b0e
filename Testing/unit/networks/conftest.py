"""Small networks of every type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from SESegmentationLib.networks import build_network
from SESegmentationLib.networks.se import ChannelSE, ConcurrentSE, SpatialSE

#: a few channels and levels; the template's networks and the clinical one
SMALL: dict[str, dict[str, Any]] = {
    "UNet": {"channels": 6, "blocks": 2, "kernel": 3},
    "SDNet": {"channels": 6, "blocks": 2, "kernel": 3},
    "DenseFCN": {"channels": 6, "blocks": 2, "kernel": 3},
    "PyramidUNet": {"channels": [6, 8, 10], "positions": ["encoder", "decoder"]},
}


@pytest.fixture(scope="session")
def make_network() -> Callable[..., nn.Module]:
    """Function that builds a small network of a type, always with the same weights, with changed arguments."""

    def make(kind: str, **changes: Any) -> nn.Module:
        torch.manual_seed(11)
        return build_network({"type": kind, "in_channels": 2, "classes": 3, **SMALL[kind], **changes})

    return make


@pytest.fixture(scope="session")
def se_blocks() -> Callable[[nn.Module], dict[str, nn.Module]]:
    """Function that finds the SE blocks of a network by name; the branches of scSE are part of theirs."""

    def find(network: nn.Module) -> dict[str, nn.Module]:
        kinds = (ChannelSE, SpatialSE, ConcurrentSE)
        return {
            name: module
            for name, module in network.named_modules(remove_duplicate=False)
            if isinstance(module, kinds) and not name.endswith((".cSE", ".sSE"))
        }

    return find


@pytest.fixture(scope="session")
def randomise() -> Callable[[nn.Module], nn.Module]:
    """Function that gives a network's batch norms the weights and statistics of some training; sets evaluation."""

    def change(network: nn.Module) -> nn.Module:
        torch.manual_seed(5)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0.0, 0.3)
                nn.init.normal_(module.running_mean, 0.0, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
        return network.eval()

    return change
