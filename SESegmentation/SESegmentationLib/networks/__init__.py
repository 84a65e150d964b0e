"""Fully convolutional networks whose feature maps are recalibrated by squeeze & excitation blocks.

Example::

    import torch
    from SESegmentationLib.networks import ConcurrentSE, UNet

    network = UNet(in_channels=1, classes=28, se="scSE")
    logits = network(torch.zeros(2, 1, 160, 160))  # (2, 28, 160, 160)
    recalibrated = ConcurrentSE(64)(torch.zeros(2, 64, 40, 40))  # the same shape
"""

from .architectures import DenseFCN, SDNet, UNet, build_network
from .cost import NetworkCost, network_cost
from .pyramid import PyramidUNet
from .se import ChannelSE, ConcurrentSE, SpatialSE

__all__ = [
    "ChannelSE",
    "ConcurrentSE",
    "DenseFCN",
    "NetworkCost",
    "PyramidUNet",
    "SDNet",
    "SpatialSE",
    "UNet",
    "build_network",
    "network_cost",
]
