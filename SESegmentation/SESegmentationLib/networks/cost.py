"""The cost of a network: its parameters, and the multiply-adds of one forward pass."""

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
        parameters: number of learnt parameters, those of the SE blocks included (statistics of batch norms are not
            learnt).
        se_parameters: number of weights and biases of the SE blocks. Where these concatenate, the layers after them
            grow too; that growth is not counted here.
        multiply_adds: number of multiplications, each with an addition, in convolutions, transposed convolutions and
            linear layers, those of the SE blocks included. Padding of the image is counted, since it is computed.
            Biases, norms, activations, pooling and the products with the SE gates are not counted.
        se_multiply_adds: the share of ``multiply_adds`` in the layers of the SE blocks.
    """

    parameters: int
    se_parameters: int
    multiply_adds: int
    se_multiply_adds: int


def network_cost(network: nn.Module, *size: int) -> NetworkCost:
    """The cost of ``network`` for one image of ``size``.

    Nothing is computed and ``network`` is not changed: the pass runs on a copy without data (PyTorch's "meta" device).

    Args:
        network: one of :data:`~SESegmentationLib.networks.architectures.NETWORKS`, or any other that has
            ``in_channels`` and calls its layers as modules, so that hooks see them.
        size: height and width of the image, in three dimensions depth before them.
    """
    network = copy.deepcopy(network).to("meta", torch.float32).eval()
    branches = [module for module in network.modules() if isinstance(module, (ChannelSE, SpatialSE))]
    se_layers = {layer for branch in branches for layer in branch.modules()}
    multiply_adds = se_multiply_adds = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal multiply_adds, se_multiply_adds
        # every weight is used once per position: of the output, or of the input for transposed convolutions
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
