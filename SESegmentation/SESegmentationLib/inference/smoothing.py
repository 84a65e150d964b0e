"""Smoothing of the probabilities of some structures before labels are chosen.

Networks that learnt from synthesised images, slice by slice, give ragged borders on noisy real scans. A
Gaussian filter of less than a voxel removes these; SynthSeg does likewise (Billot et al., Medical Image Analysis 2023).
Thin structures (sheets, narrow ventricles) would be lost, so the card's entry "cleanup", "smoothing" says which
structures are smoothed, and how much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import SimpleITK as sitk
import torch
from torch import Tensor

from ..geometry import find_extents, grown, union
from ..models import ModelCard

#: a structure is smoothed in the box of what the views found, grown by this many standard deviations
REACH = 4


def channel_sigmas(card: ModelCard) -> dict[int, float]:
    """Standard deviation of the filter in mm, by output channel, of the structures that are smoothed."""
    entries: Sequence[Mapping] = card.cleanup.get("smoothing", [])
    return {card.channels[value]: float(entry["sigma_mm"]) for entry in entries for value in entry["values"]}


def smooth(
    probabilities: Tensor, votes: Sequence[Tensor], sigmas: Mapping[int, float], spacing: Sequence[float]
) -> None:
    """Smooth some channels in place, and make all add up to 1 again.

    Args:
        probabilities: (C, k, j, i), background first.
        votes: each view's most probable channel, (k, j, i): a channel is smoothed in and around the voxels where any
            view has it.
        sigmas: standard deviation in mm by channel.
        spacing: of the voxels along i, j and k, in mm.
    """
    if not sigmas:
        return
    extents = [find_extents(vote.cpu().numpy(), list(sigmas)) for vote in votes]
    for channel, sigma in sigmas.items():
        found = [box for extent in extents if (box := extent[channel].box)]
        if not found:
            continue
        box = grown(union(found), math.ceil(REACH * sigma / min(spacing)), probabilities.shape[1:])
        image = sitk.GetImageFromArray(probabilities[(channel, *box)].float().cpu().numpy())
        image.SetSpacing(tuple(spacing))
        filtered = sitk.GetArrayFromImage(sitk.DiscreteGaussian(image, [sigma**2] * 3))
        probabilities[(channel, *box)] = torch.from_numpy(filtered).to(probabilities)
    probabilities /= probabilities.sum(0).clamp(min=1e-4)
