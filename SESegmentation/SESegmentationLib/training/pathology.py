"""Changes of anatomy that healthy label maps do not show: large ventricles, lesions of white matter, bright vessels.

All functions take label indices (B, T, H, W); which indices are meant is told by boolean tables (L,).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .appearance import THICKEST_SLAB


def enlarge_ventricles(
    labels: Tensor, ventricle: Tensor, white_matter: Tensor, share: float, generator: torch.Generator
) -> Tensor:
    """In ``share`` of the images ventricles grow by 1 to 5 pixels into the white matter of their slices.

    Args:
        ventricle: (L,) label that each label index grows as; 0 for what does not grow.
        white_matter: (L,) whether it gives way.
    """
    labels = labels.clone()
    for index in range(len(labels)):
        if torch.rand((), generator=generator) >= share:
            continue
        reach = int(torch.randint(1, 6, (), generator=generator))
        grown = ventricle[labels[index].long()].float()
        near = F.max_pool2d(grown[None], 2 * reach + 1, stride=1, padding=reach)[0]
        takes = (near > 0) & white_matter[labels[index].long()]
        labels[index] = torch.where(takes, near.to(labels.dtype), labels[index])
    return labels


def add_lesions(
    images: Tensor, where: Tensor, share: float, largest_change: float, generator: torch.Generator
) -> Tensor:
    """In ``share`` of the images round spots within ``where`` (B, T, H, W) that are brighter or darker."""
    batch = len(images)
    spots = _smooth_noise(images.shape, 7, generator) > 1.0 + torch.rand(batch, 1, 1, 1, generator=generator)
    change = largest_change * (2 * torch.rand(batch, 1, 1, 1, generator=generator) - 1)
    chosen = torch.rand(batch, 1, 1, 1, generator=generator) < share
    return images + (change * (spots & chosen)).to(images.device) * where


def add_vessels(images: Tensor, where: Tensor, share: float, brightness: float, generator: torch.Generator) -> Tensor:
    """In ``share`` of the images thin bright lines within ``where`` (B, T, H, W), as vessels under a contrast agent."""
    batch = len(images)
    lines = _smooth_noise(images.shape, 9, generator).abs() < 0.12
    chosen = torch.rand(batch, 1, 1, 1, generator=generator) < share
    inside = (lines & chosen).to(images.device) & where
    return torch.where(inside, brightness, images)


def _smooth_noise(shape: torch.Size, pixels: int, generator: torch.Generator) -> Tensor:
    """Noise of about unit variance that varies over ``pixels``; (B, 1, H, W), of whole volumes (B, T, H, W)."""
    batch, *sides = shape
    if sides[0] <= THICKEST_SLAB:
        sides = sides[1:]
    knots = torch.randn(batch, 1, *[side // pixels + 2 for side in sides], generator=generator)
    noise = F.interpolate(knots, sides, mode="bicubic" if len(sides) == 2 else "trilinear", align_corners=True)
    noise = 1.3 * noise if len(sides) == 2 else 1.8 * noise  # between knots their mean varies less than they do
    return noise if len(sides) == 2 else noise[:, 0]
