"""Slips of the pen in the module's own files are noticed: each breaks one name, and clicking through must fail.

Each run tries a few of them, other ones each time; ``make test-slips`` tries all.
"""

from __future__ import annotations

import os
import random
import shutil
import sys

import numpy as np
import pytest
import SimpleITK  # noqa: F401 - stays loaded while the panel is imported anew
import slicer
from panel_clicks import click, click_item, type_text, wait
from panel_fakes import MODULE, FakeDoctor, FakeSegmenter, made_at_once, make_package, make_refined, make_result

import SESegmentationLib
from harness import application
from harness import dialogs as harness_dialogs
from harness.faults import faults
from harness.segment_editor import paint
from SESegmentationLib.errors import WorkerError
from SESegmentationLib.models import installing
from SESegmentationLib.result import Finding

UI = "Resources/UI/SESegmentation.ui"
SLIPS = [
    (UI, 'class="ctkSearchBox"', 'class="ctkSearchBx"'),
    (UI, 'name="segmentButton"', 'name="segmentButon"'),
    (UI, 'name="structureTable"', 'name="structuresTable"'),
    (UI, 'name="noneDisplay"', 'name="noneDisplays"'),
    (UI, 'name="openExternalLinks"', 'name="openExternalLink"'),
    (UI, "<string>inputVolume<", "<string>inputVolum<"),
    (UI, "<string>opacity<", "<string>opacities<"),
    (UI, "vtkMRMLMarkupsROINode", "vtkMRMLMarkupROINode"),
    (UI, "mrmlSceneChanged(vtkMRMLScene*)", "mrmlSceneChange(vtkMRMLScene*)"),
    (UI, "<slot>setMRMLScene(", "<slot>setMrmlScene("),
    (UI, "QAbstractItemView::SingleSelection", "QAbstractItemView::SingleSelect"),
    (UI, "<cstring>volumeSelector<", "<cstring>volumeSelecter<"),
    (UI, "<tabstop>modelList<", "<tabstop>modelLst<"),
    (UI, "QFrame::StyledPanel", "QFrame::StylishPanel"),
    (UI, 'name="recalibrateButton"', 'name="recalibrationButton"'),
    (UI, 'name="shortcut"', 'name="shortcuts"'),
    (UI, 'name="addModelButton"', 'name="addModel"'),
    (UI, 'name="attentionCheckBox"', 'name="attendCheckBox"'),
    (UI, 'name="adaptedCheckBox"', 'name="adaptCheckBox"'),
    (UI, "<tabstop>redoButton<", "<tabstop>redonButton<"),
    ("SESegmentation.py", "UI/SESegmentation.ui", "UI/Segmentation.ui"),
    ("SESegmentation.py", "scene.StartCloseEvent", "scene.StartClosingEvent"),
    ("SESegmentation.py", "connectParametersToGui", "connectParameterToGui"),
    ("SESegmentation.py", "lowMemory: bool", "lowmemory: bool"),
    ("SESegmentation.py", "adaptedFrom: slicer", "adaptedfrom: slicer"),
    ("SESegmentation.py", "scene.EndBatchProcessEvent", "scene.BatchProcessEndEvent"),
    ("SESegmentation.py", "self.panel.on_nodes_changed(", "self.panel.on_node_changed("),
    ("panel/run_control.py", '"clicked(bool)"', '"click(bool)"'),
    ("panel/run_control.py", "progressBar.value = round", "progressBar.valeu = round"),
    ("panel/choices.py", "nodeAddedByUserAction(vtkMRMLNode*)", "nodeAddedByUserActions(vtkMRMLNode*)"),
    ("panel/choices.py", "region.SetCenter(", "region.SetCentre("),
    ("panel/choices.py", "hiddenNodeIDs = maps", "hiddenNodesIDs = maps"),
    ("panel/choices.py", "sortFilterProxyModel()", "sortFilterProxy()"),
    ("panel/choices.py", "ImageDataModifiedEvent", "ImageDataModifyEvent"),
    ("panel/result_view.py", "setSegmentationNode(", "setSegmentationNod("),
    ("panel/result_view.py", "SegmentModified", "SegmentModify"),
    ("panel/structure_table.py", "header.setSortIndicator(", "header.setSortIndikator("),
    ("panel/structure_table.py", '"cellClicked(int,int)"', '"cellClick(int,int)"'),
    ("panel/structure_table.py", "_table.setCurrentCell(", "_table.setCurentCell("),
    ("panel/structure_table.py", "setIcon(_status_dot(", "setIkon(_status_dot("),
    ("panel/result_view.py", "acceptButton.shortcut = ", "acceptButton.shortcuts = "),
    ("panel/segment_editor.py", "editor.setSourceVolumeNode(", "editor.setSourceVolume("),
    ("panel/segment_editor.py", "editor.setUndoEnabled(", "editor.setUndosEnabled("),
    ("panel/segment_editor.py", '"SegmentEditor"', '"SegmentsEditor"'),
    ("panel/recalibration.py", "previewLabel.text = ", "previewLabel.txt = "),
    ("panel/recalibration.py", '"clicked(bool)", self.discard', '"click(bool)", self.discard'),
    ("panel/reports.py", "getSaveFileName(", "getSafeFileName("),
    ("panel/reports.py", "SetActiveTableID(", "SetActiveTable("),
    ("panel/model_chooser.py", "getOpenFileName(", "getOpenFilename("),
    ("panel/model_chooser.py", "addModelButton.text = ", "addModelButton.txt = "),
    ("panel/model_chooser.py", '"timeout()"', '"timeouts()"'),
    ("panel/overlays.py", "attentionCheckBox.checked = ", "attentionCheckBox.cheked = "),
    ("panel/overlays.py", 'attentionCheckBox.connect("clicked(bool)"', 'attentionCheckBox.connect("click(bool)"'),
    ("panel/patient_network.py", '"clicked(bool)"', '"click(bool)"'),
    ("panel/patient_network.py", "choices.adaptedFrom = ", "choices.adapted = "),
    ("panel/result_view.py", "ui.redoButton.connect(", "ui.redoButton.conect("),
    ("panel/result_view.py", "singleShot(", "singleshot("),
    ("panel/result_view.py", "display.SetOpacity(", "display.SetOpacities("),
    ("panel/model_chooser.py", '"currentRowChanged(int)"', '"currentRowChange(int)"'),
    ("panel/model_chooser.py", "consent.checked = ", "consent.cheked = "),
    ("panel/computer.py", '"contentsCollapsed(bool)"', '"contentsCollapse(bool)"'),
    ("panel/computer.py", "wheelsFolderEdit.currentPath = ", "wheelsFolderEdit.currentPth = "),
    ("panel/computer.py", "ctkPathLineEdit.Dirs", "ctkPathLineEdit.Folders"),
    (UI, 'name="serverEdit"', 'name="serversEdit"'),
    ("panel/server.py", '"currentIndexChanged(int)"', '"currentIndexChange(int)"'),
    ("panel/server.py", 'serverEdit.connect("editingFinished()"', 'serverEdit.connect("editFinished()"'),
    ("panel/server.py", "ctkPathLineEdit.Files", "ctkPathLineEdit.File"),
    ("panel/server.py", "serverSection.text = ", "serverSection.txt = "),
    ("panel/messages.py", "standardIcon(", "standardIkon("),
    ("panel/messages.py", "text.wordWrap = ", "text.wordwrap = "),
    ("panel/result_view.py", "JumpAllSlices(", "JumpAllSlice("),
    ("panel/messages.py", "logText.setPlainText(", "logText.setPlaintext("),
    ("panel/panel.py", "choices.keepWarm", "choices.keepwarm"),
]
#: slips that a run tries; all where the environment says so
TRIED = len(SLIPS) if os.environ.get("SESEGMENTATION_ALL_SLIPS") else 10
#: the same in all processes of a run
CHOSEN = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID", "alone")).sample(SLIPS, TRIED)


