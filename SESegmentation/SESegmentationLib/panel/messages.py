"""Messages shown in the panel instead of pop-ups, the runner of actions that shows their errors, and display texts."""

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _

from ..client.remote import QUEUE, RECONNECTING, SENDING
from ..errors import CancelledError, OutOfMemoryError, SegmentationError
from ..geometry import Geometry, Slices
from ..memory import is_out_of_memory
from ..mrml import ACCEPTED, CORRECTED, TO_CHECK
from ..result import Finding
from ..worker.messages import RESTARTED

ERROR, WARNING, INFORMATION = "error", "warning", "information"
_ICON_SIZE = 16
_SIDES = ("left ", "right ")


def rough_duration(seconds: float) -> str:
    """A rough time: "less than 1 s", "12 s", "3 min"."""
    if seconds < 1:
        return _("less than 1 s")
    if seconds < 90:
        return _("{number} s").format(number=round(seconds))
    if seconds < 5400:
        return _("{number} min").format(number=round(seconds / 60))
    return _("{number} h").format(number=round(seconds / 3600))


def about(seconds: float) -> str:
    """A rough time as an estimate: "less than 1 s", "about 12 s"."""
    return rough_duration(seconds) if seconds < 1 else _("about {time}").format(time=rough_duration(seconds))


def device_name(device: str) -> str:
    """Name of a device for the user: "CPU" for "cpu"."""
    known = {"auto": _("Automatic"), "cpu": _("CPU"), "cuda": _("NVIDIA GPU (CUDA)"), "mps": _("Apple GPU (MPS)")}
    return known.get(device, device)


def phase_name(phase: str) -> str:
    """The phase of a job, for the line under the progress bar."""
    known = {
        "load": _("Loading the model"),
        "prepare": _("Preparing the volume"),
        "locate": _("Looking for the region"),
        "restore": _("Resampling the result to the volume's grid"),
        "measure": _("Measuring"),
        "segment": _("Segmenting as before"),
        "learn": _("Learning from the corrected slices"),
        "look": _("Mapping what the network looked at"),
        "adapt": _("Adapting to this scan"),
        "segment again": _("Segmenting with what was learnt"),
        SENDING: _("Sending the scan to the server"),
        RECONNECTING: _("The connection is lost; connecting again"),
        RESTARTED: _("The server is starting the job again"),
    }
    if phase in known:
        return known[phase]
    plane, *number = phase.split(" ")
    if plane == QUEUE:
        return _("Waiting for the server, number {number} in its queue").format(number=" ".join(number))
    if plane in ("axial", "coronal", "sagittal"):
        return _("Segmenting {plane} slices").format(plane=plane) + "".join(f" ({n})" for n in number)
    if plane == "volume":
        return _("Segmenting the whole volume") + "".join(f" ({n})" for n in number)
    return _("Segmenting: {target}").format(target=phase)


def progress_line(phase: str, seconds_left: float | None) -> str:
    """Phase and time left in one line."""
    if seconds_left is None:
        return f"{phase_name(phase)}…"
    return _("{phase}… {time} left").format(phase=phase_name(phase), time=about(seconds_left))


def state_name(state: str) -> str:
    """The review state of a structure, for the list."""
    return {TO_CHECK: _("to check"), CORRECTED: _("corrected"), ACCEPTED: _("accepted")}[state]


def as_rich_text(text: str) -> str:
    """Escape a text for widgets that guess whether it is rich text: names in a scene may contain markup."""
    return f"<span>{html.escape(text)}</span>"


def slice_names(slices: Iterable[Slices], grid: Geometry) -> str:
    """Slices for a message: "axial 12, 17; coronal 3", numbered as Slicer's Data Probe numbers voxels.

    Args:
        slices: of a label map.
        grid: of that map. A slice belongs to the plane that is nearest to its own.
    """
    planes = _("sagittal"), _("coronal"), _("axial")  # across x, y and z of the patient
    nearest = np.abs(np.reshape(grid.direction, (3, 3))).argmax(0)
    return "; ".join(
        f"{planes[nearest['ijk'.index(entry.axis)]]} {', '.join(map(str, entry.numbers))}" for entry in slices
    )


