"""The section "This computer": what a segmentation needs, what there is, and what to do about the rest."""

from __future__ import annotations

from typing import Any, Protocol

import ctk
import qt
import slicer
from slicer.i18n import tr as _

from ..doctor import ERROR, WARNING, Check
from .memory import ComputerMemory
from .messages import status_icon

_POLL_MS = 200


class Doctor(Protocol):
    """Makes the checks without making anybody wait."""

    def start(self) -> None:
        """Begin; what was under way is dropped."""

    def poll(self) -> list[Check] | None:
        """The checks; None until they are made."""

    def close(self) -> None:
        """Stop."""


class ComputerSection:
    """Shows the checks, made when the section is first opened or when the user asks for them.

    Args:
        ui: holds computerSection, checkButton, copyChecksButton, checkTable, wheelsFolderEdit.
        doctor: makes the checks.
        memory: keeps the folder of wheels.
    """

    def __init__(self, ui: Any, doctor: Doctor, memory: ComputerMemory) -> None:
        self._ui = ui
        self._doctor = doctor
        self._memory = memory
        self._checks: list[Check] = []
        self._timer = qt.QTimer(ui.checkButton)
        self._timer.connect("timeout()", self._fetch)
        ui.checkTable.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
        ui.checkTable.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        ui.wheelsFolderEdit.filters = ctk.ctkPathLineEdit.Dirs
        ui.wheelsFolderEdit.currentPath = memory.wheels_folder
        ui.wheelsFolderEdit.connect("currentPathChanged(QString)", self.wheels_folder)
        ui.wheelsFolderEdit.connect("validInputChanged(bool)", self.wheels_folder)
        ui.checkButton.connect("clicked(bool)", self.check)
        ui.copyChecksButton.connect("clicked(bool)", self._copy)
        ui.computerSection.connect("contentsCollapsed(bool)", self._on_collapsed)
        self._show()

    @property
    def checks(self) -> list[Check]:
        """The checks on show."""
        return list(self._checks)

    def check(self) -> None:
        """Make the checks."""
        self._ui.checkButton.enabled = False
        self._ui.checkButton.text = _("Checking…")
        self._doctor.start()
        self._timer.start(_POLL_MS)

    def close(self) -> None:
        """Stop what is under way."""
        self._timer.stop()
        self._doctor.close()
        self.wheels_folder()

    def wheels_folder(self) -> str:
        """The folder of wheels that the field shows, which is remembered; empty where there is none.

        The field does not tell of every change: not of an empty path that follows one that cannot be used.
        """
        self._memory.wheels_folder = folder = self._ui.wheelsFolderEdit.currentPath.strip()
        return folder

    def _fetch(self) -> None:
        checks = self._doctor.poll()
        if checks is not None:
            self._timer.stop()
            self._checks = checks
            self._show()

    def _show(self) -> None:
        self._ui.checkButton.enabled = True
        self._ui.checkButton.text = _("Check again") if self._checks else _("Check this computer")
        self._ui.copyChecksButton.enabled = bool(self._checks)
        table = self._ui.checkTable
        table.visible = bool(self._checks)
        table.setRowCount(len(self._checks))
        for row, check in enumerate(sorted(self._checks, key=_severity)):
            text = "\n".join(filter(None, (f"{check.name}: {check.finding}", check.remedy)))
            table.setItem(row, 0, qt.QTableWidgetItem(status_icon(check.status), text))

    def _copy(self) -> None:
        lines = [f"{c.status}: {c.name}: {c.finding} {c.remedy}".strip() for c in self._checks]
        slicer.app.clipboard().setText("\n".join(lines))

    def _on_collapsed(self, collapsed: bool) -> None:
        if not collapsed and not self._checks and not self._timer.active:
            self.check()


def _severity(check: Check) -> int:
    """What needs doing comes first."""
    order = (ERROR, WARNING)
    return order.index(check.status) if check.status in order else len(order)
