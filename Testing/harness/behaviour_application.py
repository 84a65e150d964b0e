"""What the application's own objects do: ``slicer.app``, modules, the main window, the views."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets

from .io_manager import CoreIOManager
from .views import SLICE_VIEWS, SliceView, ThreeDView, View
from .widgets import behaviour, emit


@behaviour("qSlicerApplication")
class Application:
    """``slicer.app``."""

    _defaults = {"majorVersion": 5, "minorVersion": 12, "slicerHome": "", "revision": "34000"}
    _scene: slicer.vtkMRMLScene | None = None
    _logic: slicer.vtkSlicerApplicationLogic | None = None
    _testing = False

    def _init(self) -> None:
        self._managers: dict[str, QtCore.QObject] = {}

    def mrmlScene(self) -> slicer.vtkMRMLScene:
        return self._scene

    def applicationLogic(self) -> slicer.vtkSlicerApplicationLogic:
        return self._logic

    def coreIOManager(self) -> CoreIOManager:
        return CoreIOManager(self._scene)

    ioManager = coreIOManager

    def moduleManager(self) -> Any:
        return self._managers["modules"]

    def layoutManager(self) -> Any:
        return self._managers["layout"]

    def commandOptions(self) -> Any:
        options = slicer.qSlicerCommandOptions()
        options._p_testingEnabled = self._testing
        return options

    def testingEnabled(self) -> bool:
        return self._testing

    def settings(self) -> QtCore.QSettings:
        return QtCore.QSettings()

    def userSettings(self) -> QtCore.QSettings:
        return QtCore.QSettings()

    def startupEnvironment(self) -> dict[str, str]:
        return dict(os.environ)

    def pauseRender(self) -> None:
        """Pictures are taken on demand only."""

    def resumeRender(self) -> None:
        """Pictures are taken on demand only."""

    def moduleDocumentationUrl(self, module: str) -> str:
        return f"https://slicer.readthedocs.io/en/latest/user_guide/modules/{module.lower()}.html"

    def processEvents(self, *flags: Any) -> None:
        QtWidgets.QApplication.processEvents()

    def translate(self, context: str, text: str) -> str:
        return text


@behaviour("qSlicerModuleManager")
class ModuleManager:
    """Finds modules; says when one is unloaded."""

    def module(self, name: str) -> Any:
        return getattr(slicer.modules, name.lower(), None)

    def modulesNames(self) -> tuple[str, ...]:
        return tuple(vars(slicer.moduleNames))

    def factoryManager(self) -> Any:
        return slicer.qSlicerModuleFactoryManager()


@behaviour("qSlicerModuleFactoryManager")
class ModuleFactoryManager:
    """Knows which modules are loaded."""

    def loadedModuleNames(self) -> tuple[str, ...]:
        return tuple(vars(slicer.moduleNames))

    def isLoaded(self, name: str) -> bool:
        return hasattr(slicer.moduleNames, name)


@behaviour("qSlicerScriptedLoadableModule")
class ScriptedModule:
    """A module in Python: the ``parent`` of its module class."""

    _widget: Any = None

    def _load(self, path: str) -> None:
        """Import the file and make its module class, as the application does at start."""
        self._p_path, self._p_name = path, os.path.basename(path).removesuffix(".py")
        folder = os.path.dirname(path)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        spec = importlib.util.spec_from_file_location(self.name, path)
        module = sys.modules[self.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._python_class = getattr(module, self.name)(self)

    def logic(self) -> vtk.vtkObject:
        return slicer.vtkSlicerScriptedLoadableModuleLogic()

    def widgetRepresentation(self) -> Any:
        if self._widget is None:
            self._widget = self.createNewWidgetRepresentation()
        return self._widget

    def createNewWidgetRepresentation(self) -> Any:
        widget = slicer.qSlicerScriptedLoadableModuleWidget()
        widget._p_moduleName = self.name
        widget.setMRMLScene(slicer.mrmlScene)
        widget._make()
        return widget

    def setMRMLScene(self, scene: slicer.vtkMRMLScene) -> None:
        if self._widget is not None:
            self._widget.setMRMLScene(scene)


@behaviour("qSlicerScriptedLoadableModuleWidget")
class ScriptedModuleWidget:
    """The widget that holds a scripted module's panel."""

    _python: Any = None
    _entered = False

    def _init(self) -> None:
        QtWidgets.QVBoxLayout(self)

    def _make(self) -> None:
        """Make the Python widget and set it up."""
        name = self.moduleName
        self._python = getattr(sys.modules[name], f"{name}Widget")(self)
        setattr(slicer.modules, f"{name}Widget", self._python)
        self._python.setup()

    def self(self) -> Any:  # noqa: N805 - the real name
        return self._python

    def reload(self) -> None:
        self._make()
        if self._entered:
            self.enter()

    def _get_isEntered(self) -> bool:
        return self._entered

    def enter(self) -> None:
        self._entered = True
        if hasattr(self._python, "enter"):
            self._python.enter()

    def exit(self) -> None:
        self._entered = False
        if hasattr(self._python, "exit"):
            self._python.exit()


