"""The stand-in's widgets: like PythonQt's where modules depend on it, and strict where a slip would go unseen."""

from __future__ import annotations

import json
from pathlib import Path

import ctk
import pytest
import qt
import slicer
import vtk

from harness import application, contract
from harness.faults import faults
from harness.ui_loader import UiError
from harness.widgets import NotModelled, behaviour, build

FULL_CONTRACT = Path(__file__).resolve().parents[3] / "shared" / "slicer" / "slicer_widgets.json"


def add_volume(name="volume"):
    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)


def test_contract_is_the_compact_form_of_the_full_list():
    if not FULL_CONTRACT.is_file():
        pytest.skip(f"needs {FULL_CONTRACT}")
    assert contract.PATH.read_text() == contract.compact(json.loads(FULL_CONTRACT.read_text()))


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


# --- behaviours -------------------------------------------------------------------------------------------------------


@pytest.fixture
def combo():
    combo = slicer.qMRMLNodeComboBox()
    combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    combo.setMRMLScene(slicer.mrmlScene)
    return combo


def test_node_combo_box_follows_the_scene(combo):
    chosen = []
    combo.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: chosen.append(node and node.GetName()))
    first, second = add_volume("first"), add_volume("second")
    combo.setCurrentNode(second)
    second.SetName("renamed")
    assert combo.currentNode() is second and combo.nodeCount() == 2
    slicer.mrmlScene.RemoveNode(second)
    assert combo.currentNode() is first
    slicer.mrmlScene.Clear(False)
    assert combo.currentNode() is None
    assert chosen == ["first", "second", "first", None]


def test_node_combo_box_with_none(combo):
    combo.noneEnabled = True
    node = add_volume()
    assert combo.currentNode() is None and combo.currentNodeID == ""
    combo.setCurrentNodeID(node.GetID())
    assert combo.currentNode() is node
    combo.setCurrentNode(None)
    assert combo.currentNode() is None


def test_node_combo_box_filters(combo):
    hidden = add_volume("hidden")
    hidden.SetHideFromEditors(True)
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    add_volume("volume")
    assert combo.nodeCount() == 2
    combo.showChildNodeTypes = False
    combo.setMRMLScene(slicer.mrmlScene)
    assert [combo.nodeFromIndex(i).GetName() for i in range(combo.nodeCount())] == ["volume"]
    combo.addAttribute("vtkMRMLScalarVolumeNode", "kind", "t1")
    assert combo.nodeCount() == 0


def test_node_combo_box_makes_regions_of_interest(combo):
    combo.nodeTypes = ["vtkMRMLMarkupsROINode"]
    node = combo.addNode()
    assert node.IsA("vtkMRMLMarkupsROINode") and combo.currentNode() is node


def test_deleted_widgets_are_not_called_by_the_scene():
    combo = slicer.qMRMLNodeComboBox()
    combo.setMRMLScene(slicer.mrmlScene)
    combo.deleteLater()
    application.process_events()
    add_volume()


def test_checkable_node_combo_box():
    combo = slicer.qMRMLCheckableNodeComboBox()
    combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    combo.setMRMLScene(slicer.mrmlScene)
    first, second = add_volume("a"), add_volume("b")
    changes = []
    combo.connect("checkedNodesChanged()", lambda: changes.append(len(combo.checkedNodes())))
    combo.check(first)
    combo.check(second)
    combo.uncheck(first)
    assert changes == [1, 2, 1] and combo.uncheckedNodes() == [first]


def test_collapsible_button_hides_its_contents():
    button = ctk.ctkCollapsibleButton()
    layout = qt.QVBoxLayout(button)
    label = qt.QLabel("inside")
    layout.addWidget(label)
    collapsed = []
    button.connect("contentsCollapsed(bool)", collapsed.append)
    button.collapsed = True
    button.click()
    assert collapsed == [True, False]
    button.collapsed = True
    button.show()
    assert not label.isVisible()


def test_what_was_hidden_by_itself_stays_hidden_when_its_section_is_opened():
    button = ctk.ctkCollapsibleButton()
    layout = qt.QVBoxLayout(button)
    hidden, shown = qt.QLabel("hidden"), qt.QLabel("shown")
    layout.addWidget(hidden)
    layout.addWidget(shown)
    button.show()
    hidden.visible = False
    button.collapsed = True
    shown.visible = False
    shown.visible = True  # in a folded section
    assert not shown.isVisible()
    button.collapsed = False
    assert shown.isVisible() and not hidden.isVisible()


