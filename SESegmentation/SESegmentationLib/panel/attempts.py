"""Doing what a click asks for, and telling what is in the way of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from ..errors import SegmentationError
from .messages import ERROR, Message, MessageList


class Attempts:
    """One thing at a time; cause and remedy of what fails are shown in the panel, with the worker's log.

    Attributes:
        messages: what is told.

    Args:
        ui: holds messageFrame, logButton and logText.
        ready: tells whether there is a scene to do anything in.
        log: gives what the worker printed last.
    """

    def __init__(self, ui: Any, ready: Callable[[], bool], log: Callable[[], str]) -> None:
        self._ui = ui
        self._ready = ready
        self._log = log
        self._busy = False
        self.messages = MessageList(ui.messageFrame)
        ui.logButton.connect("toggled(bool)", self._on_log)
        ui.logButton.visible = ui.logText.visible = False

    def on_click(self, button: Any, action: Callable[[], None]) -> None:
        """Do this whenever the button is clicked."""
        button.connect("clicked(bool)", lambda: self.make(action))

    def make(self, action: Callable[[], None]) -> None:
        """Do what a click asks for; messages about what was done before go away."""
        if self._busy or not self._ready():  # Slicer handles events while dialogs are shown and packages installed
            return
        self._busy = True
        try:
            self.clear()
            action()
        except Exception as error:
            self.failed(error)
        finally:
            self._busy = False

    def failed(self, error: Exception) -> None:
        """Tell of a failure."""
        known = error if isinstance(error, SegmentationError) else unexpected(error)
        self.messages.add(Message.of_error(known))
        self._ui.logButton.visible = self.messages.shown[-1].level == ERROR and bool(self._log())

    def clear(self) -> None:
        """Tell nothing any more."""
        self.messages.clear()
        self._ui.logButton.checked = False
        self._ui.logButton.visible = False

    def _on_log(self, shown: bool) -> None:
        self._ui.logText.visible = shown
        self._ui.logText.setPlainText(self._log() if shown else "")


def unexpected(error: Exception) -> SegmentationError:
    """What to tell the user of a fault of this program; the error log gets all of it."""
    logging.error("SESegmentation", exc_info=error)
    return SegmentationError(
        _("Unexpected failure: {kind}: {error}").format(kind=type(error).__name__, error=error),
        _("Try again; if it fails again, report it with the error log (View menu)."),
    )
