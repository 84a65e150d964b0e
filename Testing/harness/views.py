"""Slice and 3-D views of the scene through Slicer's displayable managers, with true pictures where EGL is there."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

SLICE_VIEWS = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}
_SLICE_MANAGERS = ("vtkMRMLVolumeGlyphSliceDisplayableManager", "vtkMRMLModelSliceDisplayableManager")
_SLICE_MANAGERS += ("vtkMRMLSegmentationsDisplayableManager2D", "vtkMRMLMarkupsDisplayableManager")
_THREE_D_MANAGERS = ("vtkMRMLCameraDisplayableManager", "vtkMRMLViewDisplayableManager")
_THREE_D_MANAGERS += ("vtkMRMLModelDisplayableManager", "vtkMRMLSegmentationsDisplayableManager3D")
_THREE_D_MANAGERS += ("vtkMRMLMarkupsDisplayableManager",)


@functools.cache
def why_no_rendering() -> str:
    """Why there can be no pictures on this computer; empty where there can.

    It is tried in a process of its own, because VTK ends the process where there is no driver.
    """
    code = "import vtk; w = vtk.vtkRenderWindow(); w.SetSize(8, 8); w.Render(); print(w.GetClassName())"
    environment = {**os.environ, "VTK_DEFAULT_OPENGL_WINDOW": "vtkEGLRenderWindow"}
    try:
        ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60)
    except subprocess.TimeoutExpired:
        return "EGL does not answer"
    if ended.returncode or b"vtkEGLRenderWindow" not in ended.stdout:
        return "needs EGL: the Debian packages libegl1 and libgl1-mesa-dri"
    return ""


class View:
    """A window on the scene, made when the first picture is taken."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self._window: vtk.vtkRenderWindow | None = None

    def window(self) -> vtk.vtkRenderWindow:
        """The render window."""
        if self._window is None:
            os.environ["VTK_DEFAULT_OPENGL_WINDOW"] = "vtkEGLRenderWindow"
            window = vtk.vtkRenderWindow()
            window.OffScreenRenderingOn()
            window.SetMultiSamples(8)
            window.SetSize(*self.size)
            self._window = window
            self._set_up(window)
        return self._window

    def picture(self) -> np.ndarray:
        """The view as an RGB picture, (height, width, 3), uint8."""
        window = self.window()
        window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(window)
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        width, height, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)[::-1].copy()

    def close(self) -> None:
        """Give the window's memory back."""
        if self._window is not None:
            self._window.Finalize()
            self._window = None

    def _add_managers(self, factory: vtk.vtkObject, names: tuple[str, ...], renderer: vtk.vtkRenderer) -> None:
        factory.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        for name in names:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        interactor = vtk.vtkRenderWindowInteractor()  # the managers observe it
        interactor.SetRenderWindow(self._window)
        self._managers = factory.InstantiateDisplayableManagers(renderer)
        self._managers.SetMRMLDisplayableNode(self.node)

    def _set_up(self, window: vtk.vtkRenderWindow) -> None:
        raise NotImplementedError


class SliceView(View):
    """One slice view: its node and its logic are always there, its window when it is needed."""

    def __init__(self, name: str, size: tuple[int, int] = (480, 480)) -> None:
        super().__init__(size)
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        self.logic.SetMRMLScene(slicer.mrmlScene)
        self.node = self.logic.AddSliceNode(name)
        self.node.SetOrientation(SLICE_VIEWS[name])
        self.node.SetDimensions(*size, 1)

    def _set_up(self, window: vtk.vtkRenderWindow) -> None:
        renderer = vtk.vtkRenderer()
        window.AddRenderer(renderer)
        mapper = vtk.vtkImageMapper()
        mapper.SetInputConnection(self.logic.GetImageDataConnection())
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        actor = vtk.vtkActor2D()
        actor.SetMapper(mapper)
        renderer.AddActor2D(actor)  # before the managers: it would hide what they draw
        self._add_managers(slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance(), _SLICE_MANAGERS, renderer)


class ThreeDView(View):
    """The 3-D view."""

    def __init__(self, size: tuple[int, int] = (480, 480)) -> None:
        super().__init__(size)
        self.logic = slicer.vtkMRMLViewLogic()
        self.logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        self.logic.SetMRMLScene(slicer.mrmlScene)
        self.node = self.logic.AddViewNode("1")
        self.node.SetBoxVisible(False)
        self.node.SetAxisLabelsVisible(False)

    def look_from(self, right: float, anterior: float, superior: float) -> None:
        """Look at everything from this direction (RAS)."""
        self.window()
        camera = self._renderer.GetActiveCamera()
        camera.SetFocalPoint(0, 0, 0)
        camera.SetPosition(right, anterior, superior)
        camera.SetViewUp(0, 0, 1)
        self._renderer.ResetCamera()

    def _set_up(self, window: vtk.vtkRenderWindow) -> None:
        self._renderer = renderer = vtk.vtkRenderer()
        window.AddRenderer(renderer)
        renderer.GradientBackgroundOn()
        self._add_managers(slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance(), _THREE_D_MANAGERS, renderer)
