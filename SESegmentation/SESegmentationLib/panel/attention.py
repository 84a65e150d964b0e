"""What the networks looked at, for a result on show: asked of the worker, then laid over the views."""

from __future__ import annotations

from dataclasses import dataclass

import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from ..client import AttentionJob
from ..errors import InputError
from ..io.volume_image import voxels_of
from ..mrml import ATTENTION, value_range
from ..options import SegmentOptions
from .choices import Choices
from .memory import ComputerMemory
from .origin import Origin
from .result_record import ResultRecord


@dataclass(frozen=True)
class AttentionRequest:
    """A map of attention that is wanted.

    Attributes:
        origin: of the result.
        job: for the worker.
    """

    origin: Origin
    job: AttentionJob

    @classmethod
    def read(
        cls, node: slicer.vtkMRMLSegmentationNode | None, choices: Choices, memory: ComputerMemory
    ) -> AttentionRequest:
        """What is to be asked for a result; the errors are those of :meth:`.Origin.of`."""
        origin = Origin.of(node, memory)
        image = origin.image()
        job = AttentionJob(
            options=SegmentOptions(roi=origin.roi(image), fast=choices.fast, low_memory=choices.lowMemory),
            image=image,
            model=origin.package.path,
            device=choices.device,
            adapted=origin.adapted(),
        )
        return cls(origin, job)

    def lost(self) -> str:
        """See :meth:`.Origin.lost`."""
        return self.origin.lost()

    def show(self, attention: sitk.Image) -> tuple[float, float]:
        """Lay the map over the views; the values from which to which the colours go.

        Raises:
            InputError: the result is another one by now.
        """
        node = self.origin.node
        if ResultRecord.read(node) != self.origin.record:
            raise InputError(_("The result has changed meanwhile."), _("Tick the box again."))
        ATTENTION.make(node, attention)
        ATTENTION.show(node)
        return value_range(voxels_of(attention))
