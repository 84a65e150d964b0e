"""Fully convolutional network of dense blocks as the paper recalibrates it.

Source: Roy, Conjeti, Navab, Wachinger, "QuickNAT", NeuroImage 186, 2019, with the dense connections of Huang et al.,
CVPR 2017, on the template of Roy, Navab, Wachinger, IEEE TMI 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .template import Template, convolution


class DenseLayer(nn.Sequential):
    """Batch norm, ReLU, convolution; what they give is appended to what they got."""

    def __init__(self, in_channels: int, channels: int, kernel: tuple[int, int]) -> None:
        super().__init__(nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True), convolution(in_channels, channels, kernel))
        self.out_channels = in_channels + channels

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([maps, super().forward(maps)], dim=1)


class DenseFCN(Template):
    """Two dense layers and a 1x1 convolution a block, unpooling with the encoder's indices, concatenated skips.

    Arguments as those of :class:`~SESegmentationLib.networks.template.Template`.
    """

    unpools = True

    def layers(self, in_channels: int) -> list[nn.Module]:
        """(Batch norm, ReLU, convolution, concatenation) twice, then batch norm, ReLU, 1x1 convolution."""
        first = DenseLayer(in_channels, self.channels, self.kernel)
        second = DenseLayer(first.out_channels, self.channels, self.kernel)
        return [
            first,
            second,
            nn.BatchNorm2d(second.out_channels),
            nn.ReLU(inplace=True),
            convolution(second.out_channels, self.channels, (1, 1), bias=True),
        ]

    def bottleneck_layers(self, in_channels: int) -> list[nn.Module]:
        """One convolution, batch norm: the decoder's layers begin with an activation of their own."""
        return [convolution(in_channels, self.channels, self.kernel), nn.BatchNorm2d(self.channels)]
