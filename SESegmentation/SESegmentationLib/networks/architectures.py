"""The networks of Roy et al. (U-Net, SD-Net, DenseNet) from one template; and any network from its description.

The template is that of Roy, Navab, Wachinger, IEEE TMI 38(2), 2019: four encoders and four decoders of 64 channels,
with an SE block at the end of each. The networks differ in the layers of a block and in how maps are upsampled:

- U-Net: Ronneberger, Fischer, Brox, MICCAI 2015;
- SD-Net: Roy, Conjeti, Sheet, Katouzian, Navab, Wachinger, "Error Corrective Boosting for Learning Fully Convolutional
  Networks with Limited Data", MICCAI 2017;
- DenseNet: Roy, Conjeti, Navab, Wachinger, "QuickNAT", NeuroImage 186, 2019, with the dense connections of Huang et
  al., CVPR 2017.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ModelError, OutOfMemoryError
from ..memory import memory_errors
from ..plain_text import first_line
from .pyramid import PyramidUNet
from .se import build_se

POSITIONS = ("encoder", "decoder", "bottleneck", "classifier")


def convolution(in_channels: int, channels: int, kernel: tuple[int, int], bias: bool = False) -> nn.Conv2d:
    """Convolution that keeps height and width; without bias, since a batch norm follows in most places."""
    return nn.Conv2d(in_channels, channels, kernel, padding=(kernel[0] // 2, kernel[1] // 2), bias=bias)


def activated_convolution(in_channels: int, channels: int, kernel: tuple[int, int]) -> list[nn.Module]:
    """Convolution, batch norm, ReLU."""
    return [convolution(in_channels, channels, kernel), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


class Block(nn.Sequential):
    """Layers, He-initialised (He et al., ICCV 2015), then an SE block.

    Args:
        layers: convolutions, norms and activations.
        channels: output channels of the layers.
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

    The input must have as many channels as were pooled. Only SE blocks that concatenate can make the numbers differ; a
    1x1 convolution then adjusts the number of channels.

    Args:
        in_channels: channels of the maps from the level below.
        channels: channels of the encoder's pooled maps.
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

    #: whether maps are upsampled by unpooling with the encoder's indices instead of transposed convolutions
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
        return activated_convolution(in_channels, self.channels, self.kernel)

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


class UNet(Template):
    """Two convolutions per block, upsampling by transposed convolutions, concatenated skip connections.

    Arguments as those of :class:`Template`. The defaults make about 2.12 M parameters, to which scSE adds 1.6 %.

    Args:
        widened: extra channels between the two convolutions of each block, encoders first, then decoders from the
            bottleneck upwards: a way to spend parameters on convolutions instead of SE blocks.

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
            *activated_convolution(in_channels, between, self.kernel),
            *activated_convolution(between, self.channels, self.kernel),
        ]


class SDNet(Template):
    """One convolution per block, unpooling with the encoder's indices, concatenated skip connections.

    Arguments as those of :class:`Template`. The authors use kernels of 5x5 for brains and 7x3 (height, width) for
    retinal layers.
    """

    unpools = True

    def layers(self, in_channels: int) -> list[nn.Module]:
        """Convolution, batch norm, ReLU."""
        return activated_convolution(in_channels, self.channels, self.kernel)


class DenseLayer(nn.Sequential):
    """Batch norm, ReLU, convolution; their output is concatenated to their input."""

    def __init__(self, in_channels: int, channels: int, kernel: tuple[int, int]) -> None:
        super().__init__(nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True), convolution(in_channels, channels, kernel))
        self.out_channels = in_channels + channels

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([maps, super().forward(maps)], dim=1)


class DenseFCN(Template):
    """Two dense layers and a 1x1 convolution per block, unpooling with the encoder's indices, concatenated skips.

    Arguments as those of :class:`Template`.
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


NETWORKS: dict[str, type[nn.Module]] = {
    "PyramidUNet": PyramidUNet,
    "UNet": UNet,
    "SDNet": SDNet,
    "DenseFCN": DenseFCN,
}


def build_network(description: Mapping[str, Any]) -> nn.Module:
    """Build the network a description names.

    Args:
        description: "type" and the arguments of that network's class.

    Raises:
        ModelError: unknown type or argument, or an argument that the network cannot have.
        OutOfMemoryError: not enough memory.
    """
    arguments = dict(description)
    kind = arguments.pop("type", None)
    if not isinstance(kind, str) or kind not in NETWORKS:
        raise ModelError(
            f"There is no network type {kind!r}.", f"The types of this version are {', '.join(sorted(NETWORKS))}."
        )
    try:
        with memory_errors():
            return NETWORKS[kind](**arguments)
    except OutOfMemoryError:
        raise
    except Exception as error:  # torch raises many kinds for numbers and types that it cannot use
        raise ModelError(
            f"The network {kind} cannot be built: {first_line(str(error), type(error).__name__)}.",
            "Check its arguments in model.json or the recipe.",
        ) from error