@behaviour("qSlicerLayoutManager")
class LayoutManager:
    """The views of the usual layout: three slices and one 3-D view."""

    _defaults = {"layout": slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView}

    def _init(self) -> None:
        self._slices = {name: slicer.qMRMLSliceWidget() for name in SLICE_VIEWS}
        for name, widget in self._slices.items():
            widget._p_sliceViewName = name
            widget._view = SliceView(name)
        self._three_d = slicer.qMRMLThreeDWidget()
        self._three_d._view = ThreeDView()
        logics = vtk.vtkCollection()
        for widget in self._slices.values():
            logics.AddItem(widget._view.logic)
        self._logics = logics
        slicer.app.applicationLogic().SetSliceLogics(logics)

    def mrmlScene(self) -> slicer.vtkMRMLScene:
        return slicer.mrmlScene

    def mrmlSliceLogics(self) -> vtk.vtkCollection:
        return self._logics

    def sliceViewNames(self) -> tuple[str, ...]:
        return tuple(self._slices)

    def sliceWidget(self, name: str) -> Any:
        return self._slices.get(name)

    def threeDWidget(self, which: int | str) -> Any:
        return self._three_d if which in (0, "View1") else None

    def resetSliceViews(self) -> None:
        for widget in self._slices.values():
            widget._view.logic.FitSliceToAll()

    def resetThreeDViews(self) -> None:
        self._three_d._view.logic.GetViewNode()

    def _set_layout(self, layout: int) -> None:
        self._p_layout = layout
        emit(self, "layoutChanged(int)", layout)

    def _get_threeDViewCount(self) -> int:
        return 1


class _ViewWidget:
    """A widget that shows a view."""

    _view: View

    def _holder(self, cls: type) -> Any:
        widget = cls()
        widget._view = self._view
        return widget


@behaviour("qMRMLSliceWidget")
class SliceWidget(_ViewWidget):
    """A slice view and its controller."""

    def sliceLogic(self) -> slicer.vtkMRMLSliceLogic:
        return self._view.logic

    def mrmlSliceNode(self) -> slicer.vtkMRMLSliceNode:
        return self._view.node

    def mrmlSliceCompositeNode(self) -> slicer.vtkMRMLSliceCompositeNode:
        return self._view.logic.GetSliceCompositeNode()

    def fitSliceToBackground(self) -> None:
        self._view.logic.FitSliceToAll()

    def sliceView(self) -> Any:
        return self._holder(slicer.qMRMLSliceView)

    def sliceController(self) -> Any:
        return self._holder(slicer.qMRMLSliceControllerWidget)


@behaviour("qMRMLThreeDWidget")
class ThreeDWidget(_ViewWidget):
    """The 3-D view and its controller."""

    def mrmlViewNode(self) -> slicer.vtkMRMLViewNode:
        return self._view.node

    def threeDView(self) -> Any:
        return self._holder(slicer.qMRMLThreeDView)


@behaviour("ctkVTKAbstractView")
class VTKView:
    """The picture itself."""

    _view: View

    def renderWindow(self) -> vtk.vtkRenderWindow:
        return self._view.window()

    def scheduleRender(self) -> None:
        """Pictures are taken on demand only."""

    def forceRender(self) -> None:
        """Pictures are taken on demand only."""


@behaviour("qMRMLThreeDView")
class ThreeDViewWidget:
    """The 3-D picture."""

    def resetFocalPoint(self) -> None:
        """Pictures choose their own point of view."""

    def resetCamera(self, *options: bool) -> None:
        """Pictures choose their own point of view."""

    def mrmlViewNode(self) -> slicer.vtkMRMLViewNode:
        return self._view.node


@behaviour("qMRMLSliceControllerWidget")
class SliceController:
    """The bar above a slice view."""

    def fitSliceToBackground(self) -> None:
        self._view.logic.FitSliceToAll()


@behaviour("qSlicerMainWindow")
class MainWindow:
    """The main window: a dock with the module's panel, the views in the middle (pictures), a status bar."""

    def _init(self) -> None:
        self.setObjectName("qSlicerMainWindow")
        self.setWindowTitle("3D Slicer (stand-in)")
        self._dock = QtWidgets.QDockWidget("Module", self)
        self._area = QtWidgets.QScrollArea(self._dock)
        self._area.setWidgetResizable(True)
        self._dock.setWidget(self._area)
        self.addDockWidget(QtCore.Qt.LeftDockWidgetArea, self._dock)
        self.statusBar()
        self._selector = slicer.qSlicerModuleSelectorToolBar(self)

    def moduleSelector(self) -> Any:
        return self._selector


@behaviour("qSlicerModuleSelectorToolBar")
class ModuleSelector:
    """Switches between modules. Those that the stand-in does not load have no panel."""

    def selectModule(self, name: str) -> None:
        if name == self.selectedModule:
            return
        before = getattr(slicer.modules, self.selectedModule.lower(), None)
        for module, method in ((before, "exit"), (getattr(slicer.modules, name.lower()), "enter")):
            if hasattr(module, "widgetRepresentation"):
                getattr(module.widgetRepresentation(), method)()
        self._p_selectedModule = name
        emit(self, "moduleSelected(QString)", name)


def picture_label(pixels: Any) -> QtWidgets.QLabel:
    """A label that shows an RGB picture, (height, width, 3), uint8."""
    height, width, _ = pixels.shape
    image = QtGui.QImage(pixels.tobytes(), width, height, 3 * width, QtGui.QImage.Format_RGB888)
    label = QtWidgets.QLabel()
    label.setPixmap(QtGui.QPixmap.fromImage(image))
    return label


__all__ = ["emit", "picture_label"]
