"""Volumes and label maps from files: what is refused, in which words, and what is taken."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.errors import InputError
from SESegmentationLib.io import formats
from SESegmentationLib.io.reading import NOT_NUMBERS, check_volume, read_label_volume, read_volume

SHAPE = (6, 7, 8)


def noise(shape: tuple[int, ...] = SHAPE, dtype: type = np.int16, vector: bool = False) -> sitk.Image:
    values = np.random.default_rng(0).integers(1, 99, shape).astype(dtype)
    return sitk.GetImageFromArray(values, isVector=vector)


def changed(change: Callable[[sitk.Image], object]) -> sitk.Image:
    image = noise(dtype=np.float64)
    change(image)
    return image


def refusal(call: Callable[[], object]) -> str:
    """The cause of the InputError that ``call`` must raise, with one line of cause and one of remedy."""
    with pytest.raises(InputError) as raised:
        call()
    assert len(raised.value.cause.splitlines()) == len(raised.value.remedy.splitlines()) == 1
    return raised.value.cause


SHEARED = (1.0, 0.1, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda: noise((7, 8)), "single slice"),
        (lambda: noise((1, 7, 8)), "single slice"),
        (lambda: noise((3, 6, 7, 8)), "4-dimensional, with 3 frames"),
        (lambda: noise((6, 7, 8, 3), np.uint8, vector=True), "3 values in each voxel"),
        (lambda: sitk.Image(4, 4, 4, sitk.sitkComplexFloat32), "complex"),
        (lambda: sitk.Image(4, 4, 4, sitk.sitkInt16) + 7, "every voxel is 7"),
        (lambda: noise(dtype=np.float64) * 1e300, "as large as 1e+302"),
        (lambda: noise(dtype=np.float64) * -1e300, "as large as 1e+302"),
        (lambda: changed(lambda image: image.SetDirection(SHEARED)), "not perpendicular (sheared by 5.7 degrees"),
        (lambda: changed(lambda image: image.SetOrigin((np.nan, 0, 0))), "impossible geometry"),
        (lambda: changed(lambda image: image.SetSpacing((1e-12, 1, 1))), "impossible geometry"),
        (lambda: changed(lambda image: image.SetSpacing((1000, 1, 1))), "8 m long"),
    ],
)
def test_what_cannot_be_segmented_is_refused(make, cause):
    found = refusal(lambda: check_volume(make(), "head.nrrd"))
    assert found.startswith("head.nrrd")
    assert cause in found


def test_a_good_volume_is_returned_as_it_is():
    image = noise()
    assert check_volume(image) is image


@pytest.mark.parametrize("shape", [(1, *SHAPE), (1, 1, *SHAPE)])
def test_a_single_frame_is_taken_out(shape):
    image = noise(shape)
    image.SetSpacing((2.0, 3.0, 4.0, *[1.0] * (len(shape) - 3)))
    image.SetMetaData("qform_code", "1")
    volume = check_volume(image)
    assert volume.GetSize() == (8, 7, 6)
    assert volume.GetSpacing() == (2.0, 3.0, 4.0)
    assert volume.GetMetaData("qform_code") == "1"
    np.testing.assert_array_equal(sitk.GetArrayFromImage(volume), sitk.GetArrayFromImage(image).reshape(SHAPE))


def test_vectors_of_one_component_are_taken_as_scalars():
    image = noise((*SHAPE, 1), np.uint8, vector=True)
    volume = check_volume(image)
    assert volume.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_array_equal(sitk.GetArrayFromImage(volume).ravel(), sitk.GetArrayFromImage(image).ravel())


def test_denormal_directions_are_made_zero():
    """ITK's inverse of such a matrix is NaN, and nothing would be found."""
    image = noise()
    image.SetDirection((1, 1e-310, 0, -1e-310, 1, 0, 0, 0, 1))
    checked = check_volume(image)
    assert checked.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert checked.TransformPhysicalPointToIndex((1, 2, 3)) == (1, 2, 3)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_no_number_is_0_and_counted(tmp_path, ending, dtype):
    values = np.random.default_rng(0).normal(5, 1, SHAPE).astype(dtype)
    values[0, 0, :3] = np.nan
    values[5, 6, 7] = np.inf
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((1, 2, 3))
    sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
    volume = read_volume(tmp_path / f"a{ending}")
    assert volume.GetMetaData(NOT_NUMBERS) == "4"
    assert volume.GetSpacing() == (1, 2, 3)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(volume), np.where(np.isfinite(values), values, 0))


def test_what_is_no_number_is_no_water_in_ct():
    values = np.random.default_rng(0).normal(30, 10, SHAPE).astype(np.float32)
    values[:2], values[2], values[3, 0, 0] = np.nan, -1000, -30000
    read = sitk.GetArrayFromImage(check_volume(sitk.GetImageFromArray(values)))
    assert (read[:2] == -1000).all()
    np.testing.assert_array_equal(read[2:], values[2:])


