"""Volumes in NRRD files (``.nrrd``, ``.nhdr``), by what the header says.

ITK's reader crashes on some damaged headers, ignores units, and silently assumes LPS for a file without directions or
in a space that is not the patient's. Hence the header is parsed here, and followed.

Source: "Definition of NRRD File Format", https://teem.sourceforge.net/nrrd/format.html.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..geometry import triple
from ..result import Finding
from .volume_image import NO_ORIENTATION, NO_SIZE, check_axes, volume_image
from .voxel_data import (
    CUT_OFF_REMEDY,
    REMEDY,
    Inflated,
    as_numbers,
    check_remainder,
    check_room_for_voxels,
    files_beside,
    header_lines,
    impossible,
    in_mm,
    read_voxels,
    real_numbers,
    skip,
    whole_numbers,
)

MAGIC = b"NRRD"
ENDINGS = (".nrrd", ".nhdr")
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_DTYPES = {name: np.dtype(code) for code, names in _TYPES.items() for name in names}
_ENCODINGS = {"raw": "raw", "gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2"}
_ENCODINGS |= {"txt": "text", "text": "text", "ascii": "text", "hex": "hex"}
#: spaces of the patient, and the signs that lead from them to LPS
_SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}
#: kinds of axes that are directions in space
_SPATIAL_KINDS = {"domain", "space", "none", "???"}
_LONGEST = 1 << 31
#: relative difference of two voxel sizes that rounding explains
_SAME_SIZE = 0.01


@dataclass(frozen=True)
class NrrdHeader:
    """The header of one file.

    Attributes:
        path: of the file.
        fields: by their names, in small letters and without spaces.
        metadata: what programs added, by key.
        end: where the header ends in the file, in bytes.
        listed: lines after the header that name files of voxels.
    """

    path: Path
    fields: dict[str, str]
    metadata: dict[str, str]
    end: int
    listed: list[str]

    @classmethod
    def read(cls, path: Path) -> NrrdHeader:
        """The header of ``path``; InputError where it is damaged."""
        fields: dict[str, str] = {}
        metadata: dict[str, str] = {}
        listed: list[str] = []
        with open(path, "rb") as file:
            lines = header_lines(file, path)
            if not re.fullmatch(r"NRRD000[1-5]", next(lines, "").rstrip()):
                raise InputError(f"{path} is of an unknown version of NRRD.", REMEDY)
            for line in lines:
                if not line:
                    break
                if line.startswith("#"):
                    continue
                found = re.match(r"([^:=]*):(=?)\s*(.*)", line, re.DOTALL)
                if not found:
                    raise InputError(f"{path}: its header holds {line[:60]!r}, which is not a field.", CUT_OFF_REMEDY)
                name, is_key, value = found.groups()
                name = name if is_key else name.lower().replace(" ", "")
                if not is_key and name in fields:
                    raise InputError(f"{path}: its header gives {name!r} twice.", REMEDY)
                (metadata if is_key else fields)[name] = value.rstrip()
                if not is_key and name == "datafile" and value.upper().startswith("LIST"):
                    listed = list(lines)
            end = file.tell()
        return cls(path, fields, metadata, end, listed)

    def _field(self, name: str, words: str = "") -> str:
        value = self.fields.get(name)
        if value is None:
            raise InputError(f"{self.path}: its header has no {words or name}.", REMEDY)
        return value

    @functools.cached_property
    def sizes(self) -> list[int]:
        """Samples along every axis, the fastest first; InputError where they are impossible."""
        (count,) = whole_numbers(self.path, "dimension", self._field("dimension"), 1, 1, 16)
        return whole_numbers(self.path, "sizes", self._field("sizes"), count, 1, _LONGEST)

    @functools.cached_property
    def dtype(self) -> np.dtype:
        """Type of the voxels as they are stored; InputError where none is known."""
        dtype = _DTYPES.get(self._field("type").lower().strip())
        if dtype is None:
            raise impossible(self.path, "type", self._field("type"), "a type of voxels that is known here")
        if dtype.itemsize == 1 or self.encoding == "text":
            return dtype
        endian = self._field("endian").lower().strip()
        if endian not in ("little", "big"):
            raise impossible(self.path, "endian", self._field("endian"), "little or big")
        return dtype.newbyteorder("<" if endian == "little" else ">")

    @functools.cached_property
    def encoding(self) -> str:
        """ "raw", "gzip", "bzip2", "text" or "hex"; InputError where it is another."""
        encoding = _ENCODINGS.get(self._field("encoding").lower().strip())
        if encoding is None:
            raise impossible(self.path, "encoding", self._field("encoding"), "an encoding that is known here")
        return encoding

    @functools.cached_property
    def _directions(self) -> list[list[float] | None] | None:
        """A direction for every axis, in the space's units, None for one not in space; None without directions."""
        value = self.fields.get("spacedirections")
        if value is None:
            return None
        words = re.findall(r"none|\([^()]*\)", value)
        if len(words) != len(self.sizes) or re.sub(r"none|\([^()]*\)|\s", "", value):
            raise impossible(self.path, "space directions", value, f"a direction for each of {len(self.sizes)} axes")
        return [None if word == "none" else self._vector("space directions", word) for word in words]

    def _vector(self, field: str, text: str) -> list[float]:
        return real_numbers(self.path, field, text.strip().strip("()").replace(",", " "), 3)

    @functools.cached_property
    def spatial(self) -> list[int]:
        """The axes that are directions in space, two or three; InputError where there are more or fewer."""
        count = len(self.sizes)
        kinds = self.fields.get("kinds", "").lower().split()
        if kinds and len(kinds) != count:
            raise impossible(self.path, "kinds", self.fields["kinds"], f"a kind for each of {count} axes")
        if self._directions is not None:
            axes = [axis for axis, direction in enumerate(self._directions) if direction is not None]
        else:
            axes = [axis for axis in range(count) if not kinds or kinds[axis] in _SPATIAL_KINDS]
        if not 2 <= len(axes) <= 3:
            raise InputError(
                f"{self.path} has {len(axes)} axes in space, by its directions or kinds; a volume has 3.", REMEDY
            )
        return axes

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels along (i, j, k); InputError where they are impossible."""
        return triple([*(self.sizes[axis] for axis in self.spatial), 1][:3])

    @functools.cached_property
    def affine(self) -> np.ndarray:
        """From voxel indices to LPS in mm, 4 x 4; InputError where it is impossible."""
        affine = np.eye(4)
        if self._directions is None:
            affine[:3, :3] = np.diag(self._spacings())
        else:
            columns = [direction for axis in self.spatial if (direction := self._directions[axis]) is not None]
            if len(columns) == 2:
                across = np.cross(columns[0], columns[1])
                columns.append((across / (np.linalg.norm(across) or 1.0)).tolist())
            affine[:3, :3] = np.transpose(columns)
            self._check_spacings(np.linalg.norm(columns, axis=1))
        if "spaceorigin" in self.fields:
            affine[:3, 3] = self._vector("space origin", self.fields["spaceorigin"])
        affine = np.diag([*self._signs_and_units(), 1.0]) @ affine
        check_axes(affine, str(self.path), "space directions" if self._directions else "spacings")
        return affine

    def _spacings(self) -> list[float]:
        """Distances of voxels along (i, j, k); 1 where the header gives none."""
        words = self.fields.get("spacings", "").split()
        if not words:
            return [1.0] * 3
        if len(words) != len(self.sizes):
            raise impossible(
                self.path, "spacings", self.fields["spacings"], f"a distance for each of {len(self.sizes)} axes"
            )
        units = re.findall(r'"([^"]*)"', self.fields.get("units", "")) or [""] * len(words)
        if len(units) != len(words):
            raise impossible(self.path, "units", self.fields["units"], f"a unit for each of {len(words)} axes")
        spacings = []
        for axis in self.spatial:
            (spacing,) = real_numbers(self.path, "spacings", words[axis], 1)
            if spacing <= 0:
                raise impossible(self.path, "spacings", self.fields["spacings"], "the distances of voxels")
            spacings.append(spacing * in_mm(self.path, "units", units[axis]))
        return [*spacings, 1.0][:3]

    def _check_spacings(self, lengths: np.ndarray) -> None:
        """Raise InputError where there are spacings besides directions, and they differ; NaN stands for none."""
        words = self.fields.get("spacings", "").split()
        if len(words) != len(self.sizes):
            return
        stated = np.array([_number(words[axis]) for axis in self.spatial])
        if (np.abs(lengths[: len(stated)] / np.where(stated > 0, stated, np.nan) - 1) > _SAME_SIZE).any():
            one, other = (" x ".join(f"{size:.3g}" for size in sizes) for sizes in (lengths[: len(stated)], stated))
            raise InputError(
                f"{self.path}: the header holds two voxel sizes, {one} (space directions) and {other} (spacings).",
                REMEDY,
            )

    def _signs_and_units(self) -> np.ndarray:
        """The factor for each coordinate from the file's space to LPS in mm, (3,)."""
        if "space" in self.fields and "spacedimension" in self.fields:
            raise InputError(f"{self.path}: its header gives both space and space dimension.", REMEDY)
        space = self.fields.get("space", "").lower().strip()
        if space.endswith("-time") or space in ("rast", "last", "lpst"):
            raise impossible(self.path, "space", self.fields["space"], "a space of three dimensions")
        units = re.findall(r'"([^"]*)"', self.fields.get("spaceunits", "")) or [""] * 3
        if len(units) != 3:
            raise impossible(self.path, "space units", self.fields["spaceunits"], "three units")
        factors = [in_mm(self.path, "space units", unit) for unit in units]
        return np.multiply(_SPACES.get(space, (1, 1, 1)), factors)

    @property
    def findings(self) -> list[Finding]:
        """What is doubtful about :attr:`affine`."""
        in_patient = self.fields.get("space", "").lower().strip() in _SPACES and self._directions is not None
        findings = [] if in_patient else [NO_ORIENTATION]
        if self._directions is None and "spacings" not in self.fields:
            findings.append(NO_SIZE)
        return findings

    def image(self) -> sitk.Image:
        """Read the volume, or layers as a volume of several components; what programs added is its metadata.

        Raises:
            InputError: the header is impossible, a file is not there, cut off or damaged.
            OutOfMemoryError: there is no room for it.
        """
        affine, findings, shape = self.affine, self.findings, self.sizes[::-1]
        voxels, more = self._voxels(shape)
        last = len(shape) - 1
        others = [axis for axis in range(len(shape)) if axis not in self.spatial]
        voxels = voxels.transpose([last - axis for axis in [*self.spatial[::-1], *others]])
        space = voxels.shape[: len(self.spatial)]
        space = (1, *space) if len(space) == 2 else space
        components = math.prod(self.sizes[axis] for axis in others)
        voxels = np.ascontiguousarray(voxels).reshape(space if components == 1 else (*space, components))
        image = volume_image(voxels, affine, str(self.path), [*findings, *more])
        for key, value in self.metadata.items():
            if key and not key.startswith("SESegmentation_"):  # these are our own remarks
                image.SetMetaData(key, value)
        return image

    def _voxels(self, shape: list[int]) -> tuple[np.ndarray, list[Finding]]:
        (lines,) = whole_numbers(self.path, "line skip", self.fields.get("lineskip", "0"), 1, 0, _LONGEST)
        (skipped,) = whole_numbers(self.path, "byte skip", self.fields.get("byteskip", "0"), 1, -1, _LONGEST)
        if "datafile" in self.fields:
            paths, start = files_beside(self.path, "data file", self.fields["datafile"], self.listed), 0
        else:
            paths, start = [self.path], self.end
        encoding, dtype, count = self.encoding, self.dtype, math.prod(shape)
        check_room_for_voxels(max(paths, key=lambda path: path.stat().st_size), count // len(paths), dtype)
        if len(paths) > 1 and encoding in ("text", "hex"):
            raise InputError(
                f"{self.path}: its voxels are text in several files, which cannot be read.", "Save it as one file."
            )
        with contextlib.ExitStack() as stack:
            files: list[tuple[BinaryIO, Path]] = []
            for path in paths:
                file: BinaryIO = stack.enter_context(open(path, "rb"))
                file.seek(start)
                for _ in range(lines):
                    if not file.readline(_LONGEST):
                        break
                if encoding == "gzip":
                    file = cast(BinaryIO, io.BufferedReader(Inflated(file), 1 << 20))
                elif encoding == "bzip2":
                    import bz2  # not every Python has it

                    file = cast(BinaryIO, stack.enter_context(bz2.BZ2File(file)))
                if skipped < 0 and encoding == "raw":  # the voxels are what the file ends with
                    file.seek(max(path.stat().st_size - count // len(paths) * dtype.itemsize, 0))
                elif skipped > 0:
                    skip(file, skipped)
                files.append((file, path))
            if encoding == "text":
                return as_numbers(self.path, files[0][0].read(), shape, dtype), []
            if encoding == "hex":
                text = b"".join(files[0][0].read().split()).decode("latin-1")[: 2 * count * dtype.itemsize]
                if len(text) < 2 * count * dtype.itemsize or not re.fullmatch("[0-9A-Fa-f]*", text):
                    raise InputError(f"{self.path} is cut off or damaged: its text is too short.", CUT_OFF_REMEDY)
                return np.frombuffer(bytes.fromhex(text), dtype).reshape(shape), []
            voxels = read_voxels(files, shape, dtype)
            more = check_remainder(*files[-1], voxels) if len(files) == 1 else []
        return voxels, more


def _number(word: str) -> float:
    """A number; NaN where it is none."""
    try:
        return float(word)
    except ValueError:
        return math.nan
