"""What one click on Segment, or one call from a script, asks for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
from slicer.i18n import tr as _

from ..client import SegmentJob
from ..errors import InputError
from ..models import ModelPackage
from ..mrml import (
    SegmentationSequence,
    VolumeSequence,
    check_grid,
    check_volume_node,
    image_from_volume_node,
    is_on_grid,
    region_image,
)
from ..options import Grid, SegmentOptions
from .scene_results import Target, find_frames, moves_with


@dataclass(frozen=True)
class Request:
    """A segmentation that is wanted. Checked and read from the scene by its methods, so it belongs to the moment.

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

    def check(self) -> None:
        """Look whether the choices go together; takes no time.

        Raises:
            InputError: no volume is chosen, it cannot be segmented, or the output does not go with it.
        """
        volume, output = self.volume, self.output
        if volume is None:
            raise InputError(
                _("No volume is chosen."),
                _("Load a volume and choose it as the input. The module Sample Data has one to try (SESegmentation)."),
            )
        check_volume_node(volume)
        if output is None:
            return
        check_grid(output, volume, self.package.card.spacing)
        if not moves_with(output, volume):
            raise InputError(
                _("The segmentation {output} is not under the same transform as {volume}.").format(
                    output=output.GetName(), volume=volume.GetName()
                ),
                _("Choose a new segmentation as the output, or move one of them in the module Data."),
            )
        frames = VolumeSequence.of(volume)
        if self.every_frame and frames is not None and SegmentationSequence.of(output, frames) is None:
            raise InputError(
                _("The segmentation {output} does not follow the frames of {volume}.").format(
                    output=output.GetName(), volume=volume.GetName()
                ),
                _("Choose a new segmentation as the output, or segment the selected frame only."),
            )

    def frames(self) -> list[int | None]:
        """Numbers of the frames to segment, the one on show first; [None] where the volume is no sequence."""
        frames = VolumeSequence.of(self.volume)
        return [None] if frames is None else frames.numbers(self.every_frame)

    def job(self, frame: int | None) -> SegmentJob:
        """The job for the worker, with a copy of the voxels.

        Args:
            frame: one of :meth:`frames`.

        Raises:
            InputError: as :meth:`check`, or the region is not drawn or lies outside the volume.
        """
        self.check()
        image = image_from_volume_node(self.volume) if frame is None else find_frames(self.volume).image(frame)
        return SegmentJob(
            options=SegmentOptions(
                roi=None if self.region is None else region_image(self.region, self.volume, image),
                fast=self.fast,
                low_memory=self.low_memory,
                doubt=frame is None,
                grid=self._grid(frame),
            ),
            image=image,
            model=self.package.path,
            device=self.device,
            adapted=self.adapted,
        )

    def _grid(self, frame: int | None) -> Grid:
        """On which grid the result shall lie: a segmentation that is written into keeps its own, and frames theirs."""
        on_volume = is_on_grid(self.output, self.volume)
        if frame is not None or on_volume:
            return "input"
        return "auto" if on_volume is None else "model"

    def target(self, frame: int | None, output_id: str | None = None) -> Target:
        """Where the result goes.

        Args:
            frame: one of :meth:`frames`.
            output_id: of the segmentation that holds the frames before, if there were any.
        """
        chosen = self.output.GetID() if self.output is not None else None
        return Target(
            volume_id=self.volume.GetID(),
            output_id=output_id or chosen,
            name=f"{self.volume.GetName()} {self.package.card.name}",
            frame=frame,
            region_id=self.region.GetID() if self.region is not None else None,
        )
