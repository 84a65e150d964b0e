"""Learning from corrections in the scene: from corrected slices to a proposal, which the user accepts or rejects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from ..client import RefinedResult, RefineJob
from ..errors import InputError
from ..io.volume_image import voxels_of
from ..mrml import (
    completed_voxels,
    corrected_mask,
    find_corrections,
    find_segment,
    is_completed,
    label_map,
    result_grid,
    show_difference,
)
from ..options import SegmentOptions
from ..refine.adapted_file import HIDDEN_WORSE, NO_GAIN, NOTHING_CORRECTED, NOTHING_SAID, UNPROVEN
from .choices import Choices
from .memory import ComputerMemory
from .origin import Origin
from .result_record import ResultRecord
from .scene_results import SceneResults, Target, Written
from .wording import slice_names

#: structures of which a proposal's changes are told one by one
TOLD = 4


@dataclass(frozen=True)
class RefineRequest:
    """A proposal that is wanted.

    Attributes:
        origin: of the corrected result.
        target: where the new result goes.
        job: for the worker.
    """

    origin: Origin
    target: Target
    job: RefineJob

    @property
    def node(self) -> slicer.vtkMRMLSegmentationNode:
        """The corrected result."""
        return self.origin.node

    @classmethod
    def read(
        cls, node: slicer.vtkMRMLSegmentationNode | None, choices: Choices, memory: ComputerMemory
    ) -> RefineRequest:
        """What the corrections of a result ask for.

        Raises:
            InputError: as :meth:`.Origin.of`; or it is not corrected.
            ModelError, UsageError: as :meth:`.Origin.of`.
        """
        origin = Origin.of(node, memory)
        image = origin.image()
        slices, grid = find_corrections(node), result_grid(node, image)
        if corrected_mask(node, grid, slices) is None:
            raise InputError(
                _("No slice was corrected yet: there is nothing to learn from."),
                _("Click Correct, draw a slice as it should be, and come back."),
            )
        job = RefineJob(
            options=SegmentOptions(roi=origin.roi(image), low_memory=choices.lowMemory, doubt=True),
            image=image,
            labels=label_map(node, origin.record.labels, grid),
            slices=tuple(map(str, slices)),
            model=origin.package.path,
            device=choices.device,
            recalibrate=choices.recalibrate,
        )
        region_id = origin.region.GetID() if origin.region is not None else None
        return cls(origin, Target(origin.volume.GetID(), node.GetID(), node.GetName(), region_id=region_id), job)

    def lost(self) -> str:
        """See :meth:`.Origin.lost`."""
        return self.origin.lost()


class Recalibration:
    """Shows what learning from corrections would change, until the user decides.

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
        on_accepted: Callable[[Callable[[], Written]], None],
        on_proposal: Callable[[dict[int, tuple[int, int]] | None], None],
    ) -> None:
        self._ui = ui
        self._results = results
        self._on_accepted = on_accepted
        self._on_proposal = on_proposal
        self._request: RefineRequest | None = None
        self._refined: RefinedResult | None = None
        self._difference: slicer.vtkMRMLSegmentationNode | None = None
        ui.acceptChangesButton.connect("clicked(bool)", self._on_accept)
        ui.rejectChangesButton.connect("clicked(bool)", self.drop)
        ui.previewFrame.visible = False

    @property
    def node(self) -> slicer.vtkMRMLSegmentationNode | None:
        """The segmentation for which there is a proposal."""
        return self._request.node if self._request is not None else None

    def propose(self, request: RefineRequest, refined: RefinedResult) -> str | None:
        """Show what would change; nothing does yet.

        Returns:
            Why nothing is proposed; None where something is.

        Raises:
            InputError: the segmentation no longer fits.
        """
        self.drop()
        record = ResultRecord.read(request.node)
        if record is None:
            raise InputError(_("The result was taken back while corrections were learnt from."), _("Segment again."))
        if refined.kept_because:
            return _reason(refined.kept_because)
        before, after = proposed_labels(request.node, refined.result.labels, record)
        changes = count_changes(before, after)
        if not changes:
            return _("the other slices are already as they would be proposed")
        self._request, self._refined = request, refined
        self._difference = show_difference(request.node, before, after)
        told = _(
            "Proposal, outside of the slices {slices}, which stay as you left them, as do accepted structures: voxels "
            "gained (green) and lost (red) are {changes}."
        ).format(slices=slice_names(" ".join(refined.slices)), changes=_told_by_structure(changes, record))
        new = [finding for finding in refined.result.findings if finding not in record.findings]
        self._ui.previewLabel.text = " ".join([told, *(f"{finding.message} {finding.consequence}" for finding in new)])
        self._ui.previewFrame.visible = True
        self._on_proposal(changes)
        return None

    def drop(self) -> None:
        """There is no proposal any more."""
        if self._request is None:
            return
        self._request = self._refined = None
        difference, self._difference = self._difference, None
        if slicer.mrmlScene.IsNodePresent(difference):
            slicer.mrmlScene.RemoveNode(difference)
        self._ui.previewFrame.visible = False
        self._on_proposal(None)

    def _on_accept(self) -> None:
        request, refined = self._request, self._refined
        self.drop()
        self._on_accepted(lambda: self._results.write(refined.result, request.target, refined.adapted))


def proposed_labels(
    node: slicer.vtkMRMLSegmentationNode, labels: sitk.Image, record: ResultRecord
) -> tuple[sitk.Image, sitk.Image]:
    """What a segmentation holds, and what it would hold if a result were written: accepted structures stay.

    Raises:
        InputError: its corrected slices are of another volume.
    """
    now = label_map(node, record.labels, labels)
    before, after = voxels_of(now), sitk.GetArrayFromImage(labels)
    segments = {label.value: find_segment(node.GetSegmentation(), label) for label in record.labels}
    done = [value for value, segment in segments.items() if segment is not None and is_completed(segment)]
    after[completed_voxels(node, labels) | np.isin(after, done)] = 0
    stays = np.isin(before, done)
    kept = corrected_mask(node, labels)
    if kept is not None:
        stays |= kept
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


def _told_by_structure(changes: dict[int, tuple[int, int]], record: ResultRecord) -> str:
    """Changes by structure, those that change most first."""
    names = {label.value: label.name for label in record.labels}
    ranked = sorted(changes.items(), key=lambda entry: -sum(entry[1]))
    told = [f"{names[value]} +{gained} \N{MINUS SIGN}{lost}" for value, (gained, lost) in ranked[:TOLD]]
    if len(ranked) > TOLD:
        gained, lost = (sum(change[side] for _value, change in ranked[TOLD:]) for side in (0, 1))
        told.append(_("others {change}").format(change=f"+{gained} \N{MINUS SIGN}{lost}"))
    return ", ".join(told)


def count_changes(before: sitk.Image, after: sitk.Image) -> dict[int, tuple[int, int]]:
    """By value, how many voxels a structure gains and loses; only those that change."""
    had, has = (voxels_of(image) for image in (before, after))
    there = np.nonzero(had != has)
    gained, lost = (np.bincount(values[there], minlength=1) for values in (has, had))
    size = max(len(gained), len(lost))
    gained, lost = (np.pad(counts, (0, size - len(counts))) for counts in (gained, lost))
    return {value: (int(gained[value]), int(lost[value])) for value in range(1, size) if gained[value] or lost[value]}
