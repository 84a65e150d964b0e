"""Who drew a segment, for DICOM: networks alone, or networks and a clinician who corrected them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import slicer

from ..models import Label
from ..models.segment_tags import ALGORITHM_TYPE_TAG, AUTOMATIC, SEMIAUTOMATIC, algorithm_tags
from .layers import find_segment, segments_of, tag
from .segmentation import is_completed
from .status import CORRECTED, review_state


def note_algorithm(
    node: slicer.vtkMRMLSegmentationNode, structures: Sequence[Label], name: str, corrected: Collection[int]
) -> None:
    """Note which algorithm has just written into a segmentation; segments marked completed were not written.

    Args:
        node: the segmentation.
        structures: that were written.
        name: of the algorithm, see :func:`.segment_tags.algorithm_name`.
        corrected: values of the structures that a clinician has had a part in, see :func:`.algorithm_tags`.
    """
    for label in structures:
        segment = find_segment(node.GetSegmentation(), label)
        if segment is not None and not is_completed(segment):
            for key, value in algorithm_tags(name, label.value in corrected).items():
                segment.SetTag(key, value)


def note_correction(segment: slicer.vtkSegment) -> None:
    """Note that a clinician has changed a segment; of those that no network wrote nothing is said."""
    if tag(segment, ALGORITHM_TYPE_TAG) == AUTOMATIC:
        segment.SetTag(ALGORITHM_TYPE_TAG, SEMIAUTOMATIC)


def note_corrections(segmentation: slicer.vtkSegmentation) -> None:
    """Note it of every segment with which a clinician has begun, by its status."""
    for segment in segments_of(segmentation):
        if review_state(segment) == CORRECTED:
            note_correction(segment)
