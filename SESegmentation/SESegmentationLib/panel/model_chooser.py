"""The models: a searchable list, the card of the chosen one, consent to its terms, and adding one."""

from __future__ import annotations

import html
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import qt
import slicer
from slicer.i18n import tr as _

from ..errors import ModelError
from ..models import (
    AlreadyInstalledError,
    DamagedModel,
    ModelCard,
    ModelPackage,
    add_model,
    damaged_models,
    list_models,
)
from ..models.card import CARD_NAME
from ..models.labels import split_side
from .computer import UserSettings
from .messages import about, structure_list

#: models that are seen without scrolling
MAXIMUM_ROWS = 5
_POLL_MS = 40
#: time in s that each poll yields to the thread that adds a model, as Slicer may block other Python threads
_THREAD_SECONDS = 0.02
#: most characters of structure names in the summary: one line of a narrow panel
_SUMMARY_LENGTH = 44


def summary_html(card: ModelCard, expected_seconds: float | None, on_server: bool = False) -> str:
    """Two lines: what the model finds; its accuracy and run time.

    Args:
        expected_seconds: for the volume that is chosen, in s; None where that is not known yet.
        on_server: a server computes, not this computer.
    """
    measured = _("accuracy not measured")
    if "mean_dice" in card.accuracy:
        measured = _("mean Dice {dice:.2f}").format(dice=card.accuracy["mean_dice"])
    seconds = _("time known after the first segmentation")
    if expected_seconds is not None:
        text = _("{time} on the server") if on_server else _("{time} here")
        seconds = text.format(time=about(expected_seconds))
    found = _few([label.name for label in card.labels])
    return f"{found}<br>{html.escape(f'{measured}; {seconds}')}"


def card_html(card: ModelCard) -> str:
    """All that the model finds, how well and under which licence."""
    lines = [f"<b>{html.escape(card.title)}</b> {html.escape(card.version)}", html.escape(card.summary)]
    lines.append(_line(_("Finds"), structure_list([label.name for label in card.labels])))
    lines.append(_line(_("Accuracy"), _accuracy(card)))
    limits = " ".join(map(str, card.input.get("limits", [])))
    if limits:
        lines.append(_line(_("Limits"), limits))
    lines.append(f"<b>{html.escape(_('Licence'))}:</b> {_licence(card)}")
    return "<br>".join(lines)


def damage_html(model: DamagedModel) -> str:
    """Why a model cannot be used, and what to do."""
    return f"<b>{html.escape(model.error.cause)}</b><br>{html.escape(model.error.remedy)}"


def _line(name: str, text: str) -> str:
    return f"<b>{html.escape(name)}:</b> {html.escape(text)}"


def _few(names: list[str]) -> str:
    """All names; if they do not fit, their number and the first of them, without sides."""
    text = structure_list(names)
    if len(text) <= _SUMMARY_LENGTH:
        return _line(_("Finds"), text)
    words = list(dict.fromkeys(split_side(name)[1] for name in names))
    while len(words) > 1 and len(", ".join(words)) > _SUMMARY_LENGTH:
        words.pop()
    return _line(_("{count} structures").format(count=len(names)), f"{', '.join(words)}, \u2026")


def _accuracy(card: ModelCard) -> str:
    accuracy = card.accuracy
    if "mean_dice" not in accuracy:
        return _("not measured")
    cases = accuracy.get("cases", 0)
    one = _("mean Dice {dice:.2f} on one case that it had not seen")
    several = _("mean Dice {dice:.2f} over {cases} cases that it had not seen")
    text = (one if cases == 1 else several).format(dice=accuracy["mean_dice"], cases=cases)
    return f"{text} ({accuracy['data']})" if accuracy.get("data") else text


def _licence(card: ModelCard) -> str:
    licence = card.licence
    name = html.escape(licence.name)
    if licence.url.startswith(("https://", "http://")):
        name = f'<a href="{html.escape(licence.url)}">{name}</a>'
    return f"{name}. {html.escape(licence.attribution)}".strip()


