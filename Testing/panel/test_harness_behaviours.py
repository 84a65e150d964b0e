"""What the stand-in's widgets do by themselves: follow the scene, hide, jump, undo, as Slicer's do."""

from __future__ import annotations

import ctk
import pytest
import qt
import slicer
import vtk

from harness import application


def add_volume(name="volume"):
    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)


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
    path.currentPath = "/"
    path.currentPath = "/no such folder"  # said to be unacceptable, not to be another path
    dialogs.answer("/tmp")
    path.browse()
    folder = ctk.ctkDirectoryButton()
    folder.directory = "/c"
    search = ctk.ctkSearchBox()
    search.textChanged.connect(seen.append)
    search.text = "hippo"
    assert seen == ["/", "/tmp", "hippo"] and folder.directory == "/c"


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
