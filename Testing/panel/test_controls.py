"""Every control of the panel is used as a user does, with a fake behind the panel's Protocols."""

from __future__ import annotations

import numpy as np
import pytest
import qt
import slicer
from panel_clicks import click, click_item, type_text, wait
from panel_fakes import make_package, make_result

from harness import application
from SESegmentationLib.errors import WorkerError
from SESegmentationLib.inference.result import Finding


@pytest.fixture
def choices(widget):
    return widget.logic.getParameterNode()


@pytest.fixture
def segment(widget, segmenter, choices, make_volume):
    """Function that segments a volume by a click and returns the node that is shown."""

    def run(volume=None, findings=(), corner=2):
        volume = volume or choices.inputVolume or make_volume()
        choices.inputVolume = volume
        click(widget.ui.segmentButton)
        segmenter.succeed(make_result(segmenter.jobs[-1].image, widget.panel.models.card, findings, corner))
        wait(lambda: not widget.panel.run.running)
        return choices.resultSegmentation

    return run


def reload():
    slicer.util.reloadScriptedModule("SESegmentation")
    application.process_events()
    return slicer.util.getModuleWidget("SESegmentation")


def texts(messages):
    return [(message.level, message.text) for message in messages]


# --- inputs -----------------------------------------------------------------------------------------------------------


def test_a_volume_that_is_loaded_is_chosen(widget, choices, make_volume):
    volume = make_volume()
    assert choices.inputVolume is volume and widget.ui.volumeSelector.currentNode() is volume
    make_volume(name="second")
    assert choices.inputVolume is volume


def test_the_volume_on_show_is_preferred(widget, choices, make_volume):
    make_volume()
    shown = make_volume(name="shown")
    slicer.app.applicationLogic().GetSelectionNode().SetActiveVolumeID(shown.GetID())
    choices.inputVolume = None
    widget.enter()
    assert choices.inputVolume is shown


def test_label_maps_are_not_offered(widget, choices):
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    application.process_events()
    assert choices.inputVolume is None and widget.ui.volumeSelector.nodeCount() == 0


def test_choosing_a_volume(widget, choices, make_volume):
    make_volume()
    second = make_volume(name="second")
    widget.ui.volumeSelector.setCurrentNode(second)
    assert choices.inputVolume is second


def test_what_is_wrong_with_a_volume_is_said_at_once_and_until_it_is_mended(widget, choices, make_volume):
    volume = make_volume()
    assert not widget.ui.inputMessageFrame.isVisible()
    bend = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "bend")
    volume.SetAndObserveTransformNodeID(bend.GetID())
    assert texts(widget.panel.inputs.messages) == [("error", "head is under the non-linear transform bend.")]
    assert widget.ui.inputMessageFrame.isVisible()
    volume.SetAndObserveTransformNodeID(None)
    assert widget.panel.inputs.messages == [] and not widget.ui.inputMessageFrame.isVisible()


def test_what_does_not_fit_the_model_is_said_at_once(widget, choices, make_volume, models):
    make_package(models, "large", title="Large", input={"kind": "head", "extent_mm": [100, 200]})
    widget.enter()
    volume = make_volume()
    volume.SetSpacing(1, 1, 4)
    choices.model = "large"
    assert texts(widget.panel.inputs.messages) == [
        ("warning", "The field of view (20 x 18 x 64 mm) is smaller than this model expects (100 x 100 x 100 mm)."),
        ("warning", "The voxels (1 x 1 x 4 mm) are coarser than the model's (1 x 1 x 1 mm)."),
    ]
    volume.GetImageData().GetPointData().GetScalars().Fill(-1000)
    volume.GetImageData().Modified()
    assert "Hounsfield" in widget.panel.inputs.messages[-1].text
    choices.model = "tiny-t1"
    assert len(widget.panel.inputs.messages) == 2


