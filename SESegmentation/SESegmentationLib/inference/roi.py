"""The region to look in: a box, rotated or not, drawn in Slicer or round what is painted in a label file.

A region is passed on as an image, 1 inside and 0 outside. A box by itself is an image of a single voxel: its spacing
holds the edges' lengths, its origin the centre and its direction the box's axes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..json_files import read_json
from .geometry import Geometry, find_extents
from .segmentations import read_segmentation
from .voxels import voxels_of

_REMEDY = "Save a markups ROI from Slicer as .mrk.json, or give a label file."
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def read_roi(path: str | Path) -> sitk.Image:
    """Read a region from a Slicer markups ROI (``.mrk.json``) or a label file, of which every value but 0 counts.

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
            raise InputError(f"{path} holds {len(boxes)} regions of interest; one is wanted.", _REMEDY)
        return _box(boxes[0])
    except OSError as error:
        raise InputError(f"The region {path} cannot be read: {error.strerror}.", _REMEDY) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no region of interest of Slicer: {error!r}.", _REMEDY) from error


def region_box(roi: sitk.Image) -> Geometry:
    """The box round a region, along the region's own axes, as the geometry of a single voxel.

    Raises:
        InputError: the region is empty.
    """
    extent = find_extents((voxels_of(roi) > 0).astype(np.uint8), (1,))[1]
    if extent.box is None:
        raise InputError("The region to segment is empty.", "Draw or paint it, or segment without a region.")
    box = Geometry.of(roi).cropped(extent.box)
    centre = box.points(np.array([[(n - 1) / 2 for n in box.size]]))[0]
    return Geometry((1, 1, 1), box.extent_mm, tuple(centre), box.direction)


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
    return Geometry((1, 1, 1), tuple(size), tuple(centre), tuple(axes.ravel())).image(np.ones((1, 1, 1), np.uint8))
