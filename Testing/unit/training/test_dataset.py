"""Training data on disk."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.errors import InputError
from SESegmentationTraining.dataset import box_round, find_cases, find_label_maps, load_case, load_label_map, same_grid
from SESegmentationTraining.training_plan import draft_card


@pytest.fixture
def card(blobs_recipe):
    return draft_card(blobs_recipe())


def test_cases_are_found_by_name(blobs_folder):
    cases = find_cases(blobs_folder)
    assert [case.name for case in cases] == [f"blob_{n}" for n in range(4)]
    assert cases[2].image.name == "blob_2_0000.nii.gz"


@pytest.mark.parametrize("folder", ["imagesTr", "labelsTr"])
def test_a_missing_folder_is_named(own_blobs_folder, folder):
    shutil.rmtree(own_blobs_folder / folder)
    with pytest.raises(InputError, match=folder) as caught:
        find_cases(own_blobs_folder)
    assert "nnU-Net" in caught.value.remedy


def test_a_label_without_image_is_named(own_blobs_folder):
    (own_blobs_folder / "imagesTr" / "blob_1_0000.nii.gz").unlink()
    with pytest.raises(InputError, match=r"blob_1\.nii\.gz has no image blob_1_0000\.nii\.gz"):
        find_cases(own_blobs_folder)


@pytest.mark.parametrize("ending", [".NII.GZ", ".Nii.gz", ".nii.GZ"])
@pytest.mark.parametrize("folder", ["imagesTr", "labelsTr"])
def test_endings_may_be_in_other_case(own_blobs_folder, folder, ending):
    for path in (own_blobs_folder / folder).iterdir():
        path.rename(path.with_name(path.name.replace(".nii.gz", ending)))
    cases = find_cases(own_blobs_folder)
    assert [case.name for case in cases] == [f"blob_{n}" for n in range(4)]
    assert all(case.image.is_file() and case.label.is_file() for case in cases)


def test_of_several_images_that_which_ends_as_the_label_is_taken(own_blobs_folder):
    (own_blobs_folder / "imagesTr" / "blob_1_0000.mha").touch()
    (own_blobs_folder / "imagesTr" / "blob_1_0000.nrrd").mkdir()
    assert find_cases(own_blobs_folder)[1].image.name == "blob_1_0000.nii.gz"
    (own_blobs_folder / "imagesTr" / "blob_1_0000.nii.gz").unlink()
    assert find_cases(own_blobs_folder)[1].image.name == "blob_1_0000.mha"


def test_a_folder_without_labels_is_refused(own_blobs_folder):
    for path in (own_blobs_folder / "labelsTr").iterdir():
        path.rename(path.with_name(f".{path.name}"))  # as some systems leave beside every file
    with pytest.raises(InputError, match="no labels"):
        find_cases(own_blobs_folder)


def test_a_case_comes_normalised_and_recoded_to_channels(blobs_folder, card):
    case = find_cases(blobs_folder)[1]
    image, labels = load_case(case, card)
    raw = sitk.GetArrayFromImage(sitk.ReadImage(str(case.label)))
    assert image.dtype == np.float16
    assert labels.dtype == np.uint8
    assert image.shape == labels.shape == raw.shape
    np.testing.assert_array_equal(labels, np.where(raw == 17, 1, np.where(raw == 53, 2, 0)))
    assert image[labels > 0].min() > image[labels == 0].max() - 0.3
    assert (float(image.min()), float(image.max())) == (0.0, 1.0)


def test_a_case_of_other_orientation_and_spacing_comes_on_the_models_grid(own_blobs_folder, card):
    case = find_cases(own_blobs_folder)[0]
    plain = load_case(case, card)
    for path in (case.image, case.label):
        image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "PSL")
        sitk.WriteImage(image, str(path))
    for expected, turned in zip(plain, load_case(case, card), strict=True):
        np.testing.assert_array_equal(turned, expected)
    for path, interpolator in ((case.image, sitk.sitkLinear), (case.label, sitk.sitkNearestNeighbor)):
        image = sitk.ReadImage(str(path))
        size = [round(n * s / 0.5) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
        resampled = sitk.Resample(
            image, size, sitk.Transform(), interpolator, image.GetOrigin(), (0.5,) * 3, image.GetDirection()
        )
        sitk.WriteImage(resampled, str(path))
    _, labels = load_case(case, card)
    assert abs(labels.astype(bool).sum() / plain[1].astype(bool).sum() - 1) < 0.15


@pytest.mark.parametrize(
    "change",
    [
        lambda label: label.SetSpacing((1, 1, 1.2)),
        lambda label: label.SetOrigin((0, 2, 0)),
        lambda label: label.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1)),
        lambda label: label[:, :, :-1],
    ],
    ids=["spacing", "origin", "direction", "size"],
)
def test_a_label_on_another_grid_is_refused(own_blobs_folder, card, change):
    case = find_cases(own_blobs_folder)[0]
    label = sitk.ReadImage(str(case.label))
    label = change(label) or label
    sitk.WriteImage(label, str(case.label))
    with pytest.raises(InputError, match="blob_0 differ in size, spacing, origin or direction"):
        load_case(case, card)


def test_rounding_of_headers_is_no_other_grid(to_image):
    image = to_image(np.zeros((5, 6, 7), np.uint8))
    other = sitk.Image(image)
    other.SetOrigin((0.004, -0.004, 0))
    assert same_grid(image, other)
    other.SetOrigin((0.2, 0, 0))
    assert not same_grid(image, other)


def test_an_unknown_label_value_is_named(own_blobs_folder, card):
    case = find_cases(own_blobs_folder)[0]
    label = sitk.ReadImage(str(case.label))
    label[3, 3, 3] = 9
    sitk.WriteImage(label, str(case.label))
    with pytest.raises(InputError, match=r"blob_0 holds values that the recipe does not name: \[9\]"):
        load_case(case, card)


def test_label_maps_become_indices(tmp_path, to_image, card):
    values = np.array([0, 41, 2, 530])
    array = np.random.default_rng(0).choice(values, (6, 7, 8))
    array[0, 0, 0] = 77  # not listed
    sitk.WriteImage(to_image((array + 0.0004).astype(np.float32)), str(tmp_path / "map.nii.gz"))  # floats, as some are
    indices = load_label_map(tmp_path / "map.nii.gz", values, card)
    array[0, 0, 0] = 0
    np.testing.assert_array_equal(values[indices], array)
    assert indices.dtype == np.uint8


def test_two_label_maps_of_one_name_are_refused(tmp_path, to_image):
    for name in ("head.nii.gz", "head.nrrd"):
        sitk.WriteImage(to_image(np.ones((3, 3, 3), np.uint8)), str(tmp_path / name))
    with pytest.raises(InputError, match="several label maps head"):
        find_label_maps(tmp_path)


def test_label_maps_whose_names_begin_alike_are_told_apart(tmp_path, to_image):
    for name in ("head.01.nii.gz", "head.02.nii.gz", "head.nrrd"):
        sitk.WriteImage(to_image(np.zeros((3, 3, 3), np.uint8)), str(tmp_path / name))
    assert sorted(find_label_maps(tmp_path)) == ["head", "head.01", "head.02"]


@pytest.mark.parametrize("name", [".", "absent"])
def test_a_folder_without_label_maps_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="no label maps"):
        find_label_maps(tmp_path / name)


def test_a_box_has_a_margin_inside_the_array():
    mask = np.zeros((20, 20, 20), bool)
    mask[5, 2:4, 10:19] = True
    low, high = box_round(mask, (3, 3, 3.4))
    assert low.tolist() == [2, 0, 7]
    assert high.tolist() == [9, 7, 20]