def test_sliders_and_ranges():
    slider, values = ctk.ctkSliderWidget(), []
    slider.connect("valueChanged(double)", values.append)
    slider.maximum = 10
    slider.value = 20
    slider.value = 10
    assert slider.value == 10 and values == [10]
    limits, seen = ctk.ctkRangeWidget(), []
    limits.connect("valuesChanged(double,double)", lambda low, high: seen.append((low, high)))
    limits.setRange(0, 5)
    limits.minimumValue = 3
    limits.maximumValue = 1
    assert (limits.minimumValue, limits.maximumValue) == (1, 1)
    assert seen == [(0, 5), (3, 5), (1, 1)]


def test_paths_and_search(dialogs):
    path, seen = ctk.ctkPathLineEdit(), []
    path.connect("currentPathChanged(QString)", seen.append)
    path.currentPath = "/a"
    dialogs.answer("/b")
    path.browse()
    folder = ctk.ctkDirectoryButton()
    folder.directory = "/c"
    search = ctk.ctkSearchBox()
    search.textChanged.connect(seen.append)
    search.text = "hippo"
    assert seen == ["/a", "/b", "hippo"] and folder.directory == "/c"


def test_checkable_combo_box():
    combo, changes = ctk.ctkCheckableComboBox(), []
    combo.addItems(["a", "b"])
    for row in range(2):
        combo.model().item(row).setCheckable(True)
    combo.connect("checkedIndexesChanged()", lambda: changes.append(1))
    combo.setCheckState(combo.model().index(1, 0), qt.Qt.Checked)
    assert [index.row() for index in combo.checkedIndexes()] == [1] and changes


def make_segmentation(names=("left", "right")):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "segmentation")
    node.CreateDefaultDisplayNodes()
    for index, name in enumerate(names):
        sphere = vtk.vtkSphereSource()
        sphere.SetCenter(30 * index, 0, 0)
        sphere.SetRadius(10)
        sphere.Update()
        node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), name, [1, 0, 0], name)
    return node


def test_segments_table_follows_the_segmentation():
    node, table = make_segmentation(), slicer.qMRMLSegmentsTableView()
    table.setMRMLScene(slicer.mrmlScene)
    selected = []
    table.connect(
        "selectionChanged(QItemSelection,QItemSelection)", lambda: selected.append(table.selectedSegmentIDs())
    )
    table.setSegmentationNode(node)
    assert table.segmentCount == 2
    node.GetSegmentation().AddEmptySegment("third", "third")
    assert [table.segmentIDForRow(row) for row in range(3)] == ["left", "right", "third"]
    table.setSelectedSegmentIDs(["right"])
    assert selected[-1] == ("right",)
    table.textFilter = "thi"
    assert table.displayedSegmentIDs() == ("third",)
    table.tableWidget().item(0, 4).setText("renamed")
    assert node.GetSegmentation().GetSegment("left").GetName() == "renamed"
    node.GetSegmentation().RemoveSegment("right")
    assert table.segmentCount == 2 and table.selectedSegmentIDs() == ()


def test_segments_table_jumps_the_slices():
    node, table = make_segmentation(), slicer.qMRMLSegmentsTableView()
    table.setSegmentationNode(node)
    table.jumpToSelectedSegmentEnabled = True
    table.setSelectedSegmentIDs(["right"])
    sagittal = slicer.app.layoutManager().sliceWidget("Yellow").mrmlSliceNode()
    assert sagittal.GetSliceToRAS().GetElement(0, 3) == pytest.approx(30, abs=1)


def test_show_3d_button():
    button = slicer.qMRMLSegmentationShow3DButton()
    assert not button.enabled
    volume_based = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    volume_based.CreateDefaultDisplayNodes()
    button.setSegmentationNode(volume_based)
    assert not button.enabled
    node = make_segmentation()
    button.setSegmentationNode(node)
    assert button.enabled and button.checked


def test_segment_selector():
    node, selector = make_segmentation(), slicer.qMRMLSegmentSelectorWidget()
    selected = []
    selector.connect("segmentSelectionChanged(QStringList)", selected.append)
    selector.multiSelection = True
    selector.setMRMLScene(slicer.mrmlScene)
    assert selector.currentNode() is node and selector.currentSegmentID() == "left"
    selector.setSelectedSegmentIDs(["left", "right"])
    assert selected[-1] == ["left", "right"]


