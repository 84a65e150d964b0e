"""What a NIfTI header says, read by ourselves.

ITK reads a cut-off ``.nii.gz`` without complaint, drops shear silently, makes 0 of what is no number, takes one of the
header's two transforms (sform and qform) where they differ, and one of its two voxel sizes (sform and pixdim). All of
it can only be noticed in the file itself.

Source: the NIfTI-1.1 data format, https://nifti.nimh.nih.gov.
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError

#: name: (type, offset) of the fields that matter
_FIELDS = {
    "dim": ("8i2", 40),
    "datatype": ("i2", 70),
    "bitpix": ("i2", 72),
    "pixdim": ("8f4", 76),
    "vox_offset": ("f4", 108),
    "qform_code": ("i2", 252),
    "sform_code": ("i2", 254),
    "quatern": ("3f4", 256),
    "qoffset": ("3f4", 268),
    "srow": ("(3,4)f4", 280),
}
#: bytes of a voxel by datatype, for files whose bitpix is wrong; ITK goes by the datatype too
_VOXEL_BYTES = {2: 1, 256: 1, 4: 2, 512: 2, 8: 4, 16: 4, 768: 4, 64: 8, 1024: 8, 1280: 8, 32: 8, 128: 3}
_FLOATS = {16: "f4", 64: "f8"}
_BLOCK_BYTES = 1 << 22
#: voxels in the same file come after it
_HEADER_BYTES = 348
_NEWEST_SCANNER_CODE = 2  # 1: scanner, 2: aligned to another scan; 3 and 4: warped to a template
#: axes less perpendicular than this are sheared
SHEAR_DEGREES = 0.2
#: relative difference of two voxel sizes that rounding explains
_SAME_SIZE = 0.01
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
        sizes: mm, edges of a voxel along its axes, as they stand apart from the sform.
        float_type: numpy's name of the type of voxels that can be no numbers, or None.
        in_pair: whether the voxels are in an .img file of their own.
    """

    data_bytes: int
    offset: int
    sform: np.ndarray | None
    sform_code: int
    qform: np.ndarray | None
    sizes: np.ndarray
    float_type: str | None
    in_pair: bool

    @classmethod
    def read(cls, path: Path) -> NiftiHeader | None:
        """The header of the file ``path``, or of the pair it is half of; None where it is no NIfTI file.

        Raises:
            InputError: it is NIfTI-2, which ITK does not know.
        """
        try:
            with _opened(_half(path, "hdr")) as file:
                block = file.read(_HEADER_BYTES)
        except (OSError, EOFError, zlib.error):
            return None
        if block[4:8] in (b"n+2\0", b"ni2\0"):
            raise InputError(f"{path} is NIfTI-2, which cannot be read here.", "Save it as NIfTI-1 or as NRRD.")
        return cls.parse(block)

    @classmethod
    def parse(cls, block: bytes) -> NiftiHeader | None:
        """The header in the first bytes of a file; None where there is none."""
        if len(block) < _HEADER_BYTES or block[344:348] not in (b"n+1\0", b"ni1\0"):
            return None
        order = "<" if int.from_bytes(block[:4], "little") == _HEADER_BYTES else ">"
        layout = {
            "names": list(_FIELDS),
            "formats": [_ordered(kind, order) for kind, _ in _FIELDS.values()],
            "offsets": [offset for _, offset in _FIELDS.values()],
        }
        entry = np.frombuffer(block, np.dtype(layout), count=1)[0]
        axes = min(max(int(entry["dim"][0]), 0), 7)
        voxels = math.prod(max(int(n), 1) for n in entry["dim"][1 : axes + 1])
        datatype = int(entry["datatype"])
        float_type = _FLOATS.get(datatype)
        return cls(
            data_bytes=voxels * _VOXEL_BYTES.get(datatype, int(entry["bitpix"]) // 8),
            offset=int(entry["vox_offset"]) if np.isfinite(entry["vox_offset"]) else -1,
            sform=entry["srow"].astype(float) if entry["sform_code"] > 0 else None,
            sform_code=int(entry["sform_code"]),
            qform=_qform(entry) if entry["qform_code"] > 0 else None,
            sizes=_sizes(entry),
            float_type=float_type and order + float_type,
            in_pair=block[344:347] == b"ni1",
        )

    @property
    def scan(self) -> np.ndarray | None:
        """The transform, 3 x 4, that says where the scan was taken; None where the header has none.

        That is the sform, unless it leads to a template and there is a qform: the way to a template may be sheared.
        """
        to_template = self.sform_code > _NEWEST_SCANNER_CODE and self.qform is not None
        return self.qform if self.sform is None or to_template else self.sform

    def check(self, path: Path) -> int:
        """Refuse a file that cannot be used as it stands.

        Returns:
            How many voxels are no numbers (NaN or infinite).

        Raises:
            InputError: the file is cut off or corrupt, its affine is sheared or singular, or its two transforms
                disagree about which way the axes run, or about the voxels' size.
        """
        if self.offset < (0 if self.in_pair else _HEADER_BYTES):
            raise InputError(f"{path} is damaged: its header does not say where the voxels are.", _CUT_OFF_REMEDY)
        not_numbers = self._check_data(_half(path, "img") if self.in_pair else path)
        transforms = [transform for transform in (self.sform, self.qform) if transform is not None]
        if any(shear_degrees(transform[:, :3]) >= 90 for transform in transforms):
            raise InputError(
                f"{path}: the header's directions (sform or qform) are impossible.",
                "Correct them, and save the volume again from a program that shows it correctly.",
            )
        if self.scan is not None:
            shear = shear_degrees(self.scan[:, :3])
            if shear > SHEAR_DEGREES:
                raise InputError(*sheared(str(path), shear))
            lengths = np.linalg.norm(self.scan[:, :3], axis=0)
            if (np.abs(lengths / self.sizes - 1) > _SAME_SIZE).any():
                one, other = (" x ".join(f"{length:.3g}" for length in sizes) for sizes in (lengths, self.sizes))
                raise InputError(
                    f"{path}: the header holds two voxel sizes, {one} mm (sform) and {other} mm (pixdim).",
                    "Find out which is true, and save the volume again from a program that shows it correctly.",
                )
        if len(transforms) == 2 and _contradict(*transforms):
            raise InputError(
                f"{path}: the header holds two transforms (sform and qform) that disagree about left and right.",
                "Find out which is true, and save the volume again from a program that shows it correctly.",
            )
        return not_numbers

    def _check_data(self, data: Path) -> int:
        """Raise InputError unless ``data`` holds all voxels; how many of them are no numbers."""
        expected = self.offset + self.data_bytes
        try:
            if self.float_type or _is_gzip(data):
                length, not_numbers = self._read_through(data)
            else:
                length, not_numbers = data.stat().st_size, 0
        except (EOFError, zlib.error, OSError) as error:
            raise InputError(f"{data} is cut off or corrupt: {error}.", _CUT_OFF_REMEDY) from error
        if length < expected:
            raise InputError(f"{data} is cut off: it holds {length} bytes of {expected}.", _CUT_OFF_REMEDY)
        return not_numbers

    def _read_through(self, data: Path) -> tuple[int, int]:
        """Length of ``data`` in bytes, and how many of its voxels are no numbers."""
        not_numbers = 0
        with _opened(data) as file:
            length = len(file.read(self.offset))
            left = self.data_bytes
            while block := file.read(_BLOCK_BYTES):  # to the end: that verifies the checksum
                length += len(block)
                if self.float_type:
                    size = np.dtype(self.float_type).itemsize
                    voxels = np.frombuffer(block, self.float_type, count=min(len(block), max(left, 0)) // size)
                    not_numbers += voxels.size - int(np.isfinite(voxels).sum())
                    left -= len(block)
        return length, not_numbers


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
    third = -1 if entry["pixdim"][0] < 0 else 1
    return np.column_stack([rotation * _sizes(entry) * [1, 1, third], entry["qoffset"].astype(float)])


def _sizes(entry: np.void) -> np.ndarray:
    """Voxel edges in mm; 1 where the header holds no size, as other programs take it."""
    sizes = entry["pixdim"][1:4].astype(float)
    return np.where(np.isfinite(sizes) & (sizes > 0), sizes, 1.0)


def _ordered(kind: str, order: str) -> str:
    shape, _, code = kind.rpartition(")")
    return f"{shape}){order}{code}" if shape else f"{kind[:-2]}{order}{kind[-2:]}"


def _half(path: Path, kind: str) -> Path:
    """The "hdr" or the "img" half of the pair that ``path`` is a half of; any other path as it is."""
    for ending in (".gz", ""):
        for half in (".hdr", ".img"):
            if path.name.endswith(half + ending):
                return path.with_name(path.name.removesuffix(half + ending) + f".{kind}{ending}")
    return path


def _is_gzip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _opened(path: Path):  # noqa: ANN202 - a binary file, compressed or not
    return gzip.open(path) if _is_gzip(path) else open(path, "rb")
