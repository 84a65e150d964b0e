"""The template of the paper's networks: encoders, a bottleneck and as many decoders, a 1x1 classifier.

Source: Roy, Navab, Wachinger, IEEE TMI 38(2), 2019: four encoders and four decoders of 64 channels, with an SE block
at the end of each. What the networks differ in (the layers of a block, how maps grow again) stands in their own files.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .se import build_se

POSITIONS = ("encoder", "decoder", "bottleneck", "classifier")


def convolution(in_channels: int, channels: int, kernel: tuple[int, int], bias: bool = False) -> nn.Conv2d:
    """Convolution that keeps height and width; without bias, since a batch norm follows in most places."""
    return nn.Conv2d(in_channels, channels, kernel, padding=(kernel[0] // 2, kernel[1] // 2), bias=bias)


class Block(nn.Sequential):
    """Layers, He-initialised (He et al., ICCV 2015), then an SE block.

    Args:
        layers: convolutions, norms and activations.
        channels: that the layers give.
        se: SE block or identity.
    """

    def __init__(self, layers: Sequence[nn.Module], channels: int, se: nn.Module) -> None:
        own = nn.Sequential(*layers)
        super().__init__(OrderedDict(layers=own, se=se))
        self.out_channels: int = getattr(se, "out_channels", channels)
        for module in own.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class TransposedConvolution(nn.ConvTranspose2d):
    """Doubles height and width by learnt weights."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(in_channels, channels, 2, stride=2)

    def forward(self, maps: Tensor, indices: Tensor | None) -> Tensor:  # type: ignore[override]  # as Unpooling's
        return super().forward(maps)


class Unpooling(nn.Module):
    """Doubles height and width by putting values back where the encoder's maxima were, zeros elsewhere.

    It needs as many channels as there were pooled. Only SE blocks that concatenate can make them differ; a 1x1
    convolution then fits the one number to the other.

    Args:
        in_channels: of the maps from below.
        channels: of the encoder's pooled maps.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.out_channels = channels
        self.fit = nn.Identity() if in_channels == channels else nn.Conv2d(in_channels, channels, 1)

    def forward(self, maps: Tensor, indices: Tensor) -> Tensor:
        return F.max_unpool2d(self.fit(maps), indices, (2, 2))


class Template(nn.Module):
    """Encoder-decoder network with SE blocks; any input height and width.

    Every encoder and decoder block ends in an SE block, before dropout; the skip connection and the pooling both take
    the recalibrated map.

    Args:
        in_channels: neighbouring slices in the input (thickness).
        classes: output classes, background included.
        channels: channels of every block.
        blocks: encoders, and as many decoders.
        kernel: size of the convolutions, odd; one number or (height, width).
        se: "scSE", "cSE", "sSE" or None.
        reduction: r of the channel branch.
        aggregation: how scSE joins its branches: "max", "add", "mul" or "concat"; the last doubles the channels that
            the following layers receive.
        positions: where SE blocks stand: "encoder", "decoder", "bottleneck" (at the block's end), "classifier" (before
            its convolution).
        dropout: share of channels dropped after each block while training.

    Raises:
        ValueError: unknown position, SE kind or aggregation; numbers below 1; even kernel.
    """

    #: whether maps grow by unpooling with the encoder's indices instead of by transposed convolutions
    unpools = False

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 2,
        channels: int = 64,
        blocks: int = 4,
        kernel: int | Sequence[int] = 5,
        se: str | None = "scSE",
        reduction: int = 2,
        aggregation: str = "max",
        positions: Sequence[str] = ("encoder", "decoder"),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        unknown = set(positions) - set(POSITIONS)
        if unknown:
            raise ValueError(f"SE positions are {', '.join(POSITIONS)}, not {', '.join(sorted(unknown))}")
        sizes = {"in_channels": in_channels, "classes": classes, "channels": channels, "blocks": blocks}
        for name, number in sizes.items():
            if number < 1:
                raise ValueError(f"{name} is at least 1, not {number}")
        sides = (kernel, kernel) if isinstance(kernel, int) else tuple(kernel)
        if len(sides) != 2 or any(side < 1 or side % 2 == 0 for side in sides):
            raise ValueError(f"the kernel is one odd number, or an odd height and width, not {kernel}")

        self.kernel = (sides[0], sides[1])

        def recalibration(position: str, width: int) -> nn.Module:
            return build_se(se if position in positions else None, width, reduction, aggregation)

        def block(position: str, layers: Sequence[nn.Module]) -> Block:
            return Block(layers, channels, recalibration(position, channels))

        self.in_channels = in_channels
        self.classes = classes
        self.channels = channels
        #: heights and widths are padded to a multiple of this
        self.stride = 2**blocks
        first = block("encoder", self.layers(in_channels))
        skip = first.out_channels
        self.encoders = nn.ModuleList([first, *(block("encoder", self.layers(skip)) for _ in range(blocks - 1))])
        self.bottleneck = block("bottleneck", self.bottleneck_layers(skip))
        #: both from the bottleneck upwards
        self.upsamplings, self.decoders = nn.ModuleList(), nn.ModuleList()
        below = self.bottleneck.out_channels
        for _ in range(blocks):
            upsampling = Unpooling(below, skip) if self.unpools else TransposedConvolution(below, channels)
            decoder = block("decoder", self.layers(skip + upsampling.out_channels))
            self.upsamplings.append(upsampling)
            self.decoders.append(decoder)
            below = decoder.out_channels
        self.dropout = nn.Dropout2d(dropout)
        se_block = recalibration("classifier", below)
        linear = nn.Conv2d(getattr(se_block, "out_channels", below), classes, 1)
        self.classifier = nn.Sequential(OrderedDict(se=se_block, convolution=linear))

    def layers(self, in_channels: int) -> list[nn.Module]:
        """Layers of an encoder or decoder block, from ``in_channels`` to ``self.channels``."""
        raise NotImplementedError

    def bottleneck_layers(self, in_channels: int) -> list[nn.Module]:
        """Layers of the bottleneck: one convolution, batch norm, ReLU."""
        return [
            convolution(in_channels, self.channels, self.kernel),
            nn.BatchNorm2d(self.channels),
            nn.ReLU(inplace=True),
        ]

    @property
    def last_se(self) -> nn.Module:
        """The SE block of the decoder that runs last, at the resolution of the input; identity where it has none."""
        return self.decoders[-1].get_submodule("se")

    def forward(self, slices: Tensor) -> Tensor:
        """Logits (N, classes, H, W) of the centre slices of ``slices`` (N, in_channels, H, W)."""
        height, width = slices.shape[-2:]
        maps = F.pad(slices, (0, -width % self.stride, 0, -height % self.stride))
        skips = []
        for encoder in self.encoders:
            skip = self.dropout(encoder(maps))
            maps, indices = F.max_pool2d(skip, 2, return_indices=True)
            skips.append((skip, indices if self.unpools else None))
        maps = self.dropout(self.bottleneck(maps))
        for upsampling, decoder in zip(self.upsamplings, self.decoders, strict=True):
            skip, places = skips.pop()
            maps = self.dropout(decoder(torch.cat([skip, upsampling(maps, places)], dim=1)))
        return self.classifier(maps)[..., :height, :width]
