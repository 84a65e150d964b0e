"""Images as files: written compressed and read again, or a failure in words."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..files import cannot_write, incomplete, sync
from ..inference.voxels import voxels_of

#: endings of files for maps of real numbers
MAP_ENDINGS = (".nii.gz", ".nii", ".nrrd")
_ENDINGS = (".nii.gz", ".seg.nrrd")


def write_image(path: Path, image: sitk.Image) -> None:
    """Write an image in the format that the file's name says, and see that it reads as it is.

    Args:
        path: in a folder where nothing else is; see :class:`~SESegmentationLib.files.OutputFiles`.
        image: 2-D or 3-D, one value in each voxel.

    Raises:
        OutputError: the file cannot be written (disk full, for example).
    """
    name = path.name.lower()
    ending = next((ending for ending in _ENDINGS if name.endswith(ending)), path.suffix.lower())
    try:
        with _plain_folder(path.parent) as folder:
            written = f"{folder}/image{ending}"
            reason = _try_to_write(written, image)
            os.replace(written, path)  # ITK knows no endings in capitals, and no names that are not UTF-8
    except OSError as error:
        raise cannot_write(path, error) from error
    if reason is not None:
        pixels = image.GetNumberOfPixels() * image.GetSizeOfPixelComponent()
        raise incomplete(path, pixels) from reason


def _try_to_write(name: str, image: sitk.Image) -> Exception | None:
    """Write an image and read it again; what went wrong. ITK itself does not tell of every file that it cut off."""
    try:
        sitk.WriteImage(image, name, useCompression=True)
        sync(Path(name))
        _compare(image, sitk.ReadImage(name), has_geometry=not name.endswith(".png"))
    except (RuntimeError, ValueError) as error:
        Path(name).touch()
        return error
    return None


def _compare(image: sitk.Image, read: sitk.Image, has_geometry: bool) -> None:
    """Raise ValueError where an image is not what was written."""
    if read.GetSize() != image.GetSize() or read.GetPixelID() != image.GetPixelID():
        raise ValueError("another size or type")
    if not np.array_equal(*(np.ascontiguousarray(voxels_of(part)).view(np.uint8) for part in (image, read))):
        raise ValueError("other voxels")
    close = 1e-2 * max(image.GetSpacing())  # formats keep single precision
    if has_geometry and not (
        np.allclose(read.GetSpacing(), image.GetSpacing(), rtol=1e-3)
        and np.allclose(read.GetOrigin(), image.GetOrigin(), rtol=1e-5, atol=close)
        and np.allclose(read.GetDirection(), image.GetDirection(), atol=2e-2)
    ):
        raise ValueError("another geometry")


@contextlib.contextmanager
def _plain_folder(folder: Path) -> Iterator[str]:
    """A name of ``folder`` that is UTF-8, as ITK's names are: its own, or that of a link to it."""
    name = os.path.abspath(folder)
    try:
        if os.name == "nt" or os.fsencode(name) == name.encode("utf-8"):
            yield name
            return
    except UnicodeEncodeError:
        pass
    with tempfile.TemporaryDirectory() as temporary:
        link = os.path.join(temporary, "folder")
        os.symlink(name, link, target_is_directory=True)
        yield link
