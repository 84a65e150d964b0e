"""Where the structures of a label map are and how large: counted in one pass, whatever their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .geometry import Box


@dataclass(frozen=True)
class Extent:
    """One structure in an array.

    Attributes:
        voxels: how many it has.
        centre: mean index along (k, j, i); NaN where it has no voxel.
        box: smallest box that holds it, or None.
    """

    voxels: int
    centre: tuple[float, float, float]
    box: Box | None


def find_extents(array: np.ndarray, values: Sequence[int]) -> dict[int, Extent]:
    """The extent of each of ``values`` in a label array (k, j, i)."""
    occupied = np.flatnonzero(array)
    found = array.ravel()[occupied]
    rows = np.zeros(int(max(found.max(initial=0), *values)) + 1, dtype=np.intp)
    rows[list(values)] = np.arange(1, len(values) + 1)
    row = rows[found]
    # how many voxels of each structure lie in each slice, along each axis
    counts = [
        np.bincount(row * n + index, minlength=(len(values) + 1) * n).reshape(-1, n)
        for n, index in zip(array.shape, np.unravel_index(occupied, array.shape), strict=True)
    ]
    return {value: _extent([count[number] for count in counts]) for number, value in enumerate(values, start=1)}


def _extent(profiles: Sequence[np.ndarray]) -> Extent:
    voxels = int(profiles[0].sum())
    if voxels == 0:
        return Extent(0, (np.nan,) * 3, None)
    centre = tuple(float(profile @ np.arange(len(profile)) / voxels) for profile in profiles)
    filled = [np.flatnonzero(profile) for profile in profiles]
    return Extent(voxels, centre, tuple(slice(int(f[0]), int(f[-1]) + 1) for f in filled))
