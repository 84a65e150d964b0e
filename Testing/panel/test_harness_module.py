"""A small scripted module in the stand-in: loaded, bound to its parameter node, reloaded, unloaded; true pictures."""

from __future__ import annotations

import enum
import sys
from typing import Annotated

import ctk
import numpy as np
import pytest
import qt
import slicer
import vtk
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper

from harness import application, views

MODULE = """
import slicer
from slicer.ScriptedLoadableModule import *
import qt

class Example(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "Example"
        parent.categories = ["Segmentation"]
        slicer.app.connect("startupCompleted()", self.onStartup)

    def onStartup(self):
        self.started = True

class ExampleWidget(ScriptedLoadableModuleWidget):
    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        self.events = ["setup"]
        self.button = qt.QPushButton("Go")
        self.layout.addWidget(self.button)

    def enter(self):
        self.events.append("enter")

    def exit(self):
        self.events.append("exit")

    def cleanup(self):
        self.events.append("cleanup")

class ExampleLogic(ScriptedLoadableModuleLogic):
    pass

class ExampleTest(ScriptedLoadableModuleTest):
    def runTest(self):
        slicer.example_was_tested = True
"""


@pytest.fixture
def module(tmp_path):
    path = tmp_path / "Example.py"
    path.write_text(MODULE, encoding="utf-8")
    return application.load_module(path)


def test_module_lives_and_ends_as_in_the_application(module):
    assert (module.title, module.categories, module.name) == ("Example", ("Segmentation",), "Example")
    assert module._python_class.started
    widget = application.open_module("Example")
    assert slicer.util.getModuleWidget("Example") is widget and slicer.modules.ExampleWidget is widget
    assert widget.button.isVisible()
    assert widget.resourcePath("UI/Example.ui").endswith("Resources/UI/Example.ui")
    events = widget.events
    application.unload_module("Example")
    assert events == ["setup", "enter", "exit", "cleanup"]
    assert not hasattr(slicer.modules, "example")


def test_module_can_be_reloaded(module):
    before = application.open_module("Example")
    slicer.util.reloadScriptedModule("Example")
    after = slicer.util.getModuleWidget("Example")
    assert before.events[-1] == "cleanup" and after is not before and after.events == ["setup", "enter"]


def test_module_test_is_run(module):
    slicer.selfTests["Example"]()
    assert slicer.example_was_tested


def test_logic_has_one_parameter_node(module):
    logic = sys.modules["Example"].ExampleLogic()
    node = logic.getParameterNode()
    assert logic.getParameterNode() is node and node.GetSingletonTag() == "Example"


class Speed(enum.Enum):
    SLOW = 1
    FAST = 2


@parameterNodeWrapper
class Parameters:
    volume: slicer.vtkMRMLScalarVolumeNode
    fast: bool
    device: Annotated[str, Choice(["auto", "cpu"])] = "auto"
    speed: Speed = Speed.FAST
    opacity: Annotated[float, WithinRange(0, 1)] = 0.5
    note: str


def widgets():
    return {
        "volume": slicer.qMRMLNodeComboBox(),
        "fast": qt.QCheckBox(),
        "device": qt.QComboBox(),
        "speed": qt.QComboBox(),
        "opacity": ctk.ctkSliderWidget(),
        "note": qt.QLineEdit(),
    }


