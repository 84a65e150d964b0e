"""Pictures as stacks of slices."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from SESegmentationLib.errors import InputError
from SESegmentationLib.io.formats import read_picture
from SESegmentationLib.io.reading import check_volume, read_label_volume, read_volume

PIXEL = (0.5, 0.25, 2.0)
GREY = np.random.default_rng(0).integers(0, 200, (7, 9)).astype(np.uint8)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "tiff"])
def test_rows_and_columns_stay_as_they_are(tmp_path, ending):
    path = tmp_path / f"slice.{ending}"
    Image.fromarray(GREY).save(path)
    image = read_volume(path, PIXEL)
    assert image.GetSize() == (9, 7, 1)
    assert image.GetSpacing() == PIXEL
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image)[0], GREY)


def test_sixteen_bits_are_kept(tmp_path):
    deep = GREY.astype(np.uint16) * 300
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / "deep.png", PIXEL))[0], deep)


def test_grey_that_is_stored_as_colour_is_grey(tmp_path):
    for mode in ("RGB", "RGBA", "LA"):
        Image.fromarray(GREY).convert(mode).save(tmp_path / "grey.png")
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / "grey.png", PIXEL))[0], GREY)


def test_colour_is_refused(tmp_path):
    Image.fromarray(np.stack([GREY, GREY, GREY + 1], axis=-1)).save(tmp_path / "colour.png")
    with pytest.raises(InputError, match="colour"):
        read_volume(tmp_path / "colour.png", PIXEL)


def test_a_palette_holds_labels_or_colours(tmp_path):
    labels = (GREY % 3).astype(np.uint8)
    picture = Image.fromarray(labels, mode="P")
    picture.putpalette([10, 10, 10, 200, 200, 200, 90, 90, 90])
    picture.save(tmp_path / "palette.png")
    read = read_label_volume(tmp_path / "palette.png", PIXEL)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read)[0], labels)
    shown = sitk.GetArrayFromImage(read_volume(tmp_path / "palette.png", PIXEL))[0]
    np.testing.assert_array_equal(shown, np.array([10, 200, 90])[labels])


def test_black_and_white_labels_are_0_and_1(tmp_path):
    Image.fromarray(GREY > 100).save(tmp_path / "mask.png")
    mask = sitk.GetArrayFromImage(read_label_volume(tmp_path / "mask.png", PIXEL))
    np.testing.assert_array_equal(mask[0], GREY > 100)


def test_pages_are_slices(tmp_path):
    pages = [Image.fromarray(GREY), Image.fromarray(GREY[::-1])]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    stack = sitk.GetArrayFromImage(read_volume(tmp_path / "stack.tif", PIXEL))
    np.testing.assert_array_equal(stack, [GREY, GREY[::-1]])
    uneven = [pages[0], Image.fromarray(GREY[:, :5])]
    uneven[0].save(tmp_path / "uneven.tif", save_all=True, append_images=uneven[1:])
    with pytest.raises(InputError, match="differ in size"):
        read_volume(tmp_path / "uneven.tif", PIXEL)


@pytest.mark.parametrize("content", [b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_damaged_pictures_are_refused(tmp_path, content):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(InputError, match="picture") as caught:
        read_picture(tmp_path / "bad.png", PIXEL)
    assert caught.value.remedy


def test_models_of_volumes_take_no_pictures_and_no_single_slices(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "slice.png")
    with pytest.raises(InputError):
        read_volume(tmp_path / "slice.png")
    single = sitk.GetImageFromArray(GREY[None])
    with pytest.raises(InputError, match="single slice"):
        check_volume(single)
    assert check_volume(single, single=True).GetSize() == (9, 7, 1)
    assert check_volume(sitk.GetImageFromArray(GREY), single=True).GetSize() == (9, 7, 1)
    with pytest.raises(InputError, match="single slice"):
        check_volume(sitk.GetImageFromArray(GREY[:1]), single=True)
