"""Messages in the panel: what is wrong and what to do about it, in place of pop-ups."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..errors import CancelledError, SegmentationError
from ..result import Finding

ERROR, WARNING, INFORMATION = "error", "warning", "information"
_ICON_SIZE = 16


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        level: "error", "warning" or "information".
        text: what is the matter, one sentence.
        remedy: what to do, or what it means, one sentence; may be empty.
    """

    level: str
    text: str
    remedy: str = ""

    @classmethod
    def of_error(cls, error: SegmentationError) -> Message:
        """What to show of an error; that the user cancelled is none."""
        level = INFORMATION if isinstance(error, CancelledError) else ERROR
        return cls(level, *_translated(error.cause, error.remedy))

    @classmethod
    def of_finding(cls, finding: Finding) -> Message:
        """What to show of a finding."""
        return cls(WARNING, *_translated(finding.message, finding.consequence))


class MessageList:
    """Shows messages one below the other in a frame, which is hidden where there are none.

    Args:
        frame: a widget with a vertical layout and nothing else in it.

    Example::

        messages = MessageList(ui.messageFrame)
        messages.show([Message(ERROR, "There is no volume.", "Load one.")])
    """

    def __init__(self, frame: Any) -> None:
        self._frame = frame
        self._rows: list[Any] = []
        self._messages: list[Message] = []
        self.clear()

    @property
    def shown(self) -> list[Message]:
        """The messages on show."""
        return list(self._messages)

    def show(self, messages: Iterable[Message]) -> None:
        """Show these messages instead of those before."""
        self.clear()
        for message in messages:
            self.add(message)

    def add(self, message: Message) -> None:
        """Show one message more."""
        row = _row(message)
        self._frame.layout().addWidget(row)
        self._rows.append(row)
        self._messages.append(message)
        self._frame.visible = True

    def clear(self) -> None:
        """Show none."""
        for row in self._rows:
            row.setParent(None)
            row.deleteLater()
        self._rows, self._messages = [], []
        self._frame.visible = False


def status_icon(level: str) -> Any:
    """The style's own icon for a level, or for "ok", a ``QIcon``."""
    pictures = {
        ERROR: qt.QStyle.SP_MessageBoxCritical,
        WARNING: qt.QStyle.SP_MessageBoxWarning,
        INFORMATION: qt.QStyle.SP_MessageBoxInformation,
    }
    return slicer.app.style().standardIcon(pictures.get(level, qt.QStyle.SP_DialogApplyButton))


def _translated(*texts: str) -> list[str]:
    """What the worker and the library say in English; what is made here with ``_()`` stays as it is."""
    return [_(text) if text else text for text in texts]


def _row(message: Message) -> Any:
    row = qt.QWidget()
    layout = qt.QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    picture = qt.QLabel()
    picture.setPixmap(status_icon(message.level).pixmap(_ICON_SIZE, _ICON_SIZE))
    picture.setAlignment(qt.Qt.AlignTop)
    text = qt.QLabel(_rich_text(message))
    text.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Preferred)  # the panel sets the width, not the text
    text.wordWrap = True
    text.setTextInteractionFlags(qt.Qt.TextSelectableByMouse)
    layout.addWidget(picture, 0)
    layout.addWidget(text, 1)
    return row


def _rich_text(message: Message) -> str:
    text = html.escape(message.text)
    if message.level == ERROR:
        text = f"<b>{text}</b>"
    return f"{text}<br>{html.escape(message.remedy)}" if message.remedy else text
