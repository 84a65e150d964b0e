"""The networks of a model package with their weights, from a safetensors file (no code is executed)."""

from __future__ import annotations

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import ModelError, reason_of
from ..models import ModelPackage, verify_weights
from ..models.store import PACKAGE_REMEDY
from . import build_network
from .quantisation import from_eight_bits


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
        raise ModelError(
            f"The weights {package.weights_path} cannot be read: {reason_of(error)}.", PACKAGE_REMEDY
        ) from error
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
