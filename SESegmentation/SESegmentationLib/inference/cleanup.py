"""Cleaning up a label map: islands are removed and holes filled, as the card's "cleanup" entry says.

- ``"largest_union"``: true keeps only the largest connected piece of all structures together;
- ``"loose"``: {"values": [...], "erosion_mm": r, "reach_mm": d} erodes the union of these structures by r mm and
  removes their voxels farther than d mm from the largest piece that is left: tissue connected by thin bridges, such as
  neck muscles to the cerebellum;
- ``"largest_component"``: "all" or a list of values; of these only the largest connected piece is kept;
- ``"faces"``: true connects the voxels of "largest_component" by faces only, for slices that lie far apart;
- ``"fill_holes"``: true gives background wholly enclosed by a structure to that structure.

What is removed becomes background. Voxels are connected by faces, edges or corners, unless ``"faces"`` is true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..geometry import Geometry, find_extents, mask_box
from ..io.volume_image import voxels_of


def clean(labels: sitk.Image, values: Sequence[int], cleanup: Mapping[str, Any]) -> sitk.Image:
    """A cleaned copy of a label map.

    Args:
        labels: voxel values of structures, 0 elsewhere.
        values: the structures.
        cleanup: see the module's description.
    """
    array = sitk.GetArrayFromImage(labels)
    if cleanup.get("largest_union"):
        array[~_largest_piece(array > 0)] = 0
    if loose := cleanup.get("loose"):
        mask = np.isin(array, loose["values"])
        # depths are those in the whole image as long as there is a layer of background where there was one
        if box := mask_box(mask, margin=1):
            hanging = _hanging_loose(mask[box], labels.GetSpacing(), loose["erosion_mm"], loose["reach_mm"])
            array[box][hanging] = 0
    largest = cleanup.get("largest_component", [])
    for value, extent in find_extents(array, values).items():
        if extent.box is None:
            continue
        part = array[extent.box]
        structure = part == value
        if largest == "all" or value in largest:
            kept = _largest_piece(structure, corners=not cleanup.get("faces"))
            part[structure & ~kept] = 0
            structure = kept
        if cleanup.get("fill_holes"):
            filled = sitk.GetArrayFromImage(sitk.BinaryFillhole(_as_image(structure), fullyConnected=False)) > 0
            part[filled & (part == 0)] = value
    return Geometry.of(labels).image(array)


def _largest_piece(mask: np.ndarray, corners: bool = True) -> np.ndarray:
    """The largest connected piece of ``mask``."""
    pieces = sitk.ConnectedComponent(_as_image(mask), corners)
    return sitk.GetArrayFromImage(sitk.RelabelComponent(pieces)) == 1


def _hanging_loose(mask: np.ndarray, spacing: tuple[float, ...], erosion_mm: float, reach_mm: float) -> np.ndarray:
    """The voxels of ``mask`` (k, j, i) that are far from the largest piece that is left of it after erosion."""
    image = _as_image(mask)
    image.SetSpacing(spacing)
    depth = sitk.SignedMaurerDistanceMap(image, insideIsPositive=True, squaredDistance=False, useImageSpacing=True)
    core = sitk.RelabelComponent(sitk.ConnectedComponent(depth > erosion_mm, True)) == 1
    if not voxels_of(core).any():  # too thin throughout to tell
        return np.zeros_like(mask)
    distance = sitk.SignedMaurerDistanceMap(core, squaredDistance=False, useImageSpacing=True)
    return mask & (voxels_of(distance) > reach_mm)


def _as_image(mask: np.ndarray) -> sitk.Image:
    return sitk.GetImageFromArray(mask.astype(np.uint8))