def test_every_slip_has_a_place():
    """A part that moved to another file would be noticed only by the runs that try its slip."""
    library = MODULE.parent / "SESegmentationLib"
    for file, right, _wrong in SLIPS:
        path = library / file if file.startswith("panel/") else MODULE.parent / file
        assert right in path.read_text(encoding="utf-8"), (file, right)


@pytest.fixture
def copy(models, tmp_path, monkeypatch):
    """Folder with a copy of the module and its panel, which are used instead of the real ones."""
    make_package(models, "another")
    monkeypatch.setattr(installing, "user_models_folder", lambda: models)
    shutil.copy(MODULE, tmp_path)
    shutil.copytree(MODULE.parent / "Resources", tmp_path / "Resources")
    shutil.copytree(MODULE.parent / "SESegmentationLib" / "panel", tmp_path / "panel")
    monkeypatch.setattr(SESegmentationLib, "__path__", [str(tmp_path), *SESegmentationLib.__path__])
    monkeypatch.setattr(sys, "path", list(sys.path))
    real = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("SESegmentationLib.panel")}
    monkeypatch.delattr(SESegmentationLib, "panel", raising=False)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("SESegmentationLib.panel")]:
        del sys.modules[name]
    sys.modules.update(real)


def add_model(ui, choices, folder):
    """Add a model by a click, and go back to the one that was chosen."""
    before, package = choices.model, make_package(folder / "passed on", "added")
    harness_dialogs.dialogs.answer(str(package.path / "model.json"))
    click(ui.addModelButton)
    wait(lambda: choices.model == "added", 5)
    assert ui.addModelButton.enabled and ui.modelList.currentItem().text() == package.card.title
    choices.model = before


