"""What a result in the scene was made of."""

from __future__ import annotations

from dataclasses import dataclass

import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from ..errors import InputError
from ..models import ModelPackage, find_model
from ..mrml import (
    VolumeSequence,
    adapted_parameters,
    check_result_grid,
    check_volume_node,
    source_volume,
    volume_geometry,
)
from .computer import UserSettings
from .result_record import ResultRecord
from .scene_results import ResultTarget, share_parent_transform
from .voxel_order import follow_voxel_order


@dataclass(frozen=True)
class ResultInputs:
    """The inputs that a result was made from, if all of them are still in the scene.

    Attributes:
        node: the result.
        record: what it measures and where it comes from.
        volume: that was segmented.
        package: the model.
    """

    node: slicer.vtkMRMLSegmentationNode
    record: ResultRecord
    volume: slicer.vtkMRMLScalarVolumeNode
    package: ModelPackage

    @classmethod
    def of(cls, node: slicer.vtkMRMLSegmentationNode | None, settings: UserSettings) -> ResultInputs:
        """The inputs of this result.

        Raises:
            InputError: it is no result of this module, or of frames, or it or its volume was removed, moved or changed,
                or its model has changed since.
            ModelError: its model is no longer installed.
            UsageError: the terms of its model are not accepted on this computer.
        """
        record = ResultRecord.read(node)
        if node is None or record is None:
            raise InputError(_("There is no result of this module."), _("Click Segment first."))
        volume = source_volume(node)
        if VolumeSequence.of(volume) is not None:
            raise InputError(
                _("{volume} shows the frames of a sequence; this is for results of single volumes only.").format(
                    volume=volume.GetName()
                ),
                _("Clone the frame in the module Data (right-click on the volume), and segment the clone."),
            )
        if not share_parent_transform(node, volume):
            raise InputError(
                _("{node} is not under the same transform as {volume}.").format(
                    node=node.GetName(), volume=volume.GetName()
                ),
                _("Put both under the same transform in the module Data."),
            )
        package = find_model(record.model)
        if package.card.weights_sha256 != record.weights_sha256:
            raise InputError(
                _("The model {model} has changed since this result was made.").format(model=record.model),
                _("Segment again."),
            )
        settings.require_accepted(package.card)
        check_volume_node(volume)
        if follow_voxel_order(node, volume):
            record = ResultRecord.read(node) or record
        check_result_grid(node, volume, package.card.spacing)
        return cls(node, record, volume, package)

    def roi(self) -> sitk.Image | None:
        """The region on the volume's grid; None for the whole volume."""
        region = self.record.region
        return None if region is None else region.image(volume_geometry(self.volume), self.volume.GetName())

    def target(self) -> ResultTarget:
        """Where a result that is made of this one goes: into its own segmentation."""
        return ResultTarget(
            self.volume.GetID(),
            self.node.GetID(),
            self.node.GetName(),
            region=self.record.region,
            geometry=volume_geometry(self.volume),
            existing_only=True,
        )

    def adapted(self) -> bytes | None:
        """The adapted parameters with which it was made; None for the model as it is."""
        return adapted_parameters(self.node) if self.record.adapted else None

    def removed_node(self) -> str:
        """The name of the volume or segmentation if it was removed from the scene; empty while both are in it."""
        removed = [node for node in (self.volume, self.node) if not slicer.mrmlScene.IsNodePresent(node)]
        return removed[0].GetName() if removed else ""
