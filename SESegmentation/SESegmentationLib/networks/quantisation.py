"""Weights stored in 8 bits.

The largest absolute weight of an output channel becomes 127; the others are rounded to whole steps of it. Vectors
(biases, batch norms) stay as they are. Source: Krishnamoorthi, "Quantizing deep convolutional networks for efficient
inference", arXiv 1806.08342, section 3 (symmetric, per channel).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

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