class ModelSource(Protocol):
    """Where models come from."""

    def usable(self) -> list[ModelPackage]:
        """Models that can be used, by name."""

    def damaged(self) -> list[DamagedModel]:
        """Folders that look like models and cannot be used."""

    def add(self, source: Path, replace: bool) -> ModelPackage:
        """Install the model in a folder or ZIP; SegmentationError where that fails."""


class InstalledModels:
    """The models on this computer's search path."""

    def usable(self) -> list[ModelPackage]:
        return list_models()

    def damaged(self) -> list[DamagedModel]:
        return damaged_models()

    def add(self, source: Path, replace: bool) -> ModelPackage:
        return add_model(source, replace=replace)


class ModelChooser:
    """The list of models, and the chosen one in two lines, with its card below.

    Args:
        ui: holds modelSearchBox, modelList, modelSummaryLabel, aboutModelSection, modelCardLabel and licenceCheckBox.
        source: where models come from.
        settings: knows the terms that the user has accepted.
        on_chosen: called with the name of the model that the user has chosen.
    """

    def __init__(self, ui: Any, source: ModelSource, settings: UserSettings, on_chosen: Callable[[str], None]) -> None:
        self._ui = ui
        self._source = source
        self._settings = settings
        self._on_chosen = on_chosen
        self._entries: dict[str, ModelPackage | DamagedModel] = {}
        self._chosen = ""
        self._expected_seconds: float | None = None
        self._on_server = False
        ui.modelSearchBox.connect("textChanged(QString)", self._filter)
        ui.modelList.connect("currentRowChanged(int)", self._on_row)
        ui.licenceCheckBox.connect("toggled(bool)", self._on_consent)
        self.refresh()

    @property
    def package(self) -> ModelPackage | None:
        """The chosen model; None if none is chosen or it is damaged."""
        entry = self._entries.get(self._chosen)
        return entry if isinstance(entry, ModelPackage) else None

    @property
    def card(self) -> ModelCard | None:
        """The card of the chosen model; None if none is chosen or it is damaged."""
        return self.package.card if self.package is not None else None

    def require_package(self) -> ModelPackage:
        """The chosen model, ready to be used.

        Raises:
            ModelError: none is chosen or installed, or it is damaged.
            UsageError: its terms are not accepted.
        """
        entry = self._entries.get(self._chosen)
        if isinstance(entry, DamagedModel):
            raise entry.error
        if entry is None:
            cause = _missing(self._chosen) if self._chosen else "No model is installed."
            remedy = "Choose a model from the list, or add it" if self._entries else "Click Add model…"
            raise ModelError(cause, _("{remedy}, and click Segment.").format(remedy=remedy))
        self._settings.require_accepted(entry.card)
        return entry

    def refresh(self) -> None:
        """List the installed models anew."""
        self._entries = {package.card.name: package for package in self._source.usable()}
        self._entries |= {m.path.name: m for m in self._source.damaged() if m.path.name not in self._entries}
        models = self._ui.modelList
        models.blockSignals(True)
        models.clear()
        for name in self._entries:
            item = qt.QListWidgetItem(self._title(name))
            item.setData(qt.Qt.UserRole, name)
            models.addItem(item)
        models.blockSignals(False)
        _fit_height(models, MAXIMUM_ROWS)
        self._filter(self._ui.modelSearchBox.text)
        self.choose(self._chosen)

    def show_added(self, name: str) -> None:
        """List the installed models anew with this one chosen; the search box is emptied."""
        self._ui.modelSearchBox.text = ""
        self._chosen = name
        self.refresh()

    def choose(self, name: str) -> None:
        """Show this model as the chosen one; the first one where the name is empty."""
        names = list(self._entries)
        self._chosen = name or next((n for n in names if isinstance(self._entries[n], ModelPackage)), "")
        models = self._ui.modelList
        models.blockSignals(True)
        models.setCurrentRow(names.index(self._chosen) if self._chosen in names else -1)
        models.blockSignals(False)
        self._show_card()

    def set_expected_seconds(self, seconds: float | None, on_server: bool = False) -> None:
        """Show how long the chosen volume will take, in s, here or on a server; None where that is not known."""
        if (seconds, on_server) != (self._expected_seconds, self._on_server):
            self._expected_seconds, self._on_server = seconds, on_server
            self._show_card()

    def _title(self, name: str) -> str:
        entry = self._entries[name]
        return entry.card.title if isinstance(entry, ModelPackage) else _("{model} (damaged)").format(model=name)

    def _filter(self, text: str) -> None:
        words = text.lower().split()
        for row, name in enumerate(self._entries):
            searched = _searched_text(name, self._entries[name])
            self._ui.modelList.item(row).setHidden(not all(word in searched for word in words))

    def _on_row(self, row: int) -> None:
        if row >= 0:
            self._chosen = list(self._entries)[row]
            self._show_card()
            self._on_chosen(self._chosen)

    def _on_consent(self, accepted: bool) -> None:
        if self.package is not None:
            self._settings.accept(self.package.card, accepted)

    def _show_card(self) -> None:
        entry = self._entries.get(self._chosen)
        consent = self._ui.licenceCheckBox
        consent.visible = isinstance(entry, ModelPackage) and entry.card.licence.asks_consent
        self._ui.aboutModelSection.visible = isinstance(entry, ModelPackage)
        summary = self._ui.modelSummaryLabel
        if isinstance(entry, ModelPackage):
            summary.text = summary_html(entry.card, self._expected_seconds, self._on_server)
            self._ui.modelCardLabel.text = card_html(entry.card)
            consent.text = _("I accept the terms of {licence}").format(licence=entry.card.licence.spdx)
            consent.blockSignals(True)
            consent.checked = self._settings.has_accepted(entry.card)
            consent.blockSignals(False)
        elif entry is not None:
            summary.text = damage_html(entry)
        elif self._chosen:
            summary.text = html.escape(_missing(self._chosen))
        else:
            summary.text = _("No model is installed.")


