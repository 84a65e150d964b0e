"""Loading ``.ui`` files in the stand-in: wired as Slicer wires them, and slips in them noticed."""

from __future__ import annotations

import pytest
import slicer

from harness.ui_loader import UiError


def add_volume(name="volume"):
    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)


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
    path.write_text(text, encoding="utf-8")
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
