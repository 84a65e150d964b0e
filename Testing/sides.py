"""Structures on the wrong side of a head, and pieces far from it: what a segmentation of a head must not have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from SESegmentationLib.geometry import Geometry
from SESegmentationLib.io.volume_image import voxels_of

#: voxels of a side may lie this far beyond the plane of symmetry, in mm: brains are not quite symmetrical
TOLERANCE_MM = 10.0
#: pieces farther than this from the largest one, in mm, are islands
ISLAND_MM = 10.0


def swapped_voxels(labels: sitk.Image, pairs: Sequence[tuple[int, int]]) -> int:
    """How many voxels of sided structures lie on the other side of the head.

    The plane of symmetry halves the lines between the centres of left and right structures; were most of them swapped,
    that they lie left and right in the patient (LPS) would tell.

    Args:
        labels: label map.
        pairs: values (left, right).
    """
    array = voxels_of(labels)
    geometry = Geometry.of(labels)
    points = {}
    for pair in pairs:
        for value in pair:
            where = np.argwhere(array == value)
            if len(where):
                points[value] = geometry.points(where[:, ::-1])
    centres = [
        (points[left].mean(0), points[right].mean(0)) for left, right in pairs if left in points and right in points
    ]
    if not centres:
        return 0
    lines = np.array([right - left for left, right in centres])
    to_the_right = np.median(lines, axis=0)
    to_the_right /= np.linalg.norm(to_the_right)
    if to_the_right[0] > 0:  # x runs to the patient's left
        to_the_right = -to_the_right
    middle = np.median([(left + right) / 2 @ to_the_right for left, right in centres])
    wrong = 0
    for left, right in pairs:
        for value, sign in ((left, -1), (right, 1)):
            if value in points:
                wrong += int((sign * (points[value] @ to_the_right - middle) < -TOLERANCE_MM).sum())
    return wrong


def island_voxels(labels: sitk.Image) -> int:
    """How many voxels lie in pieces farther than ``ISLAND_MM`` from the largest piece of all structures together."""
    pieces = sitk.RelabelComponent(sitk.ConnectedComponent(labels > 0, True))
    distance = sitk.SignedMaurerDistanceMap(pieces == 1, squaredDistance=False, useImageSpacing=True)
    numbers, distances = voxels_of(pieces), voxels_of(distance)
    near = np.unique(numbers[(numbers > 1) & (distances <= ISLAND_MM)])
    return int(((numbers > 1) & ~np.isin(numbers, near)).sum())
