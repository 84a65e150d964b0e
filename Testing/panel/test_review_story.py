"""Segment, look where doubt is, correct, learn from it, decide, take back, report: by clicks, with a real worker."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from panel_clicks import click, click_item, wait
from panel_story import load_sample, voxels

from harness import application
from harness.segment_editor import paint

STATUS = slicer.vtkSlicerSegmentationsModuleLogic
SLICE = 18


@pytest.fixture
def reviewed(open_story, real_model):
    """A segmented sample, and the story about it."""
    story = open_story(real_model)
    volume = load_sample()
    return story, volume, story.segment()


def rows(table):
    return [[table.item(row, column).text() for column in range(4)] for row in range(table.rowCount)]


def state(node, volume):
    """The voxels of every segment."""
    return {
        identifier: voxels(node, identifier, volume).copy() for identifier in node.GetSegmentation().GetSegmentIDs()
    }


def same(one, other):
    return one.keys() == other.keys() and all((one[key] == other[key]).all() for key in one)


def draw_slice(node, volume, truth):
    """Draw one axial slice of both structures as it should be."""
    shape = truth.shape
    for value, identifier in ((1, "Segment_1"), (2, "Segment_2")):
        wanted = np.zeros(shape, bool)
        wanted[SLICE] = truth[SLICE] == value
        surplus = np.zeros(shape, bool)
        surplus[SLICE] = voxels(node, identifier, volume)[SLICE] & ~wanted[SLICE]
        paint(node, identifier, surplus, volume, erase=True)
        paint(node, identifier, wanted, volume)


def test_from_segment_to_report(reviewed, dialogs, tmp_path):
    story, volume, node = reviewed
    ui, panel = story.ui, story.widget.panel
    table = ui.structureTable

    # the list: worst first, all to be checked
    listed = rows(table)
    numbers = [int(row[2]) for row in listed if row[2]]
    assert numbers == sorted(numbers) and {row[3] for row in listed} == {"to check"}

    # a key shows the worst where it is most doubtful
    first = panel.result.record.structures[table.item(0, 0).data(application.QtCore.Qt.UserRole)]
    click(ui.nextButton)
    assert panel.result.review.current == first
    for name, axis in (("Red", 2), ("Green", 1), ("Yellow", 0)):
        view = slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode()
        there = first.doubtful_lps[axis] * (1 if axis == 2 else -1)
        assert view.GetSliceToRAS().GetElement(axis, 3) == pytest.approx(there)
    click(ui.doubtCheckBox)
    doubt = slicer.util.arrayFromVolume(slicer.util.getNode("* doubt"))
    assert doubt.dtype == np.uint8 and doubt.max() > 60 and ui.doubtCheckBox.checked
    click(ui.doubtCheckBox)

    # what the network looked at: most at the structures
    click(ui.attentionCheckBox)
    wait(lambda: not story.running)
    assert ui.attentionCheckBox.checked, story.messages
    attention = slicer.util.arrayFromVolume(slicer.util.getNode("* attention"))
    found = np.any(list(state(node, volume).values()), axis=0)
    assert attention.dtype == np.float32 and -10 < attention.min() < attention.max() < 20
    if story.widget.panel.models.card.name == "hippocampus-t1":
        assert attention[found].mean() > attention[~found].mean()
    click(ui.attentionCheckBox)

    # correct one slice in the Segment Editor
    click(ui.correctButton)
    editor = slicer.modules.SegmentEditorWidget.editor
    assert editor.segmentationNode() is node and editor.sourceVolumeNode() is volume
    assert node.GetSegmentation().GetSegment(editor.currentSegmentID()).GetName() == first.label.name
    own = state(node, volume)
    from drawn_hippocampus import draw_sample

    truth = sitk.GetArrayFromImage(draw_sample().labels)
    truth[SLICE] = np.roll(truth[SLICE], 3, axis=0)  # this patient's is elsewhere
    draw_slice(node, volume, truth)
    slicer.util.selectModule("SESegmentation")
    corrected = state(node, volume)
    assert not same(own, corrected) and {row[3] for row in rows(table)} == {"corrected"}

    # learn from it: progress, a proposal, nothing changed yet
    click(ui.recalibrateButton)
    assert story.running, story.messages
    wait(lambda: ui.progressBar.value > 40 or not story.running)
    assert story.running and ui.segmentButton.text == "Cancel" and not ui.recalibrateButton.enabled
    wait(lambda: not story.running)
    assert story.messages == [] and ui.previewFrame.isVisible()
    assert f"axial {SLICE}" in ui.previewLabel.text
    assert same(state(node, volume), corrected)
    changes = {row[0]: row[3] for row in rows(table)}
    assert any(text.startswith("+") for text in changes.values())
    assert slicer.util.getFirstNodeByName(f"{node.GetName()} proposal") is not None

    # accept it: the corrected slice is as it was left, the change is what was told
    click(ui.acceptChangesButton)
    refined = state(node, volume)
    assert not ui.previewFrame.isVisible() and not same(refined, corrected)
    assert slicer.util.getFirstNodeByName(f"{node.GetName()} proposal") is None
    for structure in panel.result.record.structures:
        identifier = f"Segment_{structure.label.value}"
        assert (refined[identifier][SLICE] == corrected[identifier][SLICE]).all()
        gained = (refined[identifier] & ~corrected[identifier]).sum()
        lost = (corrected[identifier] & ~refined[identifier]).sum()
        told = f"+{gained} \u2212{lost}" if gained or lost else "\u2013"
        assert changes[structure.label.name] == told
    # accept a structure, report
    click_item(table, table.item(0, 0))
    accepted = panel.result.review.current.label
    click(ui.acceptButton)
    dialogs.answer(str(tmp_path / "report.csv"))
    click(ui.saveReportButton)
    with open(tmp_path / "report.csv", encoding="utf-8-sig") as file:
        lines = {line["name"]: line for line in csv.DictReader(file)}
    assert lines[accepted.name]["state"] == "accepted"
    assert int(lines[accepted.name]["voxels"]) == refined[f"Segment_{accepted.value}"].sum()
    assert sum(float(line["corrected_share"]) for line in lines.values()) > 0
    dialogs.answer(str(tmp_path / "report.json"))
    click(ui.saveReportButton)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["corrected_slices"] == [f"k:{SLICE}"] and report["model"]["adapted_parameters"] == 0
    click(ui.tableButton)
    shown = slicer.util.getNode(f"{node.GetName()} report")
    assert shown.GetNumberOfRows() == len(lines) and shown.GetCellText(0, 2) in lines

    # one step back: the correction is still there
    click(ui.undoButton)
    assert same(state(node, volume), corrected) and not ui.undoButton.enabled


def test_reject_cancel_and_nothing_to_learn_from(reviewed):
    story, volume, node = reviewed
    ui = story.ui
    click(ui.recalibrateButton)
    assert story.messages == ["No slice was corrected yet: there is nothing to learn from."] and not story.running

    stroke = np.zeros(slicer.util.arrayFromVolume(volume).shape, bool)
    stroke[SLICE, 20:26, 14:20] = True
    paint(node, "Segment_1", stroke, volume)
    before = state(node, volume)
    click(ui.recalibrateButton)
    wait(lambda: ui.progressBar.value > 30)
    story.widget.panel.run.cancel()
    wait(lambda: not story.running)
    assert story.messages == ["The segmentation was cancelled."] and same(state(node, volume), before)

    click(ui.recalibrateButton)
    wait(lambda: not story.running)
    assert ui.previewFrame.isVisible()
    click(ui.rejectChangesButton)
    assert not ui.previewFrame.isVisible() and same(state(node, volume), before)
    assert "corrected" in {row[3] for row in rows(ui.structureTable)} and not ui.undoButton.enabled