def test_extent_and_voxel_size_are_those_along_the_patients_axes(widget, choices, make_volume, models):
    make_package(models, "head", input={"kind": "head", "extent_mm": [[17, 19], [15, 17], [70, 90]]})
    choices.model = "head"
    volume = make_volume()  # 20 x 18 x 16
    volume.SetSpacing(4, 1, 1)
    volume.SetIJKToRASDirections(0, 1, 0, 0, 0, -1, 1, 0, 0)  # i to the head, j to the right, k to the back
    widget.enter()
    assert [message.text[:29] for message in widget.panel.inputs.messages] == ["The voxels (1 x 1 x 4 mm) are"]


def test_size_does_not_matter_where_a_region_is_chosen_or_another_model_looks_for_the_place(
    widget, choices, make_volume, models
):
    expected = {"kind": "crop", "extent_mm": [1, 10]}
    make_package(models, "crop", input=expected)
    make_package(models, "cascade", input=expected, pipeline={"locator": "tiny-t1", "targets": {}})
    make_volume()
    choices.model = "crop"
    widget.enter()
    assert len(widget.panel.inputs.messages) == 1
    choices.region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    assert widget.panel.inputs.messages == []
    choices.region, choices.model = None, "cascade"
    assert widget.panel.inputs.messages == []


def test_a_new_region_lies_round_the_middle_of_the_volume(widget, choices, make_volume, segmenter):
    volume = make_volume((20, 18, 16))
    volume.SetOrigin(100, 0, -50)
    assert widget.ui.regionSelector.noneDisplay == "Whole volume"
    region = widget.ui.regionSelector.addNode()
    assert choices.region is region
    assert np.allclose(region.GetSize(), (10, 9, 8)) and np.allclose(region.GetCenter(), (109.5, 8.5, -42.5))
    click(widget.ui.segmentButton)
    assert segmenter.jobs[0].roi is not None
    click(widget.ui.segmentButton)


def test_output_goes_into_a_new_segmentation_or_the_chosen_one(widget, choices, segment):
    first = segment()
    second = segment()
    assert first is not second and choices.outputSegmentation is None
    widget.ui.outputSelector.setCurrentNode(first)
    assert segment(corner=5) is first
    assert slicer.util.arrayFromSegmentBinaryLabelmap(first, "Segment_1", choices.inputVolume)[5:8, 5:8, 5:8].all()


def test_an_output_under_another_transform_is_refused(widget, choices, segment, segmenter):
    choices.outputSegmentation = segment()
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    choices.inputVolume.SetAndObserveTransformNodeID(transform.GetID())
    click(widget.ui.segmentButton)
    assert "not under the same transform" in widget.panel.messages.shown[0].text and len(segmenter.jobs) == 1


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def three_models(widget, models):
    make_package(models, "brain-t1", title="Brain", summary="Sections of a head.")
    (models / "broken").mkdir()
    (models / "broken" / "model.json").write_text("{")
    widget.enter()
    return [widget.ui.modelList.item(row) for row in range(3)]


def test_models_are_listed_searched_and_chosen(widget, choices, three_models):
    brain, tiny, broken = three_models
    assert [item.text() for item in three_models] == ["Brain", "Tiny", "broken (damaged)"]
    click_item(widget.ui.modelList, tiny)
    assert choices.model == "tiny-t1" and "<b>Tiny</b> 1.0.0" in widget.ui.modelCardLabel.text
    type_text(widget.ui.modelSearchBox, "head sections")
    assert [item.isHidden() for item in three_models] == [False, True, True]
    type_text(widget.ui.modelSearchBox, "posterior hippo")
    assert [item.isHidden() for item in three_models] == [False, False, True]
    type_text(widget.ui.modelSearchBox, "")
    assert not any(item.isHidden() for item in three_models)
    assert choices.model == "tiny-t1"


