"""Two models write into one segmentation: what was corrected is said of the right structure."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from panel_clicks import cells, click, draw, wait
from panel_fakes import card_dict, make_package, make_result

from SESegmentationLib.models import ModelPackage
from SESegmentationLib.models.labels import structure_label
from SESegmentationLib.panel.reports import scene_report

#: one structure in common with the first model, by another value; and another structure by a value of the first
LABELS = [structure_label(7, "anterior hippocampus"), structure_label(2, "amygdala"), structure_label(3, "thalamus")]


@pytest.fixture
def both(widget, models, segmenter, choices, make_volume):
    """Function that segments with one of two models, into one segmentation; the segmentation."""
    networks = card_dict()["networks"]
    networks["axial"]["classes"] = 4
    make_package(models, "other-t1", labels=[label.to_dict() for label in LABELS], networks=networks)
    widget.enter()
    choices.inputVolume = make_volume()

    def run(model: str, corner: int) -> slicer.vtkMRMLSegmentationNode:
        choices.model, choices.outputSegmentation = model, choices.resultSegmentation
        click(widget.ui.segmentButton)
        job = segmenter.jobs[-1]
        segmenter.succeed(make_result(job.image, ModelPackage.from_folder(job.model).card, corner=corner))
        wait(lambda: not widget.panel.run.running)
        return choices.resultSegmentation

    return run


def voxels(node, identifier) -> np.ndarray:
    volume = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    return slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume) > 0


def corrected(node) -> dict[str, int]:
    return {entry["name"]: entry["corrected_voxels"] for entry in scene_report(node)["structures"]}


def test_corrections_of_one_models_structure_are_not_those_of_another_ones_of_the_same_value(widget, both):
    both("tiny-t1", 2)
    node = both("other-t1", 7)
    draw(node, k=12, identifier="Segment_2")  # of the first model: posterior hippocampus
    widget.enter()
    assert corrected(node) == {"anterior hippocampus": 0, "amygdala": 0, "thalamus": 0}
    assert {row[-1] for row in cells(widget)} == {"to check"}


def test_corrections_of_a_structure_that_both_models_know_stay_its_own(widget, both):
    node = both("tiny-t1", 2)
    draw(node, k=12)
    assert corrected(node)["anterior hippocampus"] == 20
    both("other-t1", 7)
    assert corrected(node) == {"anterior hippocampus": 20, "amygdala": 0, "thalamus": 0}
    draw(node, k=13)
    assert corrected(node)["anterior hippocampus"] == 40
    both("tiny-t1", 2)
    assert corrected(node) == {"anterior hippocampus": 40, "posterior hippocampus": 0}
    held = voxels(node, "Segment_1")
    assert held[12, 6:10, 9:14].all() and held[13, 6:10, 9:14].all() and np.count_nonzero(held[2:5]) == 27


def test_new_structures_are_written_into_corrected_slices_too(widget, both):
    node = both("tiny-t1", 2)
    draw(node, k=8)
    before = voxels(node, "Segment_1")[8]
    both("other-t1", 8)
    assert (voxels(node, "Segment_1")[8] == before).all()
    amygdala = voxels(node, "Segment_2_1")
    assert np.unique(np.argwhere(amygdala)[:, 0]).tolist() == [8, 9, 10]
    assert not (amygdala[8] & before).any() and amygdala[8].any()
    entry = next(entry for entry in scene_report(node)["structures"] if entry["name"] == "amygdala")
    assert entry["voxels"] == amygdala.sum() and entry["corrected_voxels"] == 0
