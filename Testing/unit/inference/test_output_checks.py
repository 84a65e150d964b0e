"""Doubts about a result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.geometry import find_extents
from SESegmentationLib.inference.output_checks import check_output
from SESegmentationLib.models.labels import LEFT, RIGHT, structure_label
from SESegmentationLib.result import StructureResult

LEFT_LABEL = replace(structure_label(17, "hippocampus", LEFT), plausible_ml=(1.8, 6.0))
RIGHT_LABEL = replace(structure_label(53, "hippocampus", RIGHT), plausible_ml=(1.8, 6.0))


def findings(left: int, right: int, at: int = 3) -> dict[str, str]:
    """Messages by code, for so many slices of 0.5 ml on each side."""
    array = np.zeros((20, 20, 40), np.uint8)
    array[at : at + left, 4:14, 3:13] = 17
    array[3 : 3 + right, 4:14, 25:35] = 53
    labels = sitk.GetImageFromArray(array)
    labels.SetSpacing((1.0, 1.0, 5.0))
    extents = find_extents(array, (17, 53))
    structures = [
        StructureResult(label, extents[label.value].voxels, extents[label.value].voxels * 0.005, 1.0, (0.0, 0.0, 0.0))
        for label in (LEFT_LABEL, RIGHT_LABEL)
    ]
    found = check_output(labels, structures, extents, [(17, 53)])
    assert all(finding.consequence for finding in found)
    return {finding.code: finding.message for finding in found}


def test_a_good_result_raises_no_doubt():
    assert findings(6, 7) == {}


def test_what_is_missing_is_named():
    found = findings(6, 0)
    assert found["not-found"] == "Not found: right hippocampus."
    assert "asymmetry" in found
    assert "small-volume" not in found  # it is said already


@pytest.mark.parametrize(
    ("left", "code", "words"), [(3, "small-volume", "small: left hippocampus 1.5 ml (usually 1.8 to 6)"),
                                (14, "large-volume", "large: left hippocampus 7 ml (usually 1.8 to 6)")],
)  # fmt: skip
def test_unlikely_volumes_are_named_with_what_is_usual(left, code, words):
    found = findings(left, left)
    assert found.keys() == {code}
    assert words in found[code]
    assert words.split(": ")[1].replace("left", "right") in found[code]


def test_limits_are_the_label_s():
    assert findings(4, 4) == {}  # 2 ml
    assert findings(12, 12) == {}  # 6 ml


@pytest.mark.parametrize(("left", "right", "told"), [(5, 8, False), (5, 9, True), (9, 5, True)])
def test_sides_that_differ_by_half_their_mean_are_named(left, right, told):
    found = findings(left, right)
    assert ("asymmetry" in found) == told
    if told:
        assert f"left hippocampus {left / 2:.3g} ml, right hippocampus {right / 2:.3g} ml" in found["asymmetry"]


def test_a_structure_at_the_edge_may_be_cut_off():
    assert findings(6, 6, at=0)["cut-off"] == "At the edge of the volume: left hippocampus."
    assert findings(6, 6, at=14)["cut-off"] == "At the edge of the volume: left hippocampus."


def test_labels_without_limits_are_not_judged():
    label = replace(LEFT_LABEL, plausible_ml=None)
    structure = StructureResult(label, 9999, 999.0, 1.0, (0.0, 0.0, 0.0))
    assert check_output(sitk.Image(9, 9, 9, sitk.sitkUInt8), [structure], {}, []) == []
