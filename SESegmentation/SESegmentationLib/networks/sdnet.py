"""Skip-deconvolution network (SD-Net) as the paper recalibrates it.

Source: Roy, Conjeti, Sheet, Katouzian, Navab, Wachinger, "Error Corrective Boosting for Learning Fully Convolutional
Networks with Limited Data", MICCAI 2017, on the template of Roy, Navab, Wachinger, IEEE TMI 2019.
"""

from __future__ import annotations

from torch import nn

from .template import Template, convolution


class SDNet(Template):
    """One convolution a block, unpooling with the encoder's indices, concatenated skips.

    Arguments as those of :class:`~SESegmentationLib.networks.template.Template`. The authors use kernels of 5x5 for
    brains and 7x3 (height, width) for retinal layers.
    """

    unpools = True

    def layers(self, in_channels: int) -> list[nn.Module]:
        """Convolution, batch norm, ReLU."""
        return [
            convolution(in_channels, self.channels, self.kernel),
            nn.BatchNorm2d(self.channels),
            nn.ReLU(inplace=True),
        ]
