"""Where not to trust a result: doubt voxel by voxel, and the most doubtful slices.

Voxel by voxel, doubt is the probability that the label is wrong: 1 less the winner's share in the fused probabilities,
which disagreeing views spread over several classes. Its sum over a slice is the number of wrong voxels to be expected
there, so that slices can be ranked.

How far to trust whole structures, :mod:`.uncertainty` tells, and on request :mod:`.sampling`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor


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
