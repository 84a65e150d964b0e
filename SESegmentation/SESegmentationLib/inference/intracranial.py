"""The intracranial volume, by which volumes of structures are divided when people are compared.

Source: Whitwell et al., AJNR 2001.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from ..geometry import Geometry
from ..io.volume_image import voxels_of

#: distances from the segmentation, in mm, between which the skull is looked for
SHELL_MM = (8.0, 20.0)
#: brightness, relative to the median of the segmentation, above which a voxel is tissue
TISSUE_BRIGHTNESS = 0.2
#: share of the shell that is tissue, below which the skull was removed: stripped brains: 0.002, heads: 0.3
LEAST_TISSUE = 0.1


def intracranial_ml(image: sitk.Image, labels: sitk.Image) -> float | None:
    """Volume of all structures together, in ml; None where the skull was removed, and with it some of the fluid.

    Args:
        image: the volume.
        labels: all structures inside the skull, including the fluid around the brain, on any grid over them.
    """
    factors = [min(_factor(s), n) for s, n in zip(labels.GetSpacing(), labels.GetSize(), strict=True)]
    coarse = sitk.BinShrink(sitk.Cast(labels > 0, sitk.sitkFloat32), factors) > 0.5
    inside = voxels_of(coarse).astype(bool)
    if not inside.any():
        return None
    distance = voxels_of(sitk.SignedMaurerDistanceMap(coarse, squaredDistance=False, useImageSpacing=True))
    shell = (distance > SHELL_MM[0]) & (distance < SHELL_MM[1])
    values = voxels_of(Geometry.of(coarse).resample(sitk.Cast(image, sitk.sitkFloat32), sitk.sitkLinear))
    low = float(np.percentile(values, 1))
    if tissue_share(values[shell] - low, values[inside] - low) < LEAST_TISSUE:
        return None
    voxel_ml = float(np.prod(labels.GetSpacing())) / 1000
    return int(np.count_nonzero(voxels_of(labels))) * voxel_ml


def tissue_share(shell: np.ndarray, inside: np.ndarray) -> float:
    """Share of the ``shell``'s voxels that are as bright as tissue; 0 for an empty shell."""
    return float((shell > TISSUE_BRIGHTNESS * np.median(inside)).mean()) if shell.size else 0.0


def _factor(spacing: float) -> int:
    """How many voxels make about 3 mm."""
    return max(round(3.0 / spacing), 1)
