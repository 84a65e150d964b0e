"""Padding: one value far below all others, which scanners and programs put where there is no image."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from .remarks import add_remarks
from .result import Finding
from .voxels import voxels_of

#: share of a volume that padding fills at least; fewer voxels are outliers
_LEAST_SHARE = 0.01
#: how far it lies below the other values, in their own range without the highest; air in CT is no padding by that
_GAP = 0.25
_HIGHEST_PERCENTILE = 99.5


def without_padding(image: sitk.Image) -> sitk.Image:
    """``image`` with the lowest value of the image itself in place of padding; itself where there is none.

    Otherwise padding would count as the darkest tissue, stretch the range by which intensities are normalised, and
    make of MR what looks like CT. It is negative: a background of 0 may be meant.
    """
    array = voxels_of(image)
    lowest = array.min()
    if lowest >= 0:
        return image
    padding = array == lowest
    if not _LEAST_SHARE <= padding.mean() < 1:
        return image
    highest = array.max()
    next_lowest = np.min(array, where=~padding, initial=highest)
    others = array[::2, ::2, ::2]
    high = np.percentile(others[others > lowest], _HIGHEST_PERCENTILE) if (others > lowest).any() else highest
    if float(next_lowest) - float(lowest) <= _GAP * max(float(high) - float(next_lowest), 0.0):
        return image
    if next_lowest == highest:  # two values only: a mask
        return image
    plain = sitk.GetImageFromArray(np.where(padding, next_lowest, array))
    plain.CopyInformation(image)
    for key in image.GetMetaDataKeys():
        plain.SetMetaData(key, image.GetMetaData(key))
    percent, value = 100 * padding.mean(), f"{lowest:g}, far below all others"
    add_remarks(
        plain,
        [
            Finding(
                "padding",
                f"{percent:.0f} % of the voxels are padding ({value}); they were taken as {next_lowest:g}.",
                "Structures that reach into them are cut off there.",
            )
        ],
    )
    return plain