def _fit_height(models: Any, rows: int) -> None:
    """Make a list as high as its entries, ``rows`` at most."""
    shown = min(max(models.count, 1), rows)
    row = max(models.sizeHintForRow(0), models.fontMetrics().height())
    models.setFixedHeight(shown * row + 2 * models.frameWidth)


def _missing(name: str) -> str:
    return f"The model {name}, which this scene asks for, is not installed."


def _searched_text(name: str, entry: ModelPackage | DamagedModel) -> str:
    if isinstance(entry, DamagedModel):
        return name.lower()
    card = entry.card
    structures = " ".join(label.name for label in card.labels)
    return f"{name} {card.title} {card.summary} {card.modality} {card.contrast} {structures}".lower()


class PackageDialogs(Protocol):
    """Asks the user."""

    def choose(self) -> Path | None:
        """A model's folder or ZIP; None where the user changes their mind."""

    def may_replace(self, cause: str) -> bool:
        """Ask whether to replace an installed model of the same name."""


class FileDialogs:
    """Asks by Slicer's own dialogs."""

    def choose(self) -> Path | None:
        """A folder is chosen by picking the card in it, so that one dialog serves for folders and ZIP files."""
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
        """A dialog, since replacing cannot be undone."""
        return slicer.util.confirmOkCancelDisplay(_("{cause} Replace it?").format(cause=cause), _("Replace the model"))


class AddModel:
    """Adds one model at a time.

    Args:
        ui: holds addModelButton.
        models: installs them; from another thread.
        dialogs: ask the user.
        on_added: called with the model.
        on_failure: called with what was raised.
    """

    def __init__(
        self,
        ui: Any,
        models: ModelSource,
        dialogs: PackageDialogs,
        on_added: Callable[[ModelPackage], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._ui = ui
        self._models = models
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
        """Stop polling; the outcome is not shown."""
        self._timer.stop()

    def _begin(self, replace: bool) -> None:
        self._ui.addModelButton.enabled = False
        self._ui.addModelButton.text = _("Adding…")
        # a new queue, so that the outcome of an earlier thread is not mistaken for this one's
        self._outcomes = queue.SimpleQueue()
        work = (self._models, self._source, replace, self._outcomes)
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


def _add(models: ModelSource, source: Path, replace: bool, outcomes: queue.SimpleQueue) -> None:
    """Runs in a thread of its own."""
    try:
        outcomes.put(models.add(source, replace))
    except Exception as error:  # shown by the thread that polls
        outcomes.put(error)
