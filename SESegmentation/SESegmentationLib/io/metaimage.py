"""Volumes in MetaImage files (``.mha``, ``.mhd``), by what the header says.

ITK's reader crashes on some damaged headers, and silently assumes LPS for a file without a matrix, and 1 mm for one
that gives the voxel size only as ElementSize. Hence the header is parsed here, and followed.

Source: the documentation of MetaIO, https://itk.org/Wiki/MetaIO/Documentation.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..geometry import triple
from ..result import Finding
from .volume_image import NO_ORIENTATION, NO_SIZE, check_axes, several_frames, volume_image
from .voxel_data import (
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

ENDINGS = (".mha", ".mhd")
_DTYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",  # of 4 bytes, on every computer
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
#: former names of fields
_ALIASES = {
    "Position": "Offset",
    "Origin": "Offset",
    "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
_LONGEST = 1 << 31
_FIELD = re.compile(rb"[A-Za-z]{4,40} = [ -~]{1,200}\r?\n")


@dataclass(frozen=True)
class MetaImageHeader:
    """The header of one file.

    Attributes:
        path: of the file.
        fields: by their names.
        end: where the header ends in the file, in bytes.
        listed: lines after the header that name files of voxels.
    """

    path: Path
    fields: dict[str, str]
    end: int
    listed: list[str]

    @classmethod
    def read(cls, path: Path) -> MetaImageHeader:
        """The header of ``path``; InputError where it is damaged."""
        fields: dict[str, str] = {}
        listed: list[str] = []
        end = 0
        with open(path, "rb") as file:
            lines = header_lines(file, path)
            for line in lines:
                name, equals, value = (part.strip() for part in line.partition("="))
                if not name and not equals:
                    continue
                name = _ALIASES.get(name, name)
                if not equals or not name.isprintable():
                    raise InputError(f"{path}: its header holds {line[:60]!r}, which is not a field.", REMEDY)
                if name in fields:
                    raise InputError(f"{path}: its header gives {name} twice.", REMEDY)
                fields[name] = value
                if "ElementDataFile" in fields:
                    end = file.tell()
                    listed = list(lines) if value.upper().startswith("LIST") else []
                    if listed or not _FIELD.match(_peek(file)):  # it should be the last, but is not always
                        break
        return cls(path, fields, end, listed)

    def _field(self, name: str, default: str | None = None) -> str:
        value = self.fields.get(name, default)
        if value is None:
            raise InputError(f"{self.path}: its header has no {name}.", REMEDY)
        return value

    def _flag(self, name: str, default: str) -> bool:
        value = self._field(name, default)
        if value.lower() not in ("true", "false", "1", "0"):
            raise impossible(self.path, name, value, "True or False")
        return value.lower() in ("true", "1")

    @functools.cached_property
    def _shape(self) -> list[int]:
        """Lengths of all axes, the fastest first."""
        (count,) = whole_numbers(self.path, "NDims", self._field("NDims"), 1, 1, 10)
        return whole_numbers(self.path, "DimSize", self._field("DimSize"), count, 1, _LONGEST)

    @functools.cached_property
    def size(self) -> tuple[int, int, int]:
        """Voxels along (i, j, k); InputError where they are impossible, or there are several volumes."""
        frames = math.prod(self._shape[3:])
        if frames > 1:
            raise InputError(*several_frames(str(self.path), len(self._shape), frames))
        return triple([*self._shape, 1, 1][:3])

    @functools.cached_property
    def components(self) -> int:
        """Values in each voxel."""
        given = self._field("ElementNumberOfChannels", "1")
        return whole_numbers(self.path, "ElementNumberOfChannels", given, 1, 1, 1 << 16)[0]

    @functools.cached_property
    def dtype(self) -> np.dtype:
        """Type of the voxels as they are stored; InputError where none is known."""
        kind = self._field("ElementType")
        if kind.removesuffix("_ARRAY") not in _DTYPES:
            raise impossible(self.path, "ElementType", kind, "a type of voxels that is known here")
        is_big = self._flag("BinaryDataByteOrderMSB", "False")
        return np.dtype(_DTYPES[kind.removesuffix("_ARRAY")]).newbyteorder(">" if is_big else "<")

    @functools.cached_property
    def affine(self) -> np.ndarray:
        """From voxel indices to LPS in mm, 4 x 4; InputError where it is impossible."""
        count = len(self._shape)
        axes, spacing, offset = np.eye(3), np.ones(3), np.zeros(3)
        used = min(count, 3)
        if "TransformMatrix" in self.fields:
            # a row for each axis: the direction in which it runs
            rows = real_numbers(self.path, "TransformMatrix", self.fields["TransformMatrix"], count**2)
            axes[:used, :used] = np.reshape(rows, (count, count))[:used, :used].T
        if name := self._spacing_field:
            spacing[:used] = real_numbers(self.path, name, self.fields[name], count)[:used]
            if spacing.min() <= 0:
                raise impossible(self.path, name, self.fields[name], "the distances of voxels")
        if "Offset" in self.fields:
            offset[:used] = real_numbers(self.path, "Offset", self.fields["Offset"], count)[:used]
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = axes * spacing, offset
        unit = in_mm(self.path, "DistanceUnits", self.fields.get("DistanceUnits", ""))
        affine = np.diag([unit, unit, unit, 1.0]) @ affine
        check_axes(affine, str(self.path), "directions (TransformMatrix)")
        return affine

    @property
    def _spacing_field(self) -> str | None:
        """The field with the distances of voxels; that with their sizes if it is the only one."""
        return next((name for name in ("ElementSpacing", "ElementSize") if name in self.fields), None)

    @property
    def findings(self) -> list[Finding]:
        """What is doubtful about :attr:`affine`."""
        findings = [] if "TransformMatrix" in self.fields else [NO_ORIENTATION]
        return findings if self._spacing_field else [*findings, NO_SIZE]

    def image(self) -> sitk.Image:
        """Read the volume.

        Raises:
            InputError: the header is impossible, a file is not there, cut off or damaged.
            OutOfMemoryError: there is no room for it.
        """
        affine, findings, size = self.affine, self.findings, self.size
        shape = [*size[::-1], self.components] if self.components > 1 else [*size[::-1]]
        voxels, more = self._voxels(shape)
        return volume_image(voxels, affine, str(self.path), [*findings, *more])

    def _voxels(self, shape: list[int]) -> tuple[np.ndarray, list[Finding]]:
        given, dtype, count = self._field("ElementDataFile"), self.dtype, math.prod(shape)
        is_local, compressed = given.upper() == "LOCAL", self._flag("CompressedData", "False")
        (skipped,) = whole_numbers(self.path, "HeaderSize", self._field("HeaderSize", "0"), 1, -1, _LONGEST)
        paths = [self.path] if is_local else files_beside(self.path, "ElementDataFile", given, self.listed)
        check_room_for_voxels(max(paths, key=lambda path: path.stat().st_size), count // len(paths), dtype)
        with contextlib.ExitStack() as stack:
            files = []
            for path in paths:
                file = stack.enter_context(open(path, "rb"))
                if is_local:
                    file.seek(self.end)
                elif skipped < 0:  # the voxels are what the file ends with
                    file.seek(max(path.stat().st_size - count // len(paths) * dtype.itemsize, 0))
                else:
                    skip(file, skipped)
                files.append((io.BufferedReader(Inflated(file), 1 << 20) if compressed else file, path))
            if not self._flag("BinaryData", "True"):
                return as_numbers(self.path, files[0][0].read(), shape, dtype.newbyteorder("=")), []
            voxels = read_voxels(files, shape, dtype)
            more = check_remainder(*files[-1], voxels) if len(files) == 1 else []
        return voxels, more


def _peek(file: BinaryIO) -> bytes:
    """The next bytes of a file, without advancing in it."""
    here = file.tell()
    block = file.read(256)
    file.seek(here)
    return block
