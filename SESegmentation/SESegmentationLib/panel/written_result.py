"""What was done with a result that was written into the scene, as far as the user should know."""

from __future__ import annotations

from dataclasses import dataclass

import slicer
from slicer.i18n import tr as _

from .earlier_result import EarlierResult


@dataclass(frozen=True)
class WrittenResult:
    """What was done with a result.

    Attributes:
        node: the segmentation in the scene.
        completed_segments: names of segments marked completed, which were left as they are.
        corrected_slices: names of those that were left as they are, see :func:`.slice_names`.
        earlier: the result that was in the segmentation before; None for a new one.
        is_elsewhere: whether it is a new one because the chosen one was removed or moved meanwhile.
    """

    node: slicer.vtkMRMLSegmentationNode
    completed_segments: list[str]
    corrected_slices: str = ""
    earlier: EarlierResult | None = None
    is_elsewhere: bool = False

    def remarks(self) -> list[str]:
        """What was replaced and what was left as it was, in sentences; empty where that goes without saying."""
        remarks = []
        if self.completed_segments:
            names = ", ".join(self.completed_segments)
            remarks.append(_("Marked completed and left as they are: {names}.").format(names=names))
        if self.corrected_slices:
            text = _("Corrected slices, left as they are: {slices}.")
            remarks.append(text.format(slices=self.corrected_slices))
        if self.earlier is not None and self.earlier.region:
            text = _("Only the region {region} was replaced; outside it, the earlier result is unchanged.")
            remarks.append(text.format(region=self.earlier.region))
        if self.earlier is not None and self.earlier.is_replaced:
            text = _(
                "All of {node} was replaced, not only the region: its earlier result was of another volume or grid."
            )
            remarks.append(text.format(node=self.node.GetName()))
        if self.is_elsewhere:
            text = _("Written into a new segmentation, {node}: the chosen one was removed or moved meanwhile.")
            remarks.append(text.format(node=self.node.GetName()))
        return remarks
