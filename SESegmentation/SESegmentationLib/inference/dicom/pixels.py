"""The stored values of DICOM files.

pydicom decodes what is not compressed; what is, ITK's GDCM, which knows JPEG, JPEG 2000, JPEG-LS and RLE. It gets the
pixels in a file without scale or place, so that it cannot apply those of the first frame to all.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import pixel_array
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    generate_uid,
)

from ...errors import InputError

_REMEDY = "Copy or export it again, uncompressed where the program offers that."
#: what says how pixels are stored
_STORAGE = (
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "PixelData"),
)


class StoredPixels:
    """Reads files, and keeps the last, for several images in a row are often frames of one file."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._frames = np.empty(0)

    def of(self, file: Path, number: int) -> np.ndarray:
        """The stored values (rows, columns) of frame ``number``, counted from 0, of ``file``.

        Raises:
            InputError: they are cut off, damaged, or compressed in an unknown way.
        """
        if file != self._file:
            self._file, self._frames = None, np.empty(0)  # so that never two files are held
            self._frames = _decoded(file)
            self._file = file
        if number >= len(self._frames):
            raise InputError(f"{file} is cut off: it holds {len(self._frames)} frames.", _REMEDY)
        return self._frames[number]


def _decoded(file: Path) -> np.ndarray:
    """The stored values (frames, rows, columns) of a file."""
    try:
        with pydicom.config.disable_value_validation():
            dataset = pydicom.dcmread(file, force=True)
            if "PixelData" not in dataset:
                raise InputError(f"{file} is cut off: it does not hold all of its pixels.", _REMEDY)
            if "TransferSyntaxUID" not in dataset.file_meta:  # files of before 2000 or so
                implicit, little = dataset.original_encoding
                explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
                dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
            array = _decompressed(dataset) if dataset.file_meta.TransferSyntaxUID.is_encapsulated else _native(dataset)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # whatever damaged bytes make the decoders raise
        raise InputError(
            f"The pixels of {file} cannot be read: they are cut off, damaged, or compressed in an unknown way.", _REMEDY
        ) from error
    return array.reshape(-1, dataset.Rows, dataset.Columns)


def _native(dataset: Dataset) -> np.ndarray:
    stored, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    above = allocated - 1 - int(dataset.get("HighBit", stored - 1))
    if not (0 < stored <= allocated and 0 <= above <= allocated - stored):
        raise ValueError(f"{stored} bits in {allocated}, {above} from the top")
    dataset.BitsStored = allocated  # pydicom takes them for the lowest bits, which they need not be
    array = pixel_array(dataset, raw=True)
    # bits above and below may hold overlays; a shift to the right repeats the sign of what is signed
    return array if stored == allocated else (array << above) >> (allocated - stored)


def _decompressed(dataset: Dataset) -> np.ndarray:
    pixels = Dataset()
    for keyword in _STORAGE:
        if keyword in dataset:
            pixels[keyword] = dataset[keyword]
    pixels.SOPClassUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    pixels.SOPInstanceUID = generate_uid()
    pixels.file_meta = FileMetaDataset()
    pixels.file_meta.MediaStorageSOPClassUID = pixels.SOPClassUID
    pixels.file_meta.MediaStorageSOPInstanceUID = pixels.SOPInstanceUID
    pixels.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    with tempfile.TemporaryDirectory(prefix="sesegment-") as folder:
        file = Path(folder, "pixels.dcm")
        pixels.save_as(file, enforce_file_format=True)
        return sitk.GetArrayFromImage(sitk.ReadImage(str(file), imageIO="GDCMImageIO"))