def structure_list(names: Sequence[str]) -> str:
    """Names of structures, each pair of sides as one: "hippocampus (left, right), brain stem"."""
    present = set(names)
    words: list[str] = []
    for name in names:
        side = next((side for side in _SIDES if name.startswith(side)), "")
        rest = name.removeprefix(side)
        if not side or not all(other + rest in present for other in _SIDES):
            words.append(name)
        elif side == _SIDES[0]:
            words.append(_("{structure} (left, right)").format(structure=rest))
    return ", ".join(words)


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        level: "error", "warning" or "information".
        text: the problem, one sentence.
        remedy: what to do, or what it means, one sentence; may be empty.
    """

    level: str
    text: str
    remedy: str = ""

    @classmethod
    def of_error(cls, error: SegmentationError) -> Message:
        """What to show of an error; a run that the user cancelled is no error, but information."""
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
        """Show these messages in place of the present ones."""
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
    """The ``QIcon`` of the present style for a level or for "ok"."""
    pictures = {
        ERROR: qt.QStyle.SP_MessageBoxCritical,
        WARNING: qt.QStyle.SP_MessageBoxWarning,
        INFORMATION: qt.QStyle.SP_MessageBoxInformation,
    }
    return slicer.app.style().standardIcon(pictures.get(level, qt.QStyle.SP_DialogApplyButton))


def _translated(*texts: str) -> list[str]:
    """Translations of the English texts of worker and library; what ``_()`` has translated stays as it is."""
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


class ActionRunner:
    """Runs the actions of buttons, one at a time; shows cause and remedy of a failure, with the worker's log.

    Attributes:
        messages: what is shown.

    Args:
        ui: holds messageFrame, logButton and logText.
        ready: returns whether there is a scene to work on.
        log: returns the last output of the worker.
    """

    def __init__(self, ui: Any, ready: Callable[[], bool], log: Callable[[], str]) -> None:
        self._ui = ui
        self._ready = ready
        self._log = log
        self._busy = False
        self.messages = MessageList(ui.messageFrame)
        ui.logButton.connect("toggled(bool)", self._on_log)
        ui.logButton.visible = ui.logText.visible = False

    @property
    def idle(self) -> bool:
        """Whether an action would be run now: not while another one is, or there is no scene to work on."""
        return not self._busy and self._ready()

    def on_click(self, button: Any, action: Callable[[], None]) -> None:
        """Run this whenever the button is clicked."""
        button.connect("clicked(bool)", lambda: self.run(action))

    def run(self, action: Callable[[], None]) -> None:
        """Run an action, after removing the messages of the one before."""
        if not self.idle:  # Slicer handles events while dialogs are shown and packages installed
            return
        self._busy = True
        try:
            self.clear()
            action()
        except Exception as error:
            self.show_error(error)
        finally:
            self._busy = False

    def show_error(self, error: Exception) -> None:
        """Show what failed, and offer the log."""
        message = Message.of_error(explain_error(error))
        self.messages.add(message)
        self._ui.logButton.visible = message.level == ERROR and bool(self._log())

    def clear(self) -> None:
        """Show no message and no log."""
        self.messages.clear()
        self._ui.logButton.checked = False
        self._ui.logButton.visible = False

    def _on_log(self, shown: bool) -> None:
        self._ui.logText.visible = shown
        self._ui.logText.setPlainText(self._log() if shown else "")


def explain_error(error: Exception) -> SegmentationError:
    """The error to show, with cause and remedy. An exception without them is a bug, and also goes to the error log."""
    if isinstance(error, SegmentationError):
        return error
    if is_out_of_memory(error):
        return OutOfMemoryError(
            _("There is not enough memory for this volume."),
            _("Close other programs, or crop the volume with the module Crop Volume."),
        )
    logging.error("SESegmentation", exc_info=error)
    return SegmentationError(
        _("Unexpected failure: {kind}: {error}").format(kind=type(error).__name__, error=error),
        _("Try again; if it fails again, report it with the error log (View menu)."),
    )
