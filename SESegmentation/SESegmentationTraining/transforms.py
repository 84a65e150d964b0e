"""Random changes of training images: bias field, gamma, noise, thick slices, large ventricles, lesions.

All functions take slabs (B, T, H, W) with intensities about 0 to 1 and return the same shape. The randomness comes
from a CPU generator, so a seed gives the same result on any device.

A thick slice averages the image over its profile, at a distance from the next slice; reading it on the finer grid
interpolates between slices. Both are linear in the image, so an acquisition along an axis is one matrix.

All functions take label indices (B, T, H, W); boolean tables (L,) say which indices are meant.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

#: share of the images in which structures grow dark together
DARKENED_SHARE = 1 / 3
#: slices over which a coil's sensitivity hardly changes
THICKEST_SLAB = 8
#: thickness of the thinnest thick slices, in samples
THINNEST = 1.5
#: full width at half maximum of a Gaussian, in standard deviations
FWHM = 2 * math.sqrt(2 * math.log(2))


@dataclass(frozen=True)
class IntensityAugmentation:
    """Strength of the random changes; 0 switches one off.

    Attributes:
        bias: standard deviation of the log of the smooth field that the image is multiplied with.
        blur_pixels: largest standard deviation of the blur, in pixels (slice thickness and resolution).
        gamma: standard deviation of the log of the exponent.
        noise: largest standard deviation of the noise.
        gain: largest relative change of brightness.
        contrast: share of images that get another contrast altogether, see :func:`random_contrast`.
        structures: largest log of the factor that each structure's brightness is multiplied with by itself; needs the
            labels, see :func:`augment_structures`.
        darkening: largest log of the factor that the brightness of ``darkened`` is divided by, all of them together.
        darkened: output channels of structures that grow dark together, as liver and spleen when they hold much iron.
    """

    bias: float = 0.3
    blur_pixels: float = 1.2
    gamma: float = 0.25
    noise: float = 0.05
    gain: float = 0.2
    contrast: float = 0.0
    structures: float = 0.0
    darkening: float = 0.0
    darkened: tuple[int, ...] = ()


def augment_intensity(images: Tensor, strength: IntensityAugmentation, generator: torch.Generator) -> Tensor:
    """Contrast, blur, bias field, gamma, noise and gain, each of random strength."""
    if strength.contrast:
        images = random_contrast(images, strength.contrast, generator)
    if strength.blur_pixels:
        images = random_blur(images, strength.blur_pixels, generator)
    if strength.bias:
        images = images * random_bias_field(images, strength.bias, generator)
    if strength.gamma:
        exponent = torch.exp(strength.gamma * _normal(images, generator))
        images = images.clamp(min=1e-4) ** exponent
    if strength.noise:
        sigma = strength.noise * _uniform(images, generator)
        images = images + sigma * torch.randn(images.shape, generator=generator).to(images.device)
    return images * (1 + strength.gain * (2 * _uniform(images, generator) - 1))


def augment_structures(
    images: Tensor, labels: Tensor, strength: IntensityAugmentation, generator: torch.Generator
) -> Tensor:
    """Structures darker or brighter than they are.

    In half of the images each by a factor of its own, e^-structures to e^structures. In a third the ``darkened`` ones
    also together, by 1 to e^-darkening: liver and spleen that hold much iron are dark, in T2 weighting most of all, and
    few cases cannot show it.

    Args:
        labels: like ``images``, of values from 0 (background, which stays as it is) to 255.
    """
    count = len(images)
    logs = strength.structures * (2 * torch.rand(count, 256, generator=generator) - 1)
    logs[torch.rand(count, generator=generator) < 0.5] = 0.0
    if strength.darkening:
        darker = strength.darkening * torch.rand(count, generator=generator)
        darker[torch.rand(count, generator=generator) > DARKENED_SHARE] = 0.0
        logs[:, list(strength.darkened)] -= darker[:, None]
    logs[:, 0] = 0.0
    factors = torch.exp(logs).to(images.device).gather(1, labels.reshape(count, -1).long())
    return images * factors.reshape(images.shape)


def random_contrast(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Another contrast, as of another sequence or a patient of another kind, in ``share`` of the images.

    A small network with random weights gives every intensity, seen with its neighbours, a new one; it is mixed with the
    image, and the result brought to the range from 0 to 1 as volumes are. What is left in common is shape, so that
    networks learn to go by it (Ouyang et al., IEEE TMI 2023: global intensity non-linear augmentation).
    """
    chosen = torch.rand(len(images), generator=generator) < share
    changed = [_contrasted(image, generator) if other else image for image, other in zip(images, chosen, strict=True)]
    return torch.stack(changed)


