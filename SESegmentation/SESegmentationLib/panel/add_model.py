"""Adding a model that somebody passed on: chosen in a dialog, checked and copied while the window stays responsive."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import qt
import slicer
from slicer.i18n import tr as _

from ..models import AlreadyInstalledError, ModelPackage
from ..models.card import CARD_NAME

_POLL_MS = 40
#: as Slicer may keep other Python threads from running, each poll lets the one that adds run for so long, in s
_THREAD_SECONDS = 0.02


class ModelAdder(Protocol):
    """Installs models."""

    def add(self, source: Path, replace: bool) -> ModelPackage:
        """Install the model in a folder or ZIP; SegmentationError where that fails."""


class PackageDialogs(Protocol):
    """Asks the user."""

    def choose(self) -> Path | None:
        """A model's folder or ZIP; None where the user changes their mind."""

    def may_replace(self, cause: str) -> bool:
        """Whether a model that is in the way may be replaced."""


class FileDialogs:
    """Asks by Slicer's own dialogs."""

    def choose(self) -> Path | None:
        """A folder is chosen by the card in it: one dialog then serves for both."""
        path = qt.QFileDialog.getOpenFileName(
            slicer.util.mainWindow(),
            _("Add a model: its ZIP, or model.json in its folder"),
            "",
            f"{_('Model')} (*.zip {CARD_NAME})",
        )
        if not path:
            return None
        return Path(path).parent if Path(path).name == CARD_NAME else Path(path)

    def may_replace(self, cause: str) -> bool:
        """Replacing cannot be taken back: therefore a dialog."""
        return slicer.util.confirmOkCancelDisplay(_("{cause} Replace it?").format(cause=cause), _("Replace the model"))


class AddModel:
    """Adds one model at a time.

    Args:
        ui: holds addModelButton.
        adder: installs models; from another thread.
        dialogs: ask the user.
        on_added: called with the model.
        on_failure: called with what was raised.
    """

    def __init__(
        self,
        ui: Any,
        adder: ModelAdder,
        dialogs: PackageDialogs,
        on_added: Callable[[ModelPackage], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._ui = ui
        self._adder = adder
        self._dialogs = dialogs
        self._on_added = on_added
        self._on_failure = on_failure
        self._source: Path | None = None
        self._outcomes: queue.SimpleQueue[ModelPackage | Exception] = queue.SimpleQueue()
        self._timer = qt.QTimer(ui.addModelButton)
        self._timer.connect("timeout()", self._fetch)

    def ask(self) -> None:
        """Let the user choose a model, and begin to add it."""
        self._source = self._dialogs.choose()
        if self._source is not None:
            self._begin(replace=False)

    def close(self) -> None:
        """Tell nobody how it ends."""
        self._timer.stop()

    def _begin(self, replace: bool) -> None:
        self._ui.addModelButton.enabled = False
        self._ui.addModelButton.text = _("Adding…")
        # a new queue: nothing of an earlier one is taken for this
        self._outcomes = queue.SimpleQueue()
        work = (self._adder, self._source, replace, self._outcomes)
        threading.Thread(target=_add, args=work, name="add model", daemon=True).start()
        self._timer.start(_POLL_MS)

    def _fetch(self) -> None:
        time.sleep(_THREAD_SECONDS)
        try:
            outcome = self._outcomes.get_nowait()
        except queue.Empty:
            return
        self._timer.stop()
        self._ui.addModelButton.enabled = True
        self._ui.addModelButton.text = _("Add model…")
        if isinstance(outcome, AlreadyInstalledError):
            if self._dialogs.may_replace(outcome.cause):
                self._begin(replace=True)
        elif isinstance(outcome, Exception):
            self._on_failure(outcome)
        else:
            self._on_added(outcome)


def _add(adder: ModelAdder, source: Path, replace: bool, outcomes: queue.SimpleQueue) -> None:
    """Runs in a thread of its own."""
    try:
        outcomes.put(adder.add(source, replace))
    except Exception as error:  # it is told by the thread that polls
        outcomes.put(error)
