"""Opening one file or folder of any format as an image; doubts about it are kept with it as remarks.

A picture does not say how large its pixels are or where they lie in the patient. Models that take slices
(:attr:`.ModelCard.takes_slices`) were trained pixel by pixel and do not need it: rows and columns are used as stored in
the file.

On the command line this is done in a separate process, see :mod:`SESegmentationLib.client.reading`.
"""

from __future__ import annotations

import contextlib
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..result import Finding
from .dicom import is_dicom, read_dicom
from .itk_names import itk_name
from .metaimage import ENDINGS as METAIMAGE_ENDINGS
from .metaimage import MetaImageHeader
from .neuroimaging import MGH_ENDINGS, MghHeader, NiftiHeader
from .nrrd import MAGIC as NRRD_MAGIC
from .nrrd import NrrdHeader
from .volume_image import REMARKS
from .voxel_data import GZIP_MAGIC, half_of_pair, opened

_PAIR_ENDINGS = (".hdr.gz", ".hdr")
#: of the files with volumes; of a pair the header counts
VOLUME_ENDINGS = (
    *(".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh.gz", ".mgh", ".mnc"),
    *_PAIR_ENDINGS,
)
PICTURE_ENDINGS = (".png", ".bmp", ".tif", ".tiff")
#: beginnings of files that stand for others in a repository, with what they are and the remedy
_POINTERS = {
    b"version https://git-lfs": ("Git LFS", "Get it by: git lfs pull."),
    b"/annex/objects/": ("git-annex", "Get it by: datalad get, or git annex get."),
}
#: beginnings of files that are compressed in another way than gzip, or hold other files
_PACKED = {
    b"PK\x03\x04": "ZIP",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!": "RAR",
}
#: ITK's readers of further formats that say how the axes lie in the patient
_MINC = "MINCImageIO"
_FORMATS = (_MINC, "HDF5ImageIO")
#: ITK took the positions in MINC files, which are RAS, for LPS before this version (its pull request 4864)
_FIRST_ITK_WITH_MINC = 6
_REMEDY = "Give a NIfTI, NRRD, MetaImage or MGH file or a DICOM folder; if it is one, copy or download it again."


def is_picture(path: str | Path) -> bool:
    """Whether the file's name ends as that of a picture."""
    return Path(path).name.lower().endswith(PICTURE_ENDINGS)


def is_volume(path: Path) -> bool:
    """Whether a file holds a volume by its name; a header that may be of something else needs its other half, too."""
    name = path.name.lower()
    return name.endswith(VOLUME_ENDINGS) and (not name.endswith(_PAIR_ENDINGS) or half_of_pair(path, "img").is_file())


def read_picture(path: Path, pixel_mm: Sequence[float], labels: bool = False) -> sitk.Image:
    """Read a picture, or a TIFF of several pages, as a volume of single slices.

    Args:
        path: file.
        pixel_mm: spacing (3) that the volume gets.
        labels: for a picture with a palette (as annotation programs write) return the numbers, not the colours.

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


class VolumeHeader(Protocol):
    """The header of a file of one format."""

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels along (i, j, k); InputError where they are impossible, or there are several volumes."""

    @property
    def affine(self) -> np.ndarray:
        """From voxel indices (i, j, k) to LPS in mm, 4 x 4; InputError where it is impossible."""

    @property
    def findings(self) -> list[Finding]:
        """What is doubtful about it."""

    def image(self) -> sitk.Image:
        """Read the volume; InputError or OutOfMemoryError where that cannot be."""


def open_file(
    path: Path, pixel_mm: Sequence[float] | None = None, labels: bool = False, series: str | None = None
) -> sitk.Image:
    """Read the file or folder ``path`` as it is.

    Args:
        path: NIfTI, NRRD, MetaImage, FreeSurfer's MGH, MINC or HDF5 (ITK's) file, or DICOM: a folder, a DICOMDIR or a
            file.
        pixel_mm: for models of slices, the spacing of pictures, which are then read too; see :func:`.read_picture`.
        labels: of a picture with a palette take the numbers, not the colours.
        series: which of several DICOM series, see :func:`.dicom.read_dicom`.

    Returns:
        An image, mostly of three dimensions; several values in a voxel are its components.

    Raises:
        InputError: there is nothing, it cannot be read, is cut off, or contradicts itself.
        OutOfMemoryError: the memory is not enough.
    """
    try:
        kind = path.stat().st_mode
    except FileNotFoundError as error:
        if path.is_symlink():  # as the files of a DataLad dataset are until they are fetched
            raise InputError(
                f"{path} is a link to {os.readlink(path)}, which is not there.",
                "Fetch that file (in a dataset of DataLad: datalad get), or correct the link.",
            ) from error
        raise InputError(f"There is no file or folder {path}.", "Check the name and the folder.") from error
    except (OSError, ValueError) as error:  # a folder that may not be searched, a name that is too long
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be opened: {why}.", "Check the name and the folder.") from error
    if stat.S_ISDIR(kind):
        with _quiet():
            return read_dicom(path, series)
    if not stat.S_ISREG(kind):
        raise InputError(f"{path} is not a file but a device or pipe.", "Give a file.")
    if path.stat().st_size == 0:
        raise InputError(f"The file {path} is empty (0 bytes).", "Copy or download it again.")
    if not os.access(path, os.R_OK):
        raise InputError(f"The file {path} may not be read.", "Ask its owner for permission, or copy it.")
    if pixel_mm is not None and is_picture(path):
        return read_picture(path, pixel_mm, labels)
    try:
        _refuse_pointer(path)
        if is_dicom(path):
            with _quiet():
                return read_dicom(path, series)
        if series is not None:
            raise InputError(f"{path} is not a DICOM file, so it has no series {series}.", "Leave out the series.")
        header = read_header(path)
        return header.image() if header else _by_itk(path)
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read: {why}.", "Copy or download it again.") from error


