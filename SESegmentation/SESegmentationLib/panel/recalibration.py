"""Recalibration in the scene: from corrected slices to a proposal, which the user accepts or rejects."""

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
from ..models import find_model
from ..mrml import (
    VolumeSequence,
    completed_voxels,
    corrected_mask,
    find_corrections,
    find_segment,
    image_from_volume_node,
    is_completed,
    label_map,
    region_image,
    show_difference,
)
from .choices import Choices
from .correction import result_volume
from .result_record import ResultRecord
from .scene_results import REGION_ROLE, SceneResults, Target, Written, moves_with
from .wording import slice_names


@dataclass(frozen=True)
class RefineRequest:
    """A recalibration that is wanted.

    Attributes:
        node: the corrected result.
        volume: that it was made of.
        target: where the new result goes.
        job: for the worker.
    """

    node: slicer.vtkMRMLSegmentationNode
    volume: slicer.vtkMRMLScalarVolumeNode
    target: Target
    job: RefineJob

    @classmethod
    def read(cls, node: slicer.vtkMRMLSegmentationNode, choices: Choices) -> RefineRequest:
        """What the corrections of a result ask for.

        Raises:
            InputError: it is no result of this module, of frames, not corrected, or its volume is gone or moved.
            ModelError: its model is no longer installed.
        """
        record = ResultRecord.read(node)
        if record is None:
            raise InputError("There is no result to recalibrate on.", "Click Segment first.")
        volume = result_volume(node)
        if VolumeSequence.of(volume) is not None:
            raise InputError("Frames of a sequence cannot be recalibrated on.", "Segment one of them as a volume.")
        if not moves_with(node, volume):
            raise InputError(
                f"{node.GetName()} is not under the same transform as {volume.GetName()}.",
                "Move one of them in the module Data.",
            )
        image = image_from_volume_node(volume)
        slices = find_corrections(node)
        if corrected_mask(node, image, slices) is None:
            raise InputError(
                "No slice was corrected yet: there is nothing to learn from.",
                "Click Correct, draw a slice as it should be, and come back.",
            )
        package = find_model(record.model)
        if package.card.weights_sha256 != record.weights_sha256:
            raise InputError(f"The model {record.model} has changed since this result was made.", "Segment again.")
        region = node.GetNodeReference(REGION_ROLE)
        job = RefineJob(
            image=image,
            labels=label_map(node, record.labels, image),
            slices=tuple(map(str, slices)),
            model=package.path,
            roi=None if region is None else region_image(region, volume, image),
            low_memory=choices.lowMemory,
            device=choices.device,
            doubt=True,
        )
        region_id = region.GetID() if region is not None else None
        return cls(node, volume, Target(volume.GetID(), node.GetID(), node.GetName(), region_id=region_id), job)

    def lost(self) -> str:
        """The name of the volume or segmentation if it has left the scene; empty while both are there."""
        gone = [node for node in (self.volume, self.node) if not slicer.mrmlScene.IsNodePresent(node)]
        return gone[0].GetName() if gone else ""


class Recalibration:
    """Shows what a recalibration would change, until the user decides.

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

    def propose(self, request: RefineRequest, refined: RefinedResult) -> None:
        """Show what would change; nothing does yet.

        Raises:
            InputError: the segmentation no longer fits.
        """
        self.drop()
        record = ResultRecord.read(request.node)
        if record is None:
            raise InputError("The result was taken back while the network learnt from it.", "Segment again.")
        before, after = proposed_labels(request.node, refined.result.labels, record)
        changes = count_changes(before, after)
        self._request, self._refined = request, refined
        self._difference = show_difference(request.node, before, after)
        gained, lost = (sum(change[side] for change in changes.values()) for side in (0, 1))
        self._ui.previewLabel.text = _(
            "Proposal: {gained} voxels gained (green), {lost} lost (red). Learnt from the slices {slices}, which stay "
            "as you left them, as do accepted structures."
        ).format(gained=gained, lost=lost, slices=slice_names(" ".join(refined.slices)))
        self._ui.previewFrame.visible = True
        self._on_proposal(changes)

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
        self._on_accepted(lambda: self._results.write(refined.result, request.target, refined))


def proposed_labels(
    node: slicer.vtkMRMLSegmentationNode, labels: sitk.Image, record: ResultRecord
) -> tuple[sitk.Image, sitk.Image]:
    """What a segmentation holds, and what it would hold if a result were written: accepted structures stay.

    Raises:
        InputError: its corrected slices are of another volume.
    """
    now = label_map(node, record.labels, labels)
    before, after = sitk.GetArrayViewFromImage(now), sitk.GetArrayFromImage(labels)
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


def count_changes(before: sitk.Image, after: sitk.Image) -> dict[int, tuple[int, int]]:
    """By value, how many voxels a structure gains and loses; only those that change."""
    had, has = (sitk.GetArrayViewFromImage(image) for image in (before, after))
    there = np.nonzero(had != has)
    gained, lost = (np.bincount(values[there], minlength=1) for values in (has, had))
    size = max(len(gained), len(lost))
    gained, lost = (np.pad(counts, (0, size - len(counts))) for counts in (gained, lost))
    return {value: (int(gained[value]), int(lost[value])) for value in range(1, size) if gained[value] or lost[value]}
