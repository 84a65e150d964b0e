"""U-Net as the paper recalibrates it.

Source: Ronneberger, Fischer, Brox, MICCAI 2015, on the template of Roy, Navab, Wachinger, IEEE TMI 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from .template import Template, convolution


class UNet(Template):
    """Two convolutions a block, transposed convolutions to grow, concatenated skips.

    Arguments as those of :class:`~SESegmentationLib.networks.template.Template`. The defaults make about 2.12 M
    parameters, of which scSE adds 1.6 %.

    Args:
        widened: by how many channels each block is wider between its two convolutions, encoders before decoders (these
            from the bottleneck upwards): parameters may so be spent on the layers instead of on SE blocks.

    Raises:
        ValueError: as the template's, or ``widened`` does not name every block.
    """

    def __init__(self, *arguments: Any, widened: Sequence[int] = (), **named: Any) -> None:
        self._widened = list(widened)  # used up while the template asks for the layers of one block after another
        super().__init__(*arguments, **named)
        if widened and len(widened) != 2 * len(self.encoders):
            raise ValueError(f"widened has a number for each of the {2 * len(self.encoders)} blocks")

    def layers(self, in_channels: int) -> list[nn.Module]:
        """(Convolution, batch norm, ReLU) twice."""
        between = self.channels + (self._widened.pop(0) if self._widened else 0)
        return [
            layer
            for inputs, outputs in ((in_channels, between), (between, self.channels))
            for layer in (
                convolution(inputs, outputs, self.kernel),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            )
        ]
