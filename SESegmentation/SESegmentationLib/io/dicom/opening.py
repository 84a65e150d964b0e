"""Opening DICOM files; no more memory is taken for what is compressed in them than their tags tell of."""

from __future__ import annotations

import contextlib
import io
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from ...errors import require

#: more than all tags without the pixels ever are, and what may follow the pixels
_TAG_BYTES = 1 << 26
_BLOCK_BYTES = 1 << 20
#: preamble, signature, and the element with the length of the tags about the file
_META_BEGINS = 128 + 4 + 12
_SIZES = ("Rows", "Columns", "BitsAllocated")
_COUNTS = ("SamplesPerPixel", "NumberOfFrames")
#: what a file's pixels are at first and as they are copied to be parsed
_COPIES = 2
_JPEG_2000 = b"\xff\x4f\xff\x51"


class OversizedError(ValueError):
    """What is compressed in a file is larger than its tags tell of."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file ``path``; where it is deflated, as the same in Explicit VR Little Endian.

    Raises:
        OSError: it cannot be opened.
        OversizedError: it inflates to more than its tags tell of.
        OutOfMemoryError: there is not enough memory for what its tags tell of.
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
    except Exception:  # whatever a damaged value makes the conversion raise; it is told where the tag is used
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
    """Append what is deflated in ``file``, from where it stands on."""
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
                require(_COPIES * most / 1e9)
    except zlib.error as error:
        raise ValueError(str(error)) from error


def _explained(plain: io.BytesIO) -> int:
    """What the pixels take by the tags that were inflated up to now."""
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
