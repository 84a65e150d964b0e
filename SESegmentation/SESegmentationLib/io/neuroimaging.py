"""Volumes in the formats of neuroimaging (NIfTI, Analyze, MGH), as nibabel understands their headers.

A NIfTI header holds two transforms (sform and qform) and two voxel sizes (in the sform and in pixdim). Where they
contradict each other, and where a field is impossible, the file is refused or remarked on here, by the field's name.

Source: the NIfTI-1.1 data format, https://nifti.nimh.nih.gov.
"""

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
from .volume_image import (
    GEOMETRY_REMEDY,
    NO_ORIENTATION,
    RAS_TO_LPS,
    affines_contradict,
    check_axes,
    complex_valued,
    distance_mm,
    scaled,
    several_frames,
    several_values,
    volume_image,
)
from .voxel_data import CUT_OFF_REMEDY, check_remainder, check_room_for_voxels, half_of_pair, opened, read_voxels, skip

#: bytes of the longest header, that of NIfTI-2
NIFTI_HEADER_BYTES = 540
NIFTI_ENDINGS = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz")
_MAGICS_1 = (b"n+1\0", b"ni1\0")
_MAGICS_2 = (b"n+2\0", b"ni2\0")
_NEWEST_SCANNER_CODE = 2  # 1: scanner, 2: aligned to another scan; 3 and 4: warped to a template
#: mm by the code for the unit of length; 0 is unknown, and meant as mm
_UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_PAIR_REMEDY = "Copy both, the .hdr and the .img file, into one folder."
#: relative difference of two voxel sizes that rounding explains
_SAME_SIZE = 0.01
MGH_ENDINGS = (".mgz", ".mgh", ".mgh.gz")
#: voxels come after it
_MGH_HEADER_BYTES = 284
#: names and commands may come after them; they are not looked at
_MGH_FOOTER_BYTES = 1 << 28