def test_segment_editor_undo():
    node, editor = make_segmentation(), slicer.qMRMLSegmentEditorWidget()
    editor.setMRMLScene(slicer.mrmlScene)
    editor.setMRMLSegmentEditorNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode"))
    editor.setSegmentationNode(node)
    assert editor.currentSegmentID() == "left" and editor.segmentationNode() is node
    editor.saveStateForUndo()
    node.GetSegmentation().RemoveSegment("left")
    editor.undo()
    assert node.GetSegmentation().GetNumberOfSegments() == 2


# --- .ui files --------------------------------------------------------------------------------------------------------

UI = """<?xml version="1.0" encoding="UTF-8"?>
<ui version="4.0"><class>Panel</class>
<widget class="qMRMLWidget" name="Panel"><layout class="QVBoxLayout" name="layout">
 <item><widget class="ctkCollapsibleButton" name="section"><property name="text"><string>Inputs</string></property>
  <layout class="QFormLayout" name="form">
   <item row="0" column="0"><widget class="QLabel" name="label">
     <property name="text"><string>Volume:</string></property>
     <property name="alignment"><set>Qt::AlignRight|Qt::AlignVCenter</set></property>
     <property name="buddy"><cstring>volume</cstring></property></widget></item>
   <item row="0" column="1"><widget class="qMRMLNodeComboBox" name="volume">
     <property name="nodeTypes"><stringlist><string>vtkMRMLScalarVolumeNode</string></stringlist></property>
     <property name="noneEnabled"><bool>true</bool></property>
     <property name="SlicerParameterName" stdset="0"><string>volume</string></property></widget></item>
  </layout></widget></item>
 <item><widget class="QPushButton" name="apply">
  <property name="text"><string>Segment</string></property></widget></item>
</layout></widget>
<customwidgets>
 <customwidget><class>ctkCollapsibleButton</class><extends>QWidget</extends><header>ctkCollapsibleButton.h</header>
  <container>1</container></customwidget>
 <customwidget><class>qMRMLNodeComboBox</class><extends>QWidget</extends><header>qMRMLNodeComboBox.h</header></customwidget>
 <customwidget><class>qMRMLWidget</class><extends>QWidget</extends><header>qMRMLWidget.h</header><container>1</container>
 </customwidget></customwidgets>
<connections><connection><sender>Panel</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
 <receiver>volume</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>"""


def load_ui(tmp_path, text=UI):
    path = tmp_path / "panel.ui"
    path.write_text(text)
    return slicer.util.loadUI(str(path))


def test_ui_file_is_loaded_and_wired(tmp_path):
    panel = load_ui(tmp_path)
    ui = slicer.util.childWidgetVariables(panel)
    node = add_volume()
    panel.setMRMLScene(slicer.mrmlScene)
    ui.volume.setCurrentNode(node)
    assert ui.volume.currentNode() is node and ui.volume.nodeTypes == ("vtkMRMLScalarVolumeNode",)
    assert ui.section.text == "Inputs" and ui.apply.text == "Segment"
    assert ui.volume.property("SlicerParameterName") == "volume"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('class="QPushButton"', 'class="QPushButon"'),
        ('class="qMRMLNodeComboBox"', 'class="qMRMLNodeCombo"'),
        ('name="noneEnabled"', 'name="noneEnable"'),
        ('<property name="text"><string>Segment', '<property name="txt"><string>Segment'),
        ("SlicerParameterName", "SlicerParameterNam"),
        ("mrmlSceneChanged(vtkMRMLScene*)", "mrmlSceneChange(vtkMRMLScene*)"),
        ("setMRMLScene(vtkMRMLScene*)", "setScene(vtkMRMLScene*)"),
        ("<sender>Panel</sender>", "<sender>Pannel</sender>"),
        ("<cstring>volume</cstring>", "<cstring>volum</cstring>"),
        ("Qt::AlignRight", "Qt::AlignRigth"),
        ("Qt::AlignRight", "Qt::AlignmentFlag::AlignRight"),
        ('name="label"', 'name="volume"'),
        ("vtkMRMLScalarVolumeNode", "vtkMRMLScalarVolumNode"),
    ],
)
def test_slips_in_ui_files_are_noticed(tmp_path, right, wrong):
    assert right in UI
    with pytest.raises(UiError):
        load_ui(tmp_path, UI.replace(right, wrong, 1))
