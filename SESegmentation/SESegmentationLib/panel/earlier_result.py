"""What stays of an earlier result where a new one is limited to a region of interest: all that lies outside of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import slicer

from ..geometry import Geometry, same_grid
from ..inference.output_checks import OUTPUT_FINDINGS, measure_structures
from ..io.segmentations import structure_key
from ..io.volume_image import voxels_of
from ..models import Label
from ..mrml import EditRecord, VolumeRegion, label_map, segmented_volume
from ..result import Confidence, SegmentationResult, StructureResult
from .result_record import RecordedStructure, ResultRecord


@dataclass(frozen=True)
class EarlierResult:
    """The result that a segmentation holds when another one is written into it.

    Attributes:
        record: None where it has none, as of segments drawn by hand.
        outside: (k, j, i) on the grid of the new result, where the earlier one stays; None where nothing of it does.
        region: name of the region outside of which it stays; empty where nothing does.
        doubt: its map of doubt; None where it is not known.
        is_replaced: whether something lies outside the region that does not stay, because it was made of other voxels.
    """

    record: ResultRecord | None
    outside: np.ndarray | None = None
    region: str = ""
    doubt: sitk.Image | None = None
    is_replaced: bool = False

    @classmethod
    def of(
        cls,
        node: slicer.vtkMRMLSegmentationNode,
        region: VolumeRegion | None,
        volume: slicer.vtkMRMLScalarVolumeNode,
        frame: Geometry,
        result: SegmentationResult,
        doubt: sitk.Image | None = None,
    ) -> EarlierResult:
        """The result that is in a segmentation, before another one is written.

        Args:
            node: the segmentation.
            region: to which the new result is limited; None where it is not.
            volume: of which the new one was made.
            frame: the volume's geometry, or that of the frame of its sequence.
            result: the new one.
            doubt: of the earlier one.
        """
        record = ResultRecord.read(node)
        if region is None:
            return cls(record)
        grid, structures = Geometry.of(result.labels), [structure.label for structure in result.structures]
        outside = ~region.inside(frame, grid, volume.GetName())
        if not (outside & (voxels_of(label_map(node, structures, result.labels)) > 0)).any():
            return cls(record)
        if not _is_of(node, record, volume, result.labels):
            return cls(record, is_replaced=True)
        return cls(record, outside, region.name, doubt)

    def protected(self, corrected: np.ndarray | None) -> np.ndarray | None:
        """Where nothing changes (k, j, i): the ``corrected`` voxels, and what stays; None for nowhere."""
        if self.outside is None or corrected is None:
            return self.outside if corrected is None else corrected
        return self.outside | corrected

    def joined(self, result: SegmentationResult, labels: sitk.Image, structures: list[Label]) -> SegmentationResult:
        """The new result together with what stays, measured and checked as a whole.

        A structure that was not found in the region keeps its confidence and its most doubtful slices, where it stays.

        Args:
            result: the new one, in its region.
            labels: what the segmentation holds, or will hold, on the same grid.
            structures: those that were written; others were deleted by the clinician.
        """
        if self.outside is None:
            return result
        known = {structure_key(s.label): s for s in self.record.structures} if self.record is not None else {}
        of_region = {s.label.value: s for s in result.structures}
        written = [label.value for label in structures]
        sources: dict[int, StructureResult] = {
            value: s if s.voxels else known.get(structure_key(s.label), s) for value, s in of_region.items()
        }
        confidences = {value: Confidence(s.confidence, s.expected_dice) for value, s in sources.items()}
        pairs = [pair for pair in result.model.merged_pairs if set(pair) <= set(written)]
        measured, implausible = measure_structures(labels, structures, pairs, confidences)
        again = {s.label.value: replace(s, doubtful=_doubtful(sources[s.label.value], labels)) for s in measured}
        return replace(
            result,
            structures=[again.get(value, s) for value, s in of_region.items()],
            findings=[*(f for f in result.findings if f.code not in OUTPUT_FINDINGS), *implausible],
            doubt=self._joined_doubt(result.doubt),
            intracranial=result.intracranial or (self.record.intracranial if self.record is not None else None),
        )

    def _joined_doubt(self, doubt: sitk.Image | None) -> sitk.Image | None:
        if self.outside is None or doubt is None or self.doubt is None or not same_grid(doubt, self.doubt):
            return doubt
        return Geometry.of(doubt).image(np.where(self.outside, voxels_of(self.doubt), voxels_of(doubt)))


def _is_of(
    node: slicer.vtkMRMLSegmentationNode,
    record: ResultRecord | None,
    volume: slicer.vtkMRMLScalarVolumeNode,
    grid: sitk.Image,
) -> bool:
    """Whether what a segmentation holds was made of this volume, and of the voxels that it has now.

    Where the volume that it refers to is no longer in the scene, a volume of the same name is taken for that one.
    """
    source = segmented_volume(node)
    if source is None:
        is_same = record is None or record.volume == ResultRecord.volume_name(volume.GetName())
    else:
        is_same = source is volume
    return is_same and all(same_grid(result.labels, grid) for result in EditRecord.usable(node).written)


def _doubtful(structure: StructureResult, labels: sitk.Image) -> tuple[int, int, int] | None:
    """Indices (i, j, k) of the most doubtful slices of a structure of the new result, or of a recorded one."""
    if not isinstance(structure, RecordedStructure):
        return structure.doubtful
    place = structure.doubtful_lps
    return None if place is None else labels.TransformPhysicalPointToIndex(place)
