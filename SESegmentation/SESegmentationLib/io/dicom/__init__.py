"""Reading a scan from DICOM files by their tags: what they hold, where each image lies, what its values mean.

ITK uses the tags of a file's first frame only, and stacks the images of a series along their normal, at equal
distances, whatever their tags say. Here pydicom reads the tags; ITK's GDCM only decompresses pixels.
"""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk

from ..voxel_data import half_of_pair

#: bytes at the beginning of a file that tell whether it is DICOM
SIGNATURE_BYTES = 132
#: extensions of DICOM files
DICOM_ENDINGS = (".dcm", ".dicom", ".dic", ".ima")
#: extensions of files often found beside volumes that are not checked for DICOM
_NO_DICOM = (".json", ".tsv", ".csv", ".txt", ".bval", ".bvec", ".md", ".raw", ".zraw", ".img", ".png", ".pdf", ".html")


def read_dicom(path: Path, series: str | None = None) -> sitk.Image:
    """Read the one scan that ``path`` leads to.

    Args:
        path: a folder (its subfolders are searched too), a DICOMDIR, or a file with all slices.
        series: number, description or UID of the series to read, where there are several.

    Returns:
        A 3-D image in LPS and mm, with rescaled values (HU for CT). What remains doubtful is among its remarks, see
        :func:`..volume_image.remarks_of`.

    Raises:
        InputError: there is no scan, or not exactly one that is meant; a file of it is damaged, or a slice is missing;
            its images do not lie straight above each other at equal distances, or several in one place.
        OutOfMemoryError: the memory that is available is not enough for it.
    """
    from .volume import read_scan  # pydicom is only loaded where there is DICOM

    return read_scan(path, series)


def is_dicom(path: Path) -> bool:
    """Whether the file ``path`` begins as a DICOM file does; the voxels of a pair of files may do so by chance."""
    header = half_of_pair(path, "hdr")
    if header != path and header.is_file():
        return False
    with open(path, "rb") as file:
        return has_signature(file.read(SIGNATURE_BYTES))


def looks_like_dicom(path: Path) -> bool:
    """Whether a file is meant as DICOM by its name, or else begins as such; False where it cannot be read."""
    name = path.name.lower()
    if name.endswith(DICOM_ENDINGS):
        return True
    try:
        return not name.endswith(_NO_DICOM) and path.is_file() and is_dicom(path)  # reading a pipe would block
    except OSError:
        return False


def has_signature(start: bytes) -> bool:
    """Whether a file that begins with ``start`` is DICOM; files of before 2000 or so begin with their first tag."""
    if start[128:132] == b"DICM":
        return True
    is_tag = start[:2] in (b"\x02\0", b"\x08\0") and start[3:4] == b"\0"
    return is_tag and (start[4:6].isalpha() and start[4:6].isupper() or start[6:8] == b"\0\0")
