"""The input guard: what about a volume makes a good result doubtful, before the networks see it.

Findings are advice: they never stop a run (what is nonsense is refused in :mod:`.reading`). What can only be seen in
the result is in :mod:`.plausibility`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import SimpleITK as sitk

from ..models import ModelCard
from .geometry import Geometry
from .head import HeadSurvey
from .result import Finding

#: a voxel edge this many times as long as the model's is coarse
COARSE = 1.5
#: air in Hounsfield units is -1000; nothing in MRI is near that
HOUNSFIELD_AIR = -500


def inspect(image: sitk.Image, card: ModelCard) -> list[Finding]:
    """Findings about ``image`` as an input for the model of ``card``; empty where all is well."""
    findings = [*_orientation(image), *_extent(image, card), *_resolution(image, card)]
    hounsfield = float(sitk.GetArrayViewFromImage(image).min()) < HOUNSFIELD_AIR
    findings += _modality(hounsfield, card)
    if card.input.get("kind") == "head" and not hounsfield:
        findings += _head(HeadSurvey.of(image), card)
    return findings


def expected_extent(card: ModelCard) -> np.ndarray | None:
    """Smallest and largest extent (3, 2) in mm, along right-left, posterior-anterior, inferior-superior, or None."""
    extent = card.input.get("extent_mm")
    return None if extent is None else np.broadcast_to(np.array(extent, dtype=float), (3, 2))


def extent_of(image: sitk.Image) -> np.ndarray:
    """Extent (3,) of a volume in mm along right-left, posterior-anterior, inferior-superior, outer voxels in full."""
    corners = Geometry.of(image).corners()
    return corners.max(0) - corners.min(0)


def _orientation(image: sitk.Image) -> Iterator[Finding]:
    """What the header of a NIfTI file leaves open about directions; SimpleITK keeps it as metadata."""
    codes = [image.GetMetaData(key) for key in ("qform_code", "sform_code") if image.HasMetaDataKey(key)]
    if codes == ["0", "0"]:
        yield Finding(
            "no-orientation",
            "The file does not say how its axes lie in the patient.",
            "Left and right may be exchanged, and the structures may be missed.",
        )
    elif len(codes) == 2 and "0" not in codes:
        rows = [image.GetMetaData(f"srow_{axis}").split() for axis in "xyz"]
        sform = np.array(rows, dtype=float) * [[-1], [-1], [1]]  # RAS to LPS
        geometry = Geometry.of(image)
        ends = np.array([[0, 0, 0], np.subtract(geometry.size, 1)])
        distance = np.linalg.norm(geometry.points(ends) - (ends @ sform[:, :3].T + sform[:, 3]), axis=1).max()
        if distance > max(image.GetSpacing()):
            yield Finding(
                "two-transforms",
                f"The file holds two transforms that differ by up to {distance:.0f} mm (qform and sform).",
                "Other programs may show the volume, and the result, in another place.",
            )


def _extent(image: sitk.Image, card: ModelCard) -> Iterator[Finding]:
    expected = expected_extent(card)
    if expected is None:
        return
    extent = extent_of(image)
    size = " x ".join(f"{length:.0f}" for length in extent)
    if (extent < expected[:, 0]).any():
        least = " x ".join(f"{length:.0f}" for length in expected[:, 0])
        yield Finding(
            "small-field",
            f"The field of view ({size} mm) is smaller than this model expects ({least} mm).",
            "Structures at its edges may be cut off or missed.",
        )
    if (extent > expected[:, 1]).any():
        most = " x ".join(f"{length:.0f}" for length in expected[:, 1])
        yield Finding(
            "large-field",
            f"The field of view ({size} mm) is larger than this model expects ({most} mm).",
            "Structures may be found where there are none; a region of interest helps.",
        )


def _resolution(image: sitk.Image, card: ModelCard) -> Iterator[Finding]:
    spacing = np.array(sitk.DICOMOrient(image, "RAS").GetSpacing())
    if (spacing > COARSE * np.array(card.spacing)).any():
        size = " x ".join(f"{length:.2g}" for length in spacing)
        model = " x ".join(f"{length:.2g}" for length in card.spacing)
        yield Finding(
            "coarse",
            f"The voxels ({size} mm) are coarser than the model's ({model} mm).",
            "Volumes of small and thin structures are inaccurate.",
        )


def _modality(hounsfield: bool, card: ModelCard) -> Iterator[Finding]:
    if hounsfield and card.modality == "MR":
        yield Finding(
            "modality",
            "This looks like CT (Hounsfield units); the model is for MRI.",
            "The result is very likely wrong.",
        )
    if not hounsfield and card.modality == "CT":
        yield Finding(
            "modality",
            "There is no air in Hounsfield units in this volume; the model is for CT.",
            "The result is very likely wrong, unless the volume lies wholly inside the body.",
        )


def _head(survey: HeadSurvey, card: ModelCard) -> Iterator[Finding]:
    if survey.sideways:
        yield Finding(
            "orientation",
            f"The head is mirror-symmetric {survey.symmetry_axis} rather than from left to right.",
            "The directions in the file are probably wrong; then all structures and sides are.",
        )
    if card.contrast == "T1" and survey.fluid_is_bright:
        yield Finding(
            "contrast",
            "Deep in the head the minority is brighter than the rest, as fluid is in T2; the model is for T1.",
            "Structures are very likely misplaced or missing.",
        )
    elif card.contrast == "T1" and survey.vessels_are_bright:
        yield Finding(
            "contrast-agent",
            "Vessels deep in the head are much brighter than white matter, as after injection of a contrast agent.",
            "Structures near large vessels and the choroid plexus may be inaccurate.",
        )
