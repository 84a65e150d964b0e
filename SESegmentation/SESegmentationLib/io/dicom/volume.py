"""From DICOM files to a volume: their stored values, rescaled and put in place.

pydicom decodes uncompressed pixels, ITK's GDCM compressed ones (JPEG, JPEG 2000, JPEG-LS and RLE). It gets them in a
file without rescaling or position, so that it cannot apply those of the first frame to all.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
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
    RLELossless,
    generate_uid,
)

from ...errors import InputError, SegmentationError
from ...memory import require_memory
from ...plain_text import some_of
from ...result import Finding
from ..itk_names import itk_name
from ..volume_image import add_remarks
from .frames import DicomFrame, frames_of, mixed_contrasts
from .headers import DicomHeader, OversizedError, opened_dicom, refuse_other_sizes
from .series import Found, choose_series
from .stack import Stack, perhaps_missing, refuse_missing

_REMEDY = "Copy or export it again, uncompressed where the program offers that."
#: what says how pixels are stored
_STORAGE = (
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "PixelData"),
)
#: padding is removed if it lies this share of the image's range from its values: less does not affect networks
FAR_FROM = 0.1
#: a volume is in memory as NumPy's and as ITK's
_COPIES = 2
#: bytes of a pixel while a file is decoded, at most
_DECODING = 8
#: types of voxels that hold whole numbers, the first that does is taken
_WHOLE = (np.int16, np.uint16, np.int32, np.uint32)


class StoredPixels:
    """Reads files, and keeps the last one, as consecutive images are often frames of one file."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._frames = np.empty(0)

    def of(self, file: Path, number: int) -> np.ndarray:
        """The stored values (rows, columns) of frame ``number``, counted from 0, of ``file``.

        Raises:
            InputError: they are cut off, damaged, or compressed in an unknown way.
        """
        if file != self._file:
            self._file, self._frames = None, np.empty(0)  # so that two files are never held at once
            self._frames = _decoded(file)
            self._file = file
        if number >= len(self._frames):
            raise InputError(f"{file} is cut off: it holds {len(self._frames)} frames.", _REMEDY)
        return self._frames[number]


def _decoded(file: Path) -> np.ndarray:
    """The stored values (frames, rows, columns) of a file."""
    try:
        with pydicom.config.disable_value_validation(), opened_dicom(file) as content:
            dataset = pydicom.dcmread(content, force=True)
            if "PixelData" not in dataset:
                raise InputError(f"{file} is cut off: it does not hold all of its pixels.", _REMEDY)
            if "TransferSyntaxUID" not in dataset.file_meta:  # files of before 2000 or so
                implicit, little = dataset.original_encoding
                explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
                dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
            array = _decompressed(dataset) if dataset.file_meta.TransferSyntaxUID.is_encapsulated else _native(dataset)
    except (SegmentationError, MemoryError):
        raise
    except OversizedError as error:
        raise InputError(f"{file} is damaged: its pixels hold {error}, as its tags say.", _REMEDY) from error
    except Exception as error:  # whatever damaged bytes make the decoders raise
        raise InputError(
            f"The pixels of {file} cannot be read: they are cut off, damaged, or compressed in an unknown way.", _REMEDY
        ) from error
    return array.reshape(-1, dataset.Rows, dataset.Columns)


def _native(dataset: Dataset) -> np.ndarray:
    above, below = _other_bits(dataset)
    dataset.BitsStored = dataset.BitsAllocated  # pydicom takes them for the lowest bits, which they need not be
    return _without(above, below, pixel_array(dataset, raw=True))


def _other_bits(dataset: Dataset) -> tuple[int, int]:
    """How many bits of a pixel lie above its value and below it; they may hold overlays. ValueError if impossible."""
    stored, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    above = allocated - 1 - int(dataset.get("HighBit", stored - 1))
    if not (0 < stored <= allocated and 0 <= above <= allocated - stored):
        raise ValueError(f"{stored} bits in {allocated}, {above} from the top")
    return above, allocated - stored - above


def _without(above: int, below: int, array: np.ndarray) -> np.ndarray:
    # a shift to the right repeats the sign of what is signed
    return (array << above) >> (above + below) if above or below else array


def _decompressed(dataset: Dataset) -> np.ndarray:
    refuse_other_sizes(dataset)
    above, below = _other_bits(dataset)
    is_packed = dataset.file_meta.TransferSyntaxUID == RLELossless  # its bytes are those of the pixels
    if below and not is_packed:
        raise ValueError(f"{below} bits below the value")
    pixels = Dataset()
    for keyword in _STORAGE:
        if keyword in dataset:
            pixels[keyword] = dataset[keyword]
    if is_packed:  # GDCM does not heed what lies below
        pixels.BitsStored, pixels.HighBit = dataset.BitsAllocated, int(dataset.BitsAllocated) - 1
    pixels.SOPClassUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    pixels.SOPInstanceUID = generate_uid()
    pixels.file_meta = FileMetaDataset()
    pixels.file_meta.MediaStorageSOPClassUID = pixels.SOPClassUID
    pixels.file_meta.MediaStorageSOPInstanceUID = pixels.SOPInstanceUID
    pixels.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    with tempfile.TemporaryDirectory(prefix="sesegment-") as folder:
        file = Path(folder, "pixels.dcm")
        pixels.save_as(file, enforce_file_format=True)
        array = sitk.GetArrayFromImage(sitk.ReadImage(itk_name(file) or str(file), imageIO="GDCMImageIO"))
    return _without(above, below, array) if is_packed else array


