"""The section "This computer", which checks what a segmentation needs; and the stored settings of the user."""

from __future__ import annotations

import json
import subprocess
import tempfile
from typing import IO, Any, Protocol

import ctk
import qt
import slicer
from slicer.i18n import tr as _

from ..client.worker_process import OWN_GROUP, end_group, find_python, worker_environment
from ..doctor import ERROR, WARNING, Check
from ..errors import SegmentationError, UsageError
from ..models import ModelCard
from .messages import status_icon

_PYTHON_REMEDY = "Check again; if it fails again, reinstall SESegmentation."
_POLL_MS = 200
_GROUP = "SESegmentation"


class SettingsStore(Protocol):
    """The part of ``qt.QSettings`` that is used; values come back as text."""

    def value(self, key: str, default: Any = None) -> Any:
        """The stored value, or the default."""

    def setValue(self, key: str, value: Any) -> None:
        """Store a value."""


class UserSettings:
    """Reads and writes the settings of this user on this computer.

    Args:
        settings: where they are stored, ``qt.QSettings()`` in Slicer.
    """

    def __init__(self, settings: SettingsStore) -> None:
        self._settings = settings

    def has_accepted(self, card: ModelCard) -> bool:
        """Whether the user has accepted the terms of this model. Free licences need no consent."""
        accepted = self._settings.value(_key("AcceptedLicence", card.name))
        return not card.licence.asks_consent or accepted == card.licence.spdx

    def require_accepted(self, card: ModelCard) -> None:
        """Raise UsageError unless the user has accepted the terms of this model."""
        if not self.has_accepted(card):
            raise UsageError(
                _("The terms of {card} are not accepted: {name} ({spdx}).").format(
                    card=card.title, name=card.licence.name, spdx=card.licence.spdx
                ),
                _("Choose the model, read its licence in its card and tick the box below it; or choose another one."),
            )

    def accept(self, card: ModelCard, accepted: bool) -> None:
        """Remember that the user accepts the terms of this model, or no longer does."""
        self._settings.setValue(_key("AcceptedLicence", card.name), card.licence.spdx if accepted else "")

    def expected_seconds(self, model: str, device: str, fast: bool, volume_ml: float) -> float | None:
        """Expected time of a segmentation in s, from the last one on this computer; None before the first.

        Args:
            volume_ml: the space to be segmented, in ml; time grows with it, as a model's voxel size is fixed.
        """
        try:
            return float(self._settings.value(_speed_key(model, device, fast))) * volume_ml
        except (TypeError, ValueError):
            return None

    def remember_seconds(self, model: str, device: str, fast: bool, volume_ml: float, seconds: float) -> None:
        """Remember how long a segmentation took."""
        if volume_ml > 0:
            self._settings.setValue(_speed_key(model, device, fast), repr(seconds / volume_ml))

    @property
    def wheels_folder(self) -> str:
        """Folder of wheels to install from instead of the internet; empty where there is none."""
        return str(self._settings.value(_key("WheelsFolder")) or "")

    @wheels_folder.setter
    def wheels_folder(self, folder: str) -> None:
        self._settings.setValue(_key("WheelsFolder"), folder)

    @property
    def server(self) -> str:
        """Address of the server; empty where there is none."""
        return str(self._settings.value(_key("Server")) or "")

    @server.setter
    def server(self, address: str) -> None:
        self._settings.setValue(_key("Server"), address)

    @property
    def uses_server(self) -> bool:
        """Whether segmentations run on the server instead of this computer."""
        return self._settings.value(_key("Place")) == "server"

    @uses_server.setter
    def uses_server(self, uses: bool) -> None:
        self._settings.setValue(_key("Place"), "server" if uses else "here")


def _key(*parts: str) -> str:
    return "/".join((_GROUP, *parts))


def _speed_key(model: str, device: str, fast: bool) -> str:
    return _key("SecondsPerMl", model, device, "fast" if fast else "full")


class DoctorProcess:
    """Runs ``python -m SESegmentationLib.doctor`` in a process of its own.

    Example::

        doctor = DoctorProcess()
        doctor.start()
        # now and then, from a timer
        checks = doctor.poll()   # None while it is running
    """

    def __init__(self) -> None:
        #: the process and its output, or why it could not be started
        self._state: tuple[subprocess.Popen, IO[bytes]] | SegmentationError | None = None

    def start(self) -> None:
        """Begin; what was under way is dropped."""
        self.close()
        output = tempfile.TemporaryFile()  # noqa: SIM115  (close() closes it)
        try:
            process = subprocess.Popen(
                [find_python(), "-m", "SESegmentationLib.doctor", "--json"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.DEVNULL,
                env=worker_environment(),
                **OWN_GROUP,
            )
        except (SegmentationError, OSError) as error:
            output.close()
            self._state = error if isinstance(error, SegmentationError) else _not_started(error)
        else:
            self._state = process, output

    def poll(self) -> list[Check] | None:
        """The checks; None until they are made."""
        if isinstance(self._state, SegmentationError):
            return [Check("Python", ERROR, self._state.cause, self._state.remedy)]
        if self._state is None or self._state[0].poll() is None:
            return None
        process, output = self._state
        output.seek(0)
        try:
            return [Check(**entry) for entry in json.loads(output.read())]
        except (ValueError, TypeError):
            finding = f"The checks ended with exit code {process.returncode}."
            return [Check("Python", ERROR, finding, _PYTHON_REMEDY)]
        finally:
            self.close()

    def close(self) -> None:
        """Stop."""
        if isinstance(self._state, tuple):
            process, output = self._state
            if process.poll() is None:
                end_group(process)
                process.wait()
            output.close()
        self._state = None


def _not_started(error: OSError) -> SegmentationError:
    return SegmentationError(
        _("Python cannot be started: {reason}.").format(reason=error.strerror or error), _PYTHON_REMEDY
    )


class Doctor(Protocol):
    """Makes the checks without blocking the window."""

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
        settings: remembers the folder of wheels.
    """

    def __init__(self, ui: Any, doctor: Doctor, settings: UserSettings) -> None:
        self._ui = ui
        self._doctor = doctor
        self._settings = settings
        self._checks: list[Check] = []
        self._timer = qt.QTimer(ui.checkButton)
        self._timer.connect("timeout()", self._fetch)
        ui.checkTable.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
        ui.checkTable.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        ui.wheelsFolderEdit.filters = ctk.ctkPathLineEdit.Dirs
        ui.wheelsFolderEdit.currentPath = settings.wheels_folder
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
        """The folder of wheels in the field, which is stored as a setting; empty if there is none.

        The field does not signal every change: not that from an unusable path to an empty one.
        """
        self._settings.wheels_folder = folder = self._ui.wheelsFolderEdit.currentPath.strip()
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
    """Sort key: errors first, then warnings, then the rest."""
    order = (ERROR, WARNING)
    return order.index(check.status) if check.status in order else len(order)
