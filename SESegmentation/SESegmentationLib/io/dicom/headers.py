"""Opening DICOM files and reading their headers, with no more memory than their tags account for."""

from __future__ import annotations

import contextlib
import io
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Literal, cast

import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_file_meta_info
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from ...errors import InputError
from ...memory import require_memory
from . import SIGNATURE_BYTES, has_signature

#: upper bound of all tags without the pixels, and of what may follow the pixels
_TAG_BYTES = 1 << 26
_BLOCK_BYTES = 1 << 20
#: preamble, signature, and the element with the length of the tags about the file
_META_BEGINS = 128 + 4 + 12
_SIZES = ("Rows", "Columns", "BitsAllocated")
_COUNTS = ("SamplesPerPixel", "NumberOfFrames")
#: what a file's pixels are at first and as they are copied to be parsed
_COPIES = 2
_JPEG_2000 = b"\xff\x4f\xff\x51"
#: what images in one place of the patient can differ in; the telling ones first
DISTINGUISHING = (
    "EchoTime",
    "EffectiveEchoTime",
    "EchoNumbers",
    "DiffusionBValue",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "TriggerTime",
    "NominalCardiacTriggerDelayTime",
    "InversionTime",
    "FlipAngle",
    "ContrastBolusAgent",
    "ConvolutionKernel",
    "KVP",
    "ComplexImageComponent",
    "FrameType",
    "ImageType",
    "StackID",
    "AcquisitionNumber",
    "FrameAcquisitionNumber",
    "FrameReferenceTime",
    "AcquisitionTime",
    "FrameAcquisitionDateTime",
    "ContentTime",
    "InstanceNumber",
)
_KEYWORDS = (
    *("SOPClassUID", "SOPInstanceUID", "Modality", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription"),
    *("PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "DoseGridScaling"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("ImagesInAcquisition", "NumberOfSlices", "ConcatenationUID", "InConcatenationNumber"),
    "InConcatenationTotalNumber",
)
#: creator and count of the slices in a Siemens mosaic
_MOSAIC = ("SIEMENS MR HEADER", 0x0019, 0x0A)
_TAGS: list[BaseTag] = [
    *map(Tag, _KEYWORDS),
    *map(Tag, DISTINGUISHING),
    Tag(0x0019, 0x0010),
    Tag(0x0019, 0x100A),
]
_REMEDY = "Correct that tag, or export the series again."


class OversizedError(ValueError):
    """What is compressed in a file is larger than its tags say."""


@contextlib.contextmanager
def opened_dicom(path: Path) -> Iterator[BinaryIO]:
    """The file ``path``; where it is deflated, as the same in Explicit VR Little Endian.

    Raises:
        OSError: it cannot be opened.
        OversizedError: it inflates to more than its tags say.
        OutOfMemoryError: there is not enough memory for the size that its tags say.
        ValueError: it is damaged.
    """
    with open(path, "rb") as file:
        start = file.read(1024)
        file.seek(0)
        if start[128:132] != b"DICM" or DeflatedExplicitVRLittleEndian.encode() not in start:
            yield file
            return
        meta = pydicom.filereader.read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            yield file
            return
        file.seek(_META_BEGINS + int(meta.get("FileMetaInformationGroupLength", 0)))
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        plain = io.BytesIO()
        plain.write(bytes(128) + b"DICM")
        write_file_meta_info(cast(DicomIO, plain), meta, enforce_standard=False)  # any binary file will do
        _inflate(file, plain)
    plain.seek(0)
    yield plain


def pixel_bytes(dataset: Dataset) -> int:
    """How many bytes the pixels of a file are, uncompressed; 0 where its tags do not tell."""
    try:
        factors = [*(int(dataset.get(size) or 0) for size in _SIZES), *(int(dataset.get(n) or 1) for n in _COUNTS)]
    except Exception:  # whatever a damaged value makes the conversion raise; it is reported where the tag is used
        return 0
    is_subsampled = str(dataset.get("PhotometricInterpretation", "")).endswith("422")
    return 0 if is_subsampled or min(factors) < 1 else math.prod(factors) // 8


def refuse_other_sizes(dataset: Dataset) -> None:
    """Raise OversizedError where a compressed frame is larger by itself (JPEG in all its kinds) than by its tags."""
    pixels = int(dataset.Rows) * int(dataset.Columns)
    for frame in generate_frames(dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames") or 1)):
        if (size := _frame_size(frame)) and math.prod(size) > pixels:
            raise OversizedError(f"{size[1]} x {size[0]} pixels, not {dataset.Columns} x {dataset.Rows}")


def _inflate(file: BinaryIO, plain: io.BytesIO) -> None:
    """Inflate ``file`` from its current position on, and append it to ``plain``."""
    inflater, most, given = zlib.decompressobj(-zlib.MAX_WBITS), _TAG_BYTES, b""
    begin, is_explained = plain.tell(), False
    try:
        while not inflater.eof:
            given = inflater.unconsumed_tail or file.read(_BLOCK_BYTES)
            made = inflater.decompress(given, _BLOCK_BYTES)
            plain.write(made)
            if not given and not made:
                raise ValueError("it ends early")
            if plain.tell() - begin > most:
                if is_explained:
                    raise OversizedError(f"more than {most} bytes")
                is_explained, most = True, _TAG_BYTES + _explained(plain)
                require_memory(_COPIES * most / 1e9)
    except zlib.error as error:
        raise ValueError(str(error)) from error


def _explained(plain: io.BytesIO) -> int:
    """Bytes of the pixels, by the tags that were inflated so far."""
    end = plain.tell()
    plain.seek(0)
    tags = [*_SIZES, *_COUNTS, "PhotometricInterpretation"]
    try:
        return pixel_bytes(pydicom.dcmread(plain, stop_before_pixels=True, specific_tags=tags, force=True))
    except Exception:  # whatever damaged bytes make the parser raise
        return 0
    finally:
        plain.seek(end)


def _frame_size(codes: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 stream says it has; None where it is something else."""
    if (place := codes.find(_JPEG_2000, 0, 4096)) >= 0:
        field = [int.from_bytes(codes[place + at : place + at + 4], "big") for at in (8, 12, 16, 20)]
        return field[1] - field[3], field[0] - field[2]
    if codes[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 9 <= len(codes) and codes[place] == 0xFF:
        marker = codes[place + 1]
        if marker == 0xFF:  # fills
            place += 1
            continue
        if marker == 0xF7 or 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(codes[place + 5 : place + 7], "big"), int.from_bytes(
                codes[place + 7 : place + 9], "big"
            )
        place += 2 + int.from_bytes(codes[place + 2 : place + 4], "big")
    return None


class UnreadableError(Exception):
    """A file that should be DICOM and cannot be read; its text is worded to follow the file's name."""


@dataclass(frozen=True)
class DicomHeader:
    """What a DICOM file says without its pixels.

    Attributes:
        path: the file.
        dataset: its tags that matter.
        damage: what is wrong with the file, worded to follow its name; empty if nothing is.
    """

    path: Path
    dataset: Dataset
    damage: str = ""

    @classmethod
    def read(cls, path: Path) -> DicomHeader | None:
        """The header of ``path``; None where it is no DICOM file.

        Raises:
            UnreadableError: it may be one, but is empty, cannot be opened, or is damaged in its first tags.
        """
        try:
            with opened_dicom(path) as file:
                start = file.read(SIGNATURE_BYTES)
                if not start.strip(b"\0"):
                    raise UnreadableError("is empty" + (" (holds zeros only)" if start else " (0 bytes)"))
                if not has_signature(start):
                    return None
                file.seek(0)
                header = cls(path, _parsed(file))
                return replace(header, damage=_damage(file, header))
        except OSError as error:
            raise UnreadableError(f"cannot be opened: {error.strerror}") from error
        except OversizedError as error:
            raise UnreadableError("is damaged: it inflates to more than its tags say") from error
        except ValueError as error:
            raise UnreadableError("is cut off or damaged: it cannot be inflated to its end") from error

    def text(self, keyword: str) -> str:
        """The value of a tag as text; empty where it is absent."""
        return text_of(self.dataset, keyword)

    def number(self, keyword: str) -> int | None:
        """The value of a tag as a whole number; None where it is absent.

        Raises:
            InputError: it is no number.
        """
        found = numbers_of(self.dataset, keyword, 1, str(self.path))
        return None if found is None else int(found[0])

    @cached_property
    def class_name(self) -> str:
        """What kind of object the file holds, as DICOM calls it; a UID where it is not known."""
        return UID(self.text("SOPClassUID") or text_of(self.dataset.file_meta, "MediaStorageSOPClassUID")).name

    @property
    def is_image(self) -> bool:
        """Whether the file holds pixels, or should."""
        return "Rows" in self.dataset or "Image Storage" in self.class_name

    @property
    def is_directory(self) -> bool:
        """Whether the file lists others: a DICOMDIR."""
        return self.class_name == "Media Storage Directory Storage"

    @property
    def is_mosaic(self) -> bool:
        """Whether the file holds the slices of a volume side by side in one image, as Siemens stores time series."""
        if "MOSAIC" in self.text("ImageType").upper():
            return True
        creator, group, element = _MOSAIC
        try:
            return int(self.dataset.private_block(group, creator)[element].value) > 1
        except (KeyError, TypeError, ValueError):
            return False


def numbers_of(dataset: Dataset, keyword: str, count: int, source: str) -> tuple[float, ...] | None:
    """The ``count`` finite numbers of a tag; None where it is absent or empty.

    Args:
        dataset: holds the tag.
        keyword: its name.
        count: how many numbers it must have.
        source: the file, for messages.

    Raises:
        InputError: it holds something else.
    """
    try:
        value = dataset.get(keyword)
        if value is None or value == "":
            return None
        values = tuple(float(number) for number in (value if isinstance(value, MultiValue) else [value]))
    except Exception as error:  # whatever a damaged value makes the conversion raise
        raise InputError(f"{source}: {keyword} cannot be read as numbers.", _REMEDY) from error
    if not values:
        return None
    if len(values) != count or not all(math.isfinite(number) for number in values):
        raise InputError(f"{source}: {keyword} is {value}, which is not {count} numbers.", _REMEDY)
    return values


def text_of(dataset: Dataset, keyword: str) -> str:
    """The value of a tag as text; empty where it is absent or damaged."""
    try:
        value = dataset.get(keyword)
        if value is None or isinstance(value, Sequence):
            return ""
        text = "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)
        return "".join(character if character.isprintable() else " " for character in text).strip()
    except Exception:  # whatever a damaged value makes the conversion raise
        return ""


def items_of(dataset: Dataset, tag: str | BaseTag) -> list[Dataset]:
    """The items of a sequence; none where it is absent or damaged, or no sequence."""
    try:
        value = dataset[tag].value if tag in dataset else None
    except Exception:  # whatever a damaged value makes the conversion raise
        return []
    return list(value) if isinstance(value, Sequence) else []


def _parsed(file: BinaryIO) -> Dataset:
    try:
        with pydicom.config.disable_value_validation():
            return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS, force=True)
    except Exception as error:  # whatever damaged bytes make the parser raise
        raise UnreadableError("is damaged: its tags cannot be read") from error


def all_tags(path: Path) -> Dataset:
    """All tags of a DICOM file but its pixels and private ones, their texts decoded.

    Raises:
        InputError: they cannot be read.
    """
    try:
        with pydicom.config.disable_value_validation(), opened_dicom(path) as file:
            dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            dataset.remove_private_tags()
            dataset.decode()
    except Exception as error:  # whatever damaged bytes make the parser raise
        raise InputError(f"{path} is damaged: its tags cannot be read.", "Copy or export it again.") from error
    return dataset


def _damage(file: BinaryIO, header: DicomHeader) -> str:
    """What is wrong with the pixels of a file that was read up to them; they themselves are not looked at."""
    if not header.text("SeriesInstanceUID") and "Rows" not in header.dataset and not header.is_directory:
        return "is cut off or damaged: it does not say what it holds"
    implicit, little = header.dataset.original_encoding
    order: Literal["little", "big"] = "little" if little else "big"
    element = file.read(8 if implicit else 12)
    if len(element) < (8 if implicit else 12):
        return "is cut off: it holds no pixels" if header.is_image else ""
    group = int.from_bytes(element[:2], order)
    if group != 0x7FE0:
        return "is damaged: its tags cannot be read to the end" if header.is_image else ""
    length = int.from_bytes(element[-4:], order)
    begin = file.tell()
    held = file.seek(0, 2) - begin
    if length == 0xFFFFFFFF:  # compressed; the decoder will tell
        return ""
    needed = max(length, pixel_bytes(header.dataset))
    held = min(held, length)
    return f"is cut off: it holds {held} bytes of {needed} of its pixels" if held < needed else ""
