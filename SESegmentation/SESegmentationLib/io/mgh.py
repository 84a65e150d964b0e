"""Volumes of FreeSurfer, ``.mgh`` and ``.mgz``, as nibabel understands their headers."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..geometry import triple
from ..result import Finding
from .volume_image import NO_ORIENTATION, RAS_TO_LPS, check_axes, several_frames, volume_image
from .voxel_data import CUT_OFF_REMEDY, check_room, opened, read_voxels, skip

ENDINGS = (".mgz", ".mgh", ".mgh.gz")
#: voxels come after it
_HEADER_BYTES = 284
#: names and commands may come after them; they are not looked at
_FOOTER_BYTES = 1 << 28


@dataclass(frozen=True)
class MghHeader:
    """The header of one file.

    Attributes:
        path: of the file.
        fields: nibabel's header.
        oriented: whether the file says how its axes lie in the patient.
    """

    path: Path
    fields: Any
    oriented: bool

    @classmethod
    def read(cls, path: Path) -> MghHeader:
        """The header of ``path``.

        Raises:
            InputError: there is none.
            ImportError: nibabel is not installed.
        """
        from nibabel.freesurfer.mghformat import MGHHeader

        with opened(path) as file:
            block = file.read(_HEADER_BYTES)
        if len(block) < _HEADER_BYTES:
            raise InputError(f"{path} is cut off within its header.", CUT_OFF_REMEDY)
        version, oriented = int.from_bytes(block[:4], "big"), int.from_bytes(block[28:30], "big")
        if version != 1:
            raise InputError(f"{path}: its version is {version}, which is no version of MGH.", CUT_OFF_REMEDY)
        return cls(path, MGHHeader(block, check=False), bool(oriented))

    @functools.cached_property
    def size(self) -> tuple[int, int, int]:
        """Voxels along (i, j, k); InputError where they are impossible, or there are several volumes."""
        dims = [int(n) for n in self.fields["dims"]]
        if min(dims) < 1:
            raise InputError(f"{self.path}: the header's dims are {dims}, which is no size.", CUT_OFF_REMEDY)
        if dims[3] > 1:
            raise InputError(*several_frames(str(self.path), 4, dims[3]))
        return triple(dims[:3])

    @functools.cached_property
    def dtype(self) -> np.dtype:
        """Type of the voxels as they are stored; InputError where none is known."""
        try:
            return self.fields.get_data_dtype().newbyteorder(">")
        except KeyError as error:
            raise InputError(
                f"{self.path}: the header's type is {int(self.fields['type'])}, which is no type of voxels.",
                CUT_OFF_REMEDY,
            ) from error

    @functools.cached_property
    def affine(self) -> np.ndarray:
        """From voxel indices to LPS in mm, 4 x 4; InputError where it is impossible."""
        sizes = self.fields["delta"].tolist()
        if not all(math.isfinite(size) and size > 0 for size in sizes):
            raise InputError(f"{self.path}: the header's delta is {sizes}, no size of voxels.", CUT_OFF_REMEDY)
        if self.size and not np.isfinite(self.fields["Pxyz_c"]).all():
            raise InputError(f"{self.path}: the header's Pxyz_c is no position.", CUT_OFF_REMEDY)
        affine = RAS_TO_LPS @ self.fields.get_affine()
        check_axes(affine, str(self.path), "directions (Mdc)")
        return affine

    @property
    def findings(self) -> list[Finding]:
        """What is doubtful about :attr:`affine`."""
        return [] if self.oriented else [NO_ORIENTATION]

    def image(self) -> sitk.Image:
        """Read the volume; errors as of :meth:`.nifti.NiftiHeader.image`."""
        affine, shape = self.affine, self.size[::-1]
        check_room(self.path, math.prod(shape), self.dtype)
        with opened(self.path) as file:
            file.read(_HEADER_BYTES)
            voxels = read_voxels([(file, self.path)], shape, self.dtype)
            skip(file, _FOOTER_BYTES)  # to the end: that verifies the checksum
        return volume_image(voxels, affine, str(self.path), self.findings)
