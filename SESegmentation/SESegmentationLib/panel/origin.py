"""What a result was made of: volume, model, region, adapted parameters; for whatever is to be done with these again."""

from __future__ import annotations

from dataclasses import dataclass

import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from ..errors import InputError
from ..models import ModelPackage, find_model
from ..mrml import VolumeSequence, adapted_parameters, image_from_volume_node, referenced_node, region_image
from .correction import result_volume
from .memory import ComputerMemory
from .result_record import ResultRecord
from .scene_results import REGION_ROLE, moves_with


@dataclass(frozen=True)
class Origin:
    """Where a result came from, if all of it is still there.

    Attributes:
        node: the result.
        record: what is known of it.
        volume: that was segmented.
        package: the model.
        region: the box to which the search was limited; None for the whole volume.
    """

    node: slicer.vtkMRMLSegmentationNode
    record: ResultRecord
    volume: slicer.vtkMRMLScalarVolumeNode
    package: ModelPackage
    region: slicer.vtkMRMLMarkupsROINode | None

    @classmethod
    def of(cls, node: slicer.vtkMRMLSegmentationNode | None, memory: ComputerMemory) -> Origin:
        """Where this result came from.

        Raises:
            InputError: it is no result of this module, or of frames, or its volume is gone or moved, or its model is
                another one by now.
            ModelError: its model is no longer installed.
            UsageError: the terms of its model are not accepted on this computer.
        """
        record = ResultRecord.read(node)
        if record is None:
            raise InputError(_("There is no result of this module."), _("Click Segment first."))
        volume = result_volume(node)
        if VolumeSequence.of(volume) is not None:
            raise InputError(
                _("{volume} shows the frames of a sequence; this is for results of single volumes only.").format(
                    volume=volume.GetName()
                ),
                _("Clone the frame in the module Data (right-click on the volume), and segment the clone."),
            )
        if not moves_with(node, volume):
            raise InputError(
                _("{node} is not under the same transform as {volume}.").format(
                    node=node.GetName(), volume=volume.GetName()
                ),
                _("Move one of them in the module Data."),
            )
        package = find_model(record.model)
        if package.card.weights_sha256 != record.weights_sha256:
            raise InputError(
                _("The model {model} has changed since this result was made.").format(model=record.model),
                _("Segment again."),
            )
        memory.require_accepted(package.card)
        return cls(node, record, volume, package, referenced_node(node, REGION_ROLE, "vtkMRMLMarkupsROINode"))

    def image(self) -> sitk.Image:
        """The volume, a copy; InputError where it cannot be segmented."""
        return image_from_volume_node(self.volume)

    def roi(self, image: sitk.Image) -> sitk.Image | None:
        """The region on the grid of :meth:`image`; None for the whole volume."""
        return None if self.region is None else region_image(self.region, self.volume, image)

    def adapted(self) -> bytes | None:
        """The adapted parameters with which it was made; None for the model as it is."""
        return adapted_parameters(self.node) if self.record.adapted else None

    def lost(self) -> str:
        """The name of the volume or segmentation if it has left the scene; empty while both are there."""
        gone = [node for node in (self.volume, self.node) if not slicer.mrmlScene.IsNodePresent(node)]
        return gone[0].GetName() if gone else ""