def test_card_says_what_how_well_and_on_what_terms(widget, models):
    licence = {"spdx": "CC-BY-4.0", "name": "CC <BY>", "free": True, "attribution": "A & B", "url": "https://x.org/a"}
    make_package(
        models,
        "tiny-t1",
        accuracy={"mean_dice": 0.9051, "cases": 40, "data": "hippocampus crops"},
        input={"kind": "crop", "limits": ["Adults only."]},
        licence=licence,
    )
    widget.enter()
    card = widget.ui.modelCardLabel.text
    for text in (
        "<b>Finds:</b> anterior hippocampus, posterior hippocampus",
        "mean Dice 0.91 over 40 cases that it had not seen (hippocampus crops)",
        "Adults only.",
        '<a href="https://x.org/a">CC &lt;BY&gt;</a>. A &amp; B',
        "known after the first segmentation",
    ):
        assert text in card


def test_card_tells_the_expected_time_once_it_is_known(widget, segment, choices, make_volume):
    segment(make_volume((20, 18, 16)))
    assert "Time on this computer:</b> about 2 s" in widget.ui.modelCardLabel.text
    choices.inputVolume = make_volume((40, 36, 32), "larger")
    assert "Time on this computer:</b> about 16 s" in widget.ui.modelCardLabel.text
    choices.fast = True
    assert "known after the first" in widget.ui.modelCardLabel.text


def test_a_damaged_model_says_so_in_its_card_and_at_segment(widget, three_models, make_volume, segmenter):
    make_volume()
    click_item(widget.ui.modelList, three_models[2])
    assert "is not JSON" in widget.ui.modelCardLabel.text
    click(widget.ui.segmentButton)
    assert "is not JSON" in widget.panel.messages.shown[0].text and not segmenter.jobs


def test_a_model_that_a_scene_asks_for_and_is_not_there(widget, choices, make_volume, segmenter):
    make_volume()
    choices.model = "elsewhere"
    assert "elsewhere" in widget.ui.modelCardLabel.text and widget.ui.modelList.currentRow == -1
    click(widget.ui.segmentButton)
    assert "not installed" in widget.panel.messages.shown[0].text and not segmenter.jobs


def test_no_model_at_all(widget, models, make_volume, segmenter):
    for file in (models / "tiny-t1").iterdir():
        file.unlink()
    make_volume()
    widget.enter()
    assert widget.ui.modelCardLabel.text == "No model is installed."
    click(widget.ui.segmentButton)
    assert widget.panel.messages.shown[0].text == "No model is installed."


def test_terms_that_are_not_free_ask_for_consent_once(widget, choices, models, make_volume, segmenter):
    make_package(models, "paid", licence={"spdx": "CC-BY-NC-4.0", "name": "CC", "free": False})
    make_volume()
    assert not widget.ui.licenceCheckBox.isVisible()
    widget.enter()
    choices.model = "paid"
    assert widget.ui.licenceCheckBox.text == "I accept the terms of CC-BY-NC-4.0"
    click(widget.ui.segmentButton)
    assert "not accepted" in widget.panel.messages.shown[0].text and not segmenter.jobs
    click(widget.ui.licenceCheckBox)
    click(widget.ui.segmentButton)
    assert len(segmenter.jobs) == 1 and widget.panel.messages.shown == []
    click(widget.ui.segmentButton)
    again = reload()
    assert again.ui.licenceCheckBox.checked
    click(again.ui.licenceCheckBox)
    click(again.ui.segmentButton)
    assert "not accepted" in again.panel.messages.shown[0].text


# --- the run ----------------------------------------------------------------------------------------------------------


def test_nothing_chosen_is_said(widget, segmenter):
    click(widget.ui.segmentButton)
    assert widget.panel.messages.shown[0].text == "No volume is chosen." and not segmenter.jobs
    assert widget.ui.messageFrame.isVisible() and not widget.ui.logButton.isVisible()


