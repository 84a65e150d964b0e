"""Output checks: structures measured, their most doubtful slices, and findings about implausible results.

The sum of doubt (:mod:`.confidence`) over a slice is the number of wrong voxels to be expected there, so that slices
can be ranked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import SimpleITK as sitk

from ..geometry import Box, Extent, Geometry, find_extents, grown, mask_box, triple, whole_box
from ..io.volume_image import voxels_of
from ..models import Label
from ..result import Confidence, Finding, SegmentationResult, StructureResult
from .roi import inside

#: doubt within this many voxels of a structure counts as doubt about it, because it may be too small there
NEARBY_VOXELS = 2
#: difference of both sides' volumes over their mean above which there is a finding
ASYMMETRY = 0.5
#: volumes are not compared below this many voxels: a single one counts too much
_FEW_VOXELS = 30
#: codes of the findings about results; all others are about inputs
OUTPUT_FINDINGS = frozenset({"not-found", "small-volume", "large-volume", "asymmetry", "cut-off", "cut-by-region"})


def with_doubtful_slices(result: SegmentationResult) -> SegmentationResult:
    """``result`` with the most doubtful slices of each structure; unchanged if it has no map of doubt."""
    if result.doubt is None:
        return result
    labels, doubt = (voxels_of(image) for image in (result.labels, result.doubt))
    extents = find_extents(labels, [structure.label.value for structure in result.structures])
    structures = []
    for structure, extent in zip(result.structures, extents.values(), strict=True):
        if extent.box:
            near = grown(extent.box, NEARBY_VOXELS, labels.shape)
            structure = replace(structure, doubtful=_worst(labels, doubt, structure.label.value, near))
        structures.append(structure)
    return replace(result, structures=structures)


def _worst(labels: np.ndarray, doubt: np.ndarray, value: int, box: Box) -> tuple[int, int, int]:
    """The slices (i, j, k) with the largest sums of doubt in and near a structure, which lies in ``box``."""
    inside = sitk.GetImageFromArray((labels[box] == value).astype(np.uint8))
    near = voxels_of(sitk.BinaryDilate(inside, [NEARBY_VOXELS] * 3)) > 0
    there = np.where(near, doubt[box], 0)
    sums = [there.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64) for axis in (2, 1, 0)]
    # of several slices with equal doubt, for example none at all, the middle one
    peaks = [np.flatnonzero(total == total.max()) for total in sums]
    return triple(int(side.start + peak[len(peak) // 2]) for side, peak in zip(reversed(box), peaks, strict=True))


def check_output(
    labels: sitk.Image,
    structures: Sequence[StructureResult],
    extents: dict[int, Extent],
    pairs: Sequence[tuple[int, int]],
) -> list[Finding]:
    """Findings about a result; empty where all is well.

    Args:
        labels: the label map.
        structures: their measurements.
        extents: where each value is.
        pairs: values (left, right) of structures that are alike in size.
    """
    by_value = {structure.label.value: structure for structure in structures}
    findings = [
        *_missing([s.label for s in structures if not s.voxels]),
        *_volumes([s for s in structures if s.voxels]),
        *_asymmetry([(by_value[left], by_value[right]) for left, right in pairs]),
    ]
    shape = labels.GetSize()[::-1]
    cut = [by_value[value].label for value, extent in extents.items() if _touches_edge(extent, shape)]
    if cut:
        findings.append(
            Finding(
                "cut-off",
                f"At the edge of the volume: {_names(cut)}.",
                "They may extend beyond the field of view; their volumes are then too small.",
            )
        )
    return findings


def check_region(labels: sitk.Image, structures: Sequence[Label], region: Geometry) -> list[Finding]:
    """A finding where structures reach the border of the region of interest that a result is limited to.

    Args:
        labels: the label map, without a voxel outside of the region.
        structures: what its values mean.
        region: of :func:`.roi.region_box`. Where it extends beyond the volume, the volume's edge is no border of it.
    """
    within = inside(region, Geometry.of(labels))
    box = mask_box(within, 1) or whole_box(within.shape)
    array, outside = voxels_of(labels)[box], ~within[box]
    found: set[int] = set()
    for axis in range(3):
        values, beyond = np.moveaxis(array, axis, 0), np.moveaxis(outside, axis, 0)
        found.update(np.unique(values[1:][beyond[:-1]]).tolist(), np.unique(values[:-1][beyond[1:]]).tolist())
    cut = [label for label in structures if label.value in found]
    if not cut:
        return []
    return [
        Finding(
            "cut-by-region",
            f"At the border of the region of interest: {_names(cut)}.",
            "They may extend beyond it; their volumes are then too small.",
        )
    ]


def _missing(labels: Sequence[Label]) -> Iterator[Finding]:
    if labels:
        yield Finding(
            "not-found",
            f"Not found: {_names(labels)}.",
            "They lie outside the volume, are very small, or the model failed on this volume.",
        )


def _volumes(structures: Sequence[StructureResult]) -> Iterator[Finding]:
    for code, word, unlikely in (
        ("small-volume", "small", lambda ml, low, high: ml < low),
        ("large-volume", "large", lambda ml, low, high: ml > high),
    ):
        listed = [
            f"{s.label.name} {s.volume_ml:.3g} ml (usually {s.label.plausible_ml[0]:g} to {s.label.plausible_ml[1]:g})"
            for s in structures
            if s.label.plausible_ml and unlikely(s.volume_ml, *s.label.plausible_ml)
        ]
        if listed:
            yield Finding(
                code,
                f"Unusually {word}: {'; '.join(listed)}.",
                "Look at them before you use their volumes: disease or a failed segmentation can be the cause.",
            )


def _asymmetry(pairs: Sequence[tuple[StructureResult, StructureResult]]) -> Iterator[Finding]:
    listed = [
        f"{left.label.name} {left.volume_ml:.3g} ml, {right.label.name} {right.volume_ml:.3g} ml"
        for left, right in pairs
        if left.voxels + right.voxels > _FEW_VOXELS
        and 2 * abs(left.volume_ml - right.volume_ml) / (left.volume_ml + right.volume_ml) > ASYMMETRY
    ]
    if listed:
        yield Finding(
            "asymmetry",
            f"Left and right differ in volume: {'; '.join(listed)}.",
            "Compare both sides before you use their volumes: disease or a failed segmentation can be the cause.",
        )


def _touches_edge(extent: Extent, shape: tuple[int, ...]) -> bool:
    if extent.box is None:
        return False
    return any(side.start == 0 or side.stop == n for side, n in zip(extent.box, shape, strict=True) if n > 1)


def _names(labels: Sequence[Label]) -> str:
    return ", ".join(label.name for label in labels)


def measure_structures(
    labels: sitk.Image,
    structures: Sequence[Label],
    pairs: Sequence[tuple[int, int]],
    confidences: Mapping[int, Confidence],
) -> tuple[list[StructureResult], list[Finding]]:
    """Measure a label map.

    Args:
        labels: on the input's grid.
        structures: those that the model looks for.
        pairs: values (left, right) of structures that should be alike.
        confidences: by value; structures that were in no crop have none.

    Returns:
        Measurements of each of ``structures`` (volumes in ml, centres in LPS, mm), and findings about implausible ones.
    """
    geometry = Geometry.of(labels)
    voxel_ml = float(np.prod(geometry.spacing)) / 1000
    extents = find_extents(voxels_of(labels), [label.value for label in structures])
    measured = []
    for label, extent in zip(structures, extents.values(), strict=True):
        confidence = confidences.get(label.value, Confidence(0.0, None))
        measured.append(
            StructureResult(
                label=label,
                voxels=extent.voxels,
                volume_ml=extent.voxels * voxel_ml,
                confidence=confidence.value if extent.voxels else 0.0,
                centre_lps=triple(geometry.points(np.array([extent.centre[::-1]]))[0].tolist()),
                expected_dice=confidence.expected_dice,
            )
        )
    return measured, check_output(labels, measured, extents, pairs)
