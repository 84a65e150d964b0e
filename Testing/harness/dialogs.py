"""Dialogs without a user: each is recorded, and answered as the test has said beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PySide6 import QtWidgets


@dataclass(frozen=True)
class Dialog:
    """A dialog that a module showed.

    Attributes:
        kind: its class, for example "ctkMessageBox" or "QFileDialog".
        title: its window title.
        text: what it said.
        details: what it showed on demand.
    """

    kind: str
    title: str
    text: str
    details: str = ""


class Dialogs:
    """Record of the dialogs shown, and the answers to the next ones.

    A dialog that only informs (one button) needs no answer. One that asks needs one, or the test fails: a user would
    have been interrupted where the test did not expect it.
    """

    def __init__(self) -> None:
        self.shown: list[Dialog] = []
        self._answers: list[Any] = []

    def answer(self, *answers: Any) -> None:
        """Answer the next dialogs: True or False for questions, a path for file dialogs, a text for text dialogs."""
        self._answers += answers

    def reset(self) -> list[Any]:
        """Forget all. Returns the answers that no dialog asked for."""
        left, self._answers = self._answers, []
        self.shown.clear()
        return left

    def take(self, dialog: Dialog) -> Any:
        """Record a dialog that asks; returns its answer."""
        self.shown.append(dialog)
        if not self._answers:
            raise AssertionError(f"no answer was prepared for {dialog}")
        return self._answers.pop(0)

    def execute(self, dialog: QtWidgets.QDialog) -> int:
        """What ``dialog.exec_()`` does here."""
        if not isinstance(dialog, QtWidgets.QMessageBox):
            answer = self.take(Dialog(dialog.className(), dialog.windowTitle, _texts(dialog)))
            return int(answer) if isinstance(answer, (bool, int)) else 1
        box = QtWidgets.QMessageBox
        text = f"{dialog.text}\n{dialog.informativeText}".strip()
        shown = Dialog(dialog.className(), dialog.windowTitle.strip(), text, dialog.detailedText)
        accept, reject = (box.AcceptRole, box.YesRole), (box.RejectRole, box.NoRole)
        buttons = [button for button in dialog.buttons() if dialog.buttonRole(button) in accept + reject]
        if len(buttons) <= 1:  # "Show details" is no answer
            self.shown.append(shown)
            return box.Ok
        roles = accept if self.take(shown) else reject
        return next(dialog.standardButton(button) for button in buttons if dialog.buttonRole(button) in roles)


dialogs = Dialogs()


def _texts(dialog: QtWidgets.QDialog) -> str:
    return "\n".join(label.text for label in dialog.findChildren(QtWidgets.QLabel))


def install(qt: Any) -> None:
    """No dialog blocks any longer; Qt's ready-made dialogs return, as in PythonQt, the value alone."""
    QtWidgets.QDialog.exec_ = QtWidgets.QDialog.exec = lambda self: dialogs.execute(self)

    def ask(kind: str) -> Any:
        def function(parent: Any = None, title: str = "", text: str = "", *more: Any, **options: Any) -> Any:
            return dialogs.take(Dialog(kind, title, text))

        return staticmethod(function)

    def inform(parent: Any = None, title: str = "", text: str = "", *more: Any) -> Any:
        dialogs.shown.append(Dialog("QMessageBox", title, text))
        return QtWidgets.QMessageBox.Ok

    def question(parent: Any, title: str, text: str, *more: Any) -> Any:
        answer = dialogs.take(Dialog("QMessageBox", title, text))
        return QtWidgets.QMessageBox.Yes if answer else QtWidgets.QMessageBox.No

    file_names = ("getOpenFileName", "getSaveFileName", "getExistingDirectory", "getOpenFileNames")
    texts = ("getText", "getInt", "getDouble", "getItem", "getMultiLineText")
    qt.QFileDialog = type(qt.QFileDialog)("QFileDialog", (qt.QFileDialog,), {n: ask("QFileDialog") for n in file_names})
    qt.QInputDialog = type(qt.QInputDialog)("QInputDialog", (qt.QInputDialog,), {n: ask("QInputDialog") for n in texts})
    for name in ("information", "warning", "critical"):
        setattr(QtWidgets.QMessageBox, name, staticmethod(inform))
    QtWidgets.QMessageBox.question = staticmethod(question)
