"""Images as a description for a header and an array for a frame, and back."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..inference.reading import NOT_NUMBERS
from ..inference.remarks import REMARKS
from ..inference.voxels import voxels_of
from .frames import DTYPES

#: the metadata that the input guard looks at: what NIfTI files say about their axes, and what reading found. All else,
#: names of patients among it, stays where it is
KEPT_METADATA = ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units", NOT_NUMBERS, REMARKS)


def pack_image(image: sitk.Image, metadata: Iterable[str] = KEPT_METADATA) -> tuple[dict[str, Any], np.ndarray]:
    """Description (JSON) and voxels of an image; the voxels are a view, which keeps the image.

    Args:
        image: any that is not complex-valued.
        metadata: the keys of what is sent with it.

    Raises:
        InputError: voxels are neither integers nor real numbers, or their places are not.
    """
    voxels = voxels_of(image)
    if voxels.dtype.str not in DTYPES:
        raise InputError(
            f"Volumes of {image.GetPixelIDTypeAsString()} cannot be segmented.", "Take a volume of real numbers."
        )
    geometry = {"spacing": image.GetSpacing(), "origin": image.GetOrigin(), "direction": image.GetDirection()}
    if not all(isfinite(number) for numbers in geometry.values() for number in numbers):
        raise InputError("The place of the volume in space is not given by numbers.", "Correct its origin and spacing.")
    kept = {key: image.GetMetaData(key) for key in metadata if image.HasMetaDataKey(key)}
    return {**geometry, "vector": voxels.ndim > image.GetDimension(), "metadata": kept}, voxels


def unpack_image(description: dict[str, Any], voxels: np.ndarray) -> sitk.Image:
    """The image that :func:`pack_image` described, with a copy of ``voxels``.

    This holds Python's lock for some 20 to 80 ms for 256 x 256 x 256 bytes.
    """
    image = sitk.GetImageFromArray(voxels, isVector=description["vector"])
    image.SetSpacing(description["spacing"])
    image.SetOrigin(description["origin"])
    image.SetDirection(description["direction"])
    for key, value in description["metadata"].items():
        image.SetMetaData(key, value)
    return image
