"""The check box that uses a network which was recalibrated to this patient before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
from slicer.i18n import tr as _

from ..adapted_notes import AdaptedNotes
from ..models import ModelCard
from ..mrml import adapted_parameters, adapted_text_node, segmented_volume
from .choices import Choices
from .messages import as_rich_text
from .result_record import ResultRecord


class PatientNetwork:
    """A check box, visible where the scene holds parameters adapted to the chosen volume for the chosen model.

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
        #: by ID of the text node that holds parameters: its MTime when it was read, and the SHA-256 of their weights
        self._weights: dict[str, tuple[int, str]] = {}
        ui.adaptedCheckBox.connect("clicked(bool)", self._on_click)
        self.refresh()

    @property
    def parameters(self) -> bytes | None:
        """The adapted parameters that the user has chosen to use; None for the model as it is."""
        choices = self._choices()
        chosen = choices.adaptedFrom if choices else None
        return adapted_parameters(chosen) if chosen in self._candidates() else None

    def refresh(self) -> None:
        """Show whether there is such a network now."""
        choices, found, box = self._choices(), self._candidates(), self._ui.adaptedCheckBox
        box.visible = bool(found)
        if choices is None or not found:
            return
        chosen = next((node for node in found if node is choices.adaptedFrom), None)
        box.checked = chosen is not None
        offered = found[-1] if chosen is None else chosen
        tip = _("{what} It comes with the segmentation {name}.").format(what=self._tip, name=offered.GetName())
        box.toolTip = as_rich_text(tip)

    def _candidates(self) -> list[slicer.vtkMRMLSegmentationNode]:
        """Segmentations of the chosen volume with parameters for the chosen model's weights, the newest result last."""
        choices, card = self._choices(), self._card()
        if choices is None or choices.inputVolume is None or card is None:
            return []
        nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        fitting = [node for node in nodes if self._fits(node, choices.inputVolume, card.weights_sha256)]
        return sorted(fitting, key=_date)

    def _on_click(self, checked: bool) -> None:
        choices, found = self._choices(), self._candidates()
        if choices is not None:
            choices.adaptedFrom = found[-1] if checked and found else None
        self.refresh()

    def _fits(self, node: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode, weights: str) -> bool:
        """Whether a segmentation of this volume has parameters for these weights."""
        text = adapted_text_node(node)
        if text is None or segmented_volume(node) is not volume:
            return False
        cached, modified = self._weights.get(text.GetID()), text.GetMTime()
        if cached is None or cached[0] != modified:  # reading takes time, and this is asked often
            notes = AdaptedNotes.read(adapted_parameters(node))
            cached = self._weights[text.GetID()] = (modified, notes.weights_sha256 if notes else "")
        return cached[1] == weights


def _date(node: slicer.vtkMRMLSegmentationNode) -> str:
    record = ResultRecord.read(node)
    return record.date if record is not None else ""
