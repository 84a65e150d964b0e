"""Damaged files: small volumes in each format, whose headers are changed here and there, always in the same ways.

Text headers get what their readers do not expect (long words, too many numbers, no numbers); binary ones get other
bytes, and other numbers where fields are. Some files are cut off.
"""

from __future__ import annotations

import gzip
import random
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

#: i, j, k; all differ, as do the spacings, and no voxel is like its mirror image
SIZE = (7, 6, 5)
VOXELS = np.random.default_rng(19).integers(1, 900, SIZE).astype("<i2")
AFFINE_RAS = np.array([[-1.5, 0, 0, 20], [0, 1.25, 0, -30], [0, 0, 2.5, -10], [0, 0, 0, 1.0]])

_NUMBERS = (0, 1, -1, 2, 3, 4, 7, 8, 16, 255, 256, 348, 540, 1000, 32767, -32768)
_REALS = (0.0, -0.0, 1.0, -1.0, 1e-40, 1e-6, 0.5, 1e6, 3e38, -3e38, float("nan"), float("inf"), float("-inf"))
_WORDS = (
    "",
    "0",
    "-1",
    "1",
    "2",
    "3",
    "3 3 3",
    "nan",
    "inf",
    "-inf",
    "1e308",
    "1e-320",
    "99999999999999999999",
    "none",
)
_WORDS += (
    "x" * 1000,
    "1 " * 400,
    "()",
    "(1,0)",
    "(1,0,0)",
    "(nan,nan,nan)",
    "%s%n",
    "../a",
    "/etc/passwd",
    "LIST",
    "raw",
)
_WORDS += ("gzip", "LPS", "RAS", '"m" "m" "m"', "MET_FLOAT", "True", "double", "big", "\x00", "\x1b[2J", "é")


def nifti() -> bytes:
    """A whole NIfTI-1 file, sform and qform alike."""
    image = nibabel.Nifti1Image(VOXELS, AFFINE_RAS)
    image.set_sform(AFFINE_RAS, 1)
    image.set_qform(AFFINE_RAS, 1)
    image.header.set_xyzt_units("mm")
    return image.to_bytes()


def nrrd() -> bytes:
    """A whole NRRD file."""
    head = (
        "NRRD0004\n# made for tests\ntype: short\ndimension: 3\nspace: right-anterior-superior\nsizes: 7 6 5\n"
        "space directions: (-1.5,0,0) (0,1.25,0) (0,0,2.5)\nkinds: domain domain domain\nendian: little\n"
        'encoding: raw\nspace origin: (20,-30,-10)\nspace units: "mm" "mm" "mm"\nsome key:=some value\n\n'
    )
    return head.encode() + VOXELS.tobytes(order="F")


def metaimage() -> bytes:
    """A whole MetaImage file."""
    head = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
        "TransformMatrix = 1 0 0 0 -1 0 0 0 1\nOffset = -20 30 -10\nCenterOfRotation = 0 0 0\n"
        "AnatomicalOrientation = RAI\nElementSpacing = 1.5 1.25 2.5\nDimSize = 7 6 5\nElementType = MET_SHORT\n"
        "ElementDataFile = LOCAL\n"
    )
    return head.encode() + VOXELS.tobytes(order="F")


def write_dicom(folder: Path) -> list[Path]:
    """A series of one file for each slice, in LPS."""
    uids, files = [generate_uid(entropy_srcs=[str(n)]) for n in range(3)], []
    for k in range(SIZE[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MRImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["image", str(k)])
        image = Dataset()
        image.file_meta = meta
        image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = uids
        image.PatientName, image.PatientID, image.Modality = "Made", "0", "MR"
        image.SeriesNumber, image.InstanceNumber = 1, k + 1
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.Rows, image.Columns = SIZE[1], SIZE[0]
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
        image.PixelSpacing, image.SliceThickness = [1.25, 1.5], 2.5
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.ImagePositionPatient = [-20, 30, -10 + 2.5 * k]
        image.PixelData = VOXELS[:, :, k].tobytes(order="F")
        files.append(folder / f"{k}.dcm")
        pydicom.dcmwrite(files[-1], image, enforce_file_format=True)
    return files


def damaged_text(whole: bytes, end: int, rng: random.Random) -> bytes:
    """``whole`` with something else in the ``end`` bytes of its header of text."""
    lines = whole[:end].split(b"\n")
    chosen = rng.randrange(len(lines) - 1)
    line = lines[chosen].decode("latin-1")
    kind = rng.randrange(8)
    if kind < 3:  # another value
        name, separator, value = re.match(r"([^:=]*)(:=|: |:| = |=|)(.*)", line, re.DOTALL).groups()
        words = re.split(r"(\s+|,|\(|\))", value)
        if kind == 0 and len(words) > 1:
            words[rng.randrange(len(words))] = rng.choice(_WORDS)
            lines[chosen] = (name + separator + "".join(words)).encode()
        else:
            lines[chosen] = (name + separator + rng.choice(_WORDS)).encode()
    elif kind == 3:  # lost, twice, or in another place
        lost = lines.pop(chosen)
        lines[rng.randrange(len(lines)) : 0] = [lost] * rng.randrange(3)
    elif kind == 4:  # a number that is near
        lines[chosen] = re.sub(r"\d", lambda digit: rng.choice((digit[0], rng.choice("0123456789"))), line).encode()
    else:
        return damaged_bytes(whole, end, rng)
    return b"\n".join(lines) + whole[end:]


def damaged_bytes(whole: bytes, end: int, rng: random.Random) -> bytes:
    """``whole`` with other bytes, or numbers, somewhere in its first ``end``."""
    block = bytearray(whole)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        place, kind = rng.randrange(end), rng.randrange(7)
        if kind == 0:
            block[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            block[place] = rng.randrange(256)
        elif kind == 2:
            place -= place % 2
            struct.pack_into(
                rng.choice("<>") + "h", block, place, rng.choice([n for n in _NUMBERS if abs(n) < 1 << 15])
            )
        elif kind == 3:
            place -= place % 4
            struct.pack_into(rng.choice("<>") + "f", block, place, rng.choice(_REALS))
        elif kind == 4:
            length = rng.choice((4, 16, 64))
            block[place : place + length] = rng.randbytes(len(block[place : place + length]))
        elif kind == 5:
            block[place:place] = rng.randbytes(rng.choice((1, 2, 8, 300)))
        else:
            del block[place : place + rng.choice((1, 2, 8, 300))]
        end = max(min(end, len(block) - 8), 1)
    return bytes(block) if rng.randrange(20) else bytes(block[: rng.randrange(len(block))])


def mutants(kind: str, whole: bytes, count: int, seed: int) -> Iterator[bytes]:
    """``count`` damaged files of a format, "nifti", "nrrd", "metaimage" or "dicom", made of the one ``whole``."""
    rng = random.Random(f"{kind} {seed}")
    text = kind in ("nrrd", "metaimage")
    end = {"nifti": 352, "dicom": len(whole) - VOXELS[:, :, 0].nbytes}.get(kind, len(whole) - VOXELS.nbytes)
    for number in range(count):
        damaged = damaged_text(whole, end, rng) if text else damaged_bytes(whole, end, rng)
        yield gzip.compress(damaged, 1) if kind == "nifti" and number % 4 == 0 else damaged
