"""Requests to the worker: segment a volume, learn from corrections, map what the networks look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from ..client import AttentionJob, RefineJob, SegmentJob
from ..errors import CancelledError, InputError, SegmentationError
from ..io.volume_image import voxels_of
from ..models import ModelPackage
from ..mrml import (
    ATTENTION,
    SegmentationSequence,
    VolumeRegion,
    VolumeSequence,
    check_output_grid,
    check_volume_node,
    check_voxels,
    copier_of_volume_node,
    corrected_labels,
    corrected_mask,
    find_corrected_slices,
    is_on_volume_grid,
    region_image,
    result_grid,
    value_range,
    volume_geometry,
)
from ..result import Grid, SegmentOptions
from .choices import Choices
from .computer import UserSettings
from .result_inputs import ResultInputs
from .result_record import ResultRecord
from .scene_results import ResultTarget, find_frame, share_parent_transform
from .voxel_order import follow_voxel_order


class Pending(Protocol):
    """What the worker is busy with."""

    def removed_node(self) -> str:
        """The name of a node that it needs and that was removed from the scene; empty where there is none."""


@dataclass(frozen=True)
class SegmentRequest:
    """A request for a segmentation. Its methods check it and read the scene as it is at that moment.

    Attributes:
        volume: the volume to segment; None where none is chosen.
        package: the model.
        every_frame: all frames of the sequence that the volume shows; otherwise the one on show.
        region: look only inside this box; None: the whole volume.
        output: written into; None: a new segmentation.
        device: "auto", "cpu", "cuda" or "mps".
        fast: fewer views.
        low_memory: smaller batches.
        adapted: parameters adapted to this patient, to be used instead of the model's own.
    """

    volume: slicer.vtkMRMLScalarVolumeNode | None
    package: ModelPackage
    every_frame: bool = False
    region: slicer.vtkMRMLMarkupsROINode | None = None
    output: slicer.vtkMRMLSegmentationNode | None = None
    device: str = "auto"
    fast: bool = False
    low_memory: bool = False
    adapted: bytes | None = None

    @property
    def volume_ml(self) -> float:
        """How much space is to be segmented, in ml; 0 where no volume is chosen."""
        if self.volume is None or self.volume.GetImageData() is None:
            return 0.0
        whole = float(np.prod(self.volume.GetSpacing()) * np.prod(self.volume.GetImageData().GetDimensions())) / 1000
        return whole if self.region is None else min(whole, float(np.prod(self.region.GetSize())) / 1000)

    def check(self) -> slicer.vtkMRMLScalarVolumeNode:
        """Check whether the choices fit each other; takes no time.

        Returns:
            The volume.

        Raises:
            InputError: no volume is chosen, it cannot be segmented, or the output does not fit it.
        """
        volume, output = self.volume, self.output
        if volume is None:
            raise InputError(
                _("No volume is chosen."),
                _("Load a volume and choose it as the input. The module Sample Data has one to try (SESegmentation)."),
            )
        check_volume_node(volume)
        if output is None:
            return volume
        check_voxels(output)
        follow_voxel_order(output, volume)  # it may have been loaded again
        check_output_grid(output, volume, self.package.card.spacing)
        if not share_parent_transform(output, volume):
            raise InputError(
                _("The segmentation {output} is not under the same transform as {volume}.").format(
                    output=output.GetName(), volume=volume.GetName()
                ),
                _("Choose a new segmentation as the output, or put both under the same transform in the module Data."),
            )
        frames = VolumeSequence.of(volume)
        if self.every_frame and frames is not None and SegmentationSequence.of(output, frames) is None:
            raise InputError(
                _("The segmentation {output} does not follow the frames of {volume}.").format(
                    output=output.GetName(), volume=volume.GetName()
                ),
                _("Choose a new segmentation as the output, or segment the selected frame only."),
            )
        return volume

    def frames(self) -> list[str | None]:
        """Index values of the frames to segment, the one on show first; [None] where the volume is no sequence."""
        frames = VolumeSequence.of(self.volume)
        return [None] if frames is None else [*frames.index_values(self.every_frame)]

    def job(self, frame: str | None) -> SegmentJob:
        """The job for the worker, with a copy of the voxels.

        Args:
            frame: one of :meth:`frames`.

        Raises:
            InputError: as :meth:`check`, or the region is not drawn or lies outside the volume.
        """
        return self.job_maker(frame)()

    def job_maker(self, frame: str | None) -> Callable[[], SegmentJob]:
        """A function that makes the :meth:`job`, in any thread: all but the voxels is read from the scene here.

        Raises the errors of :meth:`job`.
        """
        volume = self.check()
        node = volume if frame is None else find_frame(volume, frame)
        copy = copier_of_volume_node(node)
        options = SegmentOptions(
            roi=None if self.region is None else region_image(self.region, volume, volume_geometry(node)),
            fast=self.fast,
            low_memory=self.low_memory,
            doubt=frame is None,
            grid=self._grid(frame, volume),
        )
        return lambda: SegmentJob(copy(), self.package.path, options, self.device, self.adapted)

    def _grid(self, frame: str | None, volume: slicer.vtkMRMLScalarVolumeNode) -> Grid:
        """The grid of the result: that of the segmentation it is written into, of the frame, or the model's choice."""
        on_volume = is_on_volume_grid(self.output, volume)
        if frame is not None or on_volume:
            return "input"
        return "auto" if on_volume is None else "model"

    def target(self, frame: str | None, output_id: str | None = None) -> ResultTarget:
        """Where the result goes, and the place of volume and region as they are now.

        Args:
            frame: one of :meth:`frames`.
            output_id: ID of the segmentation that holds the frames already done, if any.
        """
        volume = self.volume
        if volume is None:
            raise ValueError("no volume was segmented")
        chosen = self.output.GetID() if self.output is not None else None
        geometry = volume_geometry(volume if frame is None else find_frame(volume, frame))
        return ResultTarget(
            volume_id=volume.GetID(),
            output_id=output_id or chosen,
            name=f"{volume.GetName()} {self.package.card.name}",
            frame=frame,
            region=None if self.region is None else VolumeRegion.of(self.region, volume, geometry),
            fast=self.fast,
            geometry=None if frame is not None else geometry,
        )