def test_nothing_but_nan_is_empty(tmp_path):
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkFloat32) + float("nan"), str(tmp_path / "a.nrrd"))
    assert "every voxel is NaN or infinite" in refusal(lambda: read_volume(tmp_path / "a.nrrd"))


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".nhdr", ".hdr", ".img", ".img.gz"])
def test_formats_are_read_and_refused_where_they_are_cut_off(tmp_path, ending):
    """Every file of a format that has several."""
    image = noise()
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(image, str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(path)), sitk.GetArrayFromImage(image))
    for file in list(tmp_path.iterdir()):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) * 6 // 10])
        assert str(path.with_suffix("")) in refusal(lambda: read_volume(path))
        file.write_bytes(whole)


@pytest.mark.parametrize("name", ["text.nii.gz", "text.nii", "text.nrrd", "text.mha", "text.dcm", "text"])
def test_text_by_another_name_is_no_volume(tmp_path, name, capfd):
    (tmp_path / name).write_text("Dear colleague, " * 99, encoding="utf-8")
    assert "whatever its name says" in refusal(lambda: read_volume(tmp_path / name))
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"  # nothing of ITK's, and the error stream is back


def test_compressed_text_is_no_volume(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"Dear colleague, " * 99))
    assert "whatever its name says" in refusal(lambda: read_volume(tmp_path / "a.nii.gz"))


@pytest.mark.parametrize("ending", [".tif", ".png", ".vtk", ".gipl"])
def test_formats_without_directions_are_refused(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(noise((7, 8), np.uint8) if ending == ".png" else noise(dtype=np.uint8), str(path))
    assert "does not say how its axes lie" in refusal(lambda: read_volume(path))


def test_a_sheared_nrrd_is_refused(tmp_path):
    sitk.WriteImage(changed(lambda image: image.SetDirection(SHEARED)), str(tmp_path / "a.nrrd"))
    assert "sheared by 5.7 degrees" in refusal(lambda: read_volume(tmp_path / "a.nrrd"))


def test_files_that_are_not_there_or_empty_are_refused(tmp_path):
    assert "There is no file" in refusal(lambda: read_volume(tmp_path / "absent.nii.gz"))
    (tmp_path / "empty.nii.gz").touch()
    assert "empty (0 bytes)" in refusal(lambda: read_volume(tmp_path / "empty.nii.gz"))
    (tmp_path / "folder").mkdir()
    assert "no DICOM" in refusal(lambda: read_volume(tmp_path / "folder"))
    assert "cannot be opened" in refusal(lambda: read_volume(tmp_path / ("a" * 999)))


@pytest.mark.parametrize("name", ["x.nii.gz", "x.mgz", "x.mha", "x.nrrd", "x.dcm"])
def test_what_was_not_fetched_is_refused_with_how_to_get_it(tmp_path, name):
    path = tmp_path / name
    path.symlink_to(Path(".git", "annex", "objects", "MD5E-s9--0.nii.gz"))
    with pytest.raises(InputError, match="which is not there") as caught:
        read_volume(path)
    assert "datalad get" in caught.value.remedy
    path.unlink()
    for text, kind in (("/annex/objects/MD5E-s9--0", "git-annex"), ("version https://git-lfs.github.com/v1", "LFS")):
        path.write_text(f"{text}\n", encoding="utf-8")
        with pytest.raises(InputError, match=f"only a .*{kind} pointer"):
            read_volume(path)


def test_unreadable_files_are_refused(tmp_path, monkeypatch):
    """Permissions themselves mean nothing to the superuser, who may run these tests."""
    sitk.WriteImage(noise(), str(tmp_path / "a.nrrd"))
    monkeypatch.setattr(formats.os, "access", lambda path, mode: False)
    assert "may not be read" in refusal(lambda: read_volume(tmp_path / "a.nrrd"))


def write_labels(path: Path, values: np.ndarray) -> Path:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((1, 2, 3))
    sitk.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize(
    ("highest", "stored", "expected"),
    [(53, np.float32, np.uint8), (0, np.uint8, np.uint8), (12175, np.int32, np.uint16), (70000, np.float64, np.uint32)],
)
def test_labels_are_whole_numbers_of_the_smallest_type(tmp_path, highest, stored, expected):
    values = np.zeros(SHAPE, stored)
    values[1:3] = highest
    labels = read_label_volume(write_labels(tmp_path / "a.nii.gz", values))
    array = sitk.GetArrayFromImage(labels)
    assert array.dtype == expected
    assert labels.GetSpacing() == (1, 2, 3)
    np.testing.assert_array_equal(array, values)


def test_labels_are_rounded_not_truncated(tmp_path):
    values = np.full(SHAPE, 52.9999, np.float32)
    assert (sitk.GetArrayFromImage(read_label_volume(write_labels(tmp_path / "a.nrrd", values))) == 53).all()


@pytest.mark.parametrize(
    ("value", "cause"), [(0.5, "fractions"), (np.nan, "fractions"), (-1, "from -1 to"), (1e10, "to 10000000000")]
)
def test_other_values_are_no_labels(tmp_path, value, cause):
    values = np.ones(SHAPE, np.float64)
    values[0, 0, 0] = value
    path = write_labels(tmp_path / "a.nrrd", values)
    assert cause in refusal(lambda: read_label_volume(path))
