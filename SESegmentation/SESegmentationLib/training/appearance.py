"""Random changes of how an image looks: bias field, resolution, gamma, noise, gain.

All functions take slabs (B, T, H, W) with intensities about 0 to 1 and return the same shape. The randomness comes
from a CPU generator, so a seed gives the same result on any device.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

#: share of the images in which structures grow dark together
DARKENED_SHARE = 1 / 3
#: slices over which a coil's sensitivity hardly changes
THICKEST_SLAB = 8


@dataclass(frozen=True)
class Appearance:
    """Strength of the random changes; 0 switches one off.

    Attributes:
        bias: standard deviation of the log of the smooth field that the image is multiplied with.
        blur_pixels: largest standard deviation of the blur, in pixels (slice thickness and resolution).
        gamma: standard deviation of the log of the exponent.
        noise: largest standard deviation of the noise.
        gain: largest relative change of brightness.
        invert: share of images whose contrast is inverted.
        contrast: share of images that get another contrast altogether, see :func:`random_contrast`.
        structures: largest log of the factor that each structure's brightness is multiplied with by itself; needs the
            labels, see :func:`change_structures`.
        darkening: largest log of the factor that the brightness of ``darkened`` is divided by, all of them together.
        darkened: output channels of structures that grow dark together, as liver and spleen when they hold much iron.
    """

    bias: float = 0.3
    blur_pixels: float = 1.2
    gamma: float = 0.25
    noise: float = 0.05
    gain: float = 0.2
    invert: float = 0.0
    contrast: float = 0.0
    structures: float = 0.0
    darkening: float = 0.0
    darkened: tuple[int, ...] = ()


def change_appearance(images: Tensor, strength: Appearance, generator: torch.Generator) -> Tensor:
    """Contrast, blur, bias field, gamma, inversion, noise and gain, each of random strength."""
    if strength.contrast:
        images = random_contrast(images, strength.contrast, generator)
    if strength.blur_pixels:
        images = random_blur(images, strength.blur_pixels, generator)
    if strength.bias:
        images = images * bias_field(images, strength.bias, generator)
    if strength.gamma:
        exponent = torch.exp(strength.gamma * _normal(images, generator))
        images = images.clamp(min=1e-4) ** exponent
    if strength.invert:
        images = torch.where(_uniform(images, generator) < strength.invert, 1 - images, images)
    if strength.noise:
        sigma = strength.noise * _uniform(images, generator)
        images = images + sigma * torch.randn(images.shape, generator=generator).to(images.device)
    return images * (1 + strength.gain * (2 * _uniform(images, generator) - 1))


def change_structures(images: Tensor, labels: Tensor, strength: Appearance, generator: torch.Generator) -> Tensor:
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


def bias_field(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
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
