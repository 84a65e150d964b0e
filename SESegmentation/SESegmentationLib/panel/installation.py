"""Installs packages, after asking: pip runs in a process of its own, and the window stays responsive."""

from __future__ import annotations

import importlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import qt
from slicer.i18n import tr as _

from ..client.worker_process import OWN_GROUP, end_group, find_python, worker_environment
from ..errors import CancelledError, DependencyError, SegmentationError
from .dependencies import Dependencies, InstallationPlan, explain_failure, loaded_versions
from .messages import WARNING, ActionRunner, Message
from .run_control import RunControl

_POLL_MS = 100
_LINE_CHARACTERS = 60
#: clicks within this time (s) of the start do not cancel: a double click must not cancel what it began
_DOUBLE_CLICK_SECONDS = 0.5
#: time in s that pip gets, once asked to end, to restore what it had removed
GRACE_SECONDS = 5.0


class InstallProcess:
    """Runs ``python -m`` with one list of arguments after another, until one fails.

    A timer polls it, not a thread: Slicer hardly lets other Python threads run.

    Args:
        commands: for example ``[["pip", "install", "safetensors"]]``.

    Raises:
        SegmentationError: there is no Python to run them.
        OSError: it cannot be started.
    """

    def __init__(self, commands: Sequence[Sequence[str]]) -> None:
        self._python = find_python()
        self._commands = [list(command) for command in commands]
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 (close() closes it)
        self._force_at: float | None = None
        self._process = self._start_next()

    def poll(self) -> int | None:
        """The exit code of the command that failed, 0 if all have succeeded, None while they run."""
        code = self._process.poll()
        if code is None:
            if self._force_at is not None and time.monotonic() > self._force_at:
                end_group(self._process)
            return None
        if code != 0 or self._force_at is not None or not self._commands:
            return code
        self._process = self._start_next()
        return None

    @property
    def printed(self) -> str:
        """All that was printed so far."""
        self._printed.seek(0)
        return self._printed.read().decode(errors="replace")

    def cancel(self) -> None:
        """Ask it to stop; it is ended by force if that takes long."""
        self._force_at = time.monotonic() + GRACE_SECONDS
        end_group(self._process, gently=True)

    def close(self) -> None:
        """End it at once."""
        if self._process.poll() is None:
            end_group(self._process)
            self._process.wait()
        self._printed.close()

    def _start_next(self) -> subprocess.Popen:
        return subprocess.Popen(
            [self._python, "-m", *self._commands.pop(0)],
            stdin=subprocess.DEVNULL,
            stdout=self._printed,
            stderr=subprocess.STDOUT,
            env={**worker_environment(), "PYTHONUNBUFFERED": "1"},
            **OWN_GROUP,
        )


@dataclass
class _RunningInstallation:
    """An installation under way.

    Attributes:
        plan: what is installed, and from where.
        wanted: what was asked for; see :meth:`Installation.ensure`.
        process: pip.
        action: what needs the packages; run when they are installed.
        versions_before: of the loaded packages when it began; see :func:`.loaded_versions`.
        started: when it began, in s of the monotonic clock.
        cancelled: the user has asked to stop it.
    """

    plan: InstallationPlan
    wanted: Sequence[str] | None
    process: InstallProcess
    action: Callable[[], None]
    versions_before: dict[str, str]
    started: float
    cancelled: bool = False


