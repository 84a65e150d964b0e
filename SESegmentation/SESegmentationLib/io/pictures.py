"""Pictures (PNG, BMP, TIFF) as stacks of slices, for models of slices.

A picture does not say how large its pixels are or where they lie in the patient. Models whose card gives the input's
kind as "slices" were trained pixel by pixel and need not know: rows and columns are taken as they stand in the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError

PICTURE_ENDINGS = (".png", ".bmp", ".tif", ".tiff")
#: kind of input, in a model card, of models that take slices one by one
SLICES = "slices"


def is_picture(path: str | Path) -> bool:
    """Whether the file's name ends as that of a picture."""
    return Path(path).name.lower().endswith(PICTURE_ENDINGS)


def pixel_size(expected: Mapping[str, Any], spacing: Sequence[float]) -> tuple[float, ...] | None:
    """Size of a picture's pixels in mm for a model of slices, its own ``spacing``; None for a model of volumes.

    Args:
        expected: "input" of the model's card.
        spacing: of the model's grid.
    """
    return tuple(spacing) if expected.get("kind") == SLICES else None


def read_picture(path: Path, pixel_mm: Sequence[float], labels: bool = False) -> sitk.Image:
    """Read a picture, or a TIFF of several pages, as a volume of single slices.

    Args:
        path: file.
        pixel_mm: spacing (3) that the volume gets.
        labels: of a picture with a palette (as annotation programs write) take the numbers, not the colours.

    Returns:
        3-D scalar image; i along the rows of the picture, j downwards, k from page to page.

    Raises:
        InputError: it cannot be read, or is in colour.
    """
    from PIL import Image, ImageSequence

    try:
        with Image.open(path) as picture:
            pages = [_scalar(page, path, labels) for page in ImageSequence.Iterator(picture)]
    except InputError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged and oversized files
        raise InputError(
            f"{path} cannot be read as a picture: it is damaged, cut off, or of an unknown kind.",
            "Copy it again, or save it as PNG.",
        ) from error
    if len({page.shape for page in pages}) > 1:
        raise InputError(f"The pages of {path} differ in size.", "Give each page as a file of its own.")
    image = sitk.GetImageFromArray(np.stack(pages))
    image.SetSpacing(tuple(pixel_mm))
    return image


def _scalar(page: Any, path: Path, labels: bool) -> np.ndarray:
    """One page as an array (j, i) of numbers."""
    if page.mode == "P" and not labels:
        page = page.convert("RGB")
    array = np.asarray(page)
    if array.dtype == bool:
        array = array.astype(np.uint8)
    if array.ndim == 3:
        colours = array[..., :1] if page.mode == "LA" else array[..., :3]
        if page.mode not in ("LA", "RGB", "RGBA") or (colours != colours[..., :1]).any():
            raise InputError(f"{path} is in colour.", "Convert it to grey, one value a pixel, and save it again.")
        array = colours[..., 0]
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("=")))
