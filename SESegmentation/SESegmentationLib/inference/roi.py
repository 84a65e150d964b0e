"""Which part of a volume is segmented: a region of interest, or the box around the body.

A region is passed on as an image, 1 inside and 0 outside. A box by itself is an image of a single voxel: its spacing
holds the edges' lengths, its origin the centre and its direction the box's axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..files.json_files import read_json
from ..geometry import Box, Geometry, grown, mask_box, triple, whole_box
from ..io.segmentations import read_segmentation
from ..io.volume_image import voxels_of

#: voxels are averaged over blocks of this many along each axis first, so that noise does not count
BLOCK = 4
#: voxels brighter than air by this share of the range of intensities are foreground
THRESHOLD = 0.05
#: slices in which a smaller share of blocks is foreground hold ghosts and noise
FEWEST = 0.003
#: smaller pieces than this share of the largest are regarded as errors
LARGE_PIECE = 0.1
_REMEDY = "Save a markups ROI from Slicer as .mrk.json, or give a label file."
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def foreground_box(array: np.ndarray, spacing: Sequence[float], margin_mm: float) -> Box:
    """Box of the body in a volume, and ``margin_mm`` round it.

    Args:
        array: (k, j, i) intensities; air has the lowest ones.
        spacing: voxel size along (i, j, k) in mm.

    Returns:
        A box; the whole volume where there is no air to leave out.
    """
    if min(array.shape) < 4 * BLOCK:
        return whole_box(array.shape)
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
            return whole_box(array.shape)
        margin = int(np.ceil(margin_mm / step))
        first, last = int(filled[0]) * BLOCK, (int(filled[-1]) + 1) * BLOCK
        if filled[-1] == blocks[axis] - 1:
            last = count  # the voxels beyond the last whole block
        box.append(slice(max(first - margin, 0), min(last + margin, count)))
    return triple(box)


def box_of_pieces(mask: np.ndarray, steps: Sequence[int], margin: Sequence[int], shape: Sequence[int]) -> Box | None:
    """The box, in a volume, of the large connected pieces of a mask that holds only some of its slices.

    Args:
        mask: (k, j, i).
        steps: distance of the mask's slices in voxels of the volume, by axis.
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
    coarse = mask_box(large)
    assert coarse is not None  # the largest piece is in it
    fine = [slice(side.start * step, side.stop * step) for side, step in zip(coarse, steps, strict=True)]
    return grown(triple(fine), margin, shape)


def read_roi(path: str | Path) -> sitk.Image:
    """Read a region from a Slicer markups ROI (``.mrk.json``) or a label file, whose voxels other than 0 form it.

    Returns:
        uint8 image, 1 inside.

    Raises:
        InputError: it cannot be read, or holds no region or several.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        return read_segmentation(path).foreground()
    try:
        markups = read_json(path)["markups"]
        boxes = [markup for markup in markups if markup.get("type") == "ROI"]
        if len(boxes) != 1:
            raise InputError(f"{path} holds {len(boxes)} regions of interest; one is needed.", _REMEDY)
        return _box(boxes[0])
    except OSError as error:
        raise InputError(f"The region {path} cannot be read: {error.strerror}.", _REMEDY) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a region of interest from Slicer: {error!r}.", _REMEDY) from error


def region_box(roi: sitk.Image) -> Geometry:
    """The box round a region, along the region's own axes, as the geometry of a single voxel.

    Raises:
        InputError: the region is empty.
    """
    painted = mask_box(voxels_of(roi) > 0)
    if painted is None:
        raise InputError("The region to segment is empty.", "Draw or paint it, or segment without a region.")
    box = Geometry.of(roi).cropped(painted)
    centre = box.points(np.array([[(n - 1) / 2 for n in box.size]]))[0]
    return Geometry((1, 1, 1), box.extent_mm, triple(centre), box.direction)


def inside(region: Geometry, geometry: Geometry) -> np.ndarray:
    """Which voxel centres (k, j, i) of ``geometry`` lie in ``region``."""
    ones = region.image(np.ones((1, 1, 1), dtype=np.uint8))
    return sitk.GetArrayFromImage(geometry.resample(ones, sitk.sitkNearestNeighbor)) > 0


def _box(markup: dict[str, Any]) -> sitk.Image:
    size = np.array(markup["size"], dtype=float)
    centre = np.array(markup["center"], dtype=float)
    axes = np.array(markup.get("orientation", np.eye(3)), dtype=float).reshape(3, 3)
    if str(markup.get("coordinateSystem", "LPS")) in ("RAS", "0"):
        centre, axes = _RAS_TO_LPS @ centre, _RAS_TO_LPS @ axes
    if size.shape != (3,) or centre.shape != (3,) or not (size > 0).all() or not np.isfinite([*size, *centre]).all():
        raise ValueError("its size or centre is not set")
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):  # NaN is not close to anything
        raise ValueError("its axes are not perpendicular")
    if markup.get("insideOut"):
        raise ValueError("it is inside out")
    return Geometry((1, 1, 1), triple(size), triple(centre), tuple(axes.ravel())).image(np.ones((1, 1, 1), np.uint8))
