"""A look at a dataset: its description and its cases."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from SESegmentationLib.errors import InputError
from SESegmentationTraining.dataset import find_cases
from SESegmentationTraining.fingerprint import MOST_CASES, Description, extract_fingerprint

LABELS = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "spleen": 4}}


def describe(folder, **changes):
    (folder / "dataset.json").write_text(json.dumps(LABELS | changes), encoding="utf-8")
    return folder


@pytest.fixture
def dataset(tmp_path, to_image):
    """Two cases of 2 x 1 x 3 mm voxels, of which one is stored in another orientation."""
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    for name, code in (("a", "RAS"), ("b", "PIL")):
        labels = np.zeros((10, 20, 30), np.uint8)
        labels[2:6, 4:8, 3:9] = 1
        labels[8, 1, 1] = labels[8, 18, 28] = 4
        image = np.where(labels == 1, 100, -1000).astype(np.int16)
        for array, path in ((image, f"imagesTr/{name}_0000.nii.gz"), (labels, f"labelsTr/{name}.nii.gz")):
            sitk.WriteImage(sitk.DICOMOrient(to_image(array, (2.0, 1.0, 3.0)), code), str(tmp_path / path))
    return describe(tmp_path)


def test_cases_are_looked_at_in_the_patients_axes(dataset):
    fingerprint = extract_fingerprint(dataset, find_cases(dataset))
    for case in fingerprint.cases:
        np.testing.assert_allclose(case.spacing, (2, 1, 3), rtol=1e-6)
        np.testing.assert_array_equal(case.size, (30, 20, 10))
        assert case.lowest == -1000
        assert case.millilitres == pytest.approx({1: 96 * 6 / 1000, 4: 2 * 6 / 1000})
        assert case.across_mm[1] - fingerprint.cases[0].across_mm[1] == pytest.approx(0)
        assert case.across_mm[4] - case.across_mm[1] == pytest.approx(2 * (14.5 - 5.5))
        assert sorted(set(case.intensities.tolist())) == [-1000, 100]
    assert not fingerprint.slices
    assert fingerprint.in_one_piece() == [1]  # the spleen is two voxels far apart
    np.testing.assert_allclose(fingerprint.extents[0], (60, 20, 30), rtol=1e-6)
    assert fingerprint.is_ct


def test_without_a_modality_air_tells_ct(dataset):
    describe(dataset, channel_names={})
    assert extract_fingerprint(dataset, find_cases(dataset)).is_ct


def test_percentiles_count_each_case_alike(dataset):
    fingerprint = extract_fingerprint(dataset, find_cases(dataset))
    many = np.full(10_000, 50, np.float32)
    object.__setattr__(fingerprint.cases[0], "intensities", many)
    assert fingerprint.labelled_percentiles([70]) == 100  # half of the sample is from each


def test_only_some_of_many_cases_are_looked_at(dataset):
    cases = find_cases(dataset) * 25
    seen = []
    fingerprint = extract_fingerprint(dataset, cases, lambda phase, *_: seen.append(phase))
    assert len(fingerprint.cases) == len(seen) <= MOST_CASES
    assert len(fingerprint.cases) > MOST_CASES / 2


@pytest.mark.parametrize(
    ("places", "pairs", "found"),
    [
        ([{1: 70, 2: 30, 3: 48}] * 3, [(1, 2)], []),  # an aorta, nearly in the middle
        ([{1: 70, 2: 30, 3: 68}] * 3, [(1, 2)], [3]),  # a liver
        ([{1: 30, 2: 70, 3: 28}] * 3, [(1, 2)], [3]),  # counted from the other side
        ([{1: 70, 2: 30, 3: 68}, {1: 70, 2: 30, 3: 32}, {1: 70, 2: 30, 3: 50}], [(1, 2)], []),  # now here, now there
        ([{1: 70, 2: 30, 3: 48, 4: 20}, {3: 9, 4: 90}], [(1, 2)], [4]),  # only where the sides are seen
        ([{1: 70, 3: 20}, {1: 50, 2: 50, 3: 20}], [(1, 2)], []),  # nothing tells the middle
        ([{1: 70, 2: 30}] * 3, [], []),
        ([{1: 70, 2: 30, 5: 60, 6: 42, 3: 64}] * 3, [(1, 2), (5, 6)], [3]),
    ],
)
def test_what_lies_to_one_side_of_the_pairs_is_found(dataset, places, pairs, found):
    fingerprint = extract_fingerprint(dataset, find_cases(dataset))
    cases = [
        replace(fingerprint.cases[0], across_mm={value: float(at) for value, at in place.items()}) for place in places
    ]
    assert replace(fingerprint, cases=cases).to_one_side(pairs) == found


def test_pictures_are_slices(tmp_path):
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10)).save(tmp_path / "imagesTr" / "a_0000.png")
    Image.fromarray(np.eye(6, 10, dtype=np.uint8)).save(tmp_path / "labelsTr" / "a.png")
    fingerprint = extract_fingerprint(describe(tmp_path), find_cases(tmp_path))
    assert fingerprint.slices
    assert fingerprint.pictures
    np.testing.assert_array_equal(fingerprint.cases[0].size, (10, 6, 1))


def test_volumes_and_slices_are_not_mixed(dataset):
    Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10)).save(dataset / "imagesTr" / "c_0000.png")
    Image.fromarray(np.eye(6, 10, dtype=np.uint8)).save(dataset / "labelsTr" / "c.png")
    with pytest.raises(InputError, match="mixes"):
        extract_fingerprint(dataset, find_cases(dataset))


def test_a_value_without_name_is_refused(dataset):
    describe(dataset, labels={"background": 0, "liver": 1})
    with pytest.raises(InputError, match=r"values that dataset\.json does not name: \[4\]"):
        extract_fingerprint(dataset, find_cases(dataset))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"background": 0, "liver": 1, "spleen": 4}, {1: "liver", 4: "spleen"}),
        ({"0": "background", "2": "b", "1": "a"}, {1: "a", 2: "b"}),
    ],
)
def test_both_versions_of_nnunet_name_labels(tmp_path, labels, expected):
    description = Description.read(describe(tmp_path, labels=labels, modality={"0": "MRI"}))
    assert description.labels == expected
    assert list(description.labels) == sorted(expected)


def test_name_licence_and_modality_are_taken_over(tmp_path):
    entries = {"name": "Livers", "description": "of mice", "licence": "CC0", "modality": {"0": "MRI"}}
    (tmp_path / "dataset.json").write_text(
        json.dumps(entries | {"labels": {"0": "background", "1": "liver"}}), encoding="utf-8"
    )
    assert Description.read(tmp_path) == Description({1: "liver"}, "MRI", "CC0", "Livers. of mice")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"background": 0}}, "no label but the background"),
        ({"labels": {}}, "names no labels"),
        ({"labels": ["liver"]}, "names no labels"),
        ({"labels": {"background": 0, "whole": [1, 2]}}, "'whole' is a region"),
        ({"labels": {"background": 0, "liver": 1, "ignore": 2}}, "ignored"),
        ({"labels": {"liver": "one"}}, "no whole number"),
        ({"labels": {"liver": "²"}}, "no whole number"),
        ({"labels": {"liver": 1, "spleen": 1}}, "'liver' and 'spleen' have the same value 1"),
        ({"labels": {"Liver": 1, "liver": 2}}, "two labels are called 'liver'"),
        ({"labels": {"": 1}}, "label 1 has no name"),
        ({"labels": {"liver": 70000}}, "value 70000, above 65535"),
        ({"channel_names": ["T1", "T2"]}, r"2 channels \(T1, T2\)"),
        ({"labels": {f"s{n}": n for n in range(1, 300)}}, "299 labels"),
        ({"channel_names": {"0": "T1", "1": "T2"}}, r"2 channels \(T1, T2\)"),
    ],
)
def test_what_cannot_be_learnt_is_named(tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        Description.read(describe(tmp_path, **changes))
    assert caught.value.remedy


def test_a_missing_or_damaged_description_is_named(tmp_path):
    with pytest.raises(InputError, match=r"dataset\.json") as caught:
        Description.read(tmp_path)
    assert '"labels"' in caught.value.remedy
    for text, message in (("{", "not JSON"), ("[1]", "no JSON object")):
        (tmp_path / "dataset.json").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            Description.read(tmp_path)
