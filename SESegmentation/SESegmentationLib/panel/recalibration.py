"""Learning from corrections: a proposal to accept or reject, and the network recalibrated to the patient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from ..client import RefinedResult
from ..errors import InputError
from ..io.volume_image import voxels_of
from ..models import ModelCard
from ..mrml import (
    adapted_parameters,
    adapted_text_node,
    completed_voxels,
    corrected_mask,
    find_segment,
    is_completed,
    label_map,
    show_difference,
)
from ..result import HIDDEN_WORSE, NO_GAIN, NOTHING_CORRECTED, NOTHING_SAID, UNPROVEN, AdaptedNotes
from .choices import Choices
from .messages import as_rich_text, slice_names
from .requests import RefineRequest
from .result_record import ResultRecord
from .scene_results import SceneResults, WrittenResult

#: structures of which a proposal's changes are listed one by one
MAX_LISTED = 4


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
        if text is None or node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is not volume:
            return False
        cached, modified = self._weights.get(text.GetID()), text.GetMTime()
        if cached is None or cached[0] != modified:  # reading takes time, and this is asked often
            notes = AdaptedNotes.read(adapted_parameters(node))
            cached = self._weights[text.GetID()] = (modified, notes.weights_sha256 if notes else "")
        return cached[1] == weights


def _date(node: slicer.vtkMRMLSegmentationNode) -> str:
    record = ResultRecord.read(node)
    return record.date if record is not None else ""


@dataclass(frozen=True)
class _Proposal:
    """What learning from corrections would change.

    Attributes:
        request: what was asked for.
        refined: what was proposed.
        difference: shows the changes in the views.
    """

    request: RefineRequest
    refined: RefinedResult
    difference: slicer.vtkMRMLSegmentationNode


class Recalibration:
    """Shows what learning from corrections would change, until the user accepts or rejects it.

    Args:
        ui: holds previewFrame, previewLabel, acceptChangesButton and rejectChangesButton.
        results: writes what is accepted.
        on_accepted: called with what was written.
        on_proposal: called with the changes of a proposal (voxels gained and lost, by value), and with None when it is
            over.
    """

    def __init__(
        self,
        ui: Any,
        results: SceneResults,
        on_accepted: Callable[[Callable[[], WrittenResult]], None],
        on_proposal: Callable[[dict[int, tuple[int, int]] | None], None],
    ) -> None:
        self._ui = ui
        self._results = results
        self._on_accepted = on_accepted
        self._on_proposal = on_proposal
        self._proposal: _Proposal | None = None
        ui.acceptChangesButton.connect("clicked(bool)", self._on_accept)
        ui.rejectChangesButton.connect("clicked(bool)", self.discard)
        ui.previewFrame.visible = False

    @property
    def node(self) -> slicer.vtkMRMLSegmentationNode | None:
        """The segmentation for which there is a proposal."""
        return self._proposal.request.node if self._proposal is not None else None

    def propose(self, request: RefineRequest, refined: RefinedResult) -> str | None:
        """Show what would change; nothing does yet.

        Returns:
            Why nothing is proposed; None where something is.

        Raises:
            InputError: the segmentation no longer fits.
        """
        self.discard()
        record = ResultRecord.read(request.node)
        if record is None:
            raise InputError(_("The result was taken back while corrections were learnt from."), _("Segment again."))
        if refined.kept_because:
            return _reason(refined.kept_because)
        before, after = proposed_labels(request.node, refined.result.labels, record)
        changes = count_changes(before, after)
        if not changes:
            return _("the other slices are already as they would be proposed")
        self._proposal = _Proposal(request, refined, show_difference(request.node, before, after))
        summary = _(
            "Proposal, outside of the slices {slices}, which stay as you left them, as do accepted structures: voxels "
            "gained (green) and lost (red) are {changes}."
        ).format(slices=slice_names(" ".join(refined.slices)), changes=_list_changes(changes, record))
        new = [finding for finding in refined.result.findings if finding not in record.findings]
        warnings = [f"{finding.message} {finding.consequence}" for finding in new]
        self._ui.previewLabel.text = " ".join([summary, *warnings])
        self._ui.previewFrame.visible = True
        self._on_proposal(changes)
        return None

    def discard(self) -> None:
        """Discard the proposal, if there is one."""
        proposal, self._proposal = self._proposal, None
        if proposal is None:
            return
        if slicer.mrmlScene.IsNodePresent(proposal.difference):
            slicer.mrmlScene.RemoveNode(proposal.difference)
        self._ui.previewFrame.visible = False
        self._on_proposal(None)

    def _on_accept(self) -> None:
        proposal = self._proposal
        if proposal is None:
            return
        self.discard()
        refined, target = proposal.refined, proposal.request.target
        self._on_accepted(lambda: self._results.write(refined.result, target, refined.adapted))


def proposed_labels(
    node: slicer.vtkMRMLSegmentationNode, labels: sitk.Image, record: ResultRecord
) -> tuple[sitk.Image, sitk.Image]:
    """The labels of a segmentation now, and as they would be if a result were written: accepted structures stay.

    Raises:
        InputError: its corrected slices are of another volume.
    """
    now = label_map(node, record.labels, labels)
    before, after = voxels_of(now), sitk.GetArrayFromImage(labels)
    segments = {label.value: find_segment(node.GetSegmentation(), label) for label in record.labels}
    done = [value for value, segment in segments.items() if segment is not None and is_completed(segment)]
    after[completed_voxels(node, labels) | np.isin(after, done)] = 0
    stays = np.isin(before, done)
    corrected = corrected_mask(node, labels)
    if corrected is not None:
        stays |= corrected
    after[stays] = before[stays]
    proposed = sitk.GetImageFromArray(after)
    proposed.CopyInformation(labels)
    return now, proposed


def _reason(reason: str) -> str:
    """A reason of the refinement in the user's language."""
    return {
        NOTHING_CORRECTED: _("the slices hold no correction where the model looks"),
        NO_GAIN: _("no gain is expected on the other slices"),
        HIDDEN_WORSE: _("a corrected slice that was hidden for a test was found worse than before"),
        UNPROVEN: _(
            "corrections were learnt on another model, and no gain was shown on corrected slices that lie apart"
        ),
        NOTHING_SAID: _("what was corrected says nothing of the other slices"),
    }.get(reason, reason)


def _list_changes(changes: dict[int, tuple[int, int]], record: ResultRecord) -> str:
    """Changes by structure, those that change most first."""
    names = {label.value: label.name for label in record.labels}
    ranked = sorted(changes.items(), key=lambda entry: -sum(entry[1]))
    listed = [f"{names[value]} +{gained} \N{MINUS SIGN}{lost}" for value, (gained, lost) in ranked[:MAX_LISTED]]
    if len(ranked) > MAX_LISTED:
        gained, lost = (sum(change[side] for _value, change in ranked[MAX_LISTED:]) for side in (0, 1))
        listed.append(_("others {change}").format(change=f"+{gained} \N{MINUS SIGN}{lost}"))
    return ", ".join(listed)


def count_changes(before: sitk.Image, after: sitk.Image) -> dict[int, tuple[int, int]]:
    """By value, how many voxels a structure gains and loses; only those that change."""
    had, has = (voxels_of(image) for image in (before, after))
    changed = np.nonzero(had != has)
    gained, lost = (np.bincount(values[changed], minlength=1) for values in (has, had))
    size = max(len(gained), len(lost))
    gained, lost = (np.pad(counts, (0, size - len(counts))) for counts in (gained, lost))
    return {value: (int(gained[value]), int(lost[value])) for value in range(1, size) if gained[value] or lost[value]}
