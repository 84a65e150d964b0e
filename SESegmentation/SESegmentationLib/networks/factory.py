"""Networks from their descriptions: ``{"type": "PyramidUNet", "in_channels": 3, ...}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..errors import ModelError
from .pyramid import PyramidUNet

NETWORKS: dict[str, type[nn.Module]] = {"PyramidUNet": PyramidUNet}


def build_network(description: Mapping[str, Any]) -> nn.Module:
    """Build the network a description names.

    Args:
        description: "type" and the arguments of that network's class.

    Raises:
        ModelError: unknown type or argument.
    """
    arguments = dict(description)
    kind = arguments.pop("type", None)
    if kind not in NETWORKS:
        raise ModelError(
            f"There is no network type {kind!r}.", f"The types of this version are {', '.join(sorted(NETWORKS))}."
        )
    try:
        return NETWORKS[kind](**arguments)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"The network {kind} cannot be built: {error}.", "Check its arguments in model.json or the recipe."
        ) from error
