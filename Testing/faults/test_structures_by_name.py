"""Structures are known by name and code, not by number, wherever a segmentation is read; layers and crops are read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from SESegmentationLib.cli import main
from SESegmentationLib.errors import InputError
from SESegmentationLib.geometry import Geometry
from SESegmentationLib.inference.roi import read_roi, region_box
from SESegmentationLib.io.segmentations import Segment, identify, placed_in_grid, read_segmentation, segment_tags
from SESegmentationLib.io.writing import segment_fields, write_segmentation
from SESegmentationLib.models.labels import LEFT, RIGHT, structure_label
from SESegmentationTraining.dataset import find_cases, read_case

LABELS = (
    structure_label(1, "anterior hippocampus"),
    structure_label(2, "posterior hippocampus"),
    structure_label(7, "kidney", LEFT),
    structure_label(300, "kidney", RIGHT),
)
SPLEEN = structure_label(4, "spleen")
SHAPE = (9, 10, 11)


def as_image(array: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.5, 1.0, 2.0))
    image.SetOrigin((-20.0, 30.0, 5.0))
    image.SetDirection((0, 0, 1, -1, 0, 0, 0, -1, 0))
    return image


@pytest.fixture(scope="module")
def truth() -> sitk.Image:
    """A block for each structure, not two alike."""
    array = np.zeros(SHAPE, np.uint16)
    array[2:4, 2:5, 2:8], array[4:7, 2:5, 2:8] = 1, 2
    array[2:6, 6:8, 2:4], array[2:5, 6:9, 6:9] = 7, 300
    return as_image(array)


def save(path: Path, truth: sitk.Image, numbers: list[int], layers: list[int], crop: bool, names: list[str]) -> Path:
    """The segments as Slicer saves them: other numbers, layers, only the part with voxels."""
    values = sitk.GetArrayFromImage(truth)
    stack = np.zeros((max(layers) + 1, *values.shape), np.uint8)
    for label, number, layer in zip(LABELS, numbers, layers, strict=True):
        stack[layer][values == label.value] = number
    images = [as_image(layer) for layer in stack]
    if crop:
        images = [image[2:10, 2:9, 2:7] for image in images]
    image = sitk.Compose(images) if len(images) > 1 else images[0]
    fields = segment_fields(images[0], LABELS)
    for index, (number, layer, name) in enumerate(zip(numbers, layers, names, strict=True)):
        fields |= {f"Segment{index}_LabelValue": str(number), f"Segment{index}_Layer": str(layer)}
        fields[f"Segment{index}_Name"] = name
    for key, value in fields.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(path))
    return path


OTHERWISE = ["Anterior_Hippocampus", "posterior  hippocampus", "Kidney_L", "rechte Niere"]


@given(
    numbers=st.permutations([1, 2, 3, 4]),
    layers=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    crop=st.booleans(),
    names=st.sampled_from([[label.name for label in LABELS], OTHERWISE]),
)
@settings(deadline=None, max_examples=40)
def test_however_slicer_saves_it_the_same_is_read(tmp_path_factory, truth, numbers, layers, crop, names):
    path = save(tmp_path_factory.mktemp("seg") / "a.seg.nrrd", truth, numbers, layers, crop, names)
    labels = read_segmentation(path).label_map(LABELS, like=truth)
    assert (sitk.GetArrayFromImage(labels) == sitk.GetArrayFromImage(truth)).all()
    assert labels.GetOrigin() == pytest.approx(truth.GetOrigin())
    assert labels.GetDirection() == truth.GetDirection()


@pytest.fixture
def renumbered(tmp_path, truth) -> Path:
    """In two layers, cropped, and the numbers dealt anew."""
    return save(tmp_path / "renumbered.seg.nrrd", truth, [2, 1, 1, 3], [0, 0, 1, 1], True, [x.name for x in LABELS])


def test_evaluate_compares_what_is_called_alike(capfd, tmp_path, truth, renumbered):
    write_segmentation(tmp_path / "ours.seg.nrrd", truth, LABELS)
    sitk.WriteImage(truth, str(tmp_path / "plain.nii.gz"))
    for ours in ("ours.seg.nrrd", "plain.nii.gz"):
        for pair in ((tmp_path / ours, renumbered), (renumbered, tmp_path / ours)):
            assert main(["evaluate", *map(str, pair), "--json"]) == 0
            measured = json.loads(capfd.readouterr().out)
            assert {v: e["dice"]["mean"] for v, e in measured["labels"].items()} == dict.fromkeys(
                ["1", "2", "7", "300"], 1.0
            )
            assert measured["labels"]["7"]["name"] == "left kidney"


def test_numbers_of_others_are_not_guessed(capfd, tmp_path, truth, renumbered, tiny_model):
    """Segments of another program say no number; only with a model's names can they be compared with numbers."""
    image = sitk.ReadImage(str(renumbered))
    for key in image.GetMetaDataKeys():
        if key.endswith("_Tags"):
            image.SetMetaData(key, "")
    sitk.WriteImage(image, str(renumbered))
    sitk.WriteImage(truth, str(tmp_path / "plain.nii.gz"))
    assert main(["evaluate", str(renumbered), str(tmp_path / "plain.nii.gz")]) == 2
    assert "names its structures ('anterior hippocampus'" in capfd.readouterr().err
    assert main(["evaluate", str(renumbered), str(renumbered), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["mean_dice"] == 1.0
    arguments = ["evaluate", str(renumbered), str(tmp_path / "plain.nii.gz"), "--model", str(tiny_model), "--json"]
    assert main(arguments) == 0
    labels = json.loads(capfd.readouterr().out)["labels"]
    assert (labels["1"]["dice"]["mean"], labels["2"]["dice"]["mean"]) == (1.0, 1.0)
    assert labels["7"]["dice"]["mean"] == 0.0  # a kidney is no structure of this model


def test_refine_learns_the_right_way_round(capfd, tmp_path, tiny_model, sample_file):
    result, turned = tmp_path / "result.seg.nrrd", tmp_path / "turned.seg.nrrd"
    assert main(["run", str(sample_file), "--model", str(tiny_model), "-o", str(result)]) == 0
    image = sitk.ReadImage(str(result))
    array = sitk.GetArrayFromImage(image)
    exchanged = sitk.GetImageFromArray(np.array([0, 2, 1], np.uint8)[array])
    exchanged.CopyInformation(image)
    for key in image.GetMetaDataKeys():
        exchanged.SetMetaData(key, image.GetMetaData(key))
    exchanged.SetMetaData("Segment0_LabelValue", "2")
    exchanged.SetMetaData("Segment1_LabelValue", "1")
    sitk.WriteImage(exchanged, str(turned))
    out = tmp_path / "out.nii.gz"
    arguments = ["--model", str(tiny_model), "--corrected", str(turned), "--slices", "k:14", "-o", str(out)]
    assert main(["refine", str(sample_file), *arguments]) == 0, capfd.readouterr().err
    assert (sitk.GetArrayFromImage(sitk.ReadImage(str(out)))[14] == array[14]).all()


def test_a_region_and_training_labels_may_be_segmentations(tmp_path, truth, renumbered):
    box = region_box(read_roi(renumbered))
    assert box.extent_mm == pytest.approx((7 * 1.5, 7 * 1.0, 5 * 2.0))
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    sitk.WriteImage(sitk.Cast(truth, sitk.sitkFloat32), str(tmp_path / "imagesTr" / "case_0000.nii.gz"))
    renumbered.rename(tmp_path / "labelsTr" / "case.seg.nrrd")
    (case,) = find_cases(tmp_path)
    _, labels = read_case(case, LABELS, None)
    assert (sitk.GetArrayFromImage(labels) == sitk.GetArrayFromImage(truth)).all()


@pytest.mark.parametrize(
    ("field", "value", "cause"),
    [
        ("Segment0_Name", "left kidney", "has the name of one structure and the code of another"),
        ("Segment0_Name", "posterior hippocampus", "are one structure"),
        ("Segment2_Tags", "", None),
        ("Segment0_LabelValue", "5", "the value 2, which belongs to no segment"),
        ("Segment0_LabelValue", "1", "Segment1_LabelValue is 1"),
        ("Segment0_LabelValue", "-2", "Segment0_LabelValue is '-2'"),
        ("Segment3_Layer", "2", "Segment3_Layer is '2'"),
    ],
)
def test_what_cannot_be_told_is_refused(truth, renumbered, field, value, cause):
    image = sitk.ReadImage(str(renumbered))
    image.SetMetaData(field, value)
    sitk.WriteImage(image, str(renumbered))
    if cause is None:  # the name alone is enough
        read_segmentation(renumbered).label_map(LABELS, like=truth)
        return
    with pytest.raises(InputError, match=cause):
        read_segmentation(renumbered).label_map(LABELS, like=truth)


def test_unknown_overlapping_and_lost_segments_are_refused(tmp_path, truth, renumbered):
    with pytest.raises(InputError, match="none of the structures known here: 'left kidney', 'right kidney'"):
        read_segmentation(renumbered).label_map(LABELS[:2])
    with pytest.raises(InputError, match="outside of the volume"):
        read_segmentation(renumbered).label_map(LABELS, like=truth[:6, :, :])
    image = sitk.ReadImage(str(renumbered))
    layers = [sitk.VectorIndexSelectionCast(image, index) for index in (0, 1)]
    both = sitk.Compose([layers[0], sitk.Maximum(layers[1], sitk.Cast(layers[0] > 0, layers[1].GetPixelID()))])
    for key in image.GetMetaDataKeys():
        both.SetMetaData(key, image.GetMetaData(key))
    sitk.WriteImage(both, str(renumbered))
    with pytest.raises(InputError, match="overlap in 90 voxels"):
        read_segmentation(renumbered).label_map(LABELS, like=truth)


def test_codes_alone_tell_only_what_they_can():
    def coded(name: str, label: int) -> Segment:
        return Segment.from_tags(name, f"TerminologyEntry:{LABELS[label].terminology_entry()}|")

    assert identify([coded("Niere", 2)], LABELS, "f") == [LABELS[2]]
    assert identify([coded("a", 2), coded("b", 2)], LABELS, "f") == [None, None]  # which of them?
    assert identify([coded("Hippocampus", 0)], LABELS, "f") == [None]  # front or back?
    tissue = Segment.from_tags("KIDNEY right", "TerminologyEntry:x~SCT^85756007^T~SCT^85756007^Tissue~^^~x~^^~^^|")
    assert identify([tissue, Segment("\u80be")], LABELS, "f") == [LABELS[3], None]


def test_a_segment_that_was_made_for_a_structure_may_be_called_anything():
    tags = segment_tags(LABELS[0]) | {"TerminologyEntry": "x~SCT^85756007^T~SCT^85756007^Tissue~^^~x~^^~^^"}
    renamed = Segment.from_tags("lesion", "".join(f"{name}:{text}|" for name, text in tags.items()))
    assert identify([renamed], LABELS, "f") == [LABELS[0]]
    assert identify([renamed], LABELS[1:], "f") == [None]  # of another model


def test_what_slicer_itself_saves(tmp_path, truth):
    """Its core reads a result, adds an overlapping segment, and saves: layers, numbers and crop are its own."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    slicer = pytest.importorskip("slicer", reason="needs slicer-core (extra 'test')")
    from harness import runtime, services

    services.publish()
    from SESegmentationLib.mrml.layers import oriented_image

    spleen = np.zeros(SHAPE, np.uint8)
    spleen[3:7, 4:8, 3:5] = 1
    write_segmentation(tmp_path / "result.seg.nrrd", truth, LABELS)
    runtime.start()
    try:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        storage = slicer.vtkMRMLSegmentationStorageNode()
        storage.SetFileName(str(tmp_path / "result.seg.nrrd"))
        assert storage.ReadData(node)
        segmentation = node.GetSegmentation()
        segmentation.SetSegmentIndex(segmentation.GetNthSegmentID(3), 0)
        segment = slicer.vtkSegment()
        segment.SetName("the spleen")
        segment.SetTag(segment.GetTerminologyEntryTagName(), SPLEEN.terminology_entry())
        segment.AddRepresentation("Binary labelmap", oriented_image(spleen, truth))
        segmentation.AddSegment(segment)
        storage.SetCropToMinimumExtent(True)
        storage.SetFileName(str(tmp_path / "saved.seg.nrrd"))
        assert storage.WriteData(node)
    finally:
        runtime.stop()
    saved = read_segmentation(tmp_path / "saved.seg.nrrd")
    assert len(saved.layers) == 2
    assert saved.geometry.size != truth.GetSize()
    layers = [placed_in_grid(layer, Geometry.of(truth), "f") for layer in saved.valued((*LABELS, SPLEEN))]
    values, others = (sitk.GetArrayFromImage(layer) for layer in layers)
    assert (values == sitk.GetArrayFromImage(truth)).all()
    assert (others == SPLEEN.value * spleen).all()