@pytest.fixture
def bound():
    panel = qt.QWidget()
    made = widgets()
    for name, widget in made.items():
        widget.setParent(panel)
        widget.setProperty("SlicerParameterName", name)
    made["volume"].noneEnabled = True
    made["volume"].setMRMLScene(slicer.mrmlScene)
    parameters = Parameters(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    parameters.connectGui(panel)
    return parameters, made, panel


def test_parameters_go_to_the_widgets(bound):
    parameters, made, _ = bound
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    parameters.volume, parameters.fast, parameters.device = volume, True, "cpu"
    parameters.speed, parameters.opacity, parameters.note = Speed.SLOW, 0.25, "hello"
    assert made["volume"].currentNode() is volume and made["fast"].checked
    assert made["device"].currentText == "cpu" and made["speed"].currentText == "SLOW"
    assert made["opacity"].value == 0.25 and made["note"].text == "hello"


def test_widgets_go_to_the_parameters(bound):
    parameters, made, _ = bound
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    made["volume"].setCurrentNode(volume)
    made["fast"].click()
    made["device"].currentIndex = 1
    made["speed"].currentIndex = 0
    made["opacity"].value = 0.75
    made["note"].text = "typed"
    assert parameters.volume is volume and parameters.fast is True and parameters.device == "cpu"
    assert (parameters.speed, parameters.opacity, parameters.note) == (Speed.SLOW, 0.75, "typed")
    made["volume"].setCurrentNode(None)
    assert parameters.volume is None


def test_bindings_that_slicer_lacks_are_refused():
    parameters = Parameters(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    for name, widget in (("fast", qt.QRadioButton()), ("note", qt.QComboBox()), ("opacity", qt.QSpinBox())):
        with pytest.raises(RuntimeError):
            parameters.connectParametersToGui({name: widget})
    with pytest.raises(ValueError, match="nothing"):
        parameters.connectParametersToGui({"nothing": qt.QCheckBox()})


@pytest.mark.parametrize("kind", [qt.QCheckBox, ctk.ctkCheckBox])
def test_bindings_end(kind):
    parameters = Parameters(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    panel = qt.QWidget()
    box = kind(panel)
    box.setProperty("SlicerParameterName", "fast")
    tag = parameters.connectGui(panel)
    box.click()
    assert parameters.fast is True
    parameters.disconnectGui(tag)
    box.click()
    assert parameters.fast is True


def test_references_are_read_once_and_again_when_the_node_says_that_it_was_modified():
    """As Slicer's own wrapper.py does: a reference read before its node is there stays None."""
    scene = slicer.mrmlScene
    node = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
    node.SetParameter("volume", "")
    node.SetNodeReferenceID("volume", "vtkMRMLScalarVolumeNode1")  # as an import does
    parameters = Parameters(node)
    scene.StartState(scene.ImportState)
    late = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    scene.EndState(scene.ImportState)
    assert late.GetID() == "vtkMRMLScalarVolumeNode1"
    assert node.GetNodeReference("volume") is late and parameters.isCached("volume")
    assert parameters.volume is None and Parameters(node).volume is late
    node.Modified()
    assert parameters.volume is late
    scene.RemoveNode(late)
    assert parameters.volume is None


@pytest.fixture
def layout():
    if reason := views.why_no_rendering():
        pytest.skip(reason)
    return slicer.app.layoutManager()


def add_cube():
    """A bright cube in a dark volume, and a segmentation of it in red."""
    voxels = np.zeros((40, 40, 40), np.uint8)
    voxels[10:30, 10:30, 10:30] = 200
    volume = slicer.util.addVolumeFromArray(voxels, name="cube")
    labels = slicer.util.addVolumeFromArray(
        (voxels > 0).astype(np.uint8), name="labels", nodeClassName="vtkMRMLLabelMapVolumeNode"
    )
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segmentation.CreateDefaultDisplayNodes()
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labels, segmentation)
    segmentation.GetSegmentation().GetNthSegment(0).SetColor(1, 0, 0)
    return volume, segmentation


def reddish(picture):
    red, green, blue = (picture[..., channel].astype(int) for channel in range(3))
    return ((red > green + 40) & (red > blue + 40)).sum()


def test_slice_view_shows_volume_and_overlay(layout):
    volume, segmentation = add_cube()
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    view = layout.sliceWidget("Red")._view
    with_overlay = view.picture()
    segmentation.GetDisplayNode().SetVisibility(False)
    without = view.picture()
    assert with_overlay.shape == (480, 480, 3)
    assert reddish(with_overlay) > 5000 and reddish(without) == 0
    assert without.max() > 180  # the cube itself
    view.close()


def test_three_d_view_shows_surfaces(layout):
    _, segmentation = add_cube()
    view = layout.threeDWidget(0)._view
    view.look_from(1, 1, 1)
    assert reddish(view.picture()) == 0
    segmentation.CreateClosedSurfaceRepresentation()
    view.look_from(1, 1, 1)
    assert reddish(view.picture()) > 5000
    view.close()


def test_a_label_shows_a_picture():
    from harness.behaviour_application import picture_label

    label = picture_label(np.full((10, 20, 3), 255, np.uint8))
    assert (label.pixmap.width(), label.pixmap.height()) == (20, 10)
    assert vtk.vtkVersion().GetVTKMajorVersion() == 9
