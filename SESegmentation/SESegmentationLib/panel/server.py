"""The choice to compute on this computer or a server, and consent before a scan is first sent to a server."""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import ctk
import numpy as np
import qt
import slicer
from slicer.i18n import tr as _

from ..client import Segmenter
from ..client.remote import RemoteSegmenter
from ..client.servers import AddressBook, Server, server_at, url_of
from ..doctor import ERROR, OK, Check, examine_server
from ..errors import CancelledError, SegmentationError, UsageError
from ..mrml import VolumeSequence
from .computer import Doctor, UserSettings
from .messages import INFORMATION, WARNING, Message, MessageList, explain_error

_HERE, _SERVER = 0, 1  # rows of the selector
_POLL_MS = 100
#: time in s that each poll yields to the thread that checks, as Slicer may block other Python threads
_THREAD_SECONDS = 0.02


class ServerDoctor(Doctor):
    """Checks a server in a thread.

    Args:
        server: returns the server to check; raises SegmentationError if there is none.
    """

    def __init__(self, server: Callable[[], Server]) -> None:
        self._server = server
        self._found: queue.SimpleQueue[list[Check]] = queue.SimpleQueue()

    def start(self) -> None:
        """Begin; what was under way is dropped."""
        self._found = queue.SimpleQueue()
        server = self._server()
        threading.Thread(target=_examine, args=(server, self._found), name="check a server", daemon=True).start()

    def poll(self) -> list[Check] | None:
        """The checks; None until they are made."""
        time.sleep(_THREAD_SECONDS)
        return None if self._found.empty() else self._found.get_nowait()

    def close(self) -> None:
        """Drop what is under way."""
        self._found = queue.SimpleQueue()


def _examine(server: Server, found: queue.SimpleQueue[list[Check]]) -> None:
    """Runs in a thread of its own."""
    try:
        found.put(examine_server(server.url, server.certificate))
    except Exception as error:  # shown by the thread that polls
        known = explain_error(error)
        found.put([Check("server", ERROR, known.cause, known.remedy)])


