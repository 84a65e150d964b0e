"""Labels and terminology."""

from __future__ import annotations

import pytest

from SESegmentationLib.errors import ModelError
from SESegmentationLib.models import Code, Label
from SESegmentationLib.models.labels import LEFT, STRUCTURES, brain_labels, structure_label


def test_terminology_entry_is_slicers_string():
    label = structure_label(17, "hippocampus", LEFT)
    assert label.terminology_entry() == (
        "Segmentation category and type - DICOM master list"
        "~SCT^123037004^Anatomical Structure~SCT^5366008^Hippocampus~SCT^7771000^Left"
        "~Anatomic codes - DICOM master list~^^~^^"
    )


def test_without_a_side_the_modifier_is_empty():
    assert "~SCT^119238007^Brain stem~^^~Anatomic codes" in structure_label(16, "brain stem").terminology_entry()


def test_terminology_entry_is_understood_by_slicers_core():
    logic_module = pytest.importorskip("slicer", reason="needs slicer-core")
    logic = logic_module.vtkSlicerTerminologiesModuleLogic()
    entry = logic_module.vtkSlicerTerminologyEntry()
    label = structure_label(53, "hippocampus", Code("24028007", "SCT", "Right"))
    assert logic.DeserializeTerminologyEntry(label.terminology_entry(), entry)
    assert entry.GetTypeObject().GetCodeMeaning() == "Hippocampus"
    assert entry.GetTypeModifierObject().GetCodeMeaning() == "Right"
    assert entry.GetCategoryObject().GetCodeValue() == "123037004"


def test_brain_labels_are_32_structures_with_sides():
    labels = brain_labels()
    assert len(labels) == 32
    assert len({label.value for label in labels}) == len({label.name for label in labels}) == 32
    by_value = {label.value: label for label in labels}
    for left, right in ((2, 41), (17, 53), (28, 60)):
        assert by_value[left].modifier.meaning == "Left"
        assert by_value[right].modifier.meaning == "Right"
        assert by_value[left].type == by_value[right].type


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_structure_survives_the_card(structure):
    label = structure_label(7, structure, plausible_ml=(1.0, 2.5))
    assert Label.from_dict(label.to_dict()) == label


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"value": 0}, "value"),
        ({"value": 65536}, "value"),
        ({"value": True}, "value"),
        ({"value": 1.5}, "value"),
        ({"name": " "}, "name"),
        ({"name": None}, "name"),
        ({"color": [1, 2]}, "color"),
        ({"color": [1, 2, 256]}, "color"),
        ({"color": [0.5, 0.5, 0.5]}, "color"),
        ({"category": "anatomy"}, "category"),
        ({"type": {"value": "1", "scheme": "SCT"}}, "type.meaning"),
        ({"type": {"value": "1", "scheme": "SCT", "meaning": "a~b"}}, "type.meaning"),
        ({"plausible_ml": [3, 2]}, "plausible_ml"),
        ({"plausible_ml": [0, float("inf")]}, "plausible_ml"),
    ],
)
def test_a_wrong_field_is_named(change, field):
    entry = structure_label(1, "liver").to_dict() | change
    with pytest.raises(ModelError, match=rf"labels\[0\]\.{field}") as caught:
        Label.from_dict(entry, "labels[0]")
    assert caught.value.remedy
