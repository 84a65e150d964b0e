"""The region to segment: a label file, or a box drawn in Slicer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError


def read_region(path: Path) -> sitk.Image:
    """Read a region.

    Args:
        path: a label file (every value but 0 belongs to the region), or a markups ROI saved by Slicer (``.mrk.json``).

    Returns:
        uint8 image, 1 in the region, on its own grid. A box becomes an image of one voxel.

    Raises:
        InputError: it cannot be read or holds no region.
    """
    if path.suffix.lower() == ".json":
        return _read_markups(path)
    from ..inference.reading import read_label_volume

    region = sitk.Cast(read_label_volume(path) != 0, sitk.sitkUInt8)
    if not sitk.GetArrayViewFromImage(region).any():
        raise InputError(f"The region {path} is empty.", "Paint or draw the region before saving it.")
    return region


def _read_markups(path: Path) -> sitk.Image:
    remedy = "Save a markups ROI from Slicer as .mrk.json, or use a label file."
    try:
        markups = json.loads(path.read_text(encoding="utf-8"))["markups"]
        boxes = [markup for markup in markups if markup.get("type") == "ROI"]
        if len(boxes) != 1:
            raise InputError(f"{path} holds {len(boxes)} regions of interest; one is wanted.", remedy)
        return _box(boxes[0])
    except OSError as error:
        raise InputError(f"The region {path} cannot be read: {error.strerror}.", remedy) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no region of interest of Slicer: {error}.", remedy) from error


def _box(markup: dict[str, Any]) -> sitk.Image:
    """A one-voxel image whose voxel is the box: its spacing the edges in mm, its direction the box's."""
    size = np.asarray(markup["size"], float)
    centre = np.asarray(markup["center"], float)
    direction = np.asarray(markup.get("orientation", np.eye(3)), float).reshape(3, 3)
    if markup.get("coordinateSystem", "LPS") in ("RAS", "0"):
        flip = np.diag([-1.0, -1.0, 1.0])
        centre, direction = flip @ centre, flip @ direction
    if size.shape != (3,) or centre.shape != (3,) or not size.min() > 0:
        raise ValueError("its size or centre is not set")
    box = sitk.Image(1, 1, 1, sitk.sitkUInt8) + 1
    box.SetSpacing(size.tolist())
    box.SetOrigin(centre.tolist())
    box.SetDirection(direction.ravel().tolist())
    return box
