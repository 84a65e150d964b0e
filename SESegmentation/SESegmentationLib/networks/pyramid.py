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


class Convolution3d(nn.Conv3d):
    """A convolution of volumes that does not fall back to PyTorch's own on a CPU.

    PyTorch takes oneDNN for large volumes only; small ones then take up to eight times as long.
    """

    def forward(self, maps: Tensor) -> Tensor:
        onednn = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
        if maps.device.type != "cpu" or torch.is_autocast_enabled("cpu") or not onednn:
            return super().forward(maps)
        return torch.mkldnn_convolution(
            maps, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        )


class ConvolutionBlock(nn.Sequential):
    """(3x3 convolution, batch norm, ReLU) some times, then an SE block.

    Args:
        in_channels: channels of the input.
        channels: channels of every convolution.
        convolutions: how many.
        se: SE block or identity.
        dimensions: 2, or 3 for 3x3x3 convolutions.
    """

    def __init__(self, in_channels: int, channels: int, convolutions: int, se: nn.Module, dimensions: int = 2) -> None:
        convolution, norm = (Convolution3d, nn.BatchNorm3d) if dimensions == 3 else (nn.Conv2d, nn.BatchNorm2d)
        layers: list[nn.Module] = []
        for index in range(convolutions):
            layers += [
                convolution(in_channels if index == 0 else channels, channels, 3, padding=1, bias=False),
                norm(channels),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers, se)
        self.out_channels = getattr(se, "out_channels", channels)


class PyramidUNet(nn.Module):
    """U-Net with channels doubling by depth and SE blocks; any input height and width, and depth in three dimensions.

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
        dimensions: 2 for slices, 3 for volumes.
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
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        if dimensions not in (2, 3):
            raise ValueError(f"the pyramid U-Net has 2 or 3 dimensions, not {dimensions}")
        if aggregation == "concat":
            raise ValueError("the pyramid U-Net joins SE branches by max, add or mul, not concat")
        unknown = set(positions) - {"encoder", "decoder", "bottleneck"}
        if unknown:
            raise ValueError(f"SE positions are encoder, decoder and bottleneck, not {', '.join(sorted(unknown))}")

        def block(inputs: int, outputs: int, position: str) -> ConvolutionBlock:
            kind = se if position in positions else None
            se_block = build_se(kind, outputs, reduction, aggregation, dimensions)
            return ConvolutionBlock(inputs, outputs, convolutions, se_block, dimensions)

        three = dimensions == 3
        upsampling, classifier = (nn.ConvTranspose3d, nn.Conv3d) if three else (nn.ConvTranspose2d, nn.Conv2d)

        self.in_channels = in_channels
        self.classes = classes
        self.dimensions = dimensions
        #: heights and widths are padded to a multiple of this
        self.stride = 2 ** (len(channels) - 1)
        inputs = [in_channels, *channels[:-2]]
        self.encoders = nn.ModuleList(
            block(before, here, "encoder") for before, here in zip(inputs, channels[:-1], strict=True)
        )
        self.bottleneck = block(channels[-2], channels[-1], "bottleneck")
        pairs = list(zip(channels[:-1], channels[1:], strict=True))
        self.upsamplings = nn.ModuleList(upsampling(below, here, 2, stride=2) for here, below in pairs)
        self.decoders = nn.ModuleList(block(2 * here, here, "decoder") for here, _ in pairs)
        self.dropout = (nn.Dropout3d if three else nn.Dropout2d)(dropout)
        self.classifier = classifier(channels[0], classes, 1)
        self.apply(_initialise)

    @property
    def last_se(self) -> nn.Module:
        """The SE block of the decoder that runs last, at the resolution of the input; identity where it has none."""
        return self.decoders[0][-1]

    def forward(self, maps: Tensor) -> Tensor:
        """Logits (N, classes, H, W) of the centre slices of ``maps`` (N, in_channels, H, W).

        In three dimensions (N, classes, D, H, W) of volumes (N, in_channels, D, H, W).
        """
        sizes = maps.shape[2:]
        maps = F.pad(maps, [side for size in reversed(sizes) for side in (0, -size % self.stride)])
        pool = F.max_pool3d if self.dimensions == 3 else F.max_pool2d
        skips = []
        for encoder in self.encoders:
            maps = self.dropout(encoder(maps))
            skips.append(maps)
            maps = pool(maps, 2)
        maps = self.dropout(self.bottleneck(maps))
        for level in reversed(range(len(skips))):
            maps = torch.cat([skips[level], self.upsamplings[level](maps)], dim=1)
            maps = self.dropout(self.decoders[level](maps))
        return self.classifier(maps)[(..., *(slice(size) for size in sizes))]


def _initialise(module: nn.Module) -> None:
    """He initialisation of the convolutions (He et al., ICCV 2015); the SE gates keep PyTorch's defaults."""
    if isinstance(module, nn.Conv2d | nn.Conv3d) and max(module.kernel_size) > 1:
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