@dataclass(frozen=True)
class NiftiHeader:
    """The header of one file.

    Attributes:
        path: of the file, or of either half of a pair.
        fields: nibabel's header, of NIfTI-1, NIfTI-2 or Analyze (as SPM extended it).
    """

    path: Path
    fields: Any

    @classmethod
    def read(cls, path: Path) -> NiftiHeader | None:
        """The header of the file ``path``, or of the pair it is half of; None where it is no NIfTI or Analyze file.

        Raises:
            InputError: it cannot be read; it is NIfTI by its name and size, but its magic is damaged.
            ImportError: nibabel is not installed.
        """
        half = half_of_pair(path, "hdr")
        if not half.is_file():
            raise InputError(f"{path}: its other half {half.name}, with the header, is not there.", _PAIR_REMEDY)
        try:
            with opened(half) as file:
                return cls.parse(path, file.read(NIFTI_HEADER_BYTES))
        except InputError as error:
            if str(path) in error.cause:
                raise
            raise InputError(f"{path}: {error.cause}", error.remedy) from error

    @classmethod
    def parse(cls, path: Path, block: bytes) -> NiftiHeader | None:
        """The header in the first bytes of the file ``path``, inflated; see :meth:`read`."""
        if not _is_nifti(path, block):
            return None
        from nibabel.nifti1 import Nifti1Header
        from nibabel.nifti2 import Nifti2Header
        from nibabel.spm2analyze import Spm2AnalyzeHeader

        is_analyze = path.name.lower().endswith((".hdr", ".hdr.gz", ".img", ".img.gz"))
        kind = Nifti2Header if block[4:8] in _MAGICS_2 else Spm2AnalyzeHeader if is_analyze else Nifti1Header
        kind = Nifti1Header if block[344:348] in _MAGICS_1 else kind
        size = kind.template_dtype.itemsize
        if len(block) < size:
            raise InputError(f"{path} is cut off within its header.", CUT_OFF_REMEDY)
        if kind is Nifti1Header and block[344:348] not in _MAGICS_1:
            magic = block[344:348].decode("latin-1")
            raise InputError(f"{path}: its magic is {magic!r}, which is not a version of NIfTI.", CUT_OFF_REMEDY)
        return cls(path, kind(block[:size], check=False))

    @property
    def _is_analyze(self) -> bool:
        return "magic" not in self.fields.keys()  # noqa: SIM118 - it is no mapping

    @property
    def _in_pair(self) -> bool:
        return self._is_analyze or bytes(self.fields["magic"])[:2] == b"ni"

    @property
    def data_path(self) -> Path:
        """The file with the voxels."""
        return half_of_pair(self.path, "img") if self._in_pair else self.path

    @functools.cached_property
    def size(self) -> tuple[int, int, int]:
        """Voxels along (i, j, k).

        Raises:
            InputError: dim is impossible, or there are several volumes.
        """
        dim = [int(n) for n in self.fields["dim"]]
        if not 1 <= dim[0] <= 7:
            raise self._impossible("dim[0]", dim[0], "the number of dimensions, from 1 to 7")
        lengths = [*dim[1 : dim[0] + 1], 1, 1][: max(dim[0], 3)]
        for axis, length in enumerate(lengths, start=1):
            if length < 1 and (axis <= 3 or length < 0):  # beyond the third axis some programs write 0 for 1
                raise self._impossible(f"dim[{axis}]", length, "a number of voxels")
        beyond = math.prod(max(length, 1) for length in lengths[3:])
        if beyond > 1 and max(lengths[4:], default=1) == beyond:
            raise InputError(*several_values(str(self.path), beyond))
        if beyond > 1:
            raise InputError(*several_frames(str(self.path), dim[0], beyond))
        return triple(lengths[:3])

    @functools.cached_property
    def dtype(self) -> np.dtype:
        """Type of the voxels as they are stored; InputError where they are no numbers, or no type is known."""
        try:
            dtype = self.fields.get_data_dtype()
        except Exception as error:  # nibabel raises several kinds
            raise self._impossible("datatype", int(self.fields["datatype"]), "a type of voxels") from error
        if dtype.fields:
            raise InputError(*several_values(str(self.path), len(dtype.fields)))
        if dtype.kind == "c":
            raise InputError(*complex_valued(str(self.path)))
        if dtype.kind not in "iuf":
            raise self._impossible("datatype", int(self.fields["datatype"]), "a type of voxels")
        return dtype

    @property
    def offset(self) -> int:
        """Where the voxels begin in their file; InputError where that is no such place."""
        offset = float(self.fields["vox_offset"])
        lowest = 0 if self._in_pair else self.fields.single_vox_offset
        if not (lowest <= offset < 1 << 40 and offset == int(offset)):
            raise self._impossible("vox_offset", f"{offset:g}", f"where the voxels begin, at {lowest} or later")
        return int(offset)

    @functools.cached_property
    def scaling(self) -> tuple[float, float]:
        """Slope and intercept of the values; InputError where the intercept of NIfTI is no number."""
        if self._is_analyze:  # SPM and others put them into fields that Analyze does not use
            slope, inter = (float(self.fields[name]) for name in ("scl_slope", "scl_inter"))
            return (slope, inter if math.isfinite(inter) else 0.0) if math.isfinite(slope) and slope else (1.0, 0.0)
        try:
            slope, inter = self.fields.get_slope_inter()
        except Exception as error:
            raise self._impossible("scl_inter", float(self.fields["scl_inter"]), "a number") from error
        return (1.0, 0.0) if slope is None else (slope, inter)

    @functools.cached_property
    def affine(self) -> np.ndarray:
        """From voxel indices (i, j, k) to LPS in mm, 4 x 4, in the space of the scan.

        That is the sform, unless it leads to a template and the qform does not: a transform to a template may scale.
        For a file without any transform it is the default of nibabel, which is a guess.

        Raises:
            InputError: it is sheared or impossible; the header's transforms or voxel sizes contradict each other.
        """
        return RAS_TO_LPS @ self._transforms[0]

    @property
    def findings(self) -> list[Finding]:
        """What is doubtful about :attr:`affine`."""
        taken, other, name = self._transforms
        if not name:
            return [NO_ORIENTATION]
        if other is None:
            return []
        distance = distance_mm(taken, other, self.size)
        if distance <= np.linalg.norm(taken[:3, :3], axis=0).max():
            return []
        return [
            Finding(
                "two-transforms",
                f"The file holds two transforms that differ by up to {distance:.0f} mm (qform and sform); "
                f"the {name} was used.",
                "Other programs may show the volume, and the result, in another place.",
            )
        ]

    @functools.cached_property
    def _transforms(self) -> tuple[np.ndarray, np.ndarray | None, str]:
        """The transform that is used, to RAS in mm; the other one, if there are two; and the name of the first."""
        if self._is_analyze:
            self._check_pixdim()
            return self._in_mm(self.fields.get_base_affine()), None, ""
        codes = {name: int(self.fields[f"{name}_code"]) for name in ("sform", "qform")}
        if not any(codes.values()):
            self._check_pixdim()
            return self._in_mm(self.fields.get_base_affine()), None, ""
        for name, code in codes.items():
            if not 0 <= code <= 5:
                raise self._impossible(f"{name}_code", code, "a kind of space")
        to_template = codes["sform"] > _NEWEST_SCANNER_CODE and 0 < codes["qform"] <= _NEWEST_SCANNER_CODE
        name = "qform" if to_template or not codes["sform"] else "sform"
        if name == "qform":
            self._check_pixdim()
            if float(self.fields["pixdim"][0]) not in (-1, 0, 1):
                raise self._impossible("pixdim[0]", float(self.fields["pixdim"][0]), "-1 or 1")
        found = {}
        if codes["sform"]:
            found["sform"] = self._in_mm(self.fields.get_sform())
        if codes["qform"]:
            found["qform"] = self._in_mm(self._qform())
        for another, transform in found.items():
            if another != name and not (np.isfinite(transform).all() and np.linalg.det(transform[:3, :3])):
                raise InputError(f"{self.path}: the header's directions ({another}) are impossible.", GEOMETRY_REMEDY)
        taken = found.pop(name)
        check_axes(taken, str(self.path), f"directions ({name})")
        self._check_sizes(taken, name)
        other = next(iter(found.values()), None)
        if other is not None and affines_contradict(taken, other):
            raise InputError(
                f"{self.path}: the header holds two transforms (sform and qform) that disagree about left and right.",
                "Find out which is true, and save the volume again from a program that shows it correctly.",
            )
        return taken, other, name

    def _in_mm(self, transform: np.ndarray) -> np.ndarray:
        units = 0 if self._is_analyze else int(self.fields["xyzt_units"]) & 7
        return np.diag([*[_UNITS_MM.get(units, 1.0)] * 3, 1.0]) @ transform

    def _qform(self) -> np.ndarray:
        """The qform; missing voxel sizes count as 1, and their signs are ignored."""
        plain = self.fields.copy()
        sizes = np.abs(plain["pixdim"][1:4])
        plain["pixdim"][1:4] = np.where(np.isfinite(sizes) & (sizes > 0), sizes, 1)
        plain["pixdim"][0] = -1 if plain["pixdim"][0] < 0 else 1
        try:
            return plain.get_qform()
        except Exception as error:  # nibabel's, of a quaternion that is longer than 1 or no numbers
            bcd = " ".join(f"{float(plain[f'quatern_{part}']):g}" for part in "bcd")
            raise InputError(
                f"{self.path}: the header's directions (quatern_b, c, d: {bcd}) are impossible.", GEOMETRY_REMEDY
            ) from error

    def _check_pixdim(self) -> None:
        """Raise InputError for invalid voxel sizes, if the header gives no others."""
        for axis, size in enumerate(self.fields["pixdim"][1:4].tolist(), start=1):
            if not (math.isfinite(size) and size > 0):
                raise self._impossible(f"pixdim[{axis}]", f"{size:g}", "the size of a voxel")

    def _check_sizes(self, transform: np.ndarray, name: str) -> None:
        """Raise InputError if sform and pixdim give different voxel sizes; 0 and NaN in pixdim are ignored.

        A negative size is a common mistake, which some programs misread as a mirror image.
        """
        sizes = np.abs(self.fields["pixdim"][1:4].astype(float)) * self._in_mm(np.eye(4))[0, 0]
        lengths = np.linalg.norm(transform[:3, :3], axis=0)
        stated = np.isfinite(sizes) & (sizes > 0)
        if (np.abs(lengths[stated] / sizes[stated] - 1) > _SAME_SIZE).any():
            one, other = (" x ".join(f"{length:.3g}" for length in three) for three in (lengths, sizes))
            raise InputError(
                f"{self.path}: the header holds two voxel sizes, {one} mm ({name}) and {other} mm (pixdim).",
                "Find out which is true, and save the volume again from a program that shows it correctly.",
            )

    def _impossible(self, field: str, value: object, meant: str) -> InputError:
        return InputError(
            f"{self.path}: the header's {field} is {value}, which is not {meant}.",
            "Correct it, or save the volume again from a program that shows it correctly.",
        )

    def image(self) -> sitk.Image:
        """Read the volume.

        Raises:
            InputError: the header is impossible, or the file is cut off or damaged.
            OutOfMemoryError: there is no room for it.
        """
        affine, findings, scaling, offset = self.affine, self.findings, self.scaling, self.offset
        shape, path = self.size[::-1], self.data_path
        if not path.is_file():
            raise InputError(f"{self.path}: its other half {path.name}, with the voxels, is not there.", _PAIR_REMEDY)
        check_room_for_voxels(path, math.prod(shape), self.dtype)
        with opened(path) as file:
            if (skipped := skip(file, offset)) < offset:
                raise self._impossible("vox_offset", offset, f"within the {skipped} bytes of the file")
            voxels = read_voxels([(file, path)], shape, self.dtype)
            more = check_remainder(file, path, voxels)
        return volume_image(scaled(voxels, *scaling), affine, str(self.path), [*findings, *more])