@dataclass
class SegmentRun:
    """A segmentation under way, frame by frame.

    Attributes:
        request: what is segmented.
        frames: index values of the frames still to be segmented, the current one first; [None] for a single volume.
        output_id: ID of the segmentation that holds the frames already done; None before the first.
        count: how many frames there were at the start.
    """

    request: SegmentRequest
    frames: list[str | None]
    output_id: str | None = None
    count: int = field(init=False)
    _target: ResultTarget | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.count = len(self.frames)

    def next_job(self) -> Callable[[], SegmentJob]:
        """What makes the job of the frame at hand; see :meth:`SegmentRequest.job_maker`."""
        make_job = self.request.job_maker(self.frames[0])
        self._target = self.request.target(self.frames[0], self.output_id)
        return make_job

    def target(self) -> ResultTarget:
        """Where its result goes; RuntimeError before :meth:`next_job`."""
        if self._target is None:
            raise RuntimeError("there is no job yet")
        return self._target

    def explain(self, error: SegmentationError) -> SegmentationError:
        """The error that ended the run, with the number of frames that are done and kept."""
        if self.output_id is None:
            return error
        kept = _("{done} of {count} frames are done and kept.").format(
            done=self.count - len(self.frames), count=self.count
        )
        remedy = kept if isinstance(error, CancelledError) else f"{error.remedy} {kept}"
        return type(error)(error.cause, remedy)

    def removed_node(self) -> str:
        """The name of the volume if it was removed from the scene; empty while it is in it."""
        volume = self.request.volume
        return "" if volume is None or slicer.mrmlScene.IsNodePresent(volume) else volume.GetName()


@dataclass(frozen=True)
class AttentionRequest:
    """A request for a map of attention.

    Attributes:
        inputs: what the result was made of.
        make_job: see :meth:`SegmentRequest.job_maker`.
    """

    inputs: ResultInputs
    make_job: Callable[[], AttentionJob]

    @classmethod
    def read(
        cls, node: slicer.vtkMRMLSegmentationNode | None, choices: Choices, settings: UserSettings
    ) -> AttentionRequest:
        """The request for a result; the errors are those of :meth:`ResultInputs.of`."""
        inputs = ResultInputs.of(node, settings)
        copy = copier_of_volume_node(inputs.volume)
        options = SegmentOptions(roi=inputs.roi(), fast=choices.fast, low_memory=choices.lowMemory)
        device, adapted = choices.device, inputs.adapted()
        return cls(inputs, lambda: AttentionJob(copy(), inputs.package.path, options, device, adapted))

    def removed_node(self) -> str:
        """See :meth:`ResultInputs.removed_node`."""
        return self.inputs.removed_node()

    def show(self, attention: sitk.Image) -> tuple[float, float]:
        """Overlay the views with the map; returns the gate values at both ends of the colour scale.

        Raises:
            InputError: the result was replaced meanwhile.
        """
        node = self.inputs.node
        if ResultRecord.read(node) != self.inputs.record:
            raise InputError(_("The result has changed meanwhile."), _("Tick the box again."))
        ATTENTION.make(node, attention)
        ATTENTION.show(node)
        return value_range(voxels_of(attention))


@dataclass(frozen=True)
class RefineRequest:
    """A request to learn from corrections; its result is a proposal.

    Attributes:
        inputs: what the corrected result was made of.
        target: where the new result goes.
        recalibrates: the network shall be recalibrated to the patient too.
        make_job: see :meth:`SegmentRequest.job_maker`.
    """

    inputs: ResultInputs
    target: ResultTarget
    recalibrates: bool
    make_job: Callable[[], RefineJob]

    @property
    def node(self) -> slicer.vtkMRMLSegmentationNode:
        """The corrected result."""
        return self.inputs.node

    @classmethod
    def read(
        cls, node: slicer.vtkMRMLSegmentationNode | None, choices: Choices, settings: UserSettings
    ) -> RefineRequest:
        """The request for the corrections of a result.

        Raises:
            InputError: as :meth:`ResultInputs.of`, or no slice was corrected.
            ModelError, UsageError: as :meth:`ResultInputs.of`.
        """
        inputs = ResultInputs.of(node, settings)
        copy = copier_of_volume_node(inputs.volume)
        node = inputs.node
        slices, grid = find_corrected_slices(node), result_grid(node, inputs.volume)
        if corrected_mask(node, grid, slices) is None:
            raise InputError(
                _("No slice was corrected yet: there is nothing to learn from."),
                _("Click Correct, draw a slice as it should be, and come back."),
            )
        make_job = partial(
            RefineJob,
            options=SegmentOptions(roi=inputs.roi(), low_memory=choices.lowMemory, doubt=True),
            labels=corrected_labels(node, inputs.record.labels, grid),
            slices=tuple(map(str, slices)),
            model=inputs.package.path,
            device=choices.device,
            recalibrate=choices.recalibrate,
        )
        return cls(inputs, inputs.target(), choices.recalibrate, lambda: make_job(image=copy()))

    def removed_node(self) -> str:
        """See :meth:`ResultInputs.removed_node`."""
        return self.inputs.removed_node()
