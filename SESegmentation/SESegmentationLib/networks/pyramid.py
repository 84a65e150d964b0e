"""Pyramid U-Net: the efficient network of the clinical models.

A U-Net (Ronneberger et al., MICCAI 2015) of 3x3 convolutions whose channels double with depth, with an SE block at
the end of every encoder and decoder block (Roy et al., IEEE TMI 2019). It costs about a tenth of the paper's
64-channel 5x5 template.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .se import build_se


class ConvolutionBlock(nn.Sequential):
    """(3x3 convolution, batch norm, ReLU) some times, then an SE block.

    Args:
        in_channels: channels of the input.
        channels: channels of every convolution.
        convolutions: how many.
        se: SE block or identity.
    """

    def __init__(self, in_channels: int, channels: int, convolutions: int, se: nn.Module) -> None:
        layers: list[nn.Module] = []
        for index in range(convolutions):
            layers += [
                nn.Conv2d(in_channels if index == 0 else channels, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers, se)
        self.out_channels = getattr(se, "out_channels", channels)


class PyramidUNet(nn.Module):
    """U-Net with channels doubling by depth and SE blocks; any input height and width.

    Args:
        in_channels: neighbouring slices in the input (thickness).
        classes: output classes, background included.
        channels: channels per level, finest first; as many poolings as there are levels less one.
        convolutions: convolutions per block.
        se: "scSE", "cSE", "sSE" or None.
        reduction: r of the channel branch.
        aggregation: how scSE joins its branches; "concat" is refused here, since it changes the template.
        positions: where SE blocks stand: "encoder", "decoder", "bottleneck".
        dropout: share of channels dropped after each block while training.
    """

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 2,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        convolutions: int = 2,
        se: str | None = "scSE",
        reduction: int = 2,
        aggregation: str = "max",
        positions: Sequence[str] = ("encoder", "decoder", "bottleneck"),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if aggregation == "concat":
            raise ValueError("the pyramid U-Net joins SE branches by max, add or mul, not concat")
        unknown = set(positions) - {"encoder", "decoder", "bottleneck"}
        if unknown:
            raise ValueError(f"SE positions are encoder, decoder and bottleneck, not {', '.join(sorted(unknown))}")

        def block(inputs: int, outputs: int, position: str) -> ConvolutionBlock:
            kind = se if position in positions else None
            return ConvolutionBlock(inputs, outputs, convolutions, build_se(kind, outputs, reduction, aggregation))

        self.in_channels = in_channels
        self.classes = classes
        #: heights and widths are padded to a multiple of this
        self.stride = 2 ** (len(channels) - 1)
        inputs = [in_channels, *channels[:-2]]
        self.encoders = nn.ModuleList(
            block(before, here, "encoder") for before, here in zip(inputs, channels[:-1], strict=True)
        )
        self.bottleneck = block(channels[-2], channels[-1], "bottleneck")
        pairs = list(zip(channels[:-1], channels[1:], strict=True))
        self.upsamplings = nn.ModuleList(nn.ConvTranspose2d(below, here, 2, stride=2) for here, below in pairs)
        self.decoders = nn.ModuleList(block(2 * here, here, "decoder") for here, _ in pairs)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels[0], classes, 1)
        self.apply(_initialise)

    @property
    def last_se(self) -> nn.Module:
        """The SE block of the decoder that runs last, at the resolution of the input; identity where it has none."""
        return self.decoders[0][-1]

    def forward(self, slices: Tensor) -> Tensor:
        """Logits (N, classes, H, W) of the centre slices of ``slices`` (N, in_channels, H, W)."""
        height, width = slices.shape[-2:]
        maps = F.pad(slices, (0, -width % self.stride, 0, -height % self.stride))
        skips = []
        for encoder in self.encoders:
            maps = self.dropout(encoder(maps))
            skips.append(maps)
            maps = F.max_pool2d(maps, 2)
        maps = self.dropout(self.bottleneck(maps))
        for level in reversed(range(len(skips))):
            maps = torch.cat([skips[level], self.upsamplings[level](maps)], dim=1)
            maps = self.dropout(self.decoders[level](maps))
        return self.classifier(maps)[..., :height, :width]


def _initialise(module: nn.Module) -> None:
    """He initialisation of the convolutions (He et al., ICCV 2015); the SE gates keep PyTorch's defaults."""
    if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
