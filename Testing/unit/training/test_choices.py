"""The rules of the automatic recipe, on made-up looks at data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from SESegmentationTraining.choices import (
    BYTES_PER_PIXEL,
    Machine,
    choose_intensity,
    choose_phases,
    choose_size,
    choose_spacing,
    choose_views,
    is_mr,
    kept_out,
    same_patient,
    thick_axis,
)
from SESegmentationTraining.dataset import split_cases
from SESegmentationTraining.fingerprint import CaseLook, Description, Fingerprint, data_licence
from SESegmentationTraining.recipe_draft import SPLIT_SEED, _split_most_for_training

CPU = Machine(torch.device("cpu"), 8.0, False)
GPU = Machine(torch.device("cuda"), 40.0, True)


def a_fingerprint(
    spacing=(1.0, 1.0, 1.0), size=(100, 100, 100), modality="T1", zeros=0.0, intensities=(), slices=False, cases=3
) -> Fingerprint:
    case = CaseLook(
        size=np.array(size),
        spacing=np.array(spacing, float),
        lowest=0.0,
        zeros=zeros,
        intensities=np.array(intensities, np.float32),
        millilitres={1: 10.0},
        pieces=frozenset(),
        across_mm={1: 50.0},
    )
    return Fingerprint(Description({1: "liver"}, modality, "", "about"), [case] * cases, slices, slices)


@pytest.mark.parametrize(
    ("cases", "expected"),
    [(1, (0, 0)), (2, (0, 0)), (3, (0, 1)), (4, (1, 1)), (10, (1, 2)), (100, (10, 20)), (900, (20, 40))],
)
def test_more_cases_are_kept_out_where_there_are_more(cases, expected):
    assert kept_out(cases) == expected
    assert sum(expected) < cases


@pytest.mark.parametrize(
    ("names", "grouped"),
    [
        (["case_001", "case_002", "case_003"], False),  # one name, numbered
        (["P1_01", "P1_02", "P2_01", "P3_01"], True),
        (["P1_01", "P2_01", "P3_01"], False),  # one each
        (["P1_01", "P1_02", "other", "P3_01"], False),
        (["S01-slice-5", "S01-slice-6", "S02-slice-5", "S03-slice-1"], True),
    ],
)
def test_slices_of_one_patient_are_seen_by_their_names(names, grouped):
    assert bool(same_patient(names)) == grouped


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [((1, 1, 1), None), ((1, 1, 2.9), None), ((1, 1, 3), 2), ((1.2, 7, 1.2), 1), ((5, 0.5, 0.5), 0)],
)
def test_thick_slices_are_seen_by_their_spacing(spacing, axis):
    fingerprint = a_fingerprint(spacing)
    across = thick_axis(fingerprint)
    assert across == axis
    planes = [view["plane"] for view in choose_views(fingerprint.spacing, across, False, False)]
    assert planes == (["axial", "coronal", "sagittal"] if axis is None else [("sagittal", "coronal", "axial")[axis]])


def test_single_slices_are_seen_one_by_one():
    (view,) = choose_views(np.ones(3), thick_axis(a_fingerprint(size=(50, 40, 1), slices=True)), True, True)
    assert (view["plane"], view["thickness"], view["merged"]) == ("axial", 1, False)


@pytest.mark.parametrize(("distance", "thickness"), [(4.0, 3), (10.0, 3), (12.0, 1)])
def test_neighbours_count_where_they_are_near(distance, thickness):
    assert choose_views(np.array([1, 1, distance]), 2, False, False)[0]["thickness"] == thickness


def test_sides_are_one_class_in_sagittal_slices_only():
    merged = {view["plane"]: view["merged"] for view in choose_views(np.ones(3), None, False, True)}
    assert merged == {"axial": False, "coronal": False, "sagittal": True}
    assert not any(view["merged"] for view in choose_views(np.ones(3), None, False, False))
    # a model whose only view merges could not tell the sides apart
    assert not choose_views(np.array([7.0, 1, 1]), 0, False, True)[0]["merged"]


def test_planes_of_coarse_pixels_count_less():
    weights = {view["plane"]: view["weight"] for view in choose_views(np.array([1, 1, 2.5]), None, False, False)}
    assert weights == {"axial": 1.0, "coronal": 0.5, "sagittal": 0.5}


def test_the_grid_is_the_median_of_the_cases():
    fingerprint = a_fingerprint()
    fingerprint.cases[:] = [a_fingerprint(spacing=(s, s * 1.05, 2)).cases[0] for s in (0.8, 1.0, 1.4)]
    # axes that differ by less than a tenth are one
    np.testing.assert_allclose(choose_spacing(fingerprint, None, 3, CPU), [1.02, 1.02, 2.0], atol=0.01)


def test_the_grid_is_coarser_where_slices_would_be_too_large():
    fingerprint = a_fingerprint(spacing=(0.7, 0.7, 5.0), size=(512, 512, 40))
    spacing = choose_spacing(fingerprint, 2, 10, CPU)
    np.testing.assert_allclose(spacing, [1.4, 1.4, 5.0])
    np.testing.assert_allclose(choose_spacing(fingerprint, 2, 10, GPU), [0.7, 0.7, 5.0])


def test_all_volumes_fit_into_memory():
    fingerprint = a_fingerprint(size=(250, 250, 250))
    small = Machine(torch.device("cpu"), 0.5, False)
    spacing = choose_spacing(fingerprint, None, 100, small)
    voxels = 100 * float(np.prod(250 / spacing))
    assert 0.8 < 3 * voxels / (0.25e9) < 1.05


def test_pictures_keep_their_pixels():
    fingerprint = a_fingerprint(size=(2000, 3000, 1), slices=True)
    np.testing.assert_array_equal(choose_spacing(fingerprint, 2, 500, CPU), [1, 1, 1])


@pytest.mark.parametrize("pixels", [(20, 24, 20), (40, 36, 24), (180, 200, 170), (512, 512, 40), (9, 300, 300)])
@pytest.mark.parametrize("machine", [CPU, GPU])
def test_slices_and_levels_suit_each_other(pixels, machine):
    views = choose_views(np.ones(3), None, False, False)
    levels, size = choose_size(np.array(pixels), views, machine)
    stride = 2 ** (levels - 1)
    assert 2 <= levels <= 5
    assert all(side % stride == 0 and side // stride >= 2 for side in size)
    assert max(size) <= (320 if machine.is_gpu else 192)
    phases, shares = choose_phases(size, levels, 16, machine)
    assert sum(shares) == pytest.approx(1)
    assert phases[-1]["size"] == list(size)
    assert phases[-1]["spacing"] == 1
    assert all(side % stride == 0 for phase in phases for side in phase["size"])


def test_large_slices_are_learnt_coarsely_first():
    phases, _ = choose_phases((192, 160), 5, 16, CPU)
    assert [phase["spacing"] for phase in phases] == [2.0, 1.0]
    assert phases[0]["batch"] > phases[1]["batch"]


def test_a_batch_fits_into_memory():
    small = Machine(torch.device("cpu"), 0.5, False)
    (phase,), _ = choose_phases((64, 64), 4, 16, small)
    assert phase["batch"] * 64 * 64 * 16 * BYTES_PER_PIXEL <= 0.25e9
    assert phase["batch"] < choose_phases((64, 64), 4, 16, CPU)[0][0]["batch"]


def test_ct_is_windowed_to_what_is_labelled():
    fingerprint = a_fingerprint(modality="CT", intensities=np.linspace(-33, 187, 5000))
    intensity, augmentation = choose_intensity(fingerprint)
    assert intensity == {"type": "window", "lower": -40.0, "upper": 190.0}
    assert augmentation["bias"] == 0


@pytest.mark.parametrize(
    ("modality", "size", "zeros", "foreground"),
    [
        ("T1", (200, 200, 200), 0.0, "bright"),
        ("T1", (200, 200, 200), 0.6, "nonzero"),
        ("MRI", (40, 50, 40), 0.0, None),
        ("US", (200, 200, 200), 0.0, None),
    ],
)
def test_other_images_are_normalised_by_their_foreground(modality, size, zeros, foreground):
    intensity, _ = choose_intensity(a_fingerprint(modality=modality, size=size, zeros=zeros))
    assert intensity["type"] == "percentile"
    assert intensity.get("foreground") == foreground


@pytest.mark.parametrize(
    ("modality", "ct", "mr"),
    [("CT", 1, 0), ("ct", 1, 0), ("T1", 0, 1), ("MRI", 0, 1), ("FLAIR", 0, 1), ("OCT", 0, 0), ("", 0, 0)],
)
def test_the_modality_is_read_from_the_channel(modality, ct, mr):
    fingerprint = a_fingerprint(modality=modality)
    assert (fingerprint.is_ct, is_mr(fingerprint)) == (bool(ct), bool(mr))


@pytest.mark.parametrize(
    ("stated", "spdx", "free"),
    [
        ("CC-BY-SA 4.0", "CC-BY-SA-4.0", True),
        ("CC BY-NC-SA 4.0", "CC-BY-NC-SA-4.0", False),
        ("Creative Commons Attribution 3.0", "CC-BY-3.0", True),
        ("CC0", "CC0-1.0", True),
        ("Apache-2.0", "Apache-2.0", True),
        ("ask the hospital", "LicenseRef-training-data", False),
        ("mitochondria only", "LicenseRef-training-data", False),
        ("", "LicenseRef-training-data", False),
    ],
)
def test_only_a_licence_that_is_known_makes_a_model_free(stated, spdx, free):
    entry = data_licence(stated)
    assert (entry["spdx"], entry["free"]) == (spdx, free)
    assert stated in entry["attribution"]


@pytest.mark.parametrize("sizes", [(6, 1, 1), (1, 1, 6), (3, 30, 3), (1, 1, 1, 40)])
def test_patients_of_many_cases_leave_enough_for_training(sizes):
    names = [
        f"{patient}_{number:02d}" for patient, count in zip("ABCD", sizes, strict=False) for number in range(count)
    ]
    pattern = same_patient(names)
    validation, test, split = _split_most_for_training(names, *kept_out(len(names)), pattern)
    assert split == split_cases(names, validation, test, SPLIT_SEED, pattern)
    assert len(split.training) >= len(names) / 2
    patients = [{name[0] for name in group} for group in (split.training, split.validation, split.test)]
    assert sum(map(len, patients)) == len(sizes), "no patient is in two parts"
