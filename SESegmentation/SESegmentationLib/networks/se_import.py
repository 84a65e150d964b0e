"""Import of the authors' own SE blocks, from the state dicts of their networks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .se import ChannelSE, ConcurrentSE, SpatialSE

#: prefix of a branch's parameter names inside a scSE block
_BRANCHES = {ChannelSE: "cSE.", SpatialSE: "sSE.", ConcurrentSE: ""}


def se_prefixes(block: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """The name prefixes in ``weights`` of all SE blocks of the same kind as ``block``, in their order.

    Args:
        block: an SE block, or a module that holds one.
        weights: a state dict.

    Raises:
        ModelError: ``block`` holds no SE block, or several.
    """
    names = list(_only_se(block).state_dict())
    first = names[0]
    found = [key[: -len(first)] for key in weights if key.endswith(first)]
    return [
        prefix
        for prefix in found
        if (not prefix or prefix.endswith("."))
        and all(prefix + name in weights for name in names)
        and weights[prefix + first].dim() >= 2
        and (first != "conv.weight" or len(weights[prefix + first]) == 1)  # other convolutions have this name too
    ]


def load_se_weights(block: nn.Module, weights: Mapping[str, Tensor], prefix: str = "") -> None:
    """Put weights of the authors' SE block into ``block``, which then computes the same.

    Args:
        block: an SE block, or a module that holds one (an encoder of a network).
        weights: a state dict, of a block or of a whole network; other weights in it are ignored.
        prefix: the part of the names before ``cSE`` and ``sSE`` (or before ``fc1``, ``conv``); not needed if there is
            only one block.

    Raises:
        ModelError: ``weights`` have no such block, several, or one of another size; ``block`` then stays as it is.

    Example::

        weights = torch.load("quicknat.pth", weights_only=True)
        for number, encoder in enumerate(network.encoders, start=1):
            load_se_weights(encoder, weights, f"encode{number}.SELayer")
    """
    target = _only_se(block)
    found = se_prefixes(target, weights)
    if prefix:
        wanted = prefix if prefix.endswith(".") else f"{prefix}."
        found = [entry for entry in found if entry in (wanted, wanted + _BRANCHES[type(target)])]
    kind = type(target).__name__
    if not found:
        where = f" under {prefix}" if prefix else ""
        raise ModelError(f"The weights hold no {kind} block{where}.", "Check the prefix and the kind of SE block.")
    if len(found) > 1:
        raise ModelError(
            f"The weights hold {len(found)} {kind} blocks: {', '.join(found)}.", "Name one of these with prefix."
        )
    own = target.state_dict()
    given = {name: weights[found[0] + name] for name in own}
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            raise ModelError(
                f"{found[0]}{name} has the shape {tuple(tensor.shape)}, the block here {tuple(own[name].shape)}.",
                "Build the block with their number of channels and reduction ratio.",
            )
    with torch.no_grad():
        target.load_state_dict(given)


def _only_se(block: nn.Module) -> ConcurrentSE | ChannelSE | SpatialSE:
    """The one SE block in ``block``; a concurrent block counts as one."""
    concurrent = [module for module in block.modules() if isinstance(module, ConcurrentSE)]
    single = [module for module in block.modules() if isinstance(module, (ChannelSE, SpatialSE))]
    found = concurrent or single
    if len(found) != 1:
        raise ModelError(
            f"The module holds {len(found)} SE blocks; only one can be filled.", "Give the encoder or decoder itself."
        )
    return found[0]
