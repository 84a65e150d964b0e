"""Advanced choices, this computer, and the layout as a whole, by clicks."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
import qt
import slicer
from panel_clicks import click, reload_module, wait
from panel_fakes import make_package

from SESegmentationLib.result import Finding

UI_FILE = Path(__file__).parents[2] / "SESegmentation" / "Resources" / "UI" / "SESegmentation.ui"


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
    assert (job.device, job.options.fast, job.options.low_memory) == ("cpu", True, True)
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
    assert reload_module().ui.wheelsFolderEdit.currentPath == str(tmp_path)


# --- the layout -------------------------------------------------------------------------------------------------------


def test_everything_that_can_be_used_explains_itself_and_is_reached_by_keyboard(widget):
    written = list(ElementTree.parse(UI_FILE).iter("widget"))
    # those of Slicer and CTK pass the focus to a widget inside them
    composed = {w.get("name") for w in written if w.get("class").startswith(("ctk", "qMRMLNode", "qMRMLSegmentation"))}
    own = {name: w for name, w in vars(widget.ui).items() if isinstance(w, qt.QWidget) and not name.startswith("q")}
    usable = {name: w for name, w in own.items() if name in composed or w.focusPolicy & qt.Qt.TabFocus}
    assert [name for name, w in usable.items() if not w.toolTip] == []
    # a screen reader says the text of a button, the label before a field, or the name that is given for it
    said = {w.buddy().objectName for w in own.values() if isinstance(w, qt.QLabel) and w.buddy() is not None}
    said |= {name for name, w in usable.items() if w.accessibleName or isinstance(w, (qt.QAbstractButton, qt.QLabel))}
    assert {name for name in usable if name not in said and not name.endswith("Section")} == set()
    order = [stop.text for stop in ElementTree.parse(UI_FILE).iter("tabstop")]
    assert order == [w.get("name") for w in written if w.get("name") in usable], "from top to bottom"


def test_the_panel_fits_a_narrow_window(widget, segment, models):
    words = "A sentence that is much longer than the panel is wide and has to be broken into several lines. "
    licence = {"spdx": "CC-BY-NC-SA-4.0", "name": words, "free": False, "attribution": 2 * words}
    make_package(models, "tiny-t1", title="A title of some length", summary=words, licence=licence)
    widget.enter()
    click(widget.ui.licenceCheckBox)
    segment(findings=[Finding("a", words, words)])
    widget.ui.placeSelector.currentIndex = 1
    for section in ("advancedSection", "serverSection", "computerSection"):
        click(getattr(widget.ui, section))
    assert widget.ui.SESegmentation.minimumSizeHint().width() <= 380


def test_the_folder_of_wheels_can_be_emptied_again(widget, dialogs, tmp_path):
    """The field tells nothing of an empty path, nor of one after another that cannot be used."""
    edit, computer, memory = widget.ui.wheelsFolderEdit, widget.panel.computer, widget.panel._settings
    edit.currentPath = str(tmp_path)
    assert computer.wheels_folder() == memory.wheels_folder == str(tmp_path)
    edit.currentPath = ""
    assert memory.wheels_folder == "" == computer.wheels_folder()
    edit.currentPath = str(tmp_path)
    edit.currentPath = str(tmp_path / "absent")
    assert computer.wheels_folder() == str(tmp_path / "absent")  # what is seen is what will be used
    edit.currentPath = ""
    assert computer.wheels_folder() == ""
    assert reload_module().ui.wheelsFolderEdit.currentPath == ""


def test_a_folder_emptied_unheard_is_not_remembered(widget, tmp_path):
    edit = widget.ui.wheelsFolderEdit
    for path in (str(tmp_path), str(tmp_path / "absent"), ""):
        edit.currentPath = path
    assert reload_module().ui.wheelsFolderEdit.currentPath == ""


@pytest.mark.parametrize("signal", ["nodeAddedByUser", "nodeAddedByUserAction"])
def test_a_new_region_lies_round_the_middle_of_the_volume(widget, choices, make_volume, monkeypatch, signal):
    """By the signal that 5.12 has instead of the older one; by that where there is no other."""
    from harness import behaviour_nodes
    from SESegmentationLib.panel import choices as module

    emit, other = behaviour_nodes.emit, {"nodeAddedByUser", "nodeAddedByUserAction"} - {signal}

    def emit_but_one(sender, name, *arguments):
        if name.partition("(")[0] not in other:
            emit(sender, name, *arguments)

    monkeypatch.setattr(behaviour_nodes, "emit", emit_but_one)
    if signal == "nodeAddedByUser":  # there is no other one before 5.12
        monkeypatch.setattr(module, "hasattr", lambda thing, name: name != "nodeAddedByUserAction", raising=False)
        module.Inputs(widget.ui, lambda: choices, lambda: None)
    volume = make_volume()
    widget.ui.volumeSelector.setCurrentNode(volume)
    region = widget.ui.regionSelector.addNode()
    assert min(region.GetSize()) > 0


def test_reload_takes_the_library_too(widget):
    import sys

    old = sys.modules["SESegmentationLib.panel.panel"]
    again = reload_module()
    assert sys.modules["SESegmentationLib.panel.panel"] is not old
    assert type(again.panel) is sys.modules["SESegmentationLib.panel.panel"].Panel
    assert type(again.panel) is not old.Panel and again.panel.messages.shown == []


def test_reload_takes_all_packages_of_the_extension(widget):
    """One that stayed would raise errors that the library does not know any more."""
    import sys

    from SESegmentationExport import comparison

    reload_module()
    from SESegmentationExport import comparison as again

    assert again is not comparison
    assert again.UsageError is sys.modules["SESegmentationLib.errors"].UsageError
