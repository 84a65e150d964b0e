"""The voxels of an image as an array, without a copy."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk


class _Voxels:
    """What numpy asks for a view: its arrays hold on to this object, and so to the image."""

    def __init__(self, image: sitk.Image) -> None:
        self._image = image
        self.__array_interface__ = sitk.GetArrayViewFromImage(image).__array_interface__  # noqa: TID251


def voxels_of(image: sitk.Image) -> np.ndarray:
    """A view (k, j, i) of an image's voxels, which keeps the image; not to be written to.

    SimpleITK's own views do not keep it: once the image is gone, as one that nobody has named is at once, they show
    whatever its memory holds by then, or end the process.
    """
    return np.asarray(_Voxels(image))
