"""NIfTI headers: both byte orders, and everything ITK passes over in silence."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from SESegmentationLib.errors import InputError
from SESegmentationLib.io import voxel_data
from SESegmentationLib.io.neuroimaging import NiftiHeader
from SESegmentationLib.io.reading import NOT_NUMBERS, read_volume
from SESegmentationLib.io.volume_image import shear_degrees

SIZE = (5, 6, 7)
SFORM = ((-2.0, 0.0, 0.0, 10.0), (0.0, 3.0, 0.0, -20.0), (0.0, 0.0, 4.0, 30.0))
#: offsets and types; the specification's names
FIELDS = {
    "sizeof_hdr": (0, "i"), "dim": (40, "8h"), "datatype": (70, "h"), "bitpix": (72, "h"), "pixdim": (76, "8f"),
    "vox_offset": (108, "f"), "xyzt_units": (123, "B"), "qform_code": (252, "h"), "sform_code": (254, "h"),
    "quatern": (256, "3f"), "qoffset": (268, "3f"), "srow": (280, "12f"), "magic": (344, "4s"),
}  # fmt: skip


def nifti_bytes(order: str = "<", values: np.ndarray | None = None, **changes: Any) -> bytes:
    """A whole file: 2 x 3 x 4 mm voxels, x to the left, the same sform and qform."""
    values = np.arange(math.prod(SIZE), dtype=np.int16).reshape(SIZE[::-1]) if values is None else values
    header = {
        "sizeof_hdr": 348,
        "dim": (3, *SIZE, 1, 1, 1, 1),
        "datatype": {"int16": 4, "float32": 16, "float64": 64}[values.dtype.name],
        "bitpix": values.dtype.itemsize * 8,
        "pixdim": (-1.0, 2.0, 3.0, 4.0, 1.0, 1.0, 1.0, 1.0),
        "vox_offset": 352,
        "xyzt_units": 2,
        "qform_code": 1,
        "sform_code": 1,
        "quatern": (0.0, 1.0, 0.0),  # half a turn about y; pixdim[0] mirrors k back
        "qoffset": tuple(row[3] for row in SFORM),
        "srow": tuple(np.ravel(SFORM)),
        "magic": b"n+1\0",
    }
    block = bytearray(352)
    for name, entry in (header | changes).items():
        position, kind = FIELDS[name]
        struct.pack_into(order + kind, block, position, *(entry if isinstance(entry, tuple) else (entry,)))
    return bytes(block) + values.astype(values.dtype.newbyteorder(order)).tobytes()


def write(path: Path, **changes: Any) -> Path:
    content = nifti_bytes(**changes)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as raised:
        read_volume(path)
    assert raised.value.remedy
    return raised.value.cause


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders(tmp_path, order):
    path = write(tmp_path / "a.nii.gz", order=order)
    header = NiftiHeader.read(path)
    assert (header.size, header.offset) == (SIZE, 352)
    np.testing.assert_allclose(header.affine[:3], SFORM * np.array([[-1], [-1], [1]]))
    image = read_volume(path)
    assert image.GetSpacing() == pytest.approx((2, 3, 4))
    assert image.GetOrigin() == pytest.approx((-10, 20, 30))
    assert sitk.GetArrayFromImage(image).ravel().tolist() == list(range(math.prod(SIZE)))


@settings(max_examples=20, deadline=None)
@given(
    axis=st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda axis: np.linalg.norm(axis) > 0.1),
    degrees=st.floats(-180, 180),
    mirror=st.sampled_from([1, -1]),
)
def test_the_quaternion_gives_the_directions_that_itk_wrote(tmp_path_factory, axis, degrees, mirror):
    turn = sitk.VersorTransform(axis, math.radians(degrees))
    axes = np.reshape(turn.GetMatrix(), (3, 3)) * [1, 1, mirror]
    image = sitk.GetImageFromArray(np.zeros(SIZE[::-1], np.uint8))
    image.SetSpacing((0.5, 1.0, 2.0))
    image.SetOrigin((5, 6, 7))
    image.SetDirection(axes.ravel().tolist())
    path = tmp_path_factory.mktemp("nifti") / "a.nii"
    sitk.WriteImage(image, str(path))
    content = bytearray(path.read_bytes())
    content[254:256] = b"\0\0"  # without the sform
    path.write_bytes(content)
    expected = np.column_stack([axes * (0.5, 1.0, 2.0), (5, 6, 7)])
    # near half a turn single precision leaves little of the quaternion's real part
    np.testing.assert_allclose(NiftiHeader.read(path).affine[:3], expected, atol=3e-3)


def test_other_files_have_no_header(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"x" * 999)
    assert NiftiHeader.read(tmp_path / "a.nii") is None
    (tmp_path / "short.nii").write_bytes(nifti_bytes()[:300])
    assert "cut off within its header" in refusal(tmp_path / "short.nii")
    (tmp_path / "cut.nii.gz").write_bytes(gzip.compress(nifti_bytes())[:60])
    assert "cut off" in refusal(tmp_path / "cut.nii.gz")


@pytest.mark.parametrize("lost", [1, 200])
@pytest.mark.parametrize("kind", ["plain", "compressed", "compressed before"])
def test_cut_off_files_are_refused(tmp_path, kind, lost):
    """Also where the file was cut off before it was compressed."""
    content = nifti_bytes()
    content = {
        "plain": content[:-lost],
        "compressed": gzip.compress(content, 0)[:-lost],
        "compressed before": gzip.compress(content[:-lost]),
    }[kind]
    path = tmp_path / ("a.nii" if kind == "plain" else "a.nii.gz")
    path.write_bytes(content)
    assert "cut off" in refusal(path)


def test_corrupt_compression_is_refused(tmp_path):
    content = bytearray(gzip.compress(nifti_bytes(), 0))
    content[500] ^= 1  # a voxel: only the checksum tells
    (tmp_path / "a.nii.gz").write_bytes(content)
    assert "corrupt" in refusal(tmp_path / "a.nii.gz")


def test_a_wrong_bitpix_does_not_hide_that_voxels_are_missing(tmp_path):
    (tmp_path / "a.nii").write_bytes(nifti_bytes(bitpix=0)[:-9])
    assert "cut off" in refusal(tmp_path / "a.nii")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_no_number_is_counted_in_every_block_but_not_behind_the_voxels(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(voxel_data, "_BLOCK_BYTES", 64)
    values = np.ones(SIZE[::-1], dtype)
    values.ravel()[[0, 17, -1]] = np.nan, np.inf, -np.inf
    behind = np.full(40, np.nan, dtype).tobytes()
    for path, pack in ((tmp_path / "a.nii", bytes), (tmp_path / "a.nii.gz", gzip.compress)):
        path.write_bytes(pack(nifti_bytes(values=values) + behind))
        assert read_volume(path).GetMetaData(NOT_NUMBERS) == "3"
        path.write_bytes(pack(nifti_bytes(order=">", values=values)))
        assert read_volume(path).GetMetaData(NOT_NUMBERS) == "3"


SHEARED = ((-2.0, 0.3, 0.0, 10.0), (0.0, 2.985, 0.0, -20.0), (0.0, 0.0, 4.0, 30.0))
MIRRORED = ((2.0, 0.0, 0.0, 0.0), *SFORM[1:])


def flat(rows: tuple[tuple[float, ...], ...]) -> tuple[float, ...]:
    return tuple(np.ravel(rows))


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"srow": flat(SHEARED)}, "sheared by 5.7 degrees"),
        ({"srow": flat(SHEARED), "qform_code": 0}, "sheared by 5.7 degrees"),
        ({"srow": flat(SHEARED), "qform_code": 0, "sform_code": 4}, "sheared by 5.7 degrees"),
        ({"srow": flat(MIRRORED)}, "disagree about left and right"),
        ({"srow": flat(MIRRORED), "sform_code": 4}, "disagree about left and right"),
        ({"srow": flat(SFORM), "pixdim": (-1.0, 1.0, 3.0, 4.0, 1.0, 1.0, 1.0, 1.0)}, "2 x 3 x 4 mm (sform) and 1 x 3"),
        ({"srow": (0.0,) * 12}, "impossible"),
        ({"srow": (float("nan"),) * 12}, "impossible"),
        ({"quatern": (float("nan"),) * 3}, "impossible"),
        ({"vox_offset": float("nan")}, "vox_offset is nan"),
        ({"vox_offset": float("inf")}, "vox_offset is inf"),
        ({"vox_offset": 0.0}, "vox_offset is 0"),
        ({"vox_offset": 1e6}, "vox_offset is 1000000"),
        ({"dim": (3, 32767, 32767, 32767, 1, 1, 1, 1)}, "cut off"),
        ({"dim": (0, *SIZE, 1, 1, 1, 1)}, "dim[0] is 0"),
        ({"dim": (3, 5, -6, 7, 1, 1, 1, 1)}, "dim[2] is -6"),
        ({"datatype": 99}, "datatype is 99"),
        ({"magic": b"n+9\0"}, "magic is 'n+9"),
        ({"pixdim": (1.0, 2.0, 3.0, 0.0, 1.0, 1.0, 1.0, 1.0), "sform_code": 0}, "pixdim[3] is 0"),
        ({"pixdim": (1.0, 2.0, -3.0, 4.0, 1.0, 1.0, 1.0, 1.0), "sform_code": 0}, "pixdim[2] is -3"),
        ({"pixdim": (7.0, 2.0, 3.0, 4.0, 1.0, 1.0, 1.0, 1.0), "sform_code": 0}, "pixdim[0] is 7"),
        ({"qform_code": 99}, "qform_code is 99"),
        ({"xyzt_units": 1}, "another unit than mm"),
    ],
)
def test_nonsense_in_the_header_is_refused(tmp_path, changes, cause):
    assert cause in refusal(write(tmp_path / "a.nii", **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"srow": flat(SHEARED), "sform_code": 4},  # the way to a template may be sheared
        {"sform_code": 0},
        {"qform_code": 0},
        {
            "pixdim": (-1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
            "srow": flat(((-1.0, 0, 0, 9), (0, 1, 0, 9), (0, 0, 1, 9))),
        },
    ],
)
def test_what_only_looks_like_nonsense_is_read(tmp_path, changes):
    path = write(tmp_path / "a.nii", **changes)
    header = NiftiHeader.read(path)
    image = read_volume(path)
    corner = image.TransformContinuousIndexToPhysicalPoint(np.subtract(SIZE, 1.0).tolist())
    expected = header.affine[:3] @ [*np.subtract(SIZE, 1), 1]
    assert corner == pytest.approx(expected, abs=1e-3)


def test_an_image_file_is_checked_by_its_header_file(tmp_path):
    content = nifti_bytes(magic=b"ni1\0", vox_offset=0.0, srow=flat(SHEARED))
    (tmp_path / "a.hdr").write_bytes(content[:348])
    (tmp_path / "a.img").write_bytes(content[352:])
    for name in ("a.hdr", "a.img"):
        assert "sheared" in refusal(tmp_path / name)


@given(
    lengths=st.tuples(*[st.floats(0.1, 10)] * 3),
    degrees=st.floats(-60, 60),
    turn=st.floats(-180, 180),
)
def test_shear_is_an_angle_whatever_the_sizes_and_the_rotation(lengths, degrees, turn):
    """The second axis leans by ``degrees`` towards the first."""
    lean = math.radians(degrees)
    axes = np.array([[1, math.sin(lean), 0], [0, math.cos(lean), 0], [0, 0, 1]]) * lengths
    rotation = np.reshape(sitk.VersorTransform((1, 2, 3), math.radians(turn)).GetMatrix(), (3, 3))
    assert shear_degrees(rotation @ axes) == pytest.approx(abs(degrees), abs=1e-5)


def test_singular_axes_are_sheared_by_90_degrees():
    assert shear_degrees(np.diag([1.0, 1.0, 0.0])) == 90
    assert shear_degrees(np.full((3, 3), np.nan)) == 90
    assert shear_degrees(np.array([[1.0, 1.0, 0], [0, 0, 0], [0, 0, 1]])) == pytest.approx(90)