def test_progress_is_shown(widget, segmenter, make_volume):
    make_volume()
    assert not widget.ui.progressBar.isVisible() and not widget.ui.progressLabel.isVisible()
    click(widget.ui.segmentButton)
    assert widget.ui.segmentButton.text == "Cancel" and widget.ui.progressLabel.text == "Starting…"
    segmenter.progress("coronal", 0.42, 12.4)
    wait(lambda: widget.ui.progressBar.value == 42)
    assert widget.ui.progressLabel.text == "Segmenting coronal slices… about 12 s left"
    segmenter.progress("measure", 0.99, 0.2)
    wait(lambda: widget.ui.progressBar.value == 99)
    assert widget.ui.progressLabel.text == "Measuring… less than 1 s left"
    segmenter.fail(WorkerError("It broke.", "Try again."))
    wait(lambda: not widget.panel.run.running)
    assert widget.ui.segmentButton.text == "Segment" and not widget.ui.progressBar.isVisible()


def test_a_failure_shows_cause_remedy_and_log(widget, segmenter, make_volume):
    make_volume()
    click(widget.ui.segmentButton)
    segmenter.fail(WorkerError("It <broke>.", "Try again."))
    wait(lambda: not widget.panel.run.running)
    label = widget.ui.messageFrame.findChildren(qt.QLabel)[1]
    assert label.text == "<b>It &lt;broke&gt;.</b><br>Try again."
    assert not widget.ui.logText.isVisible()
    click(widget.ui.logButton)
    assert widget.ui.logText.isVisible() and widget.ui.logText.plainText == "what the worker printed"
    click(widget.ui.logButton)
    assert not widget.ui.logText.isVisible()
    click(widget.ui.segmentButton)
    assert widget.panel.messages.shown == [] and not widget.ui.logButton.isVisible()


def test_cancel(widget, segmenter, choices, make_volume, monkeypatch):
    from SESegmentationLib.panel import run_control

    monkeypatch.setattr(run_control, "DOUBLE_CLICK_SECONDS", 0.0)
    make_volume()
    click(widget.ui.segmentButton)
    click(widget.ui.segmentButton)
    assert widget.ui.progressLabel.text == "Cancelling…" and not widget.ui.segmentButton.enabled
    wait(lambda: not widget.panel.run.running)
    assert texts(widget.panel.messages.shown) == [("information", "The segmentation was cancelled.")]
    assert choices.resultSegmentation is None and not widget.ui.logButton.isVisible()


def test_a_double_click_does_not_cancel(widget, segmenter, make_volume):
    make_volume()
    click(widget.ui.segmentButton)
    click(widget.ui.segmentButton)
    assert widget.panel.run.running and len(segmenter.jobs) == 1
    assert widget.ui.segmentButton.text == "Cancel" and widget.ui.segmentButton.enabled


def test_a_fault_of_the_program_is_reported_too(widget, segmenter, make_volume, monkeypatch):
    make_volume()
    monkeypatch.setattr(segmenter, "submit", lambda job: 1 / 0)
    click(widget.ui.segmentButton)
    assert "ZeroDivisionError" in widget.panel.messages.shown[0].text and not widget.panel.run.running


def test_a_fault_while_the_result_is_imported_is_reported_too(widget, segment, monkeypatch):
    monkeypatch.setattr(widget.panel._scene_results, "write", lambda *arguments: 1 / 0)
    assert segment() is None
    assert "ZeroDivisionError" in widget.panel.messages.shown[0].text


# --- the result -------------------------------------------------------------------------------------------------------


def test_result_is_listed_the_least_certain_first(widget, segment):
    assert not widget.ui.resultSection.isVisible()
    finding = Finding("contrast", "It looks like T2.", "It may be wrong.")
    node = segment(findings=[finding])
    table = widget.ui.structureTable
    rows = [[table.item(row, column).text() for column in range(3)] for row in range(table.rowCount)]
    assert rows == [["posterior hippocampus", "not found", ""], ["anterior hippocampus", "0.03", "90"]]
    assert widget.ui.resultLabel.text == "head: tiny-t1 1.0.0, 2 s on cpu"
    assert texts(widget.panel.result.findings) == [("warning", "It looks like T2.")]
    assert widget.ui.resultSelector.currentNode() is node and widget.ui.resultSection.isVisible()
    assert node.GetName() == "head tiny-t1"