class Installation:
    """Installs the packages that an action needs, if the user agrees, and then runs it.

    It shares the button and the progress bar with runs, so an installation and a run exclude each other.

    Args:
        ui: holds segmentButton, progressBar and progressLabel.
        dependencies: tells what is missing, and asks the user.
        actions: runs what is done afterwards, and shows failures.
        run: nothing is installed during a run; its idle worker, which has the old packages loaded, ends afterwards.
    """

    def __init__(self, ui: Any, dependencies: Dependencies, actions: ActionRunner, run: RunControl) -> None:
        self._ui = ui
        self._dependencies = dependencies
        self._actions = actions
        self._run = run
        self._underway: _RunningInstallation | None = None
        self._log = ""
        self._idle = ("", "")
        self._timer = qt.QTimer(ui.segmentButton)
        self._timer.connect("timeout()", self._fetch)

    @property
    def running(self) -> bool:
        """Whether packages are being installed."""
        return self._underway is not None

    @property
    def log(self) -> str:
        """The output of the last installation if it failed; otherwise empty."""
        return self._log

    def ensure(self, action: Callable[[], None], wanted: Sequence[str] | None = None) -> None:
        """Run an action that needs packages: at once where they are installed, else after installing them.

        Args:
            action: what to run.
            wanted: requirements; None for those of the worker.

        Raises:
            DependencyError: the installation cannot begin, or the user declined; another one, or a run, is under way.
            SegmentationError: there is no Python to install with.
        """
        self.require_none()
        self._log = ""
        missing = self._dependencies.missing(wanted)
        if not missing:
            action()
            return
        if self._run.running:
            raise DependencyError(
                _("Python packages are needed, and nothing can be installed during a segmentation."),
                _("Wait until it is done, or cancel it; then try again."),
            )
        plan = self._dependencies.ask(missing)
        before = loaded_versions()
        try:
            process = InstallProcess(plan.commands)
        except OSError as error:
            raise explain_failure(str(error), plan.requirements, plan.folder) from error
        self._underway = _RunningInstallation(plan, wanted, process, action, before, time.monotonic())
        self._show_running()
        self._timer.start(_POLL_MS)

    def require_none(self) -> None:
        """Raise DependencyError while an installation is under way."""
        if self.running:
            raise DependencyError(
                _("Python packages are being installed."), _("Wait until that is done, or cancel it; then try again.")
            )

    def cancel(self) -> None:
        """Stop; what was installed before stays."""
        underway = self._underway
        if underway is None or underway.cancelled or time.monotonic() - underway.started <= _DOUBLE_CLICK_SECONDS:
            return
        underway.cancelled = True
        self._ui.segmentButton.enabled = False
        self._ui.progressLabel.text = _("Cancelling…")
        underway.process.cancel()

    def close(self) -> None:
        """Stop at once, without reporting an outcome."""
        self._timer.stop()
        if self._underway is not None:
            self._underway.process.close()
            self._underway = None

    def _fetch(self) -> None:
        underway = self._underway
        if underway is None:
            return
        code, printed = underway.process.poll(), underway.process.printed
        if code is None:
            line = next((line.strip() for line in reversed(printed.split("\n")) if line.strip()), "")
            if line and not underway.cancelled:
                self._ui.progressLabel.text = _("Installing: {line}").format(line=line[:_LINE_CHARACTERS])
                self._ui.progressLabel.toolTip = line
            return
        if not self._actions.idle:
            return  # a dialog of another action is open, or a scene is being read: what follows would not be run
        self.close()
        self._show_idle()
        try:
            self._check(underway, code, printed)
        except SegmentationError as error:
            self._actions.show_error(error)
            return
        self._log = ""
        self._run.release()
        self._actions.run(underway.action)
        self._warn_of_replaced(underway.versions_before)

    def _check(self, underway: _RunningInstallation, code: int, printed: str) -> None:
        """Raise unless everything is installed now."""
        if underway.cancelled:
            raise CancelledError(_("The installation was cancelled."), _("Click again to be asked again."))
        importlib.invalidate_caches()
        self._log = printed  # it is shown with a failure
        plan = underway.plan
        if code != 0:
            raise explain_failure(printed, plan.requirements, plan.folder)
        missing = self._dependencies.missing(underway.wanted)
        if missing:
            raise explain_failure(f"{printed}\nthe installation ended without them", missing, plan.folder)

    def _warn_of_replaced(self, before: dict[str, str]) -> None:
        """Warn if packages were replaced while this program keeps using the old versions."""
        now = loaded_versions()
        replaced = [
            f"{name} {before[name]} → {now[name]}"
            for name in sorted(before.keys() & now.keys())
            if now[name] != before[name]
        ]
        if replaced:
            text = _("Slicer must be restarted: packages that it uses were replaced ({packages}).")
            consequence = _("Until then other modules may fail; segmentations already use the new versions.")
            self._actions.messages.add(Message(WARNING, text.format(packages=", ".join(replaced)), consequence))

    def _show_running(self) -> None:
        ui = self._ui
        self._idle = ui.segmentButton.text, ui.segmentButton.toolTip
        ui.segmentButton.text = _("Cancel")
        ui.segmentButton.toolTip = _("Stop the installation.")
        ui.progressLabel.text = _("Installing Python packages…")
        ui.progressBar.maximum = 0  # a busy indicator: the duration is unknown
        ui.progressBar.visible = ui.progressLabel.visible = True

    def _show_idle(self) -> None:
        ui = self._ui
        ui.segmentButton.text, ui.segmentButton.toolTip = self._idle
        ui.segmentButton.enabled = True
        ui.progressLabel.toolTip = ""
        ui.progressBar.maximum = 100
        ui.progressBar.visible = ui.progressLabel.visible = False
