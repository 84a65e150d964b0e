"""The selectors of volume, region and output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import slicer
from slicer.util import VTKObservationMixin

from ..errors import SegmentationError
from ..models import ModelCard
from ..mrml import VolumeSequence, check_volume_node
from .choices import Choices
from .input_findings import input_findings
from .messages import Message, MessageList


class Inputs(VTKObservationMixin):
    """Says at once what is wrong with the chosen volume, or does not fit the model.

    Args:
        ui: holds volumeSelector, regionSelector, everyFrameCheckBox and inputMessageFrame.
        choices: gives the choices of the present scene, or None while there is none.
        card: gives the card of the chosen model, or None while there is none.
    """

    def __init__(self, ui: Any, choices: Callable[[], Choices | None], card: Callable[[], ModelCard | None]) -> None:
        super().__init__()
        self._ui = ui
        self._choices = choices
        self._card = card
        self._watched: slicer.vtkMRMLScalarVolumeNode | None = None
        self._messages = MessageList(ui.inputMessageFrame)
        newer = hasattr(ui.regionSelector, "nodeAddedByUserAction")  # from Slicer 5.12 on
        added = "nodeAddedByUserAction(vtkMRMLNode*)" if newer else "nodeAddedByUser(vtkMRMLNode*)"
        ui.regionSelector.connect(added, self._on_region_added)

    @property
    def volume(self) -> slicer.vtkMRMLScalarVolumeNode | None:
        """The chosen volume."""
        choices = self._choices()
        return choices.inputVolume if choices else None

    @property
    def messages(self) -> list[Message]:
        """What is said about the chosen volume."""
        return self._messages.shown

    def choose_volume(self) -> None:
        """Choose the volume that is on show, or the first one, where none is chosen yet."""
        choices = self._choices()
        if choices is None or choices.inputVolume is not None:
            return
        shown = slicer.app.applicationLogic().GetSelectionNode().GetActiveVolumeID()
        candidates = [slicer.mrmlScene.GetNodeByID(shown)] if shown else []
        candidates += slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        suitable = [node for node in candidates if node is not None and _is_offered(node)]
        if suitable:
            choices.inputVolume = suitable[0]

    def refresh(self) -> None:
        """Show what is wrong with the chosen volume, and keep an eye on it."""
        if self.volume is not self._watched:
            self.removeObservers()
            self._watched = self.volume
            if self._watched is not None:
                for event in (self._watched.ImageDataModifiedEvent, self._watched.TransformModifiedEvent):
                    self.addObserver(self._watched, event, self._on_volume_modified)
        self._ui.everyFrameCheckBox.visible = VolumeSequence.of(self.volume) is not None
        self._show(self._problems())

    def close(self) -> None:
        """Look at nothing any more."""
        self.removeObservers()
        self._watched = None

    def _problems(self) -> list[Message]:
        volume, card = self.volume, self._card()
        if volume is None:
            return []
        try:
            check_volume_node(volume)
        except SegmentationError as error:
            return [Message.of_error(error)]
        if card is None:
            return []
        has_region = self._choices().region is not None
        return [Message.of_finding(finding) for finding in input_findings(volume, card, has_region)]

    def _show(self, messages: list[Message]) -> None:
        if messages != self._messages.shown:
            self._messages.show(messages)

    def _on_volume_modified(self, caller: slicer.vtkMRMLNode, event: str) -> None:
        self.refresh()

    def _on_region_added(self, region: slicer.vtkMRMLMarkupsROINode) -> None:
        """Lay a new box round the middle of the volume: a place to start from."""
        volume = self.volume
        if volume is None or not isinstance(region, slicer.vtkMRMLMarkupsROINode):
            return
        bounds = [0.0] * 6
        volume.GetRASBounds(bounds)
        low, high = np.array(bounds[0::2]), np.array(bounds[1::2])
        region.SetCenter(*((low + high) / 2))
        region.SetSize(*((high - low) / 2))


def _is_offered(node: slicer.vtkMRMLNode) -> bool:
    """Whether the selector lists this node: scalar volumes, but no label maps."""
    return node.GetClassName() == "vtkMRMLScalarVolumeNode" and not node.GetHideFromEditors()
