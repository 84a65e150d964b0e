"""Makes slicer-core behave like the running application for a module's logic: scene, logics, ``slicer.app``. No Qt.

The wheel holds the application's real C++ core, but nothing that puts it together; that is done here.
"""

from __future__ import annotations

import os
import sys
import tempfile
import types
from typing import Any

import slicer
import slicer.util
import vtk

from . import packages, services
from .faults import faults
from .io_manager import CoreIOManager

#: module: its logic class
LOGICS = {
    "Colors": "vtkSlicerColorLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Models": "vtkSlicerModelsLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "VolumeRendering": "vtkSlicerVolumeRenderingLogic",
    "Units": "vtkSlicerUnitsLogic",
}
#: nodes that the application's plug-ins place in the subject hierarchy as soon as they are in the scene
_IN_SUBJECT_HIERARCHY = (
    "vtkMRMLDisplayableNode",
    "vtkMRMLTransformNode",
    "vtkMRMLTableNode",
    "vtkMRMLTextNode",
    "vtkMRMLSequenceNode",
)


class CoreApplication:
    """``slicer.app`` where no Qt is needed; it has only names that the real one has."""

    applicationName = "Slicer"
    majorVersion = 5
    minorVersion = 12

    def __init__(self) -> None:
        self.temporaryPath = tempfile.mkdtemp(prefix="slicer-")
        self._scene: slicer.vtkMRMLScene | None = None
        self._logic: slicer.vtkSlicerApplicationLogic | None = None

    def mrmlScene(self) -> slicer.vtkMRMLScene:
        return self._scene

    def applicationLogic(self) -> slicer.vtkSlicerApplicationLogic:
        return self._logic

    def coreIOManager(self) -> CoreIOManager:
        return CoreIOManager(self._scene)

    def testingEnabled(self) -> bool:
        return True

    def processEvents(self, *arguments: Any) -> None:
        """There is no event loop."""

    def pauseRender(self) -> None:
        """There is nothing to render."""

    def resumeRender(self) -> None:
        """There is nothing to render."""

    def setOverrideCursor(self, cursor: Any) -> None:
        """There is no cursor."""

    def restoreOverrideCursor(self) -> None:
        """There is no cursor."""

    def layoutManager(self) -> None:
        """There are no views, as in ``Slicer --no-main-window``."""

    def translate(self, context: str, text: str) -> str:
        return text

    def startupEnvironment(self) -> dict[str, str]:
        return dict(os.environ)


class CoreModule:
    """An entry of ``slicer.modules``."""

    def __init__(self, name: str, logic: vtk.vtkObject) -> None:
        self.name = name
        self._logic = logic

    def logic(self) -> vtk.vtkObject:
        return self._logic


def start() -> Any:
    """Give ``slicer`` what the application gives it: an empty scene, module logics, ``slicer.app``. Returns the app.

    A second call replaces all of it, as if the application had been started again; ``slicer.app`` stays where it is.
    """
    faults.install()
    _delete_leaked_names()
    services.publish()
    packages.environment.reset()
    scene = slicer.vtkMRMLScene()
    app = getattr(slicer, "app", None) or CoreApplication()
    app._scene = scene
    app._logic = slicer.vtkSlicerApplicationLogic()
    app._logic.SetMRMLScene(scene)
    app._logic.SetTemporaryPath(app.temporaryPath)
    slicer.app, slicer.mrmlScene = app, scene
    with faults.ignored():  # terminologies and colour files are not in the wheel
        _start_modules(scene, app._logic)
    _start_scene(scene)
    return app


def stop() -> None:
    """Empty the scene, so that nothing observes it any longer."""
    slicer.mrmlScene.Clear(True)


def _delete_leaked_names() -> None:
    """Take the functions of ``slicer.util`` out of ``slicer``: the wheel puts them there, the application does not."""
    for name, value in list(vars(slicer.util).items()):
        if not name.startswith("_") and vars(slicer).get(name) is value and name not in ("util", "slicer_core"):
            delattr(slicer, name)


def _start_modules(scene: slicer.vtkMRMLScene, application_logic: slicer.vtkSlicerApplicationLogic) -> None:
    modules = sys.modules["slicer.modules"] = slicer.modules = types.ModuleType("slicer.modules")
    slicer.moduleNames = types.SimpleNamespace()
    logics = {name: getattr(slicer, logic_class)() for name, logic_class in LOGICS.items()}
    for name, logic in logics.items():
        application_logic.SetModuleLogic(name, logic)
        logic.SetMRMLApplicationLogic(application_logic)
        setattr(modules, name.lower(), CoreModule(name, logic))
        setattr(slicer.moduleNames, name, name)
    for logic in logics.values():  # each looks for the others as soon as it gets the scene
        logic.SetMRMLScene(scene)
    logics["Colors"].AddDefaultColorNodes()


def _start_scene(scene: slicer.vtkMRMLScene) -> None:
    cache, data = slicer.vtkCacheManager(), slicer.vtkDataIOManager()  # sequences are files within files
    cache.SetRemoteCacheDirectory(slicer.app.temporaryPath)
    data.SetCacheManager(cache)
    scene.SetCacheManager(cache)
    scene.SetDataIOManager(data)
    crosshair = slicer.vtkMRMLCrosshairNode()
    crosshair.SetCrosshairName("default")
    scene.AddNode(crosshair)
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    _place_node.CallDataType = vtk.VTK_OBJECT
    _displace_node.CallDataType = vtk.VTK_OBJECT
    scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, _place_node)
    scene.AddObserver(slicer.vtkMRMLScene.NodeRemovedEvent, _displace_node)


def _place_node(scene: slicer.vtkMRMLScene, event: str, node: slicer.vtkMRMLNode) -> None:
    """Make the subject hierarchy item of a new node, as the application's Qt plug-in does."""
    if node.GetHideFromEditors() or not any(node.IsA(cls) for cls in _IN_SUBJECT_HIERARCHY):
        return
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if scene.IsImporting() or hierarchy is None:  # the saved hierarchy is imported as well
        return
    if not hierarchy.GetItemByDataNode(node):
        hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)


def _displace_node(scene: slicer.vtkMRMLScene | None, event: str, node: slicer.vtkMRMLNode) -> None:
    if scene is None:  # that of an earlier start is being deleted, with what was left in it
        return
    hierarchy = scene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")  # must not be made anew while closing
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None and not scene.IsClosing() else 0
    if item:
        hierarchy.RemoveItem(item, False)
