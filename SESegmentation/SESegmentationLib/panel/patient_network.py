"""The network that was recalibrated to the patient at hand, offered for the next segmentation of the same volume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
from slicer.i18n import tr as _

from ..models import ModelCard
from ..mrml import adapted_parameters, adapted_text
from ..refine.adapted_file import AdaptedNotes
from .choices import Choices
from .result_record import ResultRecord
from .wording import as_rich_text


class PatientNetwork:
    """A check box that is there where the scene holds parameters adapted to the chosen volume, for the chosen model.

    Args:
        ui: holds adaptedCheckBox.
        choices: gives the choices of the present scene, or None while there is none.
        card: gives the card of the chosen model, or None while there is none.
    """

    def __init__(self, ui: Any, choices: Callable[[], Choices | None], card: Callable[[], ModelCard | None]) -> None:
        self._ui = ui
        self._choices = choices
        self._card = card
        self._tip = ui.adaptedCheckBox.toolTip
        #: by ID of the text that keeps them, in which state parameters were read, and for which weights they are
        self._read: dict[str, tuple[int | None, str]] = {}
        ui.adaptedCheckBox.connect("clicked(bool)", self._on_click)
        self.refresh()

    @property
    def parameters(self) -> bytes | None:
        """The adapted parameters that the user wants to be used; None for the model as it is."""
        choices = self._choices()
        wanted = choices.adaptedFrom if choices else None
        return adapted_parameters(wanted) if wanted in self._found() else None

    def refresh(self) -> None:
        """Offer what there is now."""
        found, box = self._found(), self._ui.adaptedCheckBox
        box.visible = bool(found)
        if found:
            wanted = self._choices().adaptedFrom
            chosen = wanted if wanted in found else found[-1]
            box.checked = wanted in found
            tip = _("{what} It comes with the segmentation {name}.").format(what=self._tip, name=chosen.GetName())
            box.toolTip = as_rich_text(tip)

    def _found(self) -> list[slicer.vtkMRMLSegmentationNode]:
        """Segmentations of the chosen volume with parameters for the chosen model's weights, the newest result last."""
        choices, card = self._choices(), self._card()
        if choices is None or choices.inputVolume is None or card is None:
            return []
        nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        fitting = [node for node in nodes if self._fits(node, choices.inputVolume, card.weights_sha256)]
        return sorted(fitting, key=_date)

    def _on_click(self, wanted: bool) -> None:
        choices, found = self._choices(), self._found()
        if choices is not None:
            choices.adaptedFrom = found[-1] if wanted and found else None
        self.refresh()

    def _fits(self, node: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode, weights: str) -> bool:
        """Whether a segmentation of this volume has parameters for these weights."""
        text = adapted_text(node)
        if text is None or node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is not volume:
            return False
        known, state = self._read.get(text.GetID(), (None, "")), text.GetMTime()
        if known[0] != state:  # reading takes time, and this is asked often
            notes = AdaptedNotes.read(adapted_parameters(node))
            known = self._read[text.GetID()] = (state, notes.weights_sha256 if notes else "")
        return known[1] == weights


def _date(node: slicer.vtkMRMLSegmentationNode) -> str:
    record = ResultRecord.read(node)
    return record.date if record is not None else ""
