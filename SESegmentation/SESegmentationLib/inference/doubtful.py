"""Where each structure should be looked at first: along every axis the slice with the most doubt in and round it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import SimpleITK as sitk

from .result import SegmentationResult
from .voxels import voxels_of

#: doubt this near to a structure is doubt about it, in voxels: it may be too small there
ROUND = 2


def with_doubtful_slices(result: SegmentationResult) -> SegmentationResult:
    """``result``, and of each structure its most doubtful slices; as it is where it has no map of doubt."""
    if result.doubt is None:
        return result
    labels, doubt = (voxels_of(image) for image in (result.labels, result.doubt))
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(result.labels)
    boxes = {value: _box(shapes.GetBoundingBox(value), labels.shape) for value in shapes.GetLabels()}
    structures = [
        replace(structure, doubtful=_worst(labels, doubt, structure.label.value, boxes[structure.label.value]))
        if structure.label.value in boxes
        else structure
        for structure in result.structures
    ]
    return replace(result, structures=structures)


def _box(bounds: tuple[int, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """A box (k, j, i) from SimpleITK's (i, j, k, and sizes), larger by ``ROUND`` as far as the array goes."""
    first, size = bounds[:3][::-1], bounds[3:][::-1]
    return tuple(
        slice(max(low - ROUND, 0), min(low + count + ROUND, end))
        for low, count, end in zip(first, size, shape, strict=True)
    )


def _worst(labels: np.ndarray, doubt: np.ndarray, value: int, box: tuple[slice, ...]) -> tuple[int, int, int]:
    inside = sitk.GetImageFromArray((labels[box] == value).astype(np.uint8))
    near = voxels_of(sitk.BinaryDilate(inside, [ROUND] * 3)) > 0
    there = np.where(near, doubt[box], 0)
    sums = [there.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64) for axis in (2, 1, 0)]
    # of slices with as much doubt, as where there is none at all, the one in the middle
    peaks = [np.flatnonzero(total == total.max()) for total in sums]
    return tuple(int(side.start + peak[len(peak) // 2]) for side, peak in zip(reversed(box), peaks, strict=True))
