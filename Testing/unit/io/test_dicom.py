"""DICOM series: stacked as the scanner saw them, or refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.errors import InputError
from SESegmentationLib.io.reading import read_volume

SERIES = "1.2.826.0.1.3680043.8.498.1"


@pytest.fixture(scope="module")
def volume() -> sitk.Image:
    """Oblique, 9 slices."""
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 999, (9, 10, 11)).astype(np.int16))
    image.SetSpacing((0.5, 0.75, 2.0))
    image.SetOrigin((-11.0, 7.0, 30.0))
    image.SetDirection(sitk.VersorTransform((1, 2, 3), 0.4).GetMatrix())
    return image


def write_series(
    image: sitk.Image,
    folder: Path,
    slices: Sequence[int] | None = None,
    shift: Callable[[int], np.ndarray] = lambda k: np.zeros(3),
    name: str = SERIES,
    turn: Callable[[int], float] = lambda k: 0.0,
    names: str = "{}.dcm",
) -> None:
    """A file for each of ``slices``: moved by ``shift`` mm, turned by ``turn`` radians; file names tell no order."""
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, k in enumerate(range(image.GetDepth()) if slices is None else slices):
        axes = np.reshape(sitk.VersorTransform((1, 0, 0), turn(k)).GetMatrix(), (3, 3))
        axes = axes @ np.reshape(image.GetDirection(), (3, 3))
        position = np.array(image.TransformIndexToPhysicalPoint((0, 0, k))) + shift(k)
        piece = image[:, :, k]
        for key, value in {
            "0008|0018": f"{name}.{number + 1}",
            "0008|0060": "MR",
            "0020|000d": "1.2.3",
            "0020|000e": name,
            "0020|0032": "\\".join(f"{x:.9f}" for x in position),
            "0020|0037": "\\".join(f"{x:.9f}" for x in (*axes[:, 0], *axes[:, 1])),
        }.items():
            piece.SetMetaData(key, value)
        writer.SetFileName(str(folder / names.format(f"{name[-1]}{number * 7 % 10}{number}")))
        writer.Execute(piece)


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as raised:
        read_volume(folder)
    assert raised.value.remedy
    return raised.value.cause


def test_a_series_is_read_with_its_geometry(volume, tmp_path):
    write_series(volume, tmp_path / "a", slices=[4, 2, 8, 0, 6, 1, 7, 3, 5])
    (tmp_path / "a" / "readme.txt").write_text("not an image", encoding="utf-8")
    image = read_volume(tmp_path / "a")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(volume))
    assert image.GetSpacing() == pytest.approx(volume.GetSpacing(), abs=1e-4)
    assert image.GetOrigin() == pytest.approx(volume.GetOrigin(), abs=1e-4)
    assert image.GetDirection() == pytest.approx(volume.GetDirection(), abs=1e-5)


def test_a_missing_slice_is_noticed(volume, tmp_path):
    write_series(volume, tmp_path / "a", slices=[0, 1, 2, 4, 5, 6, 7, 8])
    assert "not at equal distances" in refusal(tmp_path / "a")


def test_two_images_in_one_place_are_noticed(volume, tmp_path):
    write_series(volume, tmp_path / "a")
    later = volume + 1
    later.CopyInformation(volume)
    write_series(later, tmp_path / "a", names="9{}.dcm")
    assert "several images in the same place" in refusal(tmp_path / "a")


def test_a_tilted_gantry_is_noticed(volume, tmp_path):
    rows = np.reshape(volume.GetDirection(), (3, 3))[:, 1]
    write_series(volume, tmp_path / "a", shift=lambda k: rows * 2.0 * k * np.tan(np.radians(12)))
    assert "sheared by 12.0 degrees" in refusal(tmp_path / "a")


def test_slices_that_are_not_parallel_are_noticed(volume, tmp_path):
    write_series(volume, tmp_path / "a", turn=lambda k: 0.05 * k)
    assert "not parallel" in refusal(tmp_path / "a")


def test_several_series_are_noticed(volume, tmp_path):
    write_series(volume, tmp_path / "a")
    write_series(volume, tmp_path / "a", slices=range(4), name=SERIES[:-1] + "2")
    found = refusal(tmp_path / "a")
    assert "2 DICOM series" in found
    assert "9 images" in found
    assert "4 images" in found


def test_a_damaged_file_is_noticed(volume, tmp_path):
    write_series(volume, tmp_path / "a")
    file = sorted((tmp_path / "a").iterdir())[4]
    file.write_bytes(file.read_bytes()[:-100])
    assert f"{file.name} is cut off" in refusal(tmp_path / "a")


def test_one_file_of_a_series_is_a_single_slice(volume, tmp_path):
    write_series(volume, tmp_path / "a", slices=[3])
    assert "single slice" in refusal(tmp_path / "a")
    assert "single slice" in refusal(next((tmp_path / "a").iterdir()))


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "readme.txt").write_text("not an image", encoding="utf-8")
    assert "no DICOM images" in refusal(tmp_path)
