"""Collects what goes wrong where no caller would see it: in slots, observers and threads, and as VTK errors."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import vtk


class Faults:
    """The faults since the last :meth:`take`.

    An exception in a slot, an observer or a thread reaches nobody: Qt, VTK and Python only print it. In the application
    the user sees a red line in a console at best. Here each is kept, and a fixture fails the test that caused it.
    """

    def __init__(self) -> None:
        self._found: list[str] = []
        self._installed = False

    def install(self) -> None:
        """Listen, again where a library has taken Python's hooks since."""
        sys.excepthook = self._on_exception
        threading.excepthook = lambda args: self._on_exception(args.exc_type, args.exc_value, args.exc_traceback)
        if self._installed:
            return
        self._installed = True
        vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)  # they come back in the report of the test
        self._on_vtk_error.CallDataType = vtk.VTK_STRING
        vtk.vtkOutputWindow.GetInstance().AddObserver(vtk.vtkCommand.ErrorEvent, self._on_vtk_error)

    def add(self, message: str) -> None:
        """Record a fault."""
        self._found.append(message)

    def take(self) -> list[str]:
        """The faults so far; they are forgotten here."""
        found, self._found = self._found, []
        return found

    @contextmanager
    def ignored(self) -> Iterator[None]:
        """Forget the faults of the block."""
        before = self._found
        self._found = []
        try:
            yield
        finally:
            self._found = before

    def _on_exception(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        self.add("".join(traceback.format_exception(kind, error, trace)))

    @staticmethod
    def _on_vtk_error(caller: vtk.vtkObject, event: str, message: str) -> None:
        faults.add(message.strip())


faults = Faults()
