"""What about a result is doubtful: structures not found, cut off, of an unlikely size, or unlike their counterpart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import SimpleITK as sitk

from ..geometry import Extent, Geometry, find_extents, triple
from ..io.volume_image import voxels_of
from ..models import Label
from ..result import Confidence, Finding, StructureResult

#: difference of both sides' volumes over their mean that is remarked on
ASYMMETRY = 0.5
#: volumes are not compared below this many voxels: a single one counts too much
_FEW_VOXELS = 30


def check_output(
    labels: sitk.Image,
    structures: Sequence[StructureResult],
    extents: dict[int, Extent],
    pairs: Sequence[tuple[int, int]],
) -> list[Finding]:
    """Findings about a result; empty where all is well.

    Args:
        labels: the label map.
        structures: what was measured of it.
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
                "They may go on outside the field of view; their volumes are then too small.",
            )
        )
    return findings


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
        structures: that were looked for.
        pairs: values (left, right) of structures that should be alike.
        confidences: by value; structures that were in no crop have none.

    Returns:
        What each of ``structures`` measures, volumes in ml and centres in LPS mm; what is implausible.
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
