"""Networks from their descriptions: ``{"type": "PyramidUNet", "in_channels": 3, ...}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..errors import ModelError
from .densenet import DenseFCN
from .pyramid import PyramidUNet
from .sdnet import SDNet
from .unet import UNet

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