def click_through(folder, monkeypatch, wheels):
    """Load the module from a folder and use all of it."""
    application.load_module(folder / "SESegmentation.py")
    segmenter = FakeSegmenter()
    monkeypatch.setattr(sys.modules["SESegmentation"].SESegmentationLogic, "createSegmenter", lambda self: segmenter)
    import SESegmentationLib.panel
    from SESegmentationLib.panel import run_control

    monkeypatch.setattr(SESegmentationLib.panel, "DoctorProcess", FakeDoctor)
    monkeypatch.setattr(run_control, "_in_thread", made_at_once)
    widget = application.open_module("SESegmentation")
    ui, choices, panel = widget.ui, widget.logic.getParameterNode(), widget.panel

    volume = slicer.util.addVolumeFromArray(np.full((16, 18, 20), 7, np.int16), name="head")
    application.process_events()
    assert choices.inputVolume is volume
    volume.GetImageData().Modified()
    region = ui.regionSelector.addNode()
    assert choices.region is region
    ui.regionSelector.setCurrentNode(None)
    type_text(ui.modelSearchBox, "hippo")
    click_item(ui.modelList, ui.modelList.item(1))
    assert choices.model == "tiny-t1"
    add_model(ui, choices, folder)
    assert panel.messages.shown[0].text.endswith("was added.")
    for section in (ui.advancedSection, ui.computerSection):
        click(section)
    click(ui.lowMemoryCheckBox)
    wait(lambda: ui.checkTable.rowCount == 3, 5)
    harness_dialogs.dialogs.answer(wheels)
    ui.wheelsFolderEdit.browse()
    assert choices.lowMemory
    click(ui.serverSection)
    ui.placeSelector.currentIndex = 1
    type_text(ui.serverEdit, "gpu.hospital.org")
    ui.tokenEdit.setFocus()
    assert ui.serverSection.text == "Where it is computed: a server"
    ui.placeSelector.currentIndex = 0

    click(ui.segmentButton)
    segmenter.progress("axial", 0.5)
    wait(lambda: ui.progressBar.value == 50, 5)
    segmenter.fail(WorkerError("It broke.", "Try again."))
    wait(lambda: not panel.run.running, 5)
    click(ui.logButton)
    assert ui.logText.plainText == segmenter.log
    click(ui.segmentButton)
    result = make_result(segmenter.jobs[-1].image, panel.models.card, [Finding("a", "b", "c")])
    segmenter.succeed(result)
    wait(lambda: not panel.run.running, 5)
    click_item(ui.structureTable, ui.structureTable.item(1, 0))
    click(ui.show3DButton)
    ui.opacitySlider.value = 0.5
    node = choices.resultSegmentation
    assert node.GetDisplayNode().GetOpacity() == 0.5
    click(ui.nextButton)
    click(ui.acceptButton)
    click(ui.previousButton)
    click(ui.acceptButton)  # to be checked again
    click(ui.doubtCheckBox)
    click(ui.attentionCheckBox)
    segmenter.succeed_attention(result.doubt)
    wait(lambda: ui.attentionCheckBox.checked and not panel.run.running, 5)
    assert "Gate of the last decoder" in panel.messages.shown[0].text
    click_item(ui.structureTable, ui.structureTable.item(1, 0))
    click(ui.correctButton)
    assert slicer.modules.SegmentEditorWidget.editor.sourceVolumeNode() is volume
    slicer.util.selectModule("SESegmentation")
    ui.regionSelector.setCurrentNode(None)
    stroke = np.zeros((16, 18, 20), bool)
    stroke[3, 2:9, 2:9] = True
    paint(node, "Segment_1", stroke, volume)
    for button in (ui.rejectChangesButton, ui.acceptChangesButton):
        click(ui.recalibrateButton)
        segmenter.succeed_refinement(make_refined(segmenter.jobs[-1], panel.models.card))
        wait(lambda: not panel.run.running, 5)
        assert "gained" in ui.previewLabel.text
        click(button)
    assert not ui.adaptedCheckBox.checked
    click(ui.adaptedCheckBox)
    assert choices.adaptedFrom is node and ui.adaptedCheckBox.checked
    click(ui.undoButton)
    click(ui.redoButton)
    assert not ui.redoButton.enabled
    click(ui.undoButton)
    harness_dialogs.dialogs.answer(str(folder / "report.csv"))
    click(ui.saveReportButton)
    assert (folder / "report.csv").is_file()
    click(ui.tableButton)
    assert panel.messages.shown == []
    slicer.mrmlScene.RemoveNode(region)
    slicer.mrmlScene.Clear(False)


def outcome(folder, monkeypatch):
    """What goes wrong when the module of a folder is used; empty where nothing does."""
    try:
        click_through(folder, monkeypatch, str(folder))
    except (Exception, AssertionError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        harness_dialogs.dialogs.reset()
        found = faults.take()
    return "\n".join(found)


def test_the_copy_itself_is_well(copy, monkeypatch):
    assert outcome(copy, monkeypatch) == ""


@pytest.mark.parametrize(("file", "right", "wrong"), CHOSEN, ids=[f"{f.split('/')[-1]}:{w}" for f, _, w in CHOSEN])
def test_a_slip_is_noticed(copy, monkeypatch, file, right, wrong):
    path = copy / file
    text = path.read_text(encoding="utf-8")
    assert right in text
    path.write_text(text.replace(right, wrong, 1), encoding="utf-8")
    assert outcome(copy, monkeypatch)
    application.stop()  # with the slip in it, the module may not end well either
    faults.take()
    application.start()