def _is_nifti(path: Path, block: bytes) -> bool:
    """Whether a file begins as NIfTI, or as Analyze if its name says so."""
    if block[344:348] in _MAGICS_1 or block[4:8] in _MAGICS_2:
        return True
    sizes = {int.from_bytes(block[:4], order) for order in ("little", "big")}
    return bool(sizes & {348, 540}) and path.name.lower().endswith(NIFTI_ENDINGS)


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
            block = file.read(_MGH_HEADER_BYTES)
        if len(block) < _MGH_HEADER_BYTES:
            raise InputError(f"{path} is cut off within its header.", CUT_OFF_REMEDY)
        version, oriented = int.from_bytes(block[:4], "big"), int.from_bytes(block[28:30], "big")
        if version != 1:
            raise InputError(f"{path}: its version is {version}, which is not a version of MGH.", CUT_OFF_REMEDY)
        return cls(path, MGHHeader(block, check=False), bool(oriented))

    @functools.cached_property
    def size(self) -> tuple[int, int, int]:
        """Voxels along (i, j, k); InputError where they are impossible, or there are several volumes."""
        dims = [int(n) for n in self.fields["dims"]]
        if min(dims) < 1:
            raise InputError(f"{self.path}: the header's dims are {dims}, which is not a size.", CUT_OFF_REMEDY)
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
                f"{self.path}: the header's type is {int(self.fields['type'])}, which is not a type of voxels.",
                CUT_OFF_REMEDY,
            ) from error

    @functools.cached_property
    def affine(self) -> np.ndarray:
        """From voxel indices to LPS in mm, 4 x 4; InputError where it is impossible."""
        sizes = self.fields["delta"].tolist()
        if not all(math.isfinite(size) and size > 0 for size in sizes):
            raise InputError(f"{self.path}: the header's delta is {sizes}, no size of voxels.", CUT_OFF_REMEDY)
        if self.size and not np.isfinite(self.fields["Pxyz_c"]).all():
            raise InputError(f"{self.path}: the header's Pxyz_c is not a position.", CUT_OFF_REMEDY)
        affine = RAS_TO_LPS @ self.fields.get_affine()
        check_axes(affine, str(self.path), "directions (Mdc)")
        return affine

    @property
    def findings(self) -> list[Finding]:
        """What is doubtful about :attr:`affine`."""
        return [] if self.oriented else [NO_ORIENTATION]

    def image(self) -> sitk.Image:
        """Read the volume; errors as of :meth:`NiftiHeader.image`."""
        affine, shape = self.affine, self.size[::-1]
        check_room_for_voxels(self.path, math.prod(shape), self.dtype)
        with opened(self.path) as file:
            file.read(_MGH_HEADER_BYTES)
            voxels = read_voxels([(file, self.path)], shape, self.dtype)
            skip(file, _MGH_FOOTER_BYTES)  # to the end: that verifies the checksum
        return volume_image(voxels, affine, str(self.path), self.findings)
