"""The input checks: on real volumes of every kind it finds what there is to find, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.errors import InputError
from SESegmentationLib.inference.input_checks import check_input
from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.models import ModelCard
from SESegmentationTraining.recipe import Recipe
from SESegmentationTraining.training_plan import draft_card


@pytest.fixture(scope="module")
def brain() -> ModelCard:
    """The card of the whole-brain model, for T1 heads at 1 mm."""
    return draft_card(Recipe.load("brain-t1"))


@pytest.fixture(scope="module")
def hippocampus() -> ModelCard:
    """The card of a model of crops."""
    return draft_card(Recipe.load("hippocampus-t1"))


def codes(image: sitk.Image, card: ModelCard) -> set[str]:
    findings = check_input(image, card)
    assert all(finding.message.endswith(".") and finding.consequence.endswith(".") for finding in findings)
    return {finding.code for finding in findings}


REAL = {
    "t1-head-lia-256": set(),
    "t1-head-0p88mm": set(),
    "t1-brain-stripped": set(),
    "t1-head-1p75mm": {"coarse", "head-cut-off"},  # the crown is outside
    "t2-head": {"contrast"},
    "t1-gd-stripped": {"contrast-agent"},
    "ct-trunk-3mm": {"modality", "coarse", "large-field"},
    "ct-trunk-3mm-totalsegmentator": {"labels", "coarse", "large-field", "small-field"},
    "t1-brain-stripped-aparc2009s+aseg": {"labels"},
    "ct-head-rotated": {"contrast", "coarse", "head-cut-off"},  # a phantom, not in Hounsfield units
}


@pytest.mark.parametrize("name", REAL)
def test_real_volumes(shared_data, brain, name):
    assert codes(read_volume(shared_data / "volumes" / f"{name}.nii.gz"), brain) == REAL[name]


def test_every_real_volume_is_tested(shared_data):
    names = {path.name.removesuffix(".nii.gz") for path in (shared_data / "volumes").glob("*.nii.gz")}
    assert names == REAL.keys() | {"ct-head-sheared-affine"}


def test_a_real_sheared_affine_is_refused(shared_data):
    with pytest.raises(InputError, match="sheared by 18.5 degrees"):
        read_volume(shared_data / "volumes" / "ct-head-sheared-affine.nii.gz")


def test_a_real_head_whose_header_lies(shared_data, brain):
    """Its second voxel axis, to the front, is called to the right, and the other way round."""
    image = read_volume(shared_data / "volumes" / "t1-head-1p75mm.nii.gz")
    turned = sitk.PermuteAxes(image, (1, 0, 2))
    turned.SetDirection(image.GetDirection())
    assert "orientation" in codes(turned, brain)
    assert "orientation" not in codes(sitk.PermuteAxes(image, (1, 0, 2)), brain)


def test_a_real_crop_of_a_head_is_small(shared_data, brain):
    image = read_volume(shared_data / "volumes" / "t1-head-1p75mm.nii.gz")
    assert "small-field" in codes(image[40:90], brain)


def test_real_crops_raise_no_alarm(shared_data, hippocampus):
    paths = sorted((shared_data / "hippocampus" / "imagesTr").glob("*.nii.gz"))[::20]
    assert len(paths) == 10
    for path in paths:
        assert codes(read_volume(path), hippocampus) == set(), path


def crop(spacing: float = 1.0, values: np.ndarray | None = None) -> sitk.Image:
    values = np.random.default_rng(0).normal(100, 20, (36, 50, 36)) if values is None else values
    image = sitk.GetImageFromArray(values.astype(np.float32))
    image.SetSpacing((spacing,) * 3)
    return image


def test_a_crop_that_suits(hippocampus):
    assert codes(crop(), hippocampus) == set()


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        (1.45, set()),
        (1.55, {"coarse"}),
        (0.6, {"small-field"}),
        (3.0, {"coarse", "large-field"}),
    ],
)
def test_size_and_resolution(hippocampus, spacing, expected):
    assert codes(crop(spacing), hippocampus) == expected


def test_resolution_is_compared_along_the_patient_s_axes(hippocampus):
    """The model is coarse from bottom to top, and so is the volume, in which that is the first axis."""
    flat = replace(hippocampus, spacing=(1.0, 1.0, 3.0), input={"kind": "crop"})
    image = crop()
    image.SetSpacing((3.0, 1.0, 1.0))
    assert codes(image, flat) == {"coarse"}
    image.SetDirection((0, 1, 0, 0, 0, 1, 1, 0, 0))
    assert codes(image, flat) == set()


def test_a_model_for_ct_wants_hounsfield_units(hippocampus):
    model = replace(hippocampus, modality="CT")
    assert codes(crop(), model) == {"modality"}
    air = np.random.default_rng(0).normal(0, 20, (36, 50, 36))
    air[:, :3] = -1000
    assert codes(crop(values=air), model) == set()
    assert codes(crop(values=air), hippocampus) == {"modality"}


def test_label_maps_are_noticed_and_not_looked_at_further(brain):
    blobs = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(crop(4.0), 12.0))
    labels = np.digitize(blobs, np.quantile(blobs, [0.3, 0.6, 0.8]))
    assert codes(crop(4.0, labels), brain) == {"labels", "coarse"}


def test_what_is_no_number_is_told(hippocampus):
    image = crop()
    image.SetMetaData("SESegmentation_not_numbers", "12")
    (finding,) = check_input(image, hippocampus)
    assert finding.code == "not-numbers"
    assert finding.message.startswith("12 voxels")


SFORM = ("-1 0 0 0", "0 -1 0 0", "0 0 1 0")  # the same as ITK's identity


@pytest.mark.parametrize(
    ("qform", "sform", "rows", "units", "expected"),
    [
        ("1", "1", SFORM, "10", set()),
        ("0", "0", SFORM, "10", {"no-orientation"}),
        ("1", "0", ("0 0 0 0",) * 3, "10", set()),
        ("1", "2", ("-1 0 0 -4", *SFORM[1:]), "10", {"two-transforms"}),
        ("1", "4", ("-0.9 0.1 0 0", *SFORM[1:]), "10", {"two-transforms"}),
        ("1", "1", ("-0.001 0 0 0", "0 -0.001 0 0", "0 0 0.001 0"), "1", set()),  # in metres
        ("1", "1", ("-1000 0 0 0", "0 -1000 0 0", "0 0 1000 0"), "3", set()),  # in micrometres
    ],
)
def test_what_a_nifti_header_leaves_open(hippocampus, qform, sform, rows, units, expected):
    image = crop()
    for key, value in {"qform_code": qform, "sform_code": sform, "xyzt_units": units}.items():
        image.SetMetaData(key, value)
    assert codes(image, hippocampus) == set()  # half of the metadata is none
    for axis, row in zip("xyz", rows, strict=True):
        image.SetMetaData(f"srow_{axis}", row)
    assert codes(image, hippocampus) == expected


def test_a_nifti_file_without_orientation(tmp_path: Path, hippocampus):
    sitk.WriteImage(crop(), str(tmp_path / "a.nii"))
    assert codes(read_volume(tmp_path / "a.nii"), hippocampus) == set()
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[252:256] = bytes(4)  # both codes
    (tmp_path / "a.nii").write_bytes(content)
    assert codes(read_volume(tmp_path / "a.nii"), hippocampus) == {"no-orientation"}


@pytest.mark.parametrize("size", [(2, 2, 2), (2, 40, 3), (1, 30, 30)])
@pytest.mark.parametrize("spacing", [0.001, 1.0, 90.0])
def test_odd_sizes_do_no_harm(brain, size, spacing):
    codes(crop(spacing, np.random.default_rng(0).normal(0, 1, size)), brain)
