"""The stand-in's widgets: like PythonQt's where modules depend on it, and strict where a slip would go unseen."""

from __future__ import annotations

import json
from pathlib import Path

import ctk
import pytest
import qt
import slicer

from harness import application, contract
from harness.faults import faults
from harness.widgets import NotModelled, behaviour, build

FULL_CONTRACT = Path(__file__).resolve().parents[3] / "shared" / "slicer" / "slicer_widgets.json"


def add_volume(name="volume"):
    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)


def test_contract_is_the_compact_form_of_the_full_list():
    if not FULL_CONTRACT.is_file():
        pytest.skip(f"needs {FULL_CONTRACT}")
    assert contract.PATH.read_text(encoding="utf-8") == contract.compact(
        json.loads(FULL_CONTRACT.read_text(encoding="utf-8"))
    )


# --- PythonQt ---------------------------------------------------------------------------------------------------------


def test_properties_are_attributes():
    button = qt.QPushButton("Go")
    assert button.text == "Go"
    button.enabled = False
    assert button.enabled is False and not button.isEnabled()
    button.checkable = 1
    assert button.checkable is True


@pytest.mark.parametrize("make", [qt.QPushButton, ctk.ctkCollapsibleButton, slicer.qMRMLNodeComboBox])
def test_unknown_attributes_cannot_be_set(make):
    with pytest.raises(AttributeError, match="textt"):
        make().textt = "x"


def test_read_only_properties_and_slots_cannot_be_set():
    with pytest.raises(AttributeError, match="not writable"):
        qt.QComboBox().count = 3
    with pytest.raises(AttributeError, match="Slot"):
        qt.QPushButton().click = None
    with pytest.raises(AttributeError, match="not writable"):
        slicer.qMRMLSegmentsTableView().segmentCount = 1


def test_python_subclasses_may_have_any_attribute():
    class Button(qt.QPushButton):
        pass

    button = Button()
    button.anything = 3
    assert button.anything == 3


def test_slots_get_the_arguments_they_take():
    button, got = qt.QPushButton(), []
    button.checkable = True
    button.connect("clicked(bool)", lambda: got.append("none"))
    button.connect("clicked(bool)", lambda checked: got.append(checked))
    button.connect("clicked()", lambda *arguments: got.append(arguments))
    button.click()
    assert sorted(map(str, got)) == ["()", "True", "none"]


def test_disconnect():
    button, got = qt.QPushButton(), []
    button.connect("clicked()", got.clear)
    slot = lambda: got.append(1)  # noqa: E731
    button.connect("clicked()", slot)
    assert button.disconnect("clicked()", slot)
    button.click()
    assert got == []


def test_signals_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="clickd"):
        qt.QPushButton().connect("clickd()", print)
    with pytest.raises(ValueError, match="checkStateChanged"):  # newer than Slicer's Qt
        qt.QCheckBox().connect("checkStateChanged(Qt::CheckState)", print)
    with pytest.raises(ValueError, match="nodeChanged"):
        slicer.qMRMLNodeComboBox().connect("nodeChanged(vtkMRMLNode*)", print)


def test_exceptions_in_slots_are_faults():
    button = qt.QPushButton()
    button.connect("clicked()", lambda: 1 / 0)
    button.clicked.connect(lambda: [][1])
    button.click()
    found = "".join(faults.take())
    assert "ZeroDivisionError" in found and "IndexError" in found


def test_timers():
    got = []
    timer = qt.QTimer()
    timer.interval = 1
    timer.connect("timeout()", lambda: got.append("tick"))
    timer.start()
    qt.QTimer.singleShot(1, lambda: got.append("once"))
    assert application.wait_until(lambda: {"tick", "once"} <= set(got), 2)
    timer.stop()
    assert timer.active is False


# --- dialogs ----------------------------------------------------------------------------------------------------------


def test_dialogs_are_recorded_and_answered(dialogs):
    slicer.util.errorDisplay("Broken", detailedText="why")
    dialogs.answer(True, False, "/a/file.nrrd")
    assert slicer.util.confirmYesNoDisplay("Sure?") is True
    assert slicer.util.confirmOkCancelDisplay("Really?") is False
    assert qt.QFileDialog.getOpenFileName(None, "Open") == "/a/file.nrrd"
    assert [dialog.text for dialog in dialogs.shown] == ["Broken", "Sure?", "Really?", ""]
    assert dialogs.shown[0].details == "why"


def test_a_question_without_an_answer_is_an_error():
    with pytest.raises(AssertionError, match="no answer"):
        slicer.util.confirmYesNoDisplay("Sure?")


# --- the contract -----------------------------------------------------------------------------------------------------


def test_unmodelled_names_raise():
    with pytest.raises(NotModelled, match="rotateSliceViewsToSegmentation"):
        slicer.qMRMLSegmentEditorWidget().rotateSliceViewsToSegmentation()
    assert not hasattr(slicer.qMRMLNodeComboBox(), "setNoneEnabled")  # C++ only


def test_behaviours_cannot_invent_names(monkeypatch):
    from harness import widgets

    class Invented:
        def doWhatIMean(self):
            pass

    monkeypatch.setattr(widgets, "_BEHAVIOURS", dict(widgets._BEHAVIOURS))
    behaviour("ctkSearchBox")(Invented)
    with pytest.raises(AssertionError, match="doWhatIMean"):
        build()


def test_properties_take_values_of_their_type_only():
    combo = slicer.qMRMLNodeComboBox()
    with pytest.raises(AttributeError, match="bool"):
        combo.noneEnabled = "yes"
    with pytest.raises(AttributeError, match="vtkMRMLVolumNode"):
        combo.nodeTypes = ["vtkMRMLVolumNode"]


def test_application_objects_have_real_names_only():
    from harness.runtime import CoreApplication, CoreModule

    for cls, real in ((CoreApplication, "qSlicerApplication"), (CoreModule, "qSlicerAbstractCoreModule")):
        public = {name for name in vars(cls) if not name.startswith("_")}
        inherited = {name for name in public if hasattr(qt.QApplication, name)}
        assert public - inherited <= contract.names(real)


def test_a_section_is_as_high_as_a_text_in_it_needs():
    """As in CTK, whose sections may grow; Qt's own buttons may not."""
    panel, section, label = qt.QWidget(), ctk.ctkCollapsibleButton(), qt.QLabel("some words " * 30)
    label.wordWrap = True
    label.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Preferred)  # as in the module's panel
    qt.QVBoxLayout(section).addWidget(label)
    layout = qt.QVBoxLayout(panel)
    layout.addWidget(section)
    panel.setFixedSize(200, 400)
    panel.show()
    application.process_events()
    assert label.height >= label.heightForWidth(label.width)
