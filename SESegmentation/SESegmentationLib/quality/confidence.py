"""Confidence in a result: by structure, by slice and by voxel, without knowing the truth.

Of a structure, with several views it is their agreement: the mean over pairs of views of the Dice of what each alone
calls the structure (Roy et al., "Bayesian QuickNAT", NeuroImage 2019, found that such agreement between samples
predicts the Dice with the truth). With a single view it is the mean, over the structure's voxels, of the probability
of the structure less that of the next best class; the two are not comparable with each other.

Voxel by voxel, doubt is the probability that the label is wrong: 1 less the winner's share in the fused probabilities,
which disagreeing views spread over several classes. Its sum over a slice is the number of wrong voxels to be expected
there, so that slices can be ranked.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..geometry import Box, find_extents, grown, triple
from ..io.volume_image import voxels_of
from ..result import SegmentationResult


def confidence(probabilities: Tensor, votes: Sequence[Tensor]) -> np.ndarray:
    """Confidence (C,) of each channel: :func:`agreement` of the views, or the :func:`margin` of a single one."""
    return agreement(votes, len(probabilities)) if len(votes) > 1 else margin(probabilities)


def agreement(votes: Sequence[Tensor], classes: int) -> np.ndarray:
    """Mean pairwise Dice (C,) of label maps (k, j, i) of channels; 0 for a channel that none of them has."""
    voxels = [torch.bincount(vote.flatten(), minlength=classes) for vote in votes]
    scores = []
    for (a, voxels_a), (b, voxels_b) in itertools.combinations(zip(votes, voxels, strict=True), 2):
        overlap = torch.bincount(a[a == b], minlength=classes)
        scores.append(2 * overlap / (voxels_a + voxels_b).clamp(min=1))
    return torch.stack(scores).mean(0).double().cpu().numpy()


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


@dataclass(frozen=True)
class DoubtfulSlice:
    """One slice, and how doubtful it is.

    Attributes:
        axis: of the array: 0, 1 or 2 for k, j or i.
        number: along that axis.
        doubt: number of wrong voxels to be expected in it.
    """

    axis: int
    number: int
    doubt: float


def voxel_doubt(probabilities: Tensor) -> np.ndarray:
    """Probability that a voxel's label is wrong, (k, j, i) float32, from fused probabilities (C, k, j, i)."""
    doubt = np.empty(probabilities.shape[1:], dtype=np.float32)
    for k in range(len(doubt)):  # slice by slice: the probabilities are large, and in half precision
        doubt[k] = 1 - probabilities[:, k].amax(0).float().clamp(0, 1).cpu().numpy()
    return doubt


def doubtful_slices(
    doubt: np.ndarray, count: int | None = None, axes: Sequence[int] = (0, 1, 2), apart: int = 1
) -> list[DoubtfulSlice]:
    """Slices by their doubt, worst first.

    Args:
        doubt: see :func:`voxel_doubt`; 0 where it does not matter, for example outside one structure.
        count: how many; all where None.
        axes: of the array, along which slices may lie.
        apart: slices of one axis whose numbers differ by less are not both listed: neighbours tell the same.
    """
    ranked = sorted(
        (
            DoubtfulSlice(axis, number, float(total))
            for axis in axes
            for number, total in enumerate(doubt.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64))
        ),
        key=lambda entry: -entry.doubt,
    )
    chosen: list[DoubtfulSlice] = []
    for entry in ranked:
        if count is not None and len(chosen) == count:
            break
        if all(other.axis != entry.axis or abs(other.number - entry.number) >= apart for other in chosen):
            chosen.append(entry)
    return chosen


#: doubt this near to a structure is doubt about it, in voxels: it may be too small there
ROUND = 2


def with_doubtful_slices(result: SegmentationResult) -> SegmentationResult:
    """``result``, and of each structure its most doubtful slices; as it is where it has no map of doubt."""
    if result.doubt is None:
        return result
    labels, doubt = (voxels_of(image) for image in (result.labels, result.doubt))
    extents = find_extents(labels, [structure.label.value for structure in result.structures])
    structures = [
        replace(
            structure, doubtful=_worst(labels, doubt, structure.label.value, grown(extent.box, ROUND, labels.shape))
        )
        if extent.box
        else structure
        for structure, extent in zip(result.structures, extents.values(), strict=True)
    ]
    return replace(result, structures=structures)


def _worst(labels: np.ndarray, doubt: np.ndarray, value: int, box: Box) -> tuple[int, int, int]:
    inside = sitk.GetImageFromArray((labels[box] == value).astype(np.uint8))
    near = voxels_of(sitk.BinaryDilate(inside, [ROUND] * 3)) > 0
    there = np.where(near, doubt[box], 0)
    sums = [there.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64) for axis in (2, 1, 0)]
    # of slices with as much doubt, as where there is none at all, the one in the middle
    peaks = [np.flatnonzero(total == total.max()) for total in sums]
    return triple(int(side.start + peak[len(peak) // 2]) for side, peak in zip(reversed(box), peaks, strict=True))
