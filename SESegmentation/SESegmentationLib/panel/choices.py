"""What the user chooses: the parameter node as the panel's parts see it, and the selectors of volume and region."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from ..errors import SegmentationError
from ..inference.input_checks import check_header
from ..models import ModelCard
from ..mrml import VolumeSequence, check_volume_node, is_companion, segmented_volume
from ..result import Finding
from .messages import WARNING, Message, MessageList

DEVICES = ("auto", "cpu", "cuda", "mps")
_CLASSES = {
    "inputVolume": "vtkMRMLScalarVolumeNode",
    "region": "vtkMRMLMarkupsROINode",
    **dict.fromkeys(("adaptedFrom", "outputSegmentation", "resultSegmentation"), "vtkMRMLSegmentationNode"),
}


class Choices(Protocol):
    """The choices of one scene.

    Attributes:
        inputVolume: the volume to segment.
        everyFrame: segment all frames of the sequence that the volume shows; otherwise the selected one only.
        model: name of the model; empty: the first one.
        adaptedFrom: use the parameters adapted to this patient that come with this segmentation; None: the model as it
            is. Applies to its own volume and model only.
        region: look only inside this box; None: the whole volume.
        outputSegmentation: written into; None: a new segmentation each time.
        resultSegmentation: the result on show.
        device: "auto", "cpu", "cuda" or "mps".
        fast: fewer views.
        lowMemory: smaller batches.
        recalibrate: adapt the networks to the patient too when corrections are carried to other slices.
        keepWarm: leave the worker running between two segmentations.
        opacity: of the result in all views, 0 to 1.
    """

    inputVolume: slicer.vtkMRMLScalarVolumeNode | None
    everyFrame: bool
    model: str
    adaptedFrom: slicer.vtkMRMLSegmentationNode | None
    region: slicer.vtkMRMLMarkupsROINode | None
    outputSegmentation: slicer.vtkMRMLSegmentationNode | None
    resultSegmentation: slicer.vtkMRMLSegmentationNode | None
    device: str
    fast: bool
    lowMemory: bool
    recalibrate: bool
    keepWarm: bool
    opacity: float


def unusable_choices(node: slicer.vtkMRMLScriptedModuleNode) -> list[str]:
    """Names of parameters with values that cannot be used: of another version, edited by hand, or malicious.

    Slicer's wrapper checks values on writing, not on reading: one such value would raise whenever the module is opened.
    """
    wrong = [name for name, valid in _VALID.items() if node.HasParameter(name) and not valid(node.GetParameter(name))]
    referred = {name: node.GetNodeReference(name) for name in _CLASSES}
    return wrong + [name for name, kind in _CLASSES.items() if referred[name] and not referred[name].IsA(kind)]


def reset_choices(node: slicer.vtkMRMLScriptedModuleNode, names: list[str]) -> None:
    """Reset some parameters to their defaults."""
    with slicer.util.NodeModify(node):
        for name in names:
            node.UnsetParameter(name)
            node.RemoveNodeReferenceIDs(name)


def _is_fraction(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _is_flag(text: str) -> bool:
    return text in ("True", "False")


_VALID: dict[str, Callable[[str], bool]] = {
    "model": lambda text: len(text) <= 256 and (not text or text.isprintable()),
    "device": lambda text: text in DEVICES,
    "opacity": _is_fraction,
    **dict.fromkeys(("everyFrame", "fast", "lowMemory", "recalibrate", "keepWarm"), _is_flag),
}


def input_findings(node: slicer.vtkMRMLScalarVolumeNode, card: ModelCard, has_region: bool) -> list[Finding]:
    """Findings about a volume node that can be segmented.

    Args:
        node: the volume; its parent transform is left out, as in the segmentation.
        card: the model.
        has_region: only a region is segmented; the field of view is not checked then.
    """
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASDirectionMatrix(matrix)
    directions = np.abs(slicer.util.arrayFromVTKMatrix(matrix)[:3, :3])
    spacing = np.array(node.GetSpacing())
    image = node.GetImageData()
    ignored = set()
    if has_region:
        ignored |= {"small-field", "large-field"}
    elif card.pipeline is not None:  # in a large field of view another model finds the place first
        ignored.add("large-field")
    extent = directions @ (spacing * image.GetDimensions())
    findings = check_header(extent, spacing[directions.argmax(axis=1)], image.GetScalarRange()[0], card)
    return [finding for finding in findings if finding.code not in ignored]


class Inputs(VTKObservationMixin):
    """Selectors of volume, region and output; shows at once what is wrong with the volume.

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
        """The messages about the chosen volume."""
        return self._messages.shown

    def choose_volume(self) -> None:
        """If no volume is chosen yet, choose the one shown in the views, or the first."""
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
        """Show what is wrong with the chosen volume, and observe it."""
        if self.volume is not self._watched:
            self.removeObservers()
            self._watched = self.volume
            if self._watched is not None:
                for event in (self._watched.ImageDataModifiedEvent, self._watched.TransformModifiedEvent):
                    self.addObserver(self._watched, event, self._on_volume_modified)
        self._hide_maps()
        self._ui.everyFrameCheckBox.visible = VolumeSequence.of(self.volume) is not None
        self._show(self._problems())

    def close(self) -> None:
        """Stop observing."""
        self.removeObservers()
        self._watched = None

    def _hide_maps(self) -> None:
        """Leave the maps of results out of the list of volumes, but for one that a script or a scene has chosen.

        Where the chosen node leaves the list, Qt chooses the one beside it, which may be another patient's.
        """
        nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        maps = tuple(node.GetID() for node in nodes if is_companion(node) and node is not self.volume)
        listed = self._ui.volumeSelector.sortFilterProxyModel()
        if listed.hiddenNodeIDs != maps:
            listed.hiddenNodeIDs = maps

    def _problems(self) -> list[Message]:
        choices, card = self._choices(), self._card()
        volume = self.volume
        if choices is None or volume is None:
            return []
        try:
            check_volume_node(volume)
        except SegmentationError as error:
            return [Message.of_error(error)]
        if card is None:
            return []
        findings = input_findings(volume, card, choices.region is not None)
        about_choices = [*_about_transform(volume), *_about_output(choices.outputSegmentation, volume)]
        return [*about_choices, *map(Message.of_finding, findings)]

    def _show(self, messages: list[Message]) -> None:
        if messages != self._messages.shown:
            self._messages.show(messages)

    def _on_volume_modified(self, caller: slicer.vtkMRMLNode, event: str) -> None:
        self.refresh()

    def _on_region_added(self, region: slicer.vtkMRMLMarkupsROINode) -> None:
        """Place a new box around the centre of the volume, as a starting point."""
        volume = self.volume
        if volume is None or not isinstance(region, slicer.vtkMRMLMarkupsROINode):
            return
        bounds = [0.0] * 6
        volume.GetRASBounds(bounds)
        low, high = np.array(bounds[0::2]), np.array(bounds[1::2])
        region.SetCenter(*((low + high) / 2))
        region.SetSize(*((high - low) / 2))