def read_header(path: Path) -> VolumeHeader | None:
    """The header of a file; None where there is no file, or its format is none that is read here.

    Raises:
        InputError: it is damaged.
        OSError: it cannot be read.
        ImportError: nibabel, which knows some formats, is not installed.
    """
    if not path.is_file():  # reading a pipe may block
        return None
    name = path.name.lower()
    if name.endswith(METAIMAGE_ENDINGS):
        return MetaImageHeader.read(path) if _is_metaimage(path) else None
    if name.endswith(MGH_ENDINGS):
        return MghHeader.read(path)
    with open(path, "rb") as file:
        if file.read(len(NRRD_MAGIC)) == NRRD_MAGIC:
            return NrrdHeader.read(path)
    return NiftiHeader.read(path)


def _is_metaimage(path: Path) -> bool:
    with open(path, "rb") as file:
        return b"NDims" in file.read(1 << 12)


def _refuse_pointer(path: Path) -> None:
    """Raise InputError for the text that stands for a file which was not fetched."""
    with open(path, "rb") as file:
        start = file.read(max(map(len, _POINTERS)))
    for beginning, (what, remedy) in _POINTERS.items():
        if start.startswith(beginning):
            raise InputError(f"{path} is only a {what} pointer, not the volume.", remedy)


def _by_itk(path: Path) -> sitk.Image:
    """Read a format that only ITK knows; InputError if it does not say how the axes lie in the patient."""
    with opened(path) as file:
        start = file.read(max(map(len, _PACKED)))
    if start.startswith(GZIP_MAGIC):
        raise InputError(f"{path} is compressed twice.", "Decompress it once, by gunzip for example.")
    if packed := next((name for beginning, name in _PACKED.items() if start.startswith(beginning)), ""):
        raise InputError(f"{path} is packed or compressed by {packed}.", "Unpack it, and give what it holds.")
    if (name := itk_name(path)) is None:
        raise InputError(f"{path} has a name that ITK cannot open.", "Rename it, or copy it to another folder.")
    try:
        with _quiet():
            kind = sitk.ImageFileReader.GetImageIOFromFileName(name)
            if kind and kind not in _FORMATS:
                raise InputError(
                    f"{path} is of a format ({kind.removesuffix('ImageIO')}) that does not say how its axes lie in the "
                    "patient.",
                    "Convert the original to NIfTI, NRRD or MetaImage, or give the DICOM folder.",
                )
            image = sitk.ReadImage(name)
    except RuntimeError as error:
        raise InputError(_reason(path, str(error)), _REMEDY) from error
    image.EraseMetaData(REMARKS)
    if kind == _MINC and sitk.Version.ITKMajorVersion() < _FIRST_ITK_WITH_MINC:
        signs = np.array([-1.0, -1.0, *[1.0] * (image.GetDimension() - 2)])
        image.SetOrigin((signs * image.GetOrigin()).tolist())
        image.SetDirection((signs[:, None] * np.reshape(image.GetDirection(), (len(signs), -1))).ravel().tolist())
    return image


def _reason(path: Path, message: str) -> str:
    """One line of cause from ITK's several."""
    if "Unable to determine ImageIO" in message:
        return f"{path} is not a medical volume of a format known here, whatever its name says."
    if "orthonormal" in message:
        return f"{path}: its axes are not perpendicular, or its orientation is not valid."
    return f"{path} cannot be read: it is damaged, cut off, or of an unknown kind."


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what ITK's C and C++ libraries print off the error stream: the exception says it better."""
    try:
        kept = os.dup(2)
    except OSError:  # a program without an error stream
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
