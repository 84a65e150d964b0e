"""Images as files: written compressed, or a failure in words."""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk

from ..errors import SegmentationError

#: endings of files for maps of real numbers
MAP_ENDINGS = (".nii.gz", ".nii", ".nrrd")


def write_image(path: Path, image: sitk.Image) -> None:
    """Write an image in the format that the file's name says.

    Raises:
        SegmentationError: the file cannot be written (disk full, for example).
    """
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise SegmentationError(
            f"{path.name} cannot be written: {str(error).strip().splitlines()[-1]}.",
            "See that the disk has space and that the output folder is writable.",
        ) from error
