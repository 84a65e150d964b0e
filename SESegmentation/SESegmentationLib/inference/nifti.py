"""What a NIfTI header says, read by ourselves.

ITK reads a cut-off ``.nii.gz`` without complaint, drops shear silently, and when the header's two transforms (sform and
qform) differ it takes one of them. All three can only be noticed in the header.

Source: the NIfTI-1.1 and NIfTI-2 data format, https://nifti.nimh.nih.gov.
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError

#: name: (type, offset) of the fields that matter, for both versions
_VERSION_1 = {
    "dim": ("8i2", 40),
    "bitpix": ("i2", 72),
    "pixdim": ("8f4", 76),
    "vox_offset": ("f4", 108),
    "qform_code": ("i2", 252),
    "sform_code": ("i2", 254),
    "quatern": ("3f4", 256),
    "qoffset": ("3f4", 268),
    "srow": ("(3,4)f4", 280),
}
_VERSION_2 = {
    "dim": ("8i8", 16),
    "bitpix": ("i2", 14),
    "pixdim": ("8f8", 104),
    "vox_offset": ("i8", 168),
    "qform_code": ("i4", 344),
    "sform_code": ("i4", 348),
    "quatern": ("3f8", 352),
    "qoffset": ("3f8", 376),
    "srow": ("(3,4)f8", 400),
}
_NEWEST_SCANNER_CODE = 2  # 1: scanner, 2: aligned to another scan; 3 and 4: warped to a template
#: axes less perpendicular than this are sheared
SHEAR_DEGREES = 0.2
_CUT_OFF_REMEDY = "Copy or download it again: the transfer was probably cut off."


@dataclass(frozen=True)
class NiftiHeader:
    """The parts of a NIfTI header that say how long the file is and where the voxels are.

    Attributes:
        data_bytes: bytes of voxel data.
        offset: where they begin in the data file.
        sform: 3 x 4, voxel indices to RAS in mm, or None where the header gives none.
        sform_code: what the sform leads to.
        qform: the same from the quaternion, or None.
        in_pair: whether the voxels are in an .img file of their own.
    """

    data_bytes: int
    offset: int
    sform: np.ndarray | None
    sform_code: int
    qform: np.ndarray | None
    in_pair: bool

    @classmethod
    def read(cls, path: Path) -> NiftiHeader | None:
        """The header of the file ``path``; None where it is no NIfTI file, whatever its name."""
        try:
            with _opened(path) as file:
                return cls.parse(file.read(540))
        except (OSError, EOFError, zlib.error):
            return None

    @classmethod
    def parse(cls, block: bytes) -> NiftiHeader | None:
        """The header in the first bytes of a file; None where there is none."""
        if len(block) >= 348 and block[344:348] in (b"n+1\0", b"ni1\0"):
            fields, in_pair = _VERSION_1, block[345:346] == b"i"
        elif len(block) >= 540 and block[4:8] in (b"n+2\0", b"ni2\0"):
            fields, in_pair = _VERSION_2, block[5:6] == b"i"
        else:
            return None
        order = "<" if int.from_bytes(block[:4], "little") in (348, 540) else ">"
        layout = {
            "names": list(fields),
            "formats": [_ordered(kind, order) for kind, _ in fields.values()],
            "offsets": [offset for _, offset in fields.values()],
        }
        entry = np.frombuffer(block, np.dtype(layout), count=1)[0]
        axes = min(max(int(entry["dim"][0]), 0), 7)
        voxels = math.prod(max(int(n), 1) for n in entry["dim"][1 : axes + 1])
        return cls(
            data_bytes=voxels * int(entry["bitpix"]) // 8,
            offset=int(entry["vox_offset"]),
            sform=entry["srow"].astype(float) if entry["sform_code"] > 0 else None,
            sform_code=int(entry["sform_code"]),
            qform=_qform(entry) if entry["qform_code"] > 0 else None,
            in_pair=in_pair,
        )

    @property
    def scan(self) -> np.ndarray | None:
        """The transform, 3 x 4, that says where the scan was taken; None where the header has none.

        That is the sform, unless it leads to a template and there is a qform: the way to a template may be sheared.
        """
        to_template = self.sform_code > _NEWEST_SCANNER_CODE and self.qform is not None
        return self.qform if self.sform is None or to_template else self.sform

    def check(self, path: Path) -> None:
        """Refuse a file that cannot be used as it stands.

        Raises:
            InputError: the file is cut off or corrupt, its affine is sheared or singular, or its two transforms
                disagree about which way the axes run.
        """
        self._check_length(path.with_suffix(".img") if self.in_pair and path.suffix == ".hdr" else path)
        if self.scan is not None:
            shear = shear_degrees(self.scan[:, :3])
            if shear > SHEAR_DEGREES:
                raise InputError(*sheared(str(path), shear))
        if self.sform is not None and self.qform is not None and _contradict(self.sform, self.qform):
            raise InputError(
                f"{path}: the header holds two transforms (sform and qform) that disagree about left and right.",
                "Find out which is true, and save the volume again from a program that shows it correctly.",
            )

    def _check_length(self, data: Path) -> None:
        try:
            if _is_gzip(data):
                length = 0
                with gzip.open(data) as file:
                    while block := file.read(1 << 22):  # to the end: that verifies the checksum
                        length += len(block)
            else:
                length = data.stat().st_size
        except (EOFError, zlib.error, OSError) as error:
            raise InputError(f"{data} is cut off or corrupt: {error}.", _CUT_OFF_REMEDY) from error
        expected = self.offset + self.data_bytes
        if length < expected:
            raise InputError(f"{data} is cut off: it holds {length} bytes of {expected}.", _CUT_OFF_REMEDY)


def shear_degrees(axes: np.ndarray) -> float:
    """Largest deviation of the angle between two axes (columns, 3 x 3) from 90 degrees; 90 if they are singular."""
    lengths = np.linalg.norm(axes, axis=0)
    if not np.isfinite(lengths).all() or lengths.min() <= 0:
        return 90.0
    cosines = (axes / lengths).T @ (axes / lengths)
    return math.degrees(math.asin(min(np.abs(cosines[np.triu_indices(3, 1)]).max(), 1.0)))


def sheared(name: str, degrees: float) -> tuple[str, str]:
    """Cause and remedy for a volume whose axes are not perpendicular."""
    return (
        f"{name}: the axes are not perpendicular (sheared by {degrees:.1f} degrees, as with a tilted gantry).",
        "Resample it to perpendicular axes first, in Slicer with the module Resample Scalar/Vector/DWI Volume.",
    )


def _contradict(sform: np.ndarray, qform: np.ndarray) -> bool:
    """Whether one is the mirror image of the other, or they are rotated by more than 45 degrees."""
    if max(shear_degrees(sform[:, :3]), shear_degrees(qform[:, :3])) >= 90:
        return True
    between = np.linalg.solve(_rotation(sform), _rotation(qform))
    return np.linalg.det(between) < 0 or (np.trace(between) - 1) / 2 < math.cos(math.radians(45))


def _rotation(affine: np.ndarray) -> np.ndarray:
    """The orthogonal matrix next to the affine's."""
    left, _, right = np.linalg.svd(affine[:, :3] / np.linalg.norm(affine[:, :3], axis=0))
    return left @ right


def _qform(entry: np.void) -> np.ndarray:
    b, c, d = entry["quatern"].astype(float)
    a = math.sqrt(max(1 - b * b - c * c - d * d, 0.0))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    sizes = entry["pixdim"][1:4].astype(float) * [1, 1, -1 if entry["pixdim"][0] < 0 else 1]
    return np.column_stack([rotation * sizes, entry["qoffset"].astype(float)])


def _ordered(kind: str, order: str) -> str:
    shape, _, code = kind.rpartition(")")
    return f"{shape}){order}{code}" if shape else f"{kind[:-2]}{order}{kind[-2:]}"


def _is_gzip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _opened(path: Path):  # noqa: ANN202 - a binary file, compressed or not
    return gzip.open(path) if _is_gzip(path) else open(path, "rb")
