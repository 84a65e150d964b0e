"""The table of a result at a glance, by clicks: pairs in one row, regions, filter, intracranial volume."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
import SimpleITK as sitk
import slicer
from panel_clicks import click, click_item, type_text, wait
from panel_fakes import card_dict, make_package, make_result
from PySide6.QtCore import QPoint, QRect, Qt
from PySide6.QtTest import QTest

from harness import application
from SESegmentationLib.models.labels import LEFT, RIGHT, brain_labels, structure_label
from SESegmentationLib.result import IntracranialVolume

#: expected Dice; that of all others is 0.9
DICE = {"right hippocampus": 0.3, "left thalamus": 0.4, "left hippocampus": 0.5}
VENTRICLES = ["lateral ventricle", "inferior lateral ventricle", "third ventricle", "fourth ventricle"]


def cells(table, row):
    return [table.item(row, column).text() for column in range(table.columnCount) if table.item(row, column)]


def shown(table):
    return [table.item(row, 0).text() for row in range(table.rowCount) if not table.isRowHidden(row)]


def row_of(table, name):
    return next(row for row in range(table.rowCount) if table.item(row, 0).text() == name)


@pytest.fixture
def segment_with(widget, segmenter, models, make_volume):
    """Function that segments, by a model with some labels, a volume in which the left hippocampus is twice as large."""

    def run(labels):
        networks = card_dict()["networks"]
        networks["axial"]["classes"] = len(labels) + 1
        make_package(models, "tiny-t1", labels=[label.to_dict() for label in labels], networks=networks)
        widget.enter()
        make_volume((110, 14, 12))
        click(widget.ui.segmentButton)
        result = make_result(segmenter.jobs[-1].image, widget.panel.models.card)
        array = sitk.GetArrayFromImage(result.labels)
        array[5:8][array[2:5] == 17] = 17
        image = sitk.GetImageFromArray(array)
        image.CopyInformation(result.labels)
        structures = [replace(s, expected_dice=DICE.get(s.label.name, 0.9)) for s in result.structures]
        volume = IntracranialVolume(1562.3, 23.4)
        segmenter.succeed(replace(result, labels=image, structures=structures, intracranial=volume))
        wait(lambda: not widget.panel.run.running)
        return widget.logic.getParameterNode().resultSegmentation

    return run


@pytest.fixture
def brain(segment_with):
    return segment_with(brain_labels())


def test_pairs_stand_in_one_row_under_their_region(widget, brain):
    table = widget.ui.structureTable
    assert table.rowCount == 18 + 5  # 14 pairs, 4 structures without sides, 5 regions
    names = shown(table)
    regions = [names[row] for row in range(table.rowCount) if table.columnSpan(row, 0) == table.columnCount]
    assert regions[0] == "Cortex and white matter" and regions[-1] == "Brain stem and cerebellum"
    temporal = names.index("Medial temporal lobe")
    assert names[temporal + 1 : temporal + 4] == ["hippocampus", "amygdala", "Brain stem and cerebellum"]
    assert cells(table, temporal + 1) == ["hippocampus", "0.05", "0.03", "+66.7", "50/30", "to check"]
    assert cells(table, row_of(table, "amygdala")) == ["amygdala", "0.03", "0.03", "0.0", "90/90", "to check"]
    # of the last one, which was not found, there is no asymmetry
    row = cells(table, row_of(table, "ventral diencephalon"))
    assert row[1:4] == ["0.03", "not found", "\u2013"] and row[4] == "90/\u2013"


def test_pairs_of_a_small_model_need_no_regions_and_no_filter(widget, segment_with):
    kidneys = [structure_label(2, "kidney", RIGHT), structure_label(3, "kidney", LEFT)]
    segment_with([structure_label(1, "liver"), *kidneys, structure_label(4, "spleen")])
    table = widget.ui.structureTable
    assert sorted(shown(table)) == ["kidney", "liver", "spleen"] and not widget.ui.structureSearchBox.isVisible()
    click_item(table, table.item(row_of(table, "kidney"), 1))
    assert widget.panel.result.review.current.label.name == "left kidney"


def test_a_click_on_a_side_chooses_it_and_keys_go_on_from_there(widget, brain):
    table, review = widget.ui.structureTable, widget.panel.result.review
    row = row_of(table, "hippocampus")
    sagittal = slicer.app.layoutManager().sliceWidget("Yellow").mrmlSliceNode()
    places = []
    for column, side in ((1, "left"), (2, "right"), (0, "right"), (1, "left")):  # the right one is less certain
        click_item(table, table.item(row, column))
        assert review.current.label.name == f"{side} hippocampus"
        assert [table.item(row, c).font().underline() for c in (1, 2)] == [side == "left", side == "right"]
        places.append(sagittal.GetSliceToRAS().GetElement(0, 3))
    assert places[0] == places[3] and places[1] == places[2] and abs(places[0] - places[1]) > 2

    click(widget.ui.previousButton)
    assert review.current.label.name == "left thalamus"
    click(widget.ui.previousButton)
    click(widget.ui.acceptButton)  # the right hippocampus; the next is chosen
    assert review.current.label.name == "left thalamus" and table.item(row, 5).text() == "R accepted"
    click(widget.ui.nextButton)
    click(widget.ui.acceptButton)
    assert table.item(row, 5).text() == "accepted"


def test_the_filter_narrows_the_rows_and_the_review(widget, brain):
    ui, review = widget.ui, widget.panel.result.review
    table = ui.structureTable
    type_text(ui.structureSearchBox, "ventr")
    assert sorted(shown(table)) == sorted(
        ["Ventricles and fluid", "Deep grey matter", *VENTRICLES, "ventral diencephalon"]
    )
    type_text(ui.structureSearchBox, "Left hippo")
    assert shown(table) == ["Medial temporal lobe", "hippocampus"]
    seen = set()
    for _ in range(3):
        click(ui.nextButton)
        seen.add(review.current.label.name)
    assert seen == {"left hippocampus", "right hippocampus"}
    type_text(ui.structureSearchBox, "nothing of the kind")
    assert shown(table) == []
    click(ui.nextButton)  # nowhere to go
    type_text(ui.structureSearchBox, "")
    assert len(shown(table)) == 23


def test_a_click_on_a_title_sorts_within_the_regions(widget, brain):
    table = widget.ui.structureTable
    header = table.horizontalHeader()

    def click_title(column):
        place = QPoint(header.sectionViewportPosition(column) + 8, 8)
        QTest.mouseClick(header.viewport(), Qt.LeftButton, Qt.NoModifier, place)
        application.process_events()

    click_item(table, table.item(row_of(table, "hippocampus"), 2))
    click_title(0)
    grey = shown(table).index("Deep grey matter")
    names = shown(table)[grey + 1 : grey + 7]
    assert names == sorted(names) and names[0] == "accumbens"
    click_title(0)
    assert shown(table)[grey + 1 : grey + 7] == names[::-1]
    click_title(1)
    click_title(1)
    assert shown(table)[shown(table).index("Medial temporal lobe") + 1] == "hippocampus"  # the largest
    assert widget.panel.result.review.current.label.name == "right hippocampus"
    assert cells(table, row_of(table, "hippocampus"))[5] == "to check"


@pytest.mark.parametrize("width", [450, 500])
def test_at_768_pixels_of_height_segment_and_the_first_rows_are_seen_and_names_are_whole(widget, brain, width):
    area, table = slicer.app._window._area, widget.ui.structureTable
    area.setFixedWidth(width)
    slicer.app._window.resize(width + 300, 768)
    wait(lambda: area.width == width and area.height > 600)
    for _ in range(12):  # layouts within layouts take their turns
        application.process_events()
    assert table.y + table.height <= widget.ui.nextButton.y

    def bottom(view, rect):
        return view.mapTo(area, QPoint(0, rect.bottom())).y()

    room = 600  # of 768, menus, tool bars and the module's title take the rest
    assert bottom(widget.ui.segmentButton, widget.ui.segmentButton.rect) < 330
    assert widget.ui.modelSummaryLabel.height < 2.5 * widget.ui.modelSummaryLabel.fontMetrics().lineSpacing()
    third = table.visualItemRect(table.item(2, 0))
    assert bottom(table.viewport(), third) < room
    for row in range(table.rowCount):
        if table.columnSpan(row, 0) > 1:
            continue
        item = table.item(row, 0)
        wide = table.columnWidth(0) - 12 - 2 * 5  # the square of its colour and what lies round it
        needed = table.fontMetrics().boundingRect(QRect(0, 0, wide, 999), Qt.TextWordWrap, item.text())
        assert needed.width() <= wide and needed.height() <= table.rowHeight(row), item.text()


def test_the_intracranial_volume_is_told_kept_and_reported(widget, brain, dialogs, tmp_path):
    ui = widget.ui

    def check():
        assert ui.resultLabel.text.splitlines()[1] == "Intracranial volume 1562 \u00b1 23 ml"
        row = row_of(ui.structureTable, "hippocampus")
        # 54 voxels of 1562300
        table = ui.structureTable
        assert [table.item(row, column).text() for column in (1, 2)] == ["0.05", "0.03"]
        assert table.item(row, 1).toolTip() == "0.0035 % of the intracranial volume"
        click(ui.shareCheckBox)
        assert table.horizontalHeaderItem(1).text() == "Left\n(%)"
        assert [table.item(row, column).text() for column in (1, 2, 5)] == ["0.003", "0.002", "to check"]
        assert table.item(row, 1).toolTip() == "0.05 ml"
        click(ui.shareCheckBox)
        assert table.item(row, 1).text() == "0.05"

    check()
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear(False)
    slicer.util.loadScene(path)
    application.process_events()
    check()
    for name in ("report.json", "report.csv"):
        dialogs.answer(str(tmp_path / name))
        click(ui.saveReportButton)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["intracranial"] == {"volume_ml": 1562.3, "error_ml": 23.4}
    with open(tmp_path / "report.csv", encoding="utf-8-sig") as file:
        lines = {line["name"]: line for line in csv.DictReader(file)}
    assert float(lines["left hippocampus"]["intracranial_share"]) == pytest.approx(54 / 1562300, abs=1e-6)
    assert float(lines["left hippocampus"]["intracranial_ml"]) == 1562.3
