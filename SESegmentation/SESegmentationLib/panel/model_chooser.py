"""Choosing a model: searchable list, card, consent to its terms."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import qt
from slicer.i18n import tr as _

from ..errors import ModelError
from ..models import DamagedModel, ModelCard, ModelPackage, add_model, damaged_models, list_models
from .card_text import card_html, damage_html, summary_html
from .memory import ComputerMemory

#: models that are seen without scrolling
MAXIMUM_ROWS = 5


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
        memory: knows the terms that the user has accepted.
        on_chosen: called with the name of the model that the user has chosen.
    """

    def __init__(self, ui: Any, source: ModelSource, memory: ComputerMemory, on_chosen: Callable[[str], None]) -> None:
        self._ui = ui
        self._source = source
        self._memory = memory
        self._on_chosen = on_chosen
        self._entries: dict[str, ModelPackage | DamagedModel] = {}
        self._chosen = ""
        self._expected_seconds: float | None = None
        ui.modelSearchBox.connect("textChanged(QString)", self._filter)
        ui.modelList.connect("currentRowChanged(int)", self._on_row)
        ui.licenceCheckBox.connect("toggled(bool)", self._on_consent)
        self.refresh()

    @property
    def package(self) -> ModelPackage | None:
        """The chosen model, None where none is or it is damaged."""
        entry = self._entries.get(self._chosen)
        return entry if isinstance(entry, ModelPackage) else None

    @property
    def card(self) -> ModelCard | None:
        """The card of the chosen model, None where none is or it is damaged."""
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
        self._memory.require_accepted(entry.card)
        return entry

    def refresh(self) -> None:
        """Look again which models there are."""
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
        """Look again which models there are, and show this one as the chosen one, whatever was searched for."""
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

    def set_expected_seconds(self, seconds: float | None) -> None:
        """Say how long the chosen volume will take, in s; None where that is not known."""
        if seconds != self._expected_seconds:
            self._expected_seconds = seconds
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
            self._memory.accept(self.package.card, accepted)

    def _show_card(self) -> None:
        entry = self._entries.get(self._chosen)
        consent = self._ui.licenceCheckBox
        consent.visible = isinstance(entry, ModelPackage) and entry.card.licence.asks_consent
        self._ui.aboutModelSection.visible = isinstance(entry, ModelPackage)
        summary = self._ui.modelSummaryLabel
        if isinstance(entry, ModelPackage):
            summary.text = summary_html(entry.card, self._expected_seconds)
            self._ui.modelCardLabel.text = card_html(entry.card)
            consent.text = _("I accept the terms of {licence}").format(licence=entry.card.licence.spdx)
            consent.blockSignals(True)
            consent.checked = self._memory.has_accepted(entry.card)
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
