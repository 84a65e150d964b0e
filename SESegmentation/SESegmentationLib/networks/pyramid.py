"""Pyramid U-Net: the efficient network of the clinical models.

A U-Net (Ronneberger et al., MICCAI 2015) of 3x3 convolutions whose channels double with depth, with an SE block at
the end of every encoder and decoder block (Roy et al., IEEE TMI 2019). It costs about a tenth of the paper's
64-channel 5x5 template.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .se import build_se

_NORM: dict[int, Callable[[int], nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_UPSAMPLING: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class Convolution3d(nn.Conv3d):
    """A 3-D convolution of stride 1 that always uses oneDNN on a CPU.

    PyTorch uses oneDNN for large volumes only; without it, small ones take up to eight times as long. The gradient of a
    single volume cannot be made to use it, but that of a batch of two can: in training, a single volume is therefore
    computed as two halves.
    """

    def forward(self, maps: Tensor) -> Tensor:
        onednn = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
        if maps.device.type != "cpu" or _is_autocast_on_cpu() or not onednn:
            return super().forward(maps)
        if torch.is_grad_enabled() and len(maps) == 1 and maps.shape[2] % 2 == 0:
            return self._in_halves(maps)
        return self._onednn(maps, self._around)

    @property
    def _around(self) -> tuple[int, ...]:
        """Zero padding on each side, by axis."""
        assert not isinstance(self.padding, str)
        return self.padding

    def _in_halves(self, maps: Tensor) -> Tensor:
        """The same on a batch of the volume's lower and upper half, each with the adjacent slices of the other."""
        around, half = self._around[0], maps.shape[2] // 2
        padded = F.pad(maps, (0, 0, 0, 0, around, around))
        halves = torch.cat((padded[:, :, : half + 2 * around], padded[:, :, half:]))
        return torch.cat(self._onednn(halves, (0, *self._around[1:])).split(1), dim=2)

    def _onednn(self, maps: Tensor, padding: Sequence[int]) -> Tensor:
        return torch.mkldnn_convolution(maps, self.weight, self.bias, padding, self.stride, self.dilation, self.groups)


def _is_autocast_on_cpu() -> bool:
    try:
        return torch.is_autocast_enabled("cpu")
    except TypeError:  # before torch 2.4
        return torch.is_autocast_cpu_enabled()


#: layers by the number of dimensions
_CONVOLUTION: dict[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: Convolution3d}


class ConvolutionBlock(nn.Sequential):
    """(3x3 convolution, batch norm, ReLU) repeated, then an SE block.

    Args:
        in_channels: channels of the input.
        channels: channels of every convolution.
        convolutions: how many.
        se: SE block or identity.
        dimensions: 2, or 3 for 3x3x3 convolutions.
    """

    def __init__(self, in_channels: int, channels: int, convolutions: int, se: nn.Module, dimensions: int = 2) -> None:
        convolution, norm = _CONVOLUTION[dimensions], _NORM[dimensions]
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
        channels: channels per level, finest first; one pooling fewer than levels.
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

        def block(inputs: int, level: int, position: str) -> ConvolutionBlock:
            kind = se if position in positions else None
            se_block = build_se(kind, channels[level], reduction, aggregation, dimensions, rectified=True)
            return ConvolutionBlock(inputs, channels[level], convolutions, se_block, dimensions)

        three = dimensions == 3
        upsampling = _UPSAMPLING[dimensions]

        self.in_channels = in_channels
        self.classes = classes
        self.dimensions = dimensions
        levels = range(len(channels) - 1)
        #: sizes are padded to multiples of it
        self.stride = 2 ** len(levels)
        inputs = [in_channels, *channels[:-2]]
        self.encoders = nn.ModuleList(block(inputs[level], level, "encoder") for level in levels)
        self.bottleneck = block(channels[-2], len(channels) - 1, "bottleneck")
        self.upsamplings = nn.ModuleList(upsampling(channels[level + 1], channels[level], 2, 2) for level in levels)
        self.decoders = nn.ModuleList(block(2 * channels[level], level, "decoder") for level in levels)
        self.dropout = (nn.Dropout3d if three else nn.Dropout2d)(dropout)
        self.classifier = (nn.Conv3d if three else nn.Conv2d)(channels[0], classes, 1)
        self.apply(_initialise)

    @property
    def last_se(self) -> nn.Module:
        """The SE block of the decoder that runs last, at the resolution of the input; identity where it has none."""
        decoder = self.decoders[0]
        assert isinstance(decoder, ConvolutionBlock)
        return decoder[-1]

    def forward(self, maps: Tensor) -> Tensor:
        """Logits (N, classes, H, W) of the centre slices of ``maps`` (N, in_channels, H, W).

        In three dimensions (N, classes, D, H, W) of volumes (N, in_channels, D, H, W).
        """
        sizes = maps.shape[2:]
        missing = [-size % self.stride for size in sizes]
        maps = F.pad(maps, [side for after in reversed(missing) for side in (0, after)])
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
