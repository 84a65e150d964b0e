"""Postprocessing: removing islands, dividing two structures at a plane, measuring the intracranial volume.

The card's "cleanup" entry:

- ``"largest_union"``: true keeps only the largest connected piece of all structures together;
- ``"loose"``: {"values": [...], "erosion_mm": r, "reach_mm": d} erodes the union of these structures by r mm and
  removes their voxels farther than d mm from the largest piece that is left: tissue connected by thin bridges, such as
  neck muscles to the cerebellum;
- ``"largest_component"``: "all" or a list of values; of these only the largest connected piece is kept;
- ``"faces"``: true connects the voxels of "largest_component" by faces only, for slices that lie far apart;
- ``"fill_holes"``: true gives background wholly enclosed by a structure to that structure.

What is removed becomes background. Pieces hang together by faces, edges or corners, unless ``"faces"`` is true.

The annotators of the hippocampi of the Medical Segmentation Decathlon divided head from body at one coronal slice: in
148 of the 150 training crops of hippocampus-t1 at most one slice holds both. Networks decide voxel by voxel, and mix
the two over some slices.

The intracranial volume is that by which volumes of structures are divided when people are compared (Whitwell et al.,
AJNR 2001).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..geometry import Geometry, find_extents, mask_box
from ..io.volume_image import voxels_of
from ..models import ModelCard
from .views import PLANE_AXIS

#: probabilities below this count as this, so that no single voxel decides
_LEAST = 1e-4
#: distances from the segmentation, in mm, between which the skull is looked for
SHELL_MM = (8.0, 20.0)
#: brightness, relative to the median of the segmentation, above which a voxel is tissue
TISSUE_BRIGHTNESS = 0.2
#: share of the shell that is tissue, below which the skull was removed: stripped brains: 0.002, heads: 0.3
LEAST_TISSUE = 0.1


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


def divide(probabilities: Tensor, card: ModelCard) -> Tensor:
    """Give the joint probability of two structures to one of them in each slice, divided at the card's plane.

    The plane is put where it is most likely, treating voxels as independent.

    Args:
        probabilities: (C, k, j, i), of the background and each structure, on the model's grid.

    Returns:
        (C, k, j, i) with the same sum at each voxel; in no slice are both structures above 0. ``probabilities``
        themselves if the card has no dividing plane.
    """
    if card.dividing_plane is None:
        return probabilities
    values = [0, *(label.value for label in card.labels)]
    higher, lower = map(values.index, card.dividing_plane.values)
    axis = PLANE_AXIS[card.dividing_plane.plane]
    pair = probabilities[[higher, lower]].float()
    joint = pair.sum(0)
    for_higher, for_lower = pair.clamp(min=_LEAST).log()
    evidence = ((for_higher - for_lower) * (joint > 0.5)).movedim(axis, 0).flatten(1).sum(1)
    # evidence for the higher structure in slices below a plane is evidence against that plane
    against = torch.cat([evidence.new_zeros(1), evidence.cumsum(0)])
    meeting = int(against.argmin())
    divided = probabilities.clone()
    for channel, other in ((higher, slice(0, meeting)), (lower, slice(meeting, None))):
        divided[channel] = joint
        divided[channel].movedim(axis, 0)[other] = 0.0
    return divided


def intracranial_ml(image: sitk.Image, labels: sitk.Image) -> float | None:
    """Volume of all structures together, in ml; None where the skull was removed, and with it some of the fluid.

    Args:
        image: the volume.
        labels: all structures inside the skull, including the fluid around the brain, on any grid over them.
    """
    factors = [min(_factor(s), n) for s, n in zip(labels.GetSpacing(), labels.GetSize(), strict=True)]
    coarse = sitk.BinShrink(sitk.Cast(labels > 0, sitk.sitkFloat32), factors) > 0.5
    inside = voxels_of(coarse).astype(bool)
    if not inside.any():
        return None
    distance = voxels_of(sitk.SignedMaurerDistanceMap(coarse, squaredDistance=False, useImageSpacing=True))
    shell = (distance > SHELL_MM[0]) & (distance < SHELL_MM[1])
    values = voxels_of(Geometry.of(coarse).resample(sitk.Cast(image, sitk.sitkFloat32), sitk.sitkLinear))
    low = float(np.percentile(values, 1))
    if tissue_share(values[shell] - low, values[inside] - low) < LEAST_TISSUE:
        return None
    voxel_ml = float(np.prod(labels.GetSpacing())) / 1000
    return int(np.count_nonzero(voxels_of(labels))) * voxel_ml


def tissue_share(shell: np.ndarray, inside: np.ndarray) -> float:
    """Share of the ``shell``'s voxels that are as bright as tissue; 0 for an empty shell."""
    return float((shell > TISSUE_BRIGHTNESS * np.median(inside)).mean()) if shell.size else 0.0


def _factor(spacing: float) -> int:
    """How many voxels make about 3 mm."""
    return max(round(3.0 / spacing), 1)
