"""Images and results as a description for a header and arrays for a frame, and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..io.reading import NOT_NUMBERS
from ..io.volume_image import REMARKS, voxels_of
from ..result import SegmentationResult
from .frames import DTYPES

if TYPE_CHECKING:
    from ..refine.refinement import Refinement


#: the metadata that the input checks look at: what NIfTI files say about their axes, and what reading found. All else,
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


#: doubt travels and is kept in whole steps, a quarter as large as single precision
DOUBT_STEPS = 255


@dataclass(frozen=True)
class RefinedResult:
    """What came of corrected slices.

    Attributes:
        result: the new one, corrected slices as they were left.
        slices: the corrected ones, for example ("k:12,17",).
        adapted: the adapted parameters, the bytes of a file as :mod:`SESegmentationLib.refine.adapted` writes it; None
            where the networks stayed as they are.
        parameters: how many numbers were adapted.
        kept_because: why nothing but the corrected slices changed; empty where something did.
    """

    result: SegmentationResult
    slices: tuple[str, ...]
    adapted: bytes | None
    parameters: int
    kept_because: str = ""


def pack_result(result: SegmentationResult) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Description (JSON) of a result; its labels, and its doubt where there is one, as arrays."""
    geometry, voxels = pack_image(result.labels)
    value = result.to_dict() | {"geometry": geometry}
    if result.doubt is None:
        return value, [voxels]
    steps = np.rint(DOUBT_STEPS * voxels_of(result.doubt)).astype(np.uint8)
    return value, [voxels, steps]


def unpack_result(value: dict[str, Any], arrays: list[np.ndarray]) -> SegmentationResult:
    """The result that :func:`pack_result` described."""
    # doubt stays in steps: as float32 the map of a head takes 67 MB, and longer than an event loop may wait
    labels, *doubt = (unpack_image(value["geometry"], voxels) for voxels in arrays)
    return SegmentationResult.from_dict(value, labels, *doubt)


def pack_refinement(refined: Refinement) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Description (JSON) of a refinement, and arrays: the adapted parameters, then those of :func:`pack_result`."""
    value, arrays = pack_result(refined.result)
    refinement = {
        "slices": [str(entry) for entry in refined.slices],
        "parameters": refined.adapted.count if refined.adapted else 0,
        "kept_because": refined.kept_because,
    }
    adapted = np.frombuffer(refined.adapted.to_bytes() if refined.adapted else b"", np.uint8)
    return {"result": value, **refinement}, [adapted, *arrays]


def unpack_refinement(value: dict[str, Any], arrays: list[np.ndarray]) -> RefinedResult:
    """What :func:`pack_refinement` described."""
    result = unpack_result(value["result"], arrays[1:])
    adapted = arrays[0].tobytes() or None
    return RefinedResult(result, tuple(value["slices"]), adapted, value["parameters"], value["kept_because"])
