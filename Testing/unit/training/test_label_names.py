"""What the names of labels tell."""

from __future__ import annotations

import pytest

from SESegmentationLib.models import Label
from SESegmentationLib.models.labels import LEFT, RIGHT
from SESegmentationTraining.fingerprint import TISSUE, make_labels, mirrored_pairs, split_side


@pytest.mark.parametrize(
    ("name", "side", "rest"),
    [
        ("kidney_left", LEFT, "kidney"),
        ("Left-Cerebral-White-Matter", LEFT, "cerebral white matter"),
        ("right kidney", RIGHT, "kidney"),
        ("RightLung", RIGHT, "lung"),
        ("Kidney R", RIGHT, "kidney"),
        ("ctx-lh-insula", LEFT, "ctx insula"),
        ("liver", None, "liver"),
        ("vertebra_L1", None, "vertebra l1"),
        ("brightness", None, "brightness"),
        ("left-right border", None, "left right border"),
    ],
)
def test_sides_are_read_from_names(name, side, rest):
    assert split_side(name) == (side, rest)


def test_pairs_are_found_by_name():
    names = {1: "liver", 2: "right_kidney", 3: "left_kidney", 4: "lung_left", 5: "lung_right"}
    assert mirrored_pairs(names) == ([(3, 2), (4, 5)], [])


@pytest.mark.parametrize(
    ("names", "alone"),
    [
        ({1: "left kidney", 2: "spleen"}, ["left kidney"]),
        ({1: "left ventricle", 2: "right ventricle"}, ["left ventricle", "right ventricle"]),
        ({1: "Left-Lateral-Ventricle", 2: "Right-Lateral-Ventricle"}, []),
        ({1: "left kidney", 2: "left ureter", 3: "right kidney"}, ["left ureter"]),
    ],
)
def test_what_has_no_counterpart_is_named(names, alone):
    assert mirrored_pairs(names)[1] == alone


def test_known_structures_get_their_codes():
    names = {1: "Kidney_R", 2: "kidney_left", 3: "lungs", 4: "Brainstem", 7: "nucleus accumbens left", 8: "Bladder"}
    labels = make_labels(names, {3: (1.0, 2.0)})
    assert [label.name for label in labels] == [
        "right kidney",
        "left kidney",
        "lung",
        "brain stem",
        "left accumbens",
        "urinary bladder",
    ]
    assert [label.modifier for label in labels] == [RIGHT, LEFT, None, None, LEFT, None]
    assert labels[0].type.value == "64033007"
    assert labels[2].plausible_ml == (1.0, 2.0)
    assert [label.value for label in labels] == list(names)


def test_unknown_structures_are_tissue_in_distinct_colours():
    names = {1: "lesion_core", 2: "left widget", 3: "right widget", 4: "rim"}
    labels = make_labels(names, {})
    assert {label.type for label in labels} == {TISSUE}
    assert [label.name for label in labels] == ["lesion core", "left widget", "right widget", "rim"]
    assert labels[1].color == labels[2].color
    assert len({label.color for label in labels}) == 3
    assert [Label.from_dict(label.to_dict()) for label in labels] == labels


def test_names_stay_different_where_the_terminology_has_one():
    labels = make_labels({1: "liver", 2: "livers", 3: "Liver"}, {})
    assert len({label.name for label in labels}) == 3
