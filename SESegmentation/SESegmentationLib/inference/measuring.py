"""What the structures of a finished label map measure, and what is implausible about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import SimpleITK as sitk

from ..models import Label
from . import plausibility
from .geometry import Geometry, find_extents
from .result import Finding, StructureResult
from .voxels import voxels_of


def measure_structures(
    labels: sitk.Image,
    structures: Sequence[Label],
    trust: Mapping[int, tuple[float, float | None]],
    pairs: Sequence[tuple[int, int]],
) -> tuple[list[StructureResult], list[Finding]]:
    """Measure a label map.

    Args:
        labels: on the input's grid.
        structures: that were looked for.
        trust: confidence and expected Dice, by value; structures that were not looked at have none.
        pairs: values (left, right) of structures that should be alike.

    Returns:
        What each of ``structures`` measures, volumes in ml and centres in LPS mm; what is implausible.
    """
    geometry = Geometry.of(labels)
    voxel_ml = float(np.prod(geometry.spacing)) / 1000
    extents = find_extents(voxels_of(labels), [label.value for label in structures])
    measured = []
    for label, extent in zip(structures, extents.values(), strict=True):
        confident, expected = trust.get(label.value, (0.0, None))
        measured.append(
            StructureResult(
                label=label,
                voxels=extent.voxels,
                volume_ml=extent.voxels * voxel_ml,
                confidence=confident if extent.voxels else 0.0,
                centre_lps=tuple(geometry.points(np.array([extent.centre[::-1]]))[0].tolist()),
                expected_dice=expected,
            )
        )
    return measured, plausibility.examine(labels, measured, extents, pairs)