def _contrasted(image: Tensor, generator: torch.Generator) -> Tensor:
    """One image (T, H, W) in another contrast."""
    maps = image[:, None]
    for inputs, outputs in itertools.pairwise((1, 2, 2, 2, 1)):
        size = 1 if torch.rand((), generator=generator) < 0.5 else 3
        kernel = torch.randn(outputs, inputs, size, size, generator=generator).to(image.device)
        shift = 0.2 * torch.randn(outputs, generator=generator).to(image.device)
        maps = F.conv2d(F.pad(F.leaky_relu(maps, 0.2), [size // 2] * 4, mode="replicate"), kernel, shift)
    new = (maps[:, 0] - maps.mean()) / maps.std().clamp(min=1e-4) * image.std() + image.mean()
    part = torch.rand((), generator=generator).to(image.device)
    mixed = part * image + (1 - part) * new
    low, high = torch.quantile(mixed.flatten(), torch.tensor([0.005, 0.995], device=image.device))
    return ((mixed - low) / (high - low).clamp(min=1e-4)).clamp(0, 1)


def random_bias_field(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Smooth positive factor, as from an uneven receive coil: (B, 1, H, W), of whole volumes (B, T, H, W)."""
    whole = images.shape[1] > THICKEST_SLAB
    size = images.shape[1:] if whole else images.shape[-2:]
    spread = torch.randn(len(images), 1, *[4] * len(size), generator=generator)
    knots = spread * torch.rand(len(images), 1, *[1] * len(size), generator=generator)
    field = F.interpolate(strength * knots, size, mode="trilinear" if whole else "bicubic", align_corners=True)
    field = field[:, 0] if whole else field
    return torch.exp(field).to(images.device)


def random_blur(images: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    """Gaussian blur with a standard deviation of its own along rows and columns, and mixing with neighbour slices.

    One direction alone blurred is what slices thicker than their pixels look like when cut across.
    """
    sharp = _uniform(images, generator) < 0.3
    sigmas = largest * torch.rand(len(images), 2, generator=generator)
    blurred = gaussian_blur(images, sigmas.to(images.device))
    if images.shape[1] > 1:
        mixed = F.avg_pool3d(blurred[:, None], (3, 1, 1), stride=1, padding=(1, 0, 0), count_include_pad=False)[:, 0]
        share = _uniform(images, generator) * (_uniform(images, generator) < 0.3)
        blurred = blurred + share * (mixed - blurred)
    return torch.where(sharp, images, blurred)


def gaussian_blur(images: Tensor, sigmas: Tensor) -> Tensor:
    """Blur every slab with its own standard deviations (B, 2) along rows and columns, in pixels."""
    batch, slices, height, width = images.shape
    radius = max(int(2.5 * float(sigmas.max()) + 0.5), 1)
    steps = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
    kernels = torch.exp(-0.5 * (steps / sigmas.clamp(min=0.1)[..., None]) ** 2)
    kernels = kernels / kernels.sum(-1, keepdim=True)
    kernels = kernels.repeat_interleave(slices, dim=0)
    flat = images.reshape(1, batch * slices, height, width)
    flat = F.conv2d(flat, kernels[:, 0, None, :, None], padding=(radius, 0), groups=batch * slices)
    flat = F.conv2d(flat, kernels[:, 1, None, None, :], padding=(0, radius), groups=batch * slices)
    return flat.reshape(images.shape)


def _uniform(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(len(images), 1, 1, 1, generator=generator).to(images.device)


def _normal(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(len(images), 1, 1, 1, generator=generator).to(images.device)


def slice_profile_matrix(length: int, thickness: float, distance: float, offset: float) -> Tensor:
    """Matrix (length, length) from samples along an axis to thick slices, interpolated at the same positions.

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


def random_anisotropy(images: Tensor, share: float, thickest: float, generator: torch.Generator) -> Tensor:
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
        matrix = random_slice_profiles(images.shape[axis + 1], thickest, generator).to(images.device)
        images[index] = torch.tensordot(matrix, images[index], dims=([1], [axis])).movedim(0, axis)
    return images


def thick_slabs(images: Tensor, thickness: int, thickest: float, generator: torch.Generator) -> Tensor:
    """The middle ``thickness`` slices of ``images`` (B, T, H, W), each as an average over thick slices."""
    first = (images.shape[1] - thickness) // 2
    acquired = []
    for image in images:
        matrix = random_slice_profiles(len(image), thickest, generator).to(images.device)
        acquired.append(torch.tensordot(matrix[first : first + thickness], image, dims=1))
    return torch.stack(acquired)


def random_slice_profiles(length: int, thickest: float, generator: torch.Generator) -> Tensor:
    """An acquisition matrix of slices THINNEST to ``thickest`` samples, up to a quarter further apart than thick."""
    thick, gap, offset = torch.rand(3, generator=generator).tolist()
    thickness = THINNEST + (thickest - THINNEST) * thick
    distance = thickness * (1 + 0.25 * gap)
    return slice_profile_matrix(length, thickness, distance, offset * distance)


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