def test_a_click_on_a_structure_moves_the_slices_there(widget, segment, make_volume):
    volume = make_volume()
    volume.SetOrigin(100, 0, 0)
    shift = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    shift.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.diag([1.0, 1, 1, 1]) + np.eye(4, k=3) * 7))
    volume.SetAndObserveTransformNodeID(shift.GetID())
    segment(volume)
    table = widget.ui.structureTable
    click_item(table, table.item(1, 0))
    sagittal = slicer.app.layoutManager().sliceWidget("Yellow").mrmlSliceNode()
    assert sagittal.GetSliceToRAS().GetElement(0, 3) == pytest.approx(112)  # 100 + 7 + the most doubtful slice
    sagittal.SetSliceOffset(0)
    click_item(table, table.item(1, 1))  # the same row again
    assert sagittal.GetSliceToRAS().GetElement(0, 3) == pytest.approx(112)
    click_item(table, table.item(0, 0))  # was not found
    assert sagittal.GetSliceToRAS().GetElement(0, 3) == pytest.approx(112)


def test_show_3d(widget, segment):
    node = segment()
    closed = slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName()
    click(widget.ui.show3DButton)
    assert node.GetSegmentation().ContainsRepresentation(closed) and node.GetDisplayNode().GetVisibility3D()
    click(widget.ui.show3DButton)
    assert not node.GetSegmentation().ContainsRepresentation(closed)


def test_opacity(widget, choices, segment):
    node = segment()
    widget.ui.opacitySlider.value = 0.3
    assert choices.opacity == 0.3 and node.GetDisplayNode().GetOpacity() == 0.3
    node.GetDisplayNode().SetOpacity(0.8)  # in another module
    choices.fast = True
    assert node.GetDisplayNode().GetOpacity() == 0.8
    assert segment().GetDisplayNode().GetOpacity() == 0.3


def test_an_update_is_undone_in_one_step(widget, choices, segment):
    node = segment()
    assert not widget.ui.undoButton.enabled
    before = slicer.util.arrayFromSegmentBinaryLabelmap(node, "Segment_1", choices.inputVolume).copy()
    choices.outputSegmentation = node
    segment(corner=6, findings=[Finding("a", "b", "c")])
    assert (slicer.util.arrayFromSegmentBinaryLabelmap(node, "Segment_1", choices.inputVolume) != before).any()
    assert widget.panel.result.findings
    click(widget.ui.undoButton)
    assert (slicer.util.arrayFromSegmentBinaryLabelmap(node, "Segment_1", choices.inputVolume) == before).all()
    assert widget.panel.result.findings == [] and not widget.ui.undoButton.enabled


def test_completed_segments_are_spared_and_named(widget, choices, segment):
    node = segment()
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetSegmentStatus(node.GetSegmentation().GetSegment("Segment_1"), logic.Completed)
    choices.outputSegmentation = node
    segment(corner=6)
    assert "anterior hippocampus" in widget.panel.messages.shown[0].text
    assert slicer.util.arrayFromSegmentBinaryLabelmap(node, "Segment_1", choices.inputVolume)[2:5, 2:5, 2:5].all()


def test_an_earlier_result_can_be_shown_again(widget, choices, segment, make_volume):
    first, second = segment(), segment(make_volume(name="second"))
    assert widget.ui.resultLabel.text.startswith("second: ")
    widget.ui.resultSelector.setCurrentNode(first)
    assert widget.ui.resultLabel.text.startswith("head: ") and choices.resultSegmentation is first
    slicer.mrmlScene.RemoveNode(first)
    assert choices.resultSegmentation is None and not widget.ui.structureTable.isVisible()
    assert widget.ui.resultSection.isVisible()  # the other one can be chosen
    slicer.mrmlScene.RemoveNode(second)
    assert not widget.ui.resultSection.isVisible()


