"""Corrections of an earlier scan, moved to where the same anatomy lies in a later one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import slicer
from slicer.i18n import tr as _

from ..errors import InputError
from ..geometry import Geometry
from ..io.volume_image import voxels_of
from ..mrml import (
    EditRecord,
    corrected_mask,
    drawn_voxels,
    image_from_volume_node,
    label_map,
    result_grid,
    source_volume,
)
from ..result import SegmentationResult, StructureResult
from .computer import UserSettings
from .reports import require_earlier
from .result_inputs import ResultInputs
from .scene_results import ResultTarget, share_parent_transform


@dataclass(frozen=True)
class EarlierCorrections:
    """Corrections of an earlier scan as a start for a later one, moved to where the same anatomy lies there.

    Attributes:
        node: the result of the later scan.
        target: where the start is written if it is accepted.
        result: that of the later scan with the corrections.
        earlier: name of the earlier result.
    """

    node: slicer.vtkMRMLSegmentationNode
    target: ResultTarget
    result: SegmentationResult
    earlier: str

    @classmethod
    def read(
        cls,
        node: slicer.vtkMRMLSegmentationNode | None,
        earlier: slicer.vtkMRMLSegmentationNode | None,
        settings: UserSettings,
    ) -> EarlierCorrections:
        """Find the corrections of ``earlier`` and their places in the scan of ``node``; nothing is changed.

        They are the voxels that were drawn or erased since networks wrote into it; where there are none, the slices
        that were corrected before.

        Raises:
            UsageError: no earlier result is chosen, or it is this one.
            InputError: as :meth:`ResultInputs.of`; nothing was corrected, or the scans cannot be aligned.
            ModelError: as :meth:`ResultInputs.of`.
        """
        from SESegmentationExport.registration import register, transferred  # slow to import

        inputs = ResultInputs.of(node, settings)
        node = inputs.node
        earlier = require_earlier(node, earlier)
        volume = source_volume(earlier)
        if not share_parent_transform(earlier, volume):
            raise InputError(
                _("{node} is not under the same transform as {volume}.").format(
                    node=earlier.GetName(), volume=volume.GetName()
                ),
                _("Put both under the same transform in the module Data."),
            )
        EditRecord.read(earlier)  # raises the error if it was moved
        grids = [result_grid(earlier, volume), result_grid(node, inputs.volume)]
        labels = inputs.record.labels
        corrected = drawn_voxels(earlier, grids[0])
        if corrected is None:
            corrected = corrected_mask(earlier, grids[0])
        if corrected is None or not corrected.any():
            raise InputError(
                _("Nothing was corrected in {name}.").format(name=earlier.GetName()),
                _("Choose a result that you have corrected."),
            )
        before, now = (label_map(each, labels, grid) for each, grid in zip((earlier, node), grids, strict=True))
        transform = register(image_from_volume_node(volume), before, image_from_volume_node(inputs.volume), now)
        marked = np.where(corrected, voxels_of(before).astype(np.int32) + 1, 0)  # 1 for what was erased
        start = Geometry.of(before).image(marked)
        placed = voxels_of(transferred(start, Geometry.of(now), transform.GetInverse()))
        values = np.where(placed > 0, placed - 1, voxels_of(now)).astype(voxels_of(now).dtype)
        names = StructureResult.__dataclass_fields__
        result = SegmentationResult(
            labels=Geometry.of(now).image(values),
            structures=[
                StructureResult(**{name: getattr(structure, name) for name in names})
                for structure in inputs.record.structures
            ],
            timings={"total": inputs.record.seconds},
            findings=list(inputs.record.findings),
            model=inputs.package.card,
            device=inputs.record.device,
            intracranial=inputs.record.intracranial,
        )
        target = replace(inputs.target(), is_limited=False)  # what was corrected may lie anywhere
        return cls(node, target, result, earlier.GetName())
