"""Starts the stand-in for the application in this process: real MRML, widgets, ``qt``, ``ctk`` and ``slicer.app``."""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import slicer
from PySide6 import QtCore, QtWidgets

from . import dialogs, pythonqt, runtime, widgets
from .segment_editor import SegmentEditor
from .ui_loader import make_loader


def start() -> Any:
    """Start, or start afresh: new scene, new views, no modules, no dialogs. Returns ``slicer.app``.

    It behaves as in front of a user (``testingEnabled()`` is False), except that dialogs are recorded and answered.
    """
    if "ctk" not in sys.modules:
        _make_classes()
    app = slicer.app
    runtime.start()
    app._managers = {"modules": slicer.qSlicerModuleManager(), "layout": slicer.qSlicerLayoutManager()}
    app._window = slicer.qSlicerMainWindow()
    slicer.modules.segmenteditor = SegmentEditor()
    app.disconnect("startupCompleted()")  # or modules that are gone would go on offering their sample data
    slicer.modules.sampleDataSources = {}
    dialogs.dialogs.reset()
    QtCore.QSettings().clear()
    return app


def stop() -> None:
    """Unload the modules, as the application does when it ends, and empty the scene."""
    for name in [name for name in vars(slicer.moduleNames) if name not in runtime.LOGICS]:
        unload_module(name)
    slicer.app._window.deleteLater()
    process_events()
    runtime.stop()


def load_module(path: str | Path) -> Any:
    """Load a scripted module by its file. Returns the ``qSlicerScriptedLoadableModule``."""
    module = slicer.qSlicerScriptedLoadableModule()
    module._load(str(path))
    setattr(slicer.modules, module.name.lower(), module)
    setattr(slicer.moduleNames, module.name, module.name)
    if not slicer.app.signalsBlocked():
        widgets.emit(slicer.app.moduleManager(), "moduleLoaded(QString)", module.name)
    widgets.emit(slicer.app, "startupCompleted()")
    return module


def open_module(name: str) -> Any:
    """Switch to a module: make its panel, put it into the main window and enter it. Returns its Python widget."""
    holder = getattr(slicer.modules, name.lower()).widgetRepresentation()
    slicer.app._window._area.setWidget(holder)
    slicer.app._window.resize(1200, 800)
    slicer.app._window.show()
    holder.enter()
    process_events()
    return holder.self()


def unload_module(name: str) -> None:
    """Unload a module: leave it, clean up, delete its panel."""
    module = getattr(slicer.modules, name.lower())
    holder = module._widget
    if holder is not None:
        holder.exit()
    widgets.emit(slicer.app.moduleManager(), "moduleAboutToBeUnloaded(QString)", name)
    if holder is not None:
        holder.setMRMLScene(None)
        holder.deleteLater()
        process_events()
    delattr(slicer.modules, name.lower())
    delattr(slicer.moduleNames, name)


def process_events() -> None:
    """Let Qt do what is due, deletions included."""
    QtWidgets.QApplication.processEvents()
    QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.DeferredDelete)


def wait_until(condition: Any, seconds: float = 10.0) -> bool:
    """Run the event loop until ``condition()`` is true; whether it became true in time."""
    deadline = QtCore.QDeadlineTimer(int(seconds * 1000))
    while not condition():
        if deadline.hasExpired():
            return False
        QtWidgets.QApplication.processEvents(QtCore.QEventLoop.AllEvents, 20)
        QtCore.QThread.msleep(2)
    return True


def _make_classes() -> None:
    from . import behaviour_application, behaviour_ctk, behaviour_nodes, behaviour_segments  # noqa: F401 - registered

    qt = pythonqt.install()
    dialogs.install(qt)
    classes = widgets.build()
    ctk = sys.modules["ctk"] = types.ModuleType("ctk")
    for name, cls in classes.items():
        setattr(ctk if name.startswith("ctk") else slicer, name, cls)
    qt.QUiLoader = make_loader(classes)
    settings = tempfile.mkdtemp(prefix="slicer-settings-")
    QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
    QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, QtCore.QSettings.UserScope, settings)
    app = slicer.qSlicerApplication(["Slicer"])
    app.setApplicationName("Slicer")
    app.setOrganizationName("Slicer")
    app._p_temporaryPath = tempfile.mkdtemp(prefix="slicer-")
    slicer.app = app
    atexit.register(app.quit)
