"""The control of the comparison: a network without SE blocks, its layers wider by the parameters that these add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...errors import UsageError
from ...networks import build_network


def widened_to(description: Mapping[str, Any]) -> list[int]:
    """Channels by which each block of a U-Net has to be wider to have the parameters of ``description``, without SE.

    Channels are spread over the blocks as evenly as the number of parameters allows; it is met to within half of what
    one channel costs.

    Args:
        description: of a U-Net with SE blocks.

    Returns:
        A number for each block, as ``widened`` of :class:`~SESegmentationLib.networks.unet.UNet`.

    Raises:
        UsageError: the network is no U-Net.
        ModelError: the description makes no network.
    """
    if description.get("type") != "UNet":
        raise UsageError("Only the U-Net's layers can be widened.", "Leave other networks out of this comparison.")
    bare = {**description, "se": None}
    blocks = description.get("blocks", 4)
    wanted = _parameters(description)
    # all decoders cost the same, and all encoders but the first, which stays as it is: its input has fewer channels
    places = {"encoder": range(1, blocks) or range(1), "decoder": range(blocks, 2 * blocks)}
    own = _parameters(bare)
    encoder, decoder = (_parameters({**bare, "widened": _widened({p[-1]: 1}, blocks)}) - own for p in places.values())
    most = (wanted - own) // decoder + 2
    _, _, encoders, decoders = min(
        (abs(own + e * encoder + d * decoder - wanted), abs(e - d), e, d)
        for e in range((most if blocks > 1 else 0) + 1)
        for d in range(most + 1)
        if blocks == 1 or abs(e - d) <= blocks
    )
    return _widened(_shares(encoders, places["encoder"]) | _shares(decoders, places["decoder"]), blocks)


def _widened(channels: Mapping[int, int], blocks: int) -> list[int]:
    """Channels by block, from those of some blocks."""
    return [channels.get(block, 0) for block in range(2 * blocks)]


def _shares(channels: int, blocks: Sequence[int]) -> dict[int, int]:
    """``channels`` spread evenly over ``blocks``."""
    return {block: (channels + place) // len(blocks) for place, block in enumerate(blocks)}


def _parameters(description: Mapping[str, Any]) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_network(description).parameters())
