"""What a segment says of itself to DICOM and Slicer: who drew it, where its code is found, that nobody reviewed it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import SimpleITK as sitk
import vtk

TESTING = Path(__file__).parents[1]
sys.path[:0] = [str(TESTING), str(TESTING / "panel")]
slicer = pytest.importorskip("slicer", reason="needs slicer-core (extra 'test')")

from panel_clicks import click, draw, wait  # noqa: E402
from panel_fixtures import *  # noqa: E402, F403

from SESegmentationLib.cli import main  # noqa: E402
from SESegmentationLib.io.segmentations import algorithm_name  # noqa: E402
from SESegmentationLib.io.writing import write_segmentation  # noqa: E402
from SESegmentationLib.models.labels import LEFT, STRUCTURES, structure_label  # noqa: E402
from SESegmentationLib.mrml import ACCEPTED, CORRECTED, TO_CHECK, review_state, set_review_state  # noqa: E402

GENERAL = "Segmentation category and type - 3D Slicer General Anatomy list"
MASTER = "Segmentation category and type - DICOM master list"
#: structures whose codes Slicer's own list lacks
IN_MASTER_LIST = (
    "hippocampus", "anterior hippocampus", "posterior hippocampus", "thalamus", "cerebellar cortex", "accumbens",
    "third ventricle", "brain stem", "cerebrospinal fluid",
)  # fmt: skip


def tag(segment, name):
    value = vtk.reference("")
    return str(value) if segment.GetTag(name, value) else None


def algorithm(segment):
    """Type and name of the algorithm."""
    return tag(segment, "DICOM.SegmentAlgorithmType"), tag(segment, "DICOM.SegmentAlgorithmName")


def segments(node):
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegment(index) for index in range(segmentation.GetNumberOfSegments())]


def types(node):
    return [algorithm(segment)[0] for segment in segments(node)]


def test_codes_are_written_with_the_context_in_which_slicer_finds_them():
    for name, (code, meaning, _) in STRUCTURES.items():
        entry = slicer.vtkSlicerTerminologyEntry()
        text = structure_label(1, name, LEFT).terminology_entry()
        assert slicer.vtkSlicerTerminologiesModuleLogic.DeserializeTerminologyEntry(text, entry)
        assert entry.GetTerminologyContextName() == (MASTER if name in IN_MASTER_LIST else GENERAL), name
        assert entry.GetRegionContextName() == "Anatomic codes - DICOM master list"
        assert (entry.GetTypeObject().GetCodeValue(), entry.GetTypeObject().GetCodeMeaning()) == (code, meaning)
        assert slicer.vtkSlicerTerminologiesModuleLogic.SerializeTerminologyEntry(entry) == text


def test_a_file_says_so_in_mrml_and_after_slicer_has_saved_it_again(tmp_path):
    labels = (structure_label(17, "hippocampus", LEFT), structure_label(300, "liver"))
    image = sitk.Image([5, 6, 7], sitk.sitkUInt16)
    image[1, 2, 3], image[2, 2, 3] = 17, 300
    name = algorithm_name("brain|t1", "1.0\n\\" + "x" * 80)
    assert name == "SESegmentation brain t1 1.0  " + "x" * 35
    write_segmentation(tmp_path / "0.seg.nrrd", image, labels, name, corrected=True)
    for number in range(2):
        node = slicer.util.loadSegmentation(str(tmp_path / f"{number}.seg.nrrd"))
        assert [algorithm(segment) for segment in segments(node)] == [("SEMIAUTOMATIC", name)] * 2
        assert [review_state(segment) for segment in segments(node)] == [TO_CHECK] * 2
        assert [segment.GetTerminology() for segment in segments(node)] == [lab.terminology_entry() for lab in labels]
        slicer.util.saveNode(node, str(tmp_path / f"{number + 1}.seg.nrrd"))


def test_what_the_command_writes_opens_as_not_reviewed(tiny_model, sample_file, tmp_path):
    found = tmp_path / "a.seg.nrrd"
    assert main(["run", str(sample_file), "--model", str(tiny_model), "--device", "cpu", "-o", str(found)]) == 0
    read = segments(slicer.util.loadSegmentation(str(found)))
    assert read and {algorithm(segment) for segment in read} == {("AUTOMATIC", "SESegmentation tiny-t1 1.0.0")}
    assert {review_state(segment) for segment in read} == {TO_CHECK}


def test_a_correction_is_noted_at_once_and_kept(widget, segment, choices):
    node = segment()
    first, second = segments(node)
    assert [algorithm(s) for s in (first, second)] == [("AUTOMATIC", "SESegmentation tiny-t1 1.0.0")] * 2
    draw(node, k=10)  # in the Segment Editor, without coming back to the panel
    assert types(node) == ["SEMIAUTOMATIC", "AUTOMATIC"] and review_state(first) == CORRECTED
    set_review_state(second, ACCEPTED)
    assert types(node) == ["SEMIAUTOMATIC", "AUTOMATIC"]  # to accept is not to draw
    draw(node, k=10, identifier="Segment_2")  # what is accepted can still be drawn in: seen when the panel is back
    widget.panel.on_entered()
    assert types(node) == ["SEMIAUTOMATIC"] * 2 and review_state(second) == ACCEPTED
    choices.outputSegmentation = node
    segment(corner=5)
    assert types(node) == ["SEMIAUTOMATIC"] * 2  # the corrected slices are still in it
    click(widget.ui.undoButton)
    assert types(node) == ["SEMIAUTOMATIC"] * 2


def test_what_is_undone_was_not_corrected(widget, segment, choices):
    choices.outputSegmentation = segment()
    node = segment(corner=4)
    draw(node, k=10)
    click(widget.ui.undoButton)
    assert types(node) == ["AUTOMATIC"] * 2


def test_a_recalibrated_segmentation_is_half_drawn_by_hand(widget, segment, recalibrate):
    node = segment()
    draw(node, k=10)
    recalibrate()
    assert types(node) == ["SEMIAUTOMATIC", "AUTOMATIC"]
    click(widget.ui.acceptChangesButton)
    assert types(node) == ["SEMIAUTOMATIC"] * 2


def test_segments_of_others_are_left_alone(widget, segment, choices):
    node = segment()
    own = node.GetSegmentation().GetSegment(node.GetSegmentation().AddEmptySegment("mine", "mine"))
    draw(node, k=11, identifier="mine")
    choices.outputSegmentation = node
    segment(corner=5)
    wait(lambda: not widget.panel.run.running)
    assert algorithm(own) == (None, None)
