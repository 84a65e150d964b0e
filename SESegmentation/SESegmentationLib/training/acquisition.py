"""How scanners acquire: thick slices with gaps.

A slice is an average over its profile, and lies at a distance from the next; what is read later has been interpolated
between slices. Both are linear in the image, so an acquisition along an axis is one matrix.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: full width at half maximum of a Gaussian, in standard deviations
FWHM = 2 * math.sqrt(2 * math.log(2))


def acquisition_matrix(length: int, thickness: float, distance: float, offset: float) -> Tensor:
    """Matrix (length, length) that turns samples along an axis into what thick slices show at the same places.

    Args:
        length: number of samples.
        thickness: full width at half maximum of the slice profile (Gaussian), in samples.
        distance: of the slices, in samples.
        offset: position of a slice relative to the axis' middle, in samples.
    """
    samples = torch.arange(length, dtype=torch.float32) - (length - 1) / 2
    first = math.floor((-length / 2 - offset) / distance)
    centres = offset + distance * torch.arange(first, math.ceil((length / 2 - offset) / distance) + 1)
    profile = torch.exp(-0.5 * ((samples - centres[:, None]) / (thickness / FWHM)) ** 2)
    profile = profile / profile.sum(1, keepdim=True).clamp(min=1e-6)
    between = (1 - (samples[:, None] - centres).abs() / distance).clamp(min=0)  # linear interpolation
    return between @ profile


def thick_slices(images: Tensor, share: float, thickest: float, generator: torch.Generator) -> Tensor:
    """In ``share`` of the images slices of up to ``thickest`` pixels along rows or columns.

    Args:
        images: (B, T, H, W).
        thickest: thickness of the slices, in pixels.
    """
    images = images.clone()
    for index in range(len(images)):
        if torch.rand((), generator=generator) >= share:
            continue
        axis = int(torch.randint(2, (), generator=generator)) + 1
        matrix = random_acquisition(images.shape[axis + 1], thickest, generator).to(images.device)
        images[index] = torch.tensordot(matrix, images[index], dims=([1], [axis])).movedim(0, axis)
    return images


def thick_slabs(images: Tensor, thickness: int, thickest: float, generator: torch.Generator) -> Tensor:
    """The middle ``thickness`` slices of ``images`` (B, T, H, W), each as an average over thick slices."""
    first = (images.shape[1] - thickness) // 2
    acquired = []
    for image in images:
        matrix = random_acquisition(len(image), thickest, generator).to(images.device)
        acquired.append(torch.tensordot(matrix[first : first + thickness], image, dims=1))
    return torch.stack(acquired)


def random_acquisition(length: int, thickest: float, generator: torch.Generator) -> Tensor:
    """An acquisition matrix of slices 1.5 to ``thickest`` samples thick and up to a quarter further apart than that."""
    thick, gap, offset = torch.rand(3, generator=generator).tolist()
    thickness = 1.5 + (thickest - 1.5) * thick
    distance = thickness * (1 + 0.25 * gap)
    return acquisition_matrix(length, thickness, distance, offset * distance)
