"""Confidence by structure, and doubt voxel by voxel, from the probabilities and the views that they were fused from.

The confidence in a structure seen in several views is their agreement: the mean, over pairs of views, of the Dice of
their own segmentations of it (Roy et al., "Bayesian QuickNAT", NeuroImage 2019, found that such agreement between
samples predicts the Dice with the truth). With a single view it is the mean, over the structure's voxels, of its
probability minus that of the next best class; the two are not comparable with each other.

Doubt, voxel by voxel, is the probability that the label is wrong: 1 minus the winner's share in the fused
probabilities, which disagreeing views spread over several classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

#: slices in which voxels are counted together, which takes 8 bytes a voxel
SLICES = 16


def confidence(probabilities: Tensor, votes: Sequence[Tensor]) -> np.ndarray:
    """Confidence (C,) of each channel: :func:`agreement` of the views, or the :func:`margin` of a single one."""
    return agreement(votes, len(probabilities)) if len(votes) > 1 else margin(probabilities)


def agreement(votes: Sequence[Tensor], classes: int) -> np.ndarray:
    """Mean pairwise Dice (C,) of label maps (k, j, i) of channels; 0 for a channel that none of them has."""
    pairs = list(itertools.combinations(range(len(votes)), 2))
    voxels = torch.zeros(len(votes), classes, dtype=torch.int64)
    overlaps = torch.zeros(len(pairs), classes, dtype=torch.int64)
    for part in zip(*(vote.split(SLICES) for vote in votes), strict=True):
        for index, vote in enumerate(part):
            voxels[index] += torch.bincount(vote.flatten(), minlength=classes).cpu()
        for index, (first, second) in enumerate(pairs):
            a, b = part[first], part[second]
            overlaps[index] += torch.bincount(a[a == b], minlength=classes).cpu()
    sums = torch.stack([voxels[first] + voxels[second] for first, second in pairs])
    return (2 * overlaps / sums.clamp(min=1)).mean(0).double().numpy()


def margin(probabilities: Tensor) -> np.ndarray:
    """Mean lead (C,) over the next best channel, among the voxels where the channel wins; 0 where it never does.

    Args:
        probabilities: (C, k, j, i).
    """
    total = torch.zeros(len(probabilities), dtype=torch.float64)
    voxels = torch.zeros(len(probabilities), dtype=torch.float64)
    for k in range(probabilities.shape[1]):
        best = probabilities[:, k].float().cpu().topk(2, dim=0)
        winner = best.indices[0].flatten()
        lead = (best.values[0] - best.values[1]).flatten().double()
        total += torch.bincount(winner, weights=lead, minlength=len(total))
        voxels += torch.bincount(winner, minlength=len(total))
    return (total / voxels.clamp(min=1)).numpy()


def voxel_doubt(probabilities: Tensor) -> np.ndarray:
    """Probability that a voxel's label is wrong, (k, j, i) float32, from fused probabilities (C, k, j, i)."""
    doubt = np.empty(probabilities.shape[1:], dtype=np.float32)
    for k in range(len(doubt)):  # slice by slice: the probabilities are large, and in half precision
        doubt[k] = 1 - probabilities[:, k].amax(0).float().clamp(0, 1).cpu().numpy()
    return doubt
