"""The paper's networks, U-Net, SD-Net and the fully convolutional DenseNet; and any network from its description.

Source: Ronneberger, Fischer, Brox, MICCAI 2015, on the template of Roy, Navab, Wachinger, IEEE TMI 2019.

Source: Roy, Conjeti, Sheet, Katouzian, Navab, Wachinger, "Error Corrective Boosting for Learning Fully Convolutional
Networks with Limited Data", MICCAI 2017, on the template of Roy, Navab, Wachinger, IEEE TMI 2019.

Source: Roy, Conjeti, Navab, Wachinger, "QuickNAT", NeuroImage 186, 2019, with the dense connections of Huang et al.,
CVPR 2017, on the template of Roy, Navab, Wachinger, IEEE TMI 2019.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .pyramid import PyramidUNet
from .se import ChannelSE, SpatialSE
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
    """
    arguments = dict(description)
    kind = arguments.pop("type", None)
    if not isinstance(kind, str) or kind not in NETWORKS:
        raise ModelError(
            f"There is no network type {kind!r}.", f"The types of this version are {', '.join(sorted(NETWORKS))}."
        )
    try:
        return NETWORKS[kind](**arguments)
    except Exception as error:  # torch raises many kinds for numbers and types that it cannot use
        raise ModelError(
            f"The network {kind} cannot be built: {_first_line(error)}.",
            "Check its arguments in model.json or the recipe.",
        ) from error


def _first_line(error: Exception) -> str:
    """PyTorch explains wrong types in whole lists."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".: ")


_TRANSPOSED = (nn.ConvTranspose2d, nn.ConvTranspose3d)
_COUNTED = (nn.Conv2d, nn.Conv3d, nn.Linear, *_TRANSPOSED)


@dataclass(frozen=True)
class NetworkCost:
    """Size of a network, and the work of one forward pass over one image.

    Attributes:
        parameters: learnt numbers, those of the SE blocks included (statistics of batch norms are not learnt).
        se_parameters: weights and biases of the SE blocks. Where these concatenate, the layers after them grow too;
            that growth is not in here.
        multiply_adds: multiplications with an addition each, in convolutions, transposed convolutions and linear
            layers, those of the SE blocks included. Padding of the image is counted, as it is computed. Biases, norms,
            activations, pooling and the products with the SE gates are left out.
        se_multiply_adds: the part of the SE blocks' own layers.
    """

    parameters: int
    se_parameters: int
    multiply_adds: int
    se_multiply_adds: int

    @property
    def se_share(self) -> float:
        """Share of the SE blocks in all parameters, 0 to 1."""
        return self.se_parameters / max(self.parameters, 1)


def describe(network: nn.Module, *size: int) -> NetworkCost:
    """Count what ``network`` costs for one image of ``size``.

    Nothing is computed and ``network`` stays as it is: the pass runs on a copy without data (PyTorch's "meta" device).

    Args:
        network: one of :data:`~SESegmentationLib.networks.architectures.NETWORKS`, or any that has ``in_channels`` and
            calls no layer from outside of its modules' ``forward``.
        size: height and width of the image, in three dimensions depth before them.
    """
    network = copy.deepcopy(network).to("meta", torch.float32).eval()
    branches = [module for module in network.modules() if isinstance(module, (ChannelSE, SpatialSE))]
    se_layers = {layer for branch in branches for layer in branch.modules()}
    multiply_adds = se_multiply_adds = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal multiply_adds, se_multiply_adds
        # every weight is used once at each position: of the output, or of the input where that is spread out
        maps = inputs[0] if isinstance(layer, _TRANSPOSED) else output
        weight = layer.get_parameter("weight")
        here = maps.numel() // weight.shape[0] * weight.numel()
        multiply_adds += here
        se_multiply_adds += here if layer in se_layers else 0

    for module in network.modules():
        if isinstance(module, _COUNTED):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.empty((1, cast(int, network.in_channels), *size), device="meta"))
    return NetworkCost(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        se_parameters=sum(parameter.numel() for branch in branches for parameter in branch.parameters()),
        multiply_adds=multiply_adds,
        se_multiply_adds=se_multiply_adds,
    )