def read_scan(path: Path, series: str | None) -> sitk.Image:
    """See :func:`.read_dicom`."""
    chosen = choose_series(Found.at(path), series, path)
    frames = frames_of(chosen.headers, str(path))
    stack, pixels = Stack.of(frames, str(path)), StoredPixels()
    (columns, rows), kind = frames[0].size, _voxel_type(chosen.headers, frames)
    in_a_file = max(Counter(frame.file for frame in frames).values())
    require_memory(
        rows * columns * (_COPIES * np.dtype(kind).itemsize * len(stack.places) + _DECODING * in_a_file) / 1e9
    )
    slices = [_only(images, pixels, str(path)) for images in stack.places]
    refuse_missing(chosen.headers, len(slices), str(path))
    voxels = np.empty((len(slices), rows, columns), kind)
    for k in sorted(range(len(slices)), key=lambda k: (str(slices[k].file), slices[k].number)):  # file by file
        voxels[k] = _rescaled(slices[k], pixels)
    _fill_padding(voxels, slices, chosen.headers)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(stack.spacing)
    image.SetOrigin(stack.origin)
    image.SetDirection(stack.direction.ravel())
    doubts = [*perhaps_missing(chosen.headers, slices, len(slices)), *mixed_contrasts(slices)]
    add_remarks(image, [*doubts, *_inverted(chosen.headers)])
    return image


def _only(images: list[DicomFrame], pixels: StoredPixels, name: str) -> DicomFrame:
    """The image in one place; the first of several that are copies. InputError where they differ."""
    first = images[0]
    for other in images[1:]:
        if not np.array_equal(_rescaled(first, pixels), _rescaled(other, pixels)):
            one, another = first.distinguishing(), other.distinguishing()
            differing = [
                f"{key} {one.get(key, 'none')} and {another.get(key, 'none')}"
                for key in {**one, **another}
                if one.get(key) != another.get(key)
            ]
            by = f", which differ in {some_of(differing, 2)}" if differing else ""
            raise InputError(
                f"{name} has several images in the same place (time points or contrasts): {first.name} and "
                f"{other.name}{by}.",
                "Put the images of one time point or contrast into a file or folder of their own, and give that.",
            )
    return first


def _rescaled(frame: DicomFrame, pixels: StoredPixels) -> np.ndarray:
    stored = pixels.of(frame.file, frame.number)
    return stored if (frame.slope, frame.intercept) == (1, 0) else stored * frame.slope + frame.intercept


def _voxel_type(headers: Iterable[DicomHeader], frames: Iterable[DicomFrame]) -> type[np.number]:
    """A type that holds every value: whole numbers where nothing is scaled to others."""
    if any(frame.slope != 1 or frame.intercept % 1 for frame in frames):
        return np.float32
    low = high = 0.0
    for header in headers:
        bits = min(max(header.number("BitsStored") or 32, 1), 64)
        signed = header.number("PixelRepresentation") == 1
        low, high = min(low, -(1 << bits - 1) if signed else 0), max(high, (1 << bits - signed) - 1)
    low, high = low + min(frame.intercept for frame in frames), high + max(frame.intercept for frame in frames)
    return next((kind for kind in _WHOLE if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max), np.float32)


def _fill_padding(voxels: np.ndarray, slices: Iterable[DicomFrame], headers: Iterable[DicomHeader]) -> None:
    """Replace what the tags call padding by the lowest value of the image, if it is far from the image's values."""
    ranges = {header.path: _padding(header) for header in headers}
    if not any(ranges.values()):
        return
    padded = np.zeros(voxels.shape, bool)
    for k, frame in enumerate(slices):
        if stored := ranges[frame.file]:
            first, last = sorted(value * frame.slope + frame.intercept for value in stored)
            padded[k] = (voxels[k] >= first) & (voxels[k] <= last)
    if padded.all() or not padded.any():
        return
    low, high = voxels.min(where=~padded, initial=voxels.max()), voxels.max(where=~padded, initial=voxels.min())
    below = float(low) - float(voxels[padded].max())
    above = float(voxels[padded].min()) - float(high)
    if max(below, above) > FAR_FROM * (float(high) - float(low)):
        voxels[padded] = low


def _padding(header: DicomHeader) -> tuple[int, int] | None:
    """The stored values from which and to which padding goes, or None; some write a negative one as unsigned."""
    first = header.number("PixelPaddingValue")
    if first is None:
        return None
    last = header.number("PixelPaddingRangeLimit")
    bits = header.number("BitsAllocated") or 16
    values = [first, first if last is None else last]
    if header.number("PixelRepresentation") == 1:
        values = [value - (1 << bits) if value >= 1 << (bits - 1) else value for value in values]
    return min(values), max(values)


def _inverted(headers: Iterable[DicomHeader]) -> list[Finding]:
    if all(header.text("PhotometricInterpretation") != "MONOCHROME1" for header in headers):
        return []
    return [
        Finding(
            "inverted",
            "The images are to be shown with low values bright (MONOCHROME1); their values were used unchanged.",
            "If the scanner stored them inverted, nothing in the result can be trusted.",
        )
    ]
