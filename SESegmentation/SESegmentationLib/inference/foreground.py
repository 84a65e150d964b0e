"""Where in a volume there is anything: networks need not look at air, nor at the neck below a brain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from .geometry import Box
from .voxels import voxels_of

#: voxels are averaged over blocks of this many along each axis first, so that noise does not count
BLOCK = 4
#: brighter than air by this share of the range of intensities is foreground
THRESHOLD = 0.05
#: slices in which a smaller share of blocks is foreground hold ghosts and noise
FEWEST = 0.003
#: smaller pieces than this share of the largest are taken for errors
LARGE_PIECE = 0.1


def foreground_box(array: np.ndarray, spacing: Sequence[float], margin_mm: float) -> Box:
    """Box of the body in a volume, and ``margin_mm`` round it.

    Args:
        array: (k, j, i) intensities of which air's are the lowest.
        spacing: voxel size along (i, j, k) in mm.

    Returns:
        A box; the whole volume where there is no air to leave out.
    """
    if min(array.shape) < 4 * BLOCK:
        return tuple(slice(0, n) for n in array.shape)
    blocks = [n // BLOCK for n in array.shape]
    trimmed = array[tuple(slice(0, n * BLOCK) for n in blocks)]
    coarse = trimmed.reshape(blocks[0], BLOCK, blocks[1], BLOCK, blocks[2], BLOCK).mean(axis=(1, 3, 5))
    low, high = np.percentile(coarse, [1, 99])
    body = coarse > low + THRESHOLD * (high - low)
    box = []
    for axis, (count, step) in enumerate(zip(array.shape, reversed(spacing), strict=True)):
        share = body.mean(axis=tuple(other for other in range(3) if other != axis))
        filled = np.flatnonzero(share > FEWEST)
        if not filled.size:
            return tuple(slice(0, n) for n in array.shape)
        margin = int(np.ceil(margin_mm / step))
        first, last = int(filled[0]) * BLOCK, (int(filled[-1]) + 1) * BLOCK
        if filled[-1] == blocks[axis] - 1:
            last = count  # the voxels beyond the last whole block
        box.append(slice(max(first - margin, 0), min(last + margin, count)))
    return tuple(box)


def box_of_pieces(mask: np.ndarray, steps: Sequence[int], margin: Sequence[int], shape: Sequence[int]) -> Box | None:
    """Box of the large connected pieces of a mask, in a volume of which the mask holds a part of the slices.

    Args:
        mask: (k, j, i).
        steps: voxels of the volume between the mask's, by axis.
        margin: voxels of the volume to add on each side, by axis.
        shape: of the volume.

    Returns:
        None where the mask is empty.
    """
    sorting = sitk.RelabelComponentImageFilter()
    numbers = sorting.Execute(sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)), True))
    sizes = np.array(sorting.GetSizeOfObjectsInPixels())
    if not sizes.size:
        return None
    numbers = voxels_of(numbers)
    large = (numbers > 0) & (numbers <= np.count_nonzero(sizes >= LARGE_PIECE * sizes[0]))
    box = []
    for axis, (step, more, length) in enumerate(zip(steps, margin, shape, strict=True)):
        found = np.flatnonzero(large.any(axis=tuple(other for other in range(3) if other != axis)))
        low, high = int(found[0]) * step, (int(found[-1]) + 1) * step
        box.append(slice(max(low - more, 0), min(high + more, length)))
    return tuple(box)
