"""Weights of 8 bits: a quarter of the size of single precision, with one scale for each output channel.

The largest absolute weight of an output channel becomes 127; the others are rounded to whole steps of it. Vectors
(biases, batch norms) stay as they are. Source: Krishnamoorthi, "Quantizing deep convolutional networks for efficient
inference", arXiv 1806.08342, section 3 (symmetric, per channel).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .se import ChannelSE, ConcurrentSE, SpatialSE

#: name of a tensor's scales, after its own
SCALE = ".scale"
_LARGEST = 127


def to_eight_bits(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of two and more axes as int8, each with its scales (one per entry of the first axis) beside it."""
    result = {}
    for key, tensor in tensors.items():
        if tensor.dim() < 2 or not tensor.is_floating_point():
            result[key] = tensor
            continue
        flat = tensor.float().flatten(1)
        scale = (flat.abs().amax(1) / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        result[key] = (flat / scale[:, None]).round().to(torch.int8).reshape(tensor.shape)
        result[key + SCALE] = scale
    return result


def from_eight_bits(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What :func:`to_eight_bits` was given, float32 where it was rounded; tensors without scales as they are.

    Raises:
        ValueError: scales without their tensor, or that do not fit it.
    """
    result = {key: tensor for key, tensor in tensors.items() if not key.endswith(SCALE)}
    for key in tensors.keys() - result.keys():
        name = key.removesuffix(SCALE)
        tensor, scale = result.get(name), tensors[key]
        if tensor is None or tensor.dtype != torch.int8 or scale.shape != tensor.shape[:1]:
            raise ValueError(f"the scales {key} fit no weights")
        result[name] = tensor.float() * scale.float().reshape(-1, *[1] * (tensor.dim() - 1))
    return result


#: what stands before a branch's names where it is one of two
_BRANCHES = {ChannelSE: "cSE.", SpatialSE: "sSE.", ConcurrentSE: ""}


def se_prefixes(block: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """What stands before the names of each SE block of the kind of ``block`` in ``weights``, in their order.

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
        and (first != "conv.weight" or len(weights[prefix + first]) == 1)  # other convolutions are called so too
    ]


def load_se_weights(block: nn.Module, weights: Mapping[str, Tensor], prefix: str = "") -> None:
    """Put weights of the authors' SE block into ``block``, which then computes what theirs does.

    Args:
        block: an SE block, or a module that holds one (an encoder of a network).
        weights: a state dict, of a block or of a whole network; other weights in it are passed over.
        prefix: what stands before ``cSE`` and ``sSE`` (or before ``fc1``, ``conv``) there; may be left out where there
            is only one block.

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
            f"The module holds {len(found)} SE blocks; one is filled at a time.", "Give the encoder or decoder itself."
        )
    return found[0]
