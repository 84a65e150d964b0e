"""The input guard: what about a volume makes a good result doubtful, before the networks see it.

Findings are advice: they never stop a run (what is nonsense is refused in :mod:`.reading`). What can only be seen in
the result is in :mod:`.plausibility`, what the header alone tells in :mod:`.expectation`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import SimpleITK as sitk

from ..geometry import Geometry
from ..io.reading import NOT_NUMBERS
from ..io.volume_image import remarks_of, voxels_of
from ..models import ModelCard
from ..result import Finding
from .expected_input import is_hounsfield, unmet_expectations
from .head import HeadSurvey

#: fields of view of other lengths show no head, or too little of it to measure, in mm
HEAD_FIELD_MM = (60.0, 600.0)
#: share of the bright voxels that equal their neighbour: in images at most 0.25, in label maps above 0.75
FLAT = 0.5
#: mm by NIfTI's code for the unit of length
_NIFTI_UNITS_MM = {1: 1000.0, 2: 1.0, 3: 0.001}


def inspect(image: sitk.Image, card: ModelCard) -> list[Finding]:
    """Findings about ``image`` as an input for the model of ``card``; empty where all is well."""
    array = voxels_of(image)
    lowest, extent = float(array.min()), extent_of(image)
    # of a single voxel, for turning the whole volume takes time and memory
    spacing = sitk.DICOMOrient(image[:1, :1, :1], "RAS").GetSpacing()
    values = list(_values(image))
    findings = [*remarks_of(image), *_orientation(image), *unmet_expectations(extent, spacing, lowest, card), *values]
    is_image = not is_hounsfield(lowest) and all(finding.code != "labels" for finding in values)
    measurable = HEAD_FIELD_MM[0] <= extent.min() and extent.max() <= HEAD_FIELD_MM[1]
    if card.input.get("kind") == "head" and is_image and measurable:
        survey = HeadSurvey.of(image)
        findings += _head(survey, card) if survey else []
    return findings


def extent_of(image: sitk.Image) -> np.ndarray:
    """Extent (3,) of a volume in mm along right-left, posterior-anterior, inferior-superior, outer voxels in full."""
    corners = Geometry.of(image).corners()
    return corners.max(0) - corners.min(0)


def _orientation(image: sitk.Image) -> Iterator[Finding]:
    """What the header of a NIfTI file that SimpleITK itself has read leaves open; it keeps that as metadata."""
    keys = ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units")
    if not all(image.HasMetaDataKey(key) for key in keys):
        return
    *codes, x, y, z, units = (image.GetMetaData(key) for key in keys)
    if codes == ["0", "0"]:
        yield Finding(
            "no-orientation",
            "The file does not say how its axes lie in the patient.",
            "Left and right may be exchanged, and the structures may be missed.",
        )
    elif "0" not in codes:
        millimetres = _NIFTI_UNITS_MM.get(int(units) & 7, 1.0)
        sform = np.array([x.split(), y.split(), z.split()], dtype=float) * [[-1], [-1], [1]] * millimetres  # RAS to LPS
        geometry = Geometry.of(image)
        ends = np.array([[0, 0, 0], np.subtract(geometry.size, 1)])
        distance = np.linalg.norm(geometry.points(ends) - (ends @ sform[:, :3].T + sform[:, 3]), axis=1).max()
        if distance > max(image.GetSpacing()):
            yield Finding(
                "two-transforms",
                f"The file holds two transforms that differ by up to {distance:.0f} mm (qform and sform).",
                "Other programs may show the volume, and the result, in another place.",
            )


def _values(image: sitk.Image) -> Iterator[Finding]:
    """What the values tell, whatever they show."""
    if image.HasMetaDataKey(NOT_NUMBERS):
        yield Finding(
            "not-numbers",
            f"{image.GetMetaData(NOT_NUMBERS)} voxels are no numbers (NaN or infinite); they were taken as 0.",
            "Structures there are missing or wrong.",
        )
    slices = voxels_of(image)[::4]
    bright = slices[:, :, 1:] > slices.mean(dtype=np.float64)
    if bright.any() and (slices[:, :, 1:] == slices[:, :, :-1])[bright].mean() > FLAT:
        yield Finding(
            "labels",
            "Most voxels equal their neighbours, as in a label map, not in an image.",
            "The result is very likely meaningless.",
        )


def _head(survey: HeadSurvey, card: ModelCard) -> Iterator[Finding]:
    if survey.sideways:
        yield Finding(
            "orientation",
            f"The head is mirror-symmetric {survey.symmetry_axis} rather than from left to right.",
            "The directions in the file are probably wrong; then all structures and sides are.",
        )
    if survey.facing:
        yield Finding(
            "facing",
            f"The head seems to be {survey.facing}, by the directions in the file.",
            "If these are wrong, left and right may be exchanged, and structures are missed.",
        )
    if survey.cut_sides:
        yield Finding(
            "head-cut-off",
            f"The head goes on outside the field of view ({', '.join(survey.cut_sides)}).",
            "Structures there are too small or missing.",
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