# --- advanced and this computer ---------------------------------------------------------------------------------------


def test_advanced_choices_reach_the_job(widget, choices, segmenter, make_volume):
    make_volume()
    ui = widget.ui
    assert not ui.deviceSelector.isVisible()
    click(ui.advancedSection)
    names = [ui.deviceSelector.itemText(row) for row in range(ui.deviceSelector.count)]
    assert names == ["Automatic", "CPU", "NVIDIA GPU (CUDA)", "Apple GPU (MPS)"]
    ui.deviceSelector.currentIndex = 1
    click(ui.fastCheckBox)
    click(ui.lowMemoryCheckBox)
    click(ui.segmentButton)
    job = segmenter.jobs[0]
    assert (job.device, job.fast, job.low_memory) == ("cpu", True, True)
    assert (choices.device, choices.fast, choices.lowMemory) == ("cpu", True, True)


def test_the_worker_is_kept_or_not(widget, choices, segmenter, segment):
    segment()
    assert segmenter.released == 0
    click(widget.ui.advancedSection)
    click(widget.ui.keepWarmCheckBox)
    assert segmenter.released > 0
    released = segmenter.released
    segment()
    assert segmenter.released > released


def test_this_computer_is_checked_when_it_is_opened(widget, doctor):
    ui = widget.ui
    assert doctor.started == 0
    click(ui.computerSection)
    assert ui.checkButton.text == "Checking…" and not ui.checkButton.enabled
    wait(lambda: ui.checkTable.rowCount == 3)
    rows = [ui.checkTable.item(row, 0).text() for row in range(3)]
    assert rows == [
        "torch: torch is not installed.\nClick Segment.",
        "memory: 2.0 of 8.0 GB memory free.\nClose other programs.",
        "Python: Python 3.12.10.",
    ]
    click(ui.checkButton)
    assert doctor.started == 2
    wait(lambda: ui.checkButton.enabled)
    click(ui.copyChecksButton)
    assert slicer.app.clipboard().text().splitlines()[2] == "error: torch: torch is not installed. Click Segment."
    click(ui.computerSection)
    click(ui.computerSection)
    assert doctor.started == 2


def test_folder_of_wheels_is_remembered(widget, dialogs, tmp_path):
    click(widget.ui.computerSection)
    dialogs.answer(str(tmp_path))
    widget.ui.wheelsFolderEdit.browse()
    assert reload().ui.wheelsFolderEdit.currentPath == str(tmp_path)


# --- the layout -------------------------------------------------------------------------------------------------------


def test_everything_that_can_be_used_explains_itself_and_is_reached_by_keyboard(widget):
    sections = ("inputsSection", "resultSection", "advancedSection", "computerSection")
    own = {name: w for name, w in vars(widget.ui).items() if isinstance(w, qt.QWidget) and not name.startswith("q")}
    usable = {name: w for name, w in own.items() if w.focusPolicy & qt.Qt.TabFocus and name not in sections}
    without = [name for name, w in usable.items() if not w.toolTip and name not in ("modelCardLabel", "logText")]
    assert without == ["checkTable"]
    labels = {w.buddy().objectName for w in own.values() if isinstance(w, qt.QLabel) and w.buddy() is not None}
    assert labels >= {"volumeSelector", "regionSelector", "outputSelector", "deviceSelector", "opacitySlider"}


def test_the_panel_fits_a_narrow_window(widget, segment, models):
    words = "A sentence that is much longer than the panel is wide and has to be broken into several lines. "
    licence = {"spdx": "CC-BY-NC-SA-4.0", "name": words, "free": False, "attribution": 2 * words}
    make_package(models, "tiny-t1", title="A title of some length", summary=words, licence=licence)
    widget.enter()
    click(widget.ui.licenceCheckBox)
    segment(findings=[Finding("a", words, words)])
    for section in ("advancedSection", "computerSection"):
        click(getattr(widget.ui, section))
    assert widget.ui.SESegmentation.minimumSizeHint().width() <= 380
