"""Proposals learnt from corrections or taken over from an earlier scan, to accept or reject."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from ..client import RefinedResult
from ..errors import InputError
from ..geometry import Geometry, Slices
from ..io.volume_image import voxels_of
from ..mrml import (
    EditRecord,
    adapted_parameters,
    completed_voxels,
    corrected_mask,
    find_corrected_slices,
    find_segment,
    is_completed,
    label_map,
    remove_difference,
    show_difference,
    volume_geometry,
    without_deleted,
)
from ..result import (
    NO_GAIN,
    NOTHING_CORRECTED,
    NOTHING_SAID,
)
from .earlier_corrections import EarlierCorrections
from .earlier_result import EarlierResult
from .messages import slice_names
from .requests import RefineRequest
from .result_record import ResultRecord
from .scene_results import SceneResults
from .written_result import WrittenResult

#: most structures whose changes a proposal lists one by one
MAX_LISTED = 4


@dataclass(frozen=True)
class _Proposal:
    """A proposal on show.

    Attributes:
        node: the segmentation.
        record: of the result for which it was made.
        difference: shows the changes in the views.
        write: writes it.
    """

    node: slicer.vtkMRMLSegmentationNode
    record: ResultRecord
    difference: slicer.vtkMRMLSegmentationNode
    write: Callable[[], WrittenResult]


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
        return self._proposal.node if self._proposal is not None else None

    def propose(self, request: RefineRequest, refined: RefinedResult) -> str | None:
        """Show what would change; nothing does yet.

        Returns:
            Why nothing is proposed; None where something is.

        Raises:
            InputError: the result was undone meanwhile, or its corrections were; or they are of another volume.
        """
        self.discard()
        record = request.inputs.record
        if ResultRecord.read(request.node) != record:
            raise InputError(
                _("The result was changed or undone while learning from its corrections."),
                _("Learn from corrections again."),
            )
        if not find_corrected_slices(request.node):
            raise InputError(
                _("The corrections were taken back, or their segments deleted, while learning from them."),
                _("Correct a slice, then learn from corrections again."),
            )
        if refined.kept_because:
            return _reason(refined.kept_because)
        inputs, result = request.inputs, refined.result
        geometry = volume_geometry(inputs.volume)
        earlier = EarlierResult.of(inputs.node, request.target.limit, inputs.volume, geometry, result)
        before, after = proposed_labels(request.node, result.labels, record, earlier)
        changes = count_changes(before, after)
        if not changes:
            return _("the other slices already agree with what would be proposed")
        grid = Geometry.of(result.labels)
        slices = slice_names(map(Slices.parse, refined.slices), grid)
        summary = _(
            "Proposal for the other slices: voxels gained (green) and lost (red) are {changes}. Corrected slices "
            "({slices}) and accepted structures stay as they are."
        ).format(slices=slices, changes=_list_changes(changes, record))
        whole = earlier.joined(result, after, without_deleted(request.node, after, record.labels)[1])
        new = [finding for finding in whole.findings if finding not in record.findings]
        remarks = [f"{finding.message} {finding.consequence}" for finding in new]
        if refined.batch_norms_adapted:
            remarks.insert(0, _("The network was adapted to this scan, which differs from those it learnt from."))
        if refined.contrast_reversed:
            remarks.insert(0, _("The network saw this scan with bright and dark exchanged, like its training scans."))
        if request.recalibrates and not refined.adapted:
            remarks.insert(0, _("The network was not recalibrated: held-out corrected slices showed no gain by it."))
        write = partial(self._results.write, result, request.target, refined.adapted)
        difference = show_difference(request.node, before, after)
        self._show(_Proposal(request.node, record, difference, write), " ".join([summary, *remarks]), changes)
        return None

    def propose_earlier(self, start: EarlierCorrections) -> bool:
        """Show what corrections of an earlier scan would change; nothing does yet.

        Returns:
            Whether they would change anything.
        """
        self.discard()
        record = ResultRecord.read(start.node)
        if record is None:
            return False
        before, after = proposed_labels(start.node, start.result.labels, record)
        changes = count_changes(before, after)
        if not changes:
            return False
        summary = _(
            "Proposal: the corrections of {earlier}, moved to the same anatomy in this scan; voxels gained (green) and "
            "lost (red) are {changes}. Accepted structures and corrected slices stay. Check all of it: the anatomy may "
            "have changed since."
        ).format(earlier=start.earlier, changes=_list_changes(changes, record))
        counts = {value: sum(change) for value, change in changes.items()}
        adapted = adapted_parameters(start.node) if record.adapted else None
        write = partial(self._results.write, start.result, start.target, adapted, counts)
        difference = show_difference(start.node, before, after)
        self._show(_Proposal(start.node, record, difference, write), summary, changes)
        return True

    def _show(self, proposal: _Proposal, text: str, changes: dict[int, tuple[int, int]]) -> None:
        self._proposal = proposal
        self._ui.previewLabel.text = text
        self._ui.previewFrame.visible = True
        self._on_proposal(changes)

    def follow(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Discard the proposal unless it is for the segmentation on show, and for the result that this holds now."""
        proposal = self._proposal
        if proposal is not None and (proposal.node is not node or ResultRecord.read(node) != proposal.record):
            self.discard()

    def discard(self) -> None:
        """Discard the proposal, if there is one."""
        proposal, self._proposal = self._proposal, None
        if proposal is None:
            return
        remove_difference(proposal.difference)
        self._ui.previewFrame.visible = False
        self._on_proposal(None)

    def _on_accept(self) -> None:
        proposal = self._proposal
        if proposal is None:
            return

        def write() -> WrittenResult:
            written = proposal.write()
            self.discard()  # it stays where it could not be written
            return written

        self._on_accepted(write)


def proposed_labels(
    node: slicer.vtkMRMLSegmentationNode,
    labels: sitk.Image,
    record: ResultRecord,
    earlier: EarlierResult | None = None,
) -> tuple[sitk.Image, sitk.Image]:
    """The labels of a segmentation now, and as they would be if a result were written.

    Accepted structures stay, and what was deleted stays deleted; so does what lies outside the region of the result.

    Raises:
        InputError: its corrected slices are of another volume, or it was moved by a hardened transform.
    """
    EditRecord.read(node)
    now = label_map(node, record.labels, labels)
    before, after = voxels_of(now), sitk.GetArrayFromImage(without_deleted(node, labels, record.labels)[0])
    segments = {label.value: find_segment(node.GetSegmentation(), label) for label in record.labels}
    done = [value for value, segment in segments.items() if segment is not None and is_completed(segment)]
    after[completed_voxels(node, labels) | np.isin(after, done)] = 0
    stays = np.isin(before, done)
    protected = corrected_mask(node, labels)
    if earlier is not None:
        protected = earlier.protected(protected)
    if protected is not None:
        stays |= protected
    after[stays] = before[stays]
    return now, Geometry.of(labels).image(after)


def _reason(reason: str) -> str:
    """A reason of the refinement in the user's language."""
    return {
        NOTHING_CORRECTED: _("the slices hold no correction where the model looks"),
        NO_GAIN: _("no gain is expected on the other slices"),
        NOTHING_SAID: _("the corrections say nothing about the other slices"),
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
