"""What a network costs, and what share of it the SE blocks have."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from .se import ChannelSE, SpatialSE

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
