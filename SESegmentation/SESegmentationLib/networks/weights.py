"""Loading a package's weights (safetensors: no code), 8-bit quantisation, and import of the authors' own SE blocks.

The largest absolute weight of an output channel becomes 127; the others are rounded to whole steps of it. Vectors
(biases, batch norms) stay as they are. Source: Krishnamoorthi, "Quantizing deep convolutional networks for efficient
inference", arXiv 1806.08342, section 3 (symmetric, per channel).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import ModelError
from ..models import ModelPackage, verify_weights
from ..models.store import PACKAGE_REMEDY
from . import build_network
from .se import ChannelSE, ConcurrentSE, SpatialSE

#: name of a tensor's scales, after its own
SCALE = ".scale"
_LARGEST = 127
#: prefix of a branch's parameter names inside a scSE block
_BRANCHES = {ChannelSE: "cSE.", SpatialSE: "sSE.", ConcurrentSE: ""}


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
    """The inverse of :func:`to_eight_bits`: float32 for quantised tensors; tensors without scales are unchanged.

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


def load_weights(package: ModelPackage) -> dict[str, dict[str, Tensor]]:
    """The weights of every network by network and parameter name, on the CPU, in the stored precision (half or single);
    8-bit weights become single precision.

    Raises:
        ModelError: the file is not the one whose SHA-256 the card gives, or does not hold this card's networks.
    """
    verify_weights(package)
    try:
        tensors = load_file(package.weights_path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"The weights {package.weights_path} cannot be read: {error}.", PACKAGE_REMEDY) from error
    try:
        tensors = from_eight_bits(tensors)
    except ValueError as error:
        raise ModelError(f"The weights {package.weights_path} are damaged: {error}.", PACKAGE_REMEDY) from error
    weights: dict[str, dict[str, Tensor]] = {name: {} for name in package.card.networks}
    for key, tensor in tensors.items():
        network, _, parameter = key.partition(".")
        if network not in weights:
            raise ModelError(
                f"The weights {package.weights_path} hold {key[:80]!a}, which no network in the card has.",
                PACKAGE_REMEDY,
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"The weights {package.weights_path} hold numbers that are not finite.", PACKAGE_REMEDY)
        weights[network][parameter] = tensor
    return weights


def load_networks(package: ModelPackage) -> dict[str, nn.Module]:
    """The networks of a package by name, with weights, float32, on the CPU, set to evaluation.

    Raises:
        ModelError: the weights are damaged, or do not fit the networks that the card describes.
    """
    networks = {}
    for name, state in load_weights(package).items():
        _check_size(package, name, state)
        network = build_network(package.card.networks[name])
        # a counter that batch norm only uses in training may have been left out
        counters = {key: value for key, value in network.state_dict().items() if key.endswith("num_batches_tracked")}
        try:
            network.load_state_dict(counters | state)
        except RuntimeError as error:
            raise ModelError(
                f"The weights of the model {package.card.name} do not fit its network {name!r}: {_first(error)}.",
                PACKAGE_REMEDY,
            ) from error
        networks[name] = network.float().eval()
    return networks


def _check_size(package: ModelPackage, name: str, state: dict[str, Tensor]) -> None:
    """Raise ModelError for a network larger than its weights or with other inputs or outputs, before it takes
    memory.
    """
    with torch.device("meta"):
        network = build_network(package.card.networks[name])
    views = [view for view in package.card.views if view.network == name]
    inputs = {1 if view.volumetric else view.thickness for view in views}
    classes = len(package.card.labels) + 1
    numbers = sum(tensor.numel() for tensor in network.state_dict().values())
    fits = (
        numbers <= 2 * sum(tensor.numel() for tensor in state.values()) + 1000
        and all(getattr(network, "in_channels", slices) == slices for slices in inputs)
        and getattr(network, "classes", classes) == classes
    )
    if not fits:
        raise ModelError(
            f"The weights of the model {package.card.name} do not fit its network {name!r}: it has {numbers} "
            f"parameters, {getattr(network, 'in_channels', '?')} slices in and {getattr(network, 'classes', '?')} "
            "classes out.",
            PACKAGE_REMEDY,
        )


def _first(error: RuntimeError) -> str:
    """The first mismatch in PyTorch's list; if it has several names, the first of them."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first, comma, _ = lines[min(1, len(lines) - 1)].rstrip(". ").partition('", "')
    return f'{first}" and others' if comma else first
