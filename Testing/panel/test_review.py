"""The review list, corrections and report, by clicks and keys, with a fake behind the panel."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import pytest
import qt
import slicer
from panel_clicks import cells, click, click_item, draw, first_segment, wait
from panel_fakes import card_dict, make_package, make_result
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest

from harness import application
from SESegmentationLib.inference.cascade import possible_structures
from SESegmentationLib.models import find_model, write_package
from SESegmentationLib.models.labels import LEFT, RIGHT, structure_label
from SESegmentationLib.mrml import find_corrected_slices

NAMES = ["caudate", "putamen", "pallidum", "amygdala", "thalamus"]
STATUS = slicer.vtkSlicerSegmentationsModuleLogic


def press(widget, key):
    QTest.keyClick(widget.ui.structureTable, key)
    application.process_events()
    application.wait_until(lambda: False, 0.15)  # a shortcut animates its button


# --- the list ---------------------------------------------------------------------------------------------------------


def test_expected_dice_where_the_card_tells_and_confidence_where_not(widget, segment):
    table = widget.ui.structureTable
    segment()
    assert table.horizontalHeaderItem(2).text() == "Confidence\n(%)"
    segment(expected_dice=0.6543)
    assert table.horizontalHeaderItem(2).text() == "Expected\nDice (%)"
    assert cells(widget)[1] == ["anterior hippocampus", "0.03", "65", "to check"]


@pytest.mark.parametrize(("dice", "color"), [(0.9, (56, 158, 77)), (0.75, (235, 180, 32)), (0.3, (208, 52, 44))])
def test_the_light(widget, segment, dice, color):
    segment(expected_dice=dice)
    lamp = widget.ui.structureTable.item(1, 2).icon().pixmap(12, 12).toImage()
    middle = qt.QColor(lamp.pixel(5, 5))
    assert (middle.red(), middle.green(), middle.blue()) == color


def test_a_click_shows_the_most_doubtful_slices(widget, segment):
    segment()
    click_item(widget.ui.structureTable, widget.ui.structureTable.item(1, 0))
    for name, axis in (("Red", 2), ("Green", 1), ("Yellow", 0)):
        view = slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode()
        # the block goes from 2 to 4, and doubt two voxels round it counts; it rises to the end
        assert view.GetSliceToRAS().GetElement(axis, 3) == pytest.approx(5)


def test_keys_go_through_the_list_and_accept(widget, segment):
    node = segment()
    ui, review = widget.ui, widget.panel.result.review
    press(widget, Qt.Key_N)
    assert review.current.label.name == "posterior hippocampus"
    press(widget, Qt.Key_N)
    assert review.current.label.name == "anterior hippocampus"
    press(widget, Qt.Key_P)
    press(widget, Qt.Key_A)
    segmentation = node.GetSegmentation()
    assert STATUS.GetSegmentStatus(segmentation.GetSegment("Segment_2")) == STATUS.Completed
    assert cells(widget)[0][3] == "accepted" and review.current.label.name == "anterior hippocampus"
    press(widget, Qt.Key_P)
    assert ui.acceptButton.text == "Reopen (A)"
    press(widget, Qt.Key_A)
    assert cells(widget)[0][3] == "to check" and ui.acceptButton.text == "Accept (A)"


def test_states_are_those_that_other_modules_set(widget, segment, tmp_path):
    node = segment()
    segment_1 = node.GetSegmentation().GetSegment("Segment_1")
    for status, text in (
        (STATUS.InProgress, "corrected"),
        (STATUS.Flagged, "to check"),
        (STATUS.Completed, "accepted"),
    ):
        STATUS.SetSegmentStatus(segment_1, status)
        assert cells(widget)[1][3] == text
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear(False)
    slicer.util.loadScene(path)
    application.process_events()
    assert [row[3] for row in cells(widget)] == ["to check", "accepted"]
    node = widget.logic.getParameterNode().resultSegmentation
    node.GetSegmentation().RemoveSegment("Segment_2")
    widget.enter()
    assert [row[3] for row in cells(widget)] == ["deleted", "accepted"]


def test_edits_by_other_means_are_seen_when_the_panel_is_entered(widget, segment, choices):
    node = segment()
    array = first_segment(node)
    array[8, 5:7, 5:7] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, "Segment_1", choices.inputVolume)
    widget.enter()
    assert [row[3] for row in cells(widget)] == ["to check", "corrected"]
    assert [str(entry) for entry in find_corrected_slices(node)] == ["k:8"]


def test_a_segment_that_the_user_flagged_stays_flagged(widget, segment):
    node = segment()
    draw(node)
    flagged = node.GetSegmentation().GetSegment("Segment_1")
    STATUS.SetSegmentStatus(flagged, STATUS.Flagged)
    widget.enter()
    assert STATUS.GetSegmentStatus(flagged) == STATUS.Flagged and cells(widget)[1][3] == "to check"
    STATUS.SetSegmentStatus(flagged, STATUS.NotStarted)
    widget.enter()
    assert STATUS.GetSegmentStatus(flagged) == STATUS.InProgress and cells(widget)[1][3] == "corrected"


def test_correct_needs_a_structure_that_is_there(widget, segment):
    node = segment()
    assert not widget.ui.correctButton.enabled
    click(widget.ui.nextButton)
    node.GetSegmentation().RemoveSegment("Segment_2")
    click(widget.ui.correctButton)
    assert widget.panel.messages.shown[0].text == "The segment posterior hippocampus was deleted."


def test_structures_that_were_not_calibrated_say_so(widget, segment, segmenter, make_volume, choices):
    table = widget.ui.structureTable
    segment()
    assert "Expected Dice: not measured for this structure and model. Confidence: 90 %" in table.item(1, 2).toolTip()
    assert cells(widget)[0][2] == "\u2013" and table.item(0, 2).toolTip() == "Not found: no expected Dice"
    click(widget.ui.segmentButton)
    result = make_result(segmenter.jobs[-1].image, widget.panel.models.card)
    first, second = result.structures
    dices = [replace(first, expected_dice=0.8), replace(first, label=second.label, confidence=0.3)]
    segmenter.succeed(replace(result, structures=dices))
    wait(lambda: not widget.panel.run.running)
    assert table.horizontalHeaderItem(2).text() == "Expected\nDice (%)"
    assert [row[2] for row in cells(widget)] == ["\u2013", "80"]
    assert "not measured" in table.item(0, 2).toolTip() and "30 %" in table.item(0, 2).toolTip()
    assert table.item(1, 2).toolTip() == ""


def test_the_order_and_the_places_come_back_with_the_scene(widget, segmenter, choices, make_volume, models, tmp_path):
    labels = [structure_label(value, name) for value, name in enumerate(NAMES, start=1)]
    networks = card_dict()["networks"]
    networks["axial"]["classes"] = len(NAMES) + 1
    make_package(models, "tiny-t1", labels=[label.to_dict() for label in labels], networks=networks)
    widget.enter()
    make_volume()
    click(widget.ui.segmentButton)
    result = make_result(segmenter.jobs[-1].image, widget.panel.models.card)
    order = [0.9, None, 0.2, 0.65, 0.4]
    first = result.structures[0]
    structures = [
        replace(first, label=label, expected_dice=dice, doubtful=(number, number + 1, number + 2))
        for number, (label, dice) in enumerate(zip(labels, order, strict=True))
    ]
    segmenter.succeed(replace(result, structures=structures))
    wait(lambda: not widget.panel.run.running)
    before = cells(widget)
    assert [row[0] for row in before] == [NAMES[n] for n in (1, 2, 4, 3, 0)]
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear(False)
    slicer.util.loadScene(path)
    application.process_events()
    assert cells(widget) == before and not slicer.util.getNodes("*doubt*")
    views = [slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode() for name in ("Yellow", "Green", "Red")]
    for number in (1, 2, 4, 3, 0):
        click(widget.ui.nextButton)
        places = [view.GetSliceToRAS().GetElement(axis, 3) for axis, view in enumerate(views)]
        assert places == pytest.approx([number, number + 1, number + 2])


# --- corrected slices and other results -------------------------------------------------------------------------------


def test_a_rerun_keeps_corrected_slices_and_says_so(widget, segment, choices):
    node = segment()
    draw(node)
    choices.outputSegmentation = node
    before = first_segment(node)
    segment(corner=6)
    after = first_segment(node)
    assert (after[3] == before[3]).all() and after[6:9, 6:9, 6:9].all() and not after[2].any()
    assert widget.panel.messages.shown[0].text == "Corrected slices, left as they are: axial 3."


def test_corrections_of_one_volume_are_not_mixed_with_another(widget, segment, choices, segmenter, make_volume):
    node = segment()
    choices.outputSegmentation = node
    other = make_volume((9, 9, 9), "other")
    draw(node)
    choices.inputVolume = other
    click(widget.ui.segmentButton)
    (message,) = widget.panel.messages.shown
    assert "corrected slices of another volume" in message.text and len(segmenter.jobs) == 1


# --- proposals --------------------------------------------------------------------------------------------------------


def test_report_is_cancelled_or_cannot_be_written(widget, segment, dialogs, tmp_path):
    segment()
    dialogs.answer("")
    click(widget.ui.saveReportButton)
    assert widget.panel.messages.shown == []
    dialogs.answer(str(tmp_path / "no such folder" / "report"))
    click(widget.ui.saveReportButton)
    assert widget.panel.messages.shown[0].text == "report.csv cannot be written: No such file or directory."
    dialogs.answer(str(tmp_path / "report"))
    click(widget.ui.saveReportButton)
    assert os.listdir(tmp_path).count("report.csv") == 1


@pytest.mark.parametrize("replaced", [True, False])
def test_a_file_whose_ending_was_not_typed_is_replaced_only_where_the_user_agrees(
    widget, segment, dialogs, tmp_path, replaced
):
    segment()
    (tmp_path / "report.csv").write_text("of another patient", encoding="utf-8")
    dialogs.answer(str(tmp_path / "report"), replaced)
    click(widget.ui.saveReportButton)
    assert dialogs.shown[-1].text == "report.csv exists already. Replace it?"
    assert ((tmp_path / "report.csv").read_text(encoding="utf-8") != "of another patient") == replaced
    assert len(widget.panel.messages.shown) == replaced


def test_the_suggested_name_of_a_file_is_possible_on_every_system(widget, segment, dialogs, make_volume):
    segment(make_volume(name="3: T2/FLAIR <ä>"))
    for button, ending in ((widget.ui.saveReportButton, "csv"), (widget.ui.savePageButton, "html")):
        dialogs.answer("")
        click(button)
        assert dialogs.shown[-1].text == f"3_ T2_FLAIR _ä_ tiny-t1.{ending}"


@pytest.mark.parametrize("ending", ["", ".pdf"])
def test_the_page_shows_the_result_as_it_is_now(widget, segment, dialogs, tmp_path, ending):
    pytest.importorskip("matplotlib" if ending else "jinja2", reason="needs the extra 'export'")
    node = segment(expected_dice=0.6543)
    draw(node)
    click_item(widget.ui.structureTable, widget.ui.structureTable.item(0, 0))
    click(widget.ui.acceptButton)
    dialogs.answer("")
    click(widget.ui.savePageButton)
    assert widget.panel.messages.shown == []
    dialogs.answer(str(tmp_path / f"page{ending}"))
    click(widget.ui.savePageButton)
    (message,) = widget.panel.messages.shown
    path = tmp_path / (f"page{ending}" if ending else "page.html")
    assert message.text == f"The page was saved as {path}."
    content = path.read_bytes()
    if ending:
        assert content.startswith(b"%PDF-") and content.rstrip().endswith(b"%%EOF")
        return
    text = content.decode("utf-8")
    for told in ("anterior hippocampus", "43 % corrected", "accepted", "<td>0.05", "<td>65", "Not a medical device"):
        assert told in text
    assert str(tmp_path) not in text


def test_without_its_package_there_is_no_page(widget, segment, dialogs, tmp_path, monkeypatch):
    segment()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    dialogs.answer(str(tmp_path / "page.pdf"))
    click(widget.ui.savePageButton)
    (message,) = widget.panel.messages.shown
    assert message.text == "A page needs the Python package matplotlib."
    assert not (tmp_path / "page.pdf").exists()


def test_the_table_is_made_once_and_kept_up_to_date(widget, segment, choices):
    node = segment()
    click(widget.ui.tableButton)
    draw(node)
    click(widget.ui.tableButton)
    (table,) = slicer.util.getNodesByClass("vtkMRMLTableNode")
    columns = [table.GetColumnName(index) for index in range(table.GetNumberOfColumns())]
    row = {name: table.GetCellText(0, index) for index, name in enumerate(columns)}
    # 27 voxels as they were found, and a square of 4 x 5
    assert (row["voxels"], row["state"], row["name"]) == ("47", "corrected", "anterior hippocampus")
    assert float(row["corrected_share"]) == pytest.approx(20 / 47, abs=1e-4)
    assert slicer.app.applicationLogic().GetSelectionNode().GetActiveTableID() == table.GetID()


def test_changes_since_an_earlier_result_are_told_from_noise(widget, segment, make_volume):
    earlier = segment()
    node = segment(make_volume(name="later"))
    assert node is not earlier
    click(widget.ui.changesButton)
    assert [message.text for message in widget.panel.messages.shown] == ["No earlier result is chosen."]
    widget.ui.earlierSelector.setCurrentNode(earlier)
    draw(node)
    click(widget.ui.changesButton)
    assert "not measured" in widget.panel.messages.shown[-1].text
    package = find_model("tiny-t1")
    measured = {"repeatability": {"within_scan_sd": {"1": 0.05}}}
    write_package(package.path, package.card.to_dict() | measured, package.weights_path)
    click(widget.ui.changesButton)
    expected = "anterior hippocampus +74.1 %"
    assert widget.panel.messages.shown[-1].text == f"Changed by more than noise: {expected}."
    (table,) = slicer.util.getNodesByClass("vtkMRMLTableNode")
    columns = [table.GetColumnName(index) for index in range(table.GetNumberOfColumns())]
    row = {name: table.GetCellText(0, index) for index, name in enumerate(columns)}
    assert row["change"] == "+74.1 %" and float(row["later_ml"]) == pytest.approx(
        47 / 27 * float(row["earlier_ml"]), 1e-3
    )
    write_package(
        package.path, package.card.to_dict() | {"repeatability": {"within_scan_sd": {"1": 0.5}}}, package.weights_path
    )
    click(widget.ui.changesButton)
    assert widget.panel.messages.shown[-1].text == "No structure changed by more than noise."


def test_changes_of_both_sides_are_told_from_noise(widget, choices, segmenter, make_volume, models):
    """The noise is known by the values of the crop's model, which stand for left and right in a whole head."""
    sides = [structure_label(17, "hippocampus", LEFT), structure_label(53, "hippocampus", RIGHT)]
    make_package(models, "locator", labels=[label.to_dict() for label in sides])
    targets = [
        {"locator_value": 17, "values": {"1": 1, "2": 2}},
        {"locator_value": 53, "values": {"1": 3, "2": 4}, "mirror": True},
    ]
    noise = {"repeatability": {"within_scan_sd": {"1": 0.01, "2": 0.01}}}
    package = make_package(models, "both", pipeline={"locator": "locator", "targets": targets}, **noise)
    whole = tuple(label for _, label in possible_structures(package.card, models)[2:])

    def segmented(name):
        choices.inputVolume = make_volume(name=name)
        click(widget.ui.segmentButton)
        segmenter.succeed(make_result(segmenter.jobs[-1].image, replace(package.card, labels=whole), corner=1))
        wait(lambda: not widget.panel.run.running)
        return choices.resultSegmentation

    widget.enter()
    choices.model = "both"
    earlier, node = segmented("earlier"), segmented("later")
    draw(node, identifier="Segment_3")
    widget.ui.earlierSelector.setCurrentNode(earlier)
    click(widget.ui.changesButton)
    told = widget.panel.messages.shown[-1].text
    assert told.startswith("Changed by more than noise: right anterior hippocampus +"), told
    choices.fast = True
    widget.ui.earlierSelector.setCurrentNode(segmented("with fewer views"))
    choices.resultSegmentation = node
    click(widget.ui.changesButton)
    told = widget.panel.messages.shown[-1].text
    assert "not measured" in told, "the noise was measured with all views"
    assert told.startswith("The scans were segmented in different ways: the earlier scan with fewer views."), told