def _about_transform(volume: slicer.vtkMRMLScalarVolumeNode) -> list[Message]:
    """A warning where the views show the volume mirrored: structures are named as they lie without its transforms."""
    to_world = vtk.vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(volume.GetParentTransformNode(), None, to_world)
    if to_world.Determinant() > 0:
        return []
    text = _("The transform of {volume} mirrors it: left and right in the result are those without the transform.")
    return [
        Message(
            WARNING,
            text.format(volume=volume.GetName()),
            _("If they are right only with the transform, harden it in the module Data before you segment."),
        )
    ]


def _about_output(
    output: slicer.vtkMRMLSegmentationNode | None, volume: slicer.vtkMRMLScalarVolumeNode
) -> list[Message]:
    """A warning where the output is the segmentation of another volume, perhaps another patient's."""
    if output is None or not output.GetSegmentation().GetNumberOfSegments():
        return []
    other = segmented_volume(output)
    if other is None or other is volume:
        return []
    text = _("The output {output} is a segmentation of {other}; the result of {volume} will be written into it.")
    return [
        Message(
            WARNING,
            text.format(output=output.GetName(), other=other.GetName(), volume=volume.GetName()),
            _("Choose a new segmentation as the output to keep them apart."),
        )
    ]


def _is_offered(node: slicer.vtkMRMLNode) -> bool:
    """Whether this node may be chosen for the user: a scalar volume, but no label map and no map of a result."""
    is_listed = node.GetClassName() == "vtkMRMLScalarVolumeNode" and not node.GetHideFromEditors()
    return is_listed and not is_companion(node)
