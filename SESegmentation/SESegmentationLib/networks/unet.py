"""U-Net as the paper recalibrates it.

Source: Ronneberger, Fischer, Brox, MICCAI 2015, on the template of Roy, Navab, Wachinger, IEEE TMI 2019.
"""

from __future__ import annotations

from torch import nn

from .template import Template, convolution


class UNet(Template):
    """Two convolutions a block, transposed convolutions to grow, concatenated skips.

    Arguments as those of :class:`~SESegmentationLib.networks.template.Template`. The defaults make about 2.12 M
    parameters, of which scSE adds 1.6 %.
    """

    def layers(self, in_channels: int) -> list[nn.Module]:
        """(Convolution, batch norm, ReLU) twice."""
        return [
            layer
            for inputs in (in_channels, self.channels)
            for layer in (
                convolution(inputs, self.channels, self.kernel),
                nn.BatchNorm2d(self.channels),
                nn.ReLU(inplace=True),
            )
        ]