class ServerSection:
    """The choice of a place, with address, certificate and token of a server, and its checks.

    Args:
        ui: holds serverSection, placeSelector, serverEdit, tokenEdit, certificateEdit, checkServerButton and
            serverMessageFrame.
        settings: remembers place and address.
        make_local: creates the segmenter of this computer.
        on_changed: called when the chosen place may have changed.
    """

    def __init__(
        self, ui: Any, settings: UserSettings, make_local: Callable[[], Segmenter], on_changed: Callable[[], None]
    ) -> None:
        self._ui = ui
        self._settings = settings
        self._make_local = make_local
        self._used: Server | None = None
        self._on_changed = on_changed
        self._messages = MessageList(ui.serverMessageFrame)
        self._doctor = ServerDoctor(self._require)
        self._timer = qt.QTimer(ui.checkServerButton)
        self._timer.connect("timeout()", self._fetch)
        ui.placeSelector.addItem(_("This computer"))
        ui.placeSelector.addItem(_("A server"))
        ui.placeSelector.currentIndex = _SERVER if settings.uses_server else _HERE
        ui.serverEdit.text = settings.server
        ui.tokenEdit.echoMode = qt.QLineEdit.Password
        ui.certificateEdit.filters = ctk.ctkPathLineEdit.Files
        self._show_certificate()
        self._show()
        ui.placeSelector.connect("currentIndexChanged(int)", self._on_place)
        ui.serverEdit.connect("editingFinished()", self._on_address)
        ui.tokenEdit.connect("editingFinished()", self._on_token)
        ui.checkServerButton.connect("clicked(bool)", self.check)

    @property
    def is_chosen(self) -> bool:
        """Whether a server is to compute."""
        return self._ui.placeSelector.currentIndex == _SERVER

    @property
    def messages(self) -> list[Message]:
        """The messages on show."""
        return self._messages.shown

    def make_segmenter(self) -> Segmenter:
        """The segmenter of the chosen place; UsageError if the address is not that of a server."""
        return RemoteSegmenter(self._require()) if self.is_chosen else self._make_local()

    def begin(
        self,
        volume: slicer.vtkMRMLScalarVolumeNode,
        ensure: Callable[[Callable[[], None]], None],
        action: Callable[[], None],
    ) -> None:
        """Run an action that computes something from a volume, once all that it needs is available.

        Args:
            volume: may have to be sent to the server.
            ensure: runs the action when this computer has what it needs for it.
            action: what to run.

        Raises:
            SegmentationError: of ``ensure``; there is no such server, or the user does not want to send the volume.
        """
        if not self.is_chosen:
            # installing packages may take minutes, and the place may have changed by then
            ensure(lambda: self.begin(volume, ensure, action) if self.is_chosen else action())
            return
        server, book = self._require(), AddressBook()
        scan = scan_hash(volume)
        if not book.has_consent(server.url, scan):
            if not slicer.util.confirmOkCancelDisplay(_question(server), _("Send the scan to a server")):
                raise CancelledError(
                    _("Nothing was sent to {server}.").format(server=server.name),
                    _("Under Where it is computed, choose this computer to segment without a server."),
                )
            book.set_consent(server.url, scan)
        if server != self._used:  # the certificate field does not signal every change
            self._used = server
            self._on_changed()
        action()

    def device(self, device: str) -> str:
        """The key under which expected times are stored: the device of this computer, or the server."""
        return f"server {quote(self._ui.serverEdit.text.strip(), safe='')}" if self.is_chosen else device

    def check(self) -> None:
        """Check the server."""
        self._messages.clear()
        try:
            self._doctor.start()
        except SegmentationError as error:
            self._messages.add(Message.of_error(error))
            return
        self._ui.checkServerButton.enabled = False
        self._ui.checkServerButton.text = _("Checking…")
        self._timer.start(_POLL_MS)

    def close(self) -> None:
        """Stop what is under way."""
        self._timer.stop()
        self._doctor.close()

    def _require(self) -> Server:
        """The server of the fields, which are remembered; UsageError where they name none."""
        self._store_token()
        address, path = self._ui.serverEdit.text, self._ui.certificateEdit.currentPath.strip()
        AddressBook().set_certificate(url_of(address), Path(path) if path else None)
        return server_at(address)

    def _store_token(self) -> None:
        """Store what the field of the token holds, and empty it."""
        token = self._ui.tokenEdit.text.strip()
        if not token:
            return
        url, book = url_of(self._ui.serverEdit.text), AddressBook()
        is_safe = book.set_token(url, token)
        self._ui.tokenEdit.text = ""
        if is_safe:
            message = Message(INFORMATION, _("The token is stored in the keyring of this computer."))
        else:
            message = Message(
                WARNING,
                _("This computer has no keyring: the token is stored in the file {path}.").format(path=book.path),
                _("Anyone who uses your account can read it. With the Python package keyring it would be safe."),
            )
        self._messages.add(message)

    def _on_place(self, row: int) -> None:
        self._settings.uses_server = self.is_chosen
        self._show()
        self._on_changed()

    def _on_address(self) -> None:
        if self._ui.serverEdit.text.strip() == self._settings.server:
            return
        self._settings.server = self._ui.serverEdit.text.strip()
        self._messages.clear()
        self._show_certificate()
        self._on_changed()

    def _on_token(self) -> None:
        if not self._ui.tokenEdit.text.strip():
            return
        self._messages.clear()
        try:
            self._store_token()
        except SegmentationError as error:
            self._messages.add(Message.of_error(error))
        self._on_changed()

    def _show_certificate(self) -> None:
        """Show which certificate is known for the address."""
        try:
            known = AddressBook().certificate(url_of(self._ui.serverEdit.text))
        except UsageError:  # reported when the server is used
            known = None
        self._ui.certificateEdit.currentPath = str(known or "")

    def _show(self) -> None:
        ui, chosen = self._ui, self.is_chosen
        rows = (ui.serverLabel, ui.serverEdit, ui.tokenLabel, ui.tokenEdit, ui.certificateLabel, ui.certificateEdit)
        for widget in (*rows, ui.checkServerButton):
            widget.visible = chosen
        ui.serverMessageFrame.visible = chosen and bool(self._messages.shown)
        place = _("a server") if chosen else _("this computer")
        ui.serverSection.text = _("Where it is computed: {place}").format(place=place)
        ui.checkServerButton.enabled = True
        ui.checkServerButton.text = _("Check the server")

    def _fetch(self) -> None:
        checks = self._doctor.poll()
        if checks is None:
            return
        self._timer.stop()
        for check in checks:
            level = INFORMATION if check.status == OK else check.status
            self._messages.add(Message(level, f"{check.name}: {check.finding}", check.remedy))
        self._show()


def scan_hash(volume: slicer.vtkMRMLScalarVolumeNode) -> str:
    """The key under which consent to send a volume is stored: a hash of voxels and spacing, which reveals nothing."""
    voxels = np.ascontiguousarray(slicer.util.arrayFromVolume(volume))
    digest = hashlib.blake2b(voxels.reshape(-1).view(np.uint8).data, digest_size=16)
    frames = VolumeSequence.of(volume)
    count = 1 if frames is None else len(frames.numbers(True))
    digest.update(repr((volume.GetSpacing(), count)).encode())
    return digest.hexdigest()


def _question(server: Server) -> str:
    """What the user agrees to."""
    return _(
        "This scan will be sent to the server {server} to be segmented.\n\n"
        "What is sent: its voxels, their size, position and direction; region, corrected slices and what was learnt "
        "from them, where they are used; the options chosen. The voxels of a head can show a face.\n\n"
        "What stays here: names, dates and numbers of the patient and the study, names of files and of nodes.\n\n"
        "You are asked once for each scan and server. Send it?"
    ).format(server=server.name)
