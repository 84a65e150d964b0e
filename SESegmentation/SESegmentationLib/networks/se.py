"""Squeeze & excitation blocks for segmentation.

Source: Roy, Navab, Wachinger, "Recalibrating Fully Convolutional Networks with Spatial and Channel 'Squeeze and
Excitation' Blocks", IEEE TMI 38(2), 540-549, 2019. The parameters are named as in the authors' code (``cSE.fc1``,
``cSE.fc2``, ``sSE.conv``), so that their blocks load by name.

All blocks take feature maps (N, C, H, W), or (N, C, D, H, W) for three dimensions.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

AGGREGATIONS = ("max", "add", "mul", "concat")
KINDS = ("cSE", "sSE", "scSE")


class ChannelSE(nn.Module):
    """Squeeze space, excite channels (cSE): each channel is scaled by a gate computed from all channels' means.

    Args:
        channels: C.
        reduction: r; the hidden layer has C // r units (at least one).

    Raises:
        ValueError: r below 1.
    """

    def __init__(self, channels: int, reduction: int = 2) -> None:
        super().__init__()
        if reduction < 1:
            raise ValueError(f"the reduction is at least 1, not {reduction}")
        hidden = max(channels // reduction, 1)
        self.out_channels = channels
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def gate(self, maps: Tensor) -> Tensor:
        """Gates in (0, 1), shape (N, C, 1, 1[, 1])."""
        # no flatten, which would copy channels-last maps; no mean, which would copy those of half precision
        squeezed = maps.sum(dim=tuple(range(2, maps.dim()))) / maps[0, 0].numel()
        gates = torch.sigmoid(self.fc2(torch.relu(self.fc1(squeezed))))
        return gates.reshape(*gates.shape, *[1] * (maps.dim() - 2))

    def forward(self, maps: Tensor) -> Tensor:
        return maps * self.gate(maps)


class SpatialSE(nn.Module):
    """Squeeze channels, excite space (sSE): each position is scaled by a gate computed from its own channels.

    Args:
        channels: C.
        dimensions: 2 or 3.
    """

    def __init__(self, channels: int, dimensions: int = 2) -> None:
        super().__init__()
        convolution = nn.Conv3d if dimensions == 3 else nn.Conv2d
        self.out_channels = channels
        self.conv = convolution(channels, 1, kernel_size=1)

    def gate(self, maps: Tensor) -> Tensor:
        """Gates in (0, 1), shape (N, 1, H, W) or (N, 1, D, H, W): what the block attends to."""
        return torch.sigmoid(self.conv(maps))

    def forward(self, maps: Tensor) -> Tensor:
        gate = self.gate(maps)
        if torch.is_grad_enabled():
            return maps * gate
        # the same; but CPUs multiply faster once the gate is spread over all channels
        return torch.empty_like(maps).copy_(gate).mul_(maps)


class ConcurrentSE(nn.Module):
    """Both recalibrations at once (scSE), joined by maximum, sum, product or concatenation.

    The aggregation joins the two recalibrated *maps*, not the gates: for negative activations the maximum differs.

    Args:
        channels: C.
        reduction: r of the channel branch.
        aggregation: "max" (default), "add", "mul" or "concat"; only "concat" changes the number of channels.
        dimensions: 2 or 3.
        rectified: whether the input has no negative values, as after a ReLU; the maximum is then computed faster.

    Attributes:
        out_channels: channels of the output, C, or 2 C for "concat".
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 2,
        aggregation: str = "max",
        dimensions: int = 2,
        rectified: bool = False,
    ) -> None:
        super().__init__()
        if aggregation not in AGGREGATIONS:
            raise ValueError(f"aggregation is one of {', '.join(AGGREGATIONS)}, not {aggregation!r}")
        self.cSE = ChannelSE(channels, reduction)
        self.sSE = SpatialSE(channels, dimensions)
        self.aggregation = aggregation
        self.rectified = rectified
        self.out_channels = 2 * channels if aggregation == "concat" else channels

    def forward(self, maps: Tensor) -> Tensor:
        if self.rectified and self.aggregation == "max" and not torch.is_grad_enabled():
            # the same to the last bit, as rounding keeps the order: the larger gate gives the larger product
            gates = torch.empty_like(maps).copy_(self.sSE.gate(maps))
            return torch.maximum(gates, self.cSE.gate(maps), out=gates).mul_(maps)
        by_channel = self.cSE(maps)
        by_position = self.sSE(maps)
        if self.aggregation == "max":
            if not torch.is_grad_enabled():
                return torch.maximum(by_channel, by_position, out=by_channel)
            # the same; but torch.maximum's gradient is masked, which CPUs run ten times slower than this
            return by_position + torch.relu(by_channel - by_position)
        if self.aggregation == "add":
            return by_channel + by_position
        if self.aggregation == "mul":
            return by_channel * by_position
        return torch.cat([by_channel, by_position], dim=1)


def build_se(
    kind: str | None,
    channels: int,
    reduction: int = 2,
    aggregation: str = "max",
    dimensions: int = 2,
    rectified: bool = False,
) -> nn.Module:
    """The SE block of a slot in a network: "cSE", "sSE", "scSE", or identity for None.

    Every block has ``out_channels`` except the identity, which keeps C. The other arguments are those of the blocks.
    """
    if kind is None:
        return nn.Identity()
    if kind == "cSE":
        return ChannelSE(channels, reduction)
    if kind == "sSE":
        return SpatialSE(channels, dimensions)
    if kind == "scSE":
        return ConcurrentSE(channels, reduction, aggregation, dimensions, rectified)
    raise ValueError(f"SE kind is one of {', '.join(KINDS)} or None, not {kind!r}")


def spatial_gate(network: nn.Module) -> SpatialSE | None:
    """The sSE block, or the sSE branch of the scSE block, of the decoder that runs last; None where it has none."""
    block = getattr(network, "last_se", None)
    if isinstance(block, ConcurrentSE):
        return block.sSE
    return block if isinstance(block, SpatialSE) else None


@contextlib.contextmanager
def recorded_gates(block: SpatialSE) -> Iterator[list[Tensor]]:
    """A list to which each forward pass of ``block`` appends its gates, (N, 1, H, W) or (N, 1, D, H, W) float32.

    They are computed in single precision: gates close to 1 differ by less than half precision resolves.
    """
    gates: list[Tensor] = []
    exact = copy.deepcopy(block).float()
    # scSE asks for the gate alone, so the hook is on the layer that computes it from the same maps
    hook = block.conv.register_forward_hook(lambda module, inputs, output: gates.append(exact.gate(inputs[0].float())))
    try:
        yield gates
    finally:
        hook.remove()
