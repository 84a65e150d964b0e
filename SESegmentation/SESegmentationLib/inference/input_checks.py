"""Input checks: what in a volume puts a good result in doubt, found before the networks run.

Findings are advice and never stop a run; ``io.reading`` refuses what cannot be segmented at all. Size, resolution and
units are checked in the header alone, so that a panel can do it at every choice; the rest needs the voxels. What can
only be seen in the result is in :mod:`.output_checks`. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import SimpleITK as sitk

from ..geometry import Geometry
from ..io.reading import NOT_NUMBERS
from ..io.volume_image import remarks_of, voxels_of
from ..models import ModelCard
from ..result import Finding
from .head import HeadMeasurements
from .model_grid import patient_spacing

#: a voxel edge this many times as long as the model's is coarse
COARSE = 1.5
#: air in Hounsfield units is -1000; nothing in MRI is near that
HOUNSFIELD_AIR = -500
#: range of fields of view, in mm, in which a head can be measured
HEAD_FIELD_MM = (60.0, 600.0)
#: share of the bright voxels that equal their neighbour: in images at most 0.25, in label maps above 0.75
FLAT = 0.5
#: mm by NIfTI's code for the unit of length
_NIFTI_UNITS_MM = {1: 1000.0, 2: 1.0, 3: 0.001}


def check_input(image: sitk.Image, card: ModelCard) -> list[Finding]:
    """Findings about ``image`` as an input for the model of ``card``; empty where all is well."""
    array = voxels_of(image)
    lowest, extent = float(array.min()), extent_of(image)
    values = list(_values(image))
    findings = [
        *remarks_of(image),
        *_orientation(image),
        *check_header(extent.tolist(), patient_spacing(image), lowest, card),
        *values,
    ]
    is_image = not is_hounsfield(lowest) and all(finding.code != "labels" for finding in values)
    measurable = HEAD_FIELD_MM[0] <= extent.min() and extent.max() <= HEAD_FIELD_MM[1]
    if card.input_kind == "head" and is_image and measurable:
        head = HeadMeasurements.of(image)
        findings += _head(head, card) if head else []
    return findings


def extent_of(image: sitk.Image) -> np.ndarray:
    """Extent (3,) of a volume in mm along right-left, posterior-anterior, inferior-superior, outer voxels in full."""
    corners = Geometry.of(image).corners()
    return corners.max(0) - corners.min(0)


def expected_extent(card: ModelCard) -> np.ndarray | None:
    """Smallest and largest extent (3, 2) in mm, along right-left, posterior-anterior, inferior-superior, or None."""
    extent = card.input.get("extent_mm")
    return None if extent is None else np.broadcast_to(np.array(extent, dtype=float), (3, 2))


def is_hounsfield(lowest: float) -> bool:
    """Whether a volume with this lowest value is CT in Hounsfield units."""
    return lowest < HOUNSFIELD_AIR


def check_header(
    extent_mm: Sequence[float], spacing_mm: Sequence[float], lowest: float, card: ModelCard
) -> Iterator[Finding]:
    """Findings about a volume as an input for the model of ``card``.

    Args:
        extent_mm: of the volume along right-left, posterior-anterior, inferior-superior, outer voxels in full.
        spacing_mm: its voxel size along the same directions.
        lowest: its lowest value.
        card: the model.
    """
    yield from _extent(np.asarray(extent_mm), card)
    yield from _resolution(np.asarray(spacing_mm), card)
    yield from _modality(is_hounsfield(lowest), card)


def _extent(extent: np.ndarray, card: ModelCard) -> Iterator[Finding]:
    expected = expected_extent(card)
    if expected is None:
        return
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


def _resolution(spacing: np.ndarray, card: ModelCard) -> Iterator[Finding]:
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


def _orientation(image: sitk.Image) -> Iterator[Finding]:
    """Findings about the header of a NIfTI file that SimpleITK itself has read; it keeps the fields as metadata."""
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
    """Findings about the values, whatever the volume shows."""
    if image.HasMetaDataKey(NOT_NUMBERS):
        yield Finding(
            "not-numbers",
            f"{image.GetMetaData(NOT_NUMBERS)} voxels are not numbers (NaN or infinite); they count as background.",
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


def _head(head: HeadMeasurements, card: ModelCard) -> Iterator[Finding]:
    if head.sideways:
        yield Finding(
            "orientation",
            f"The head is mirror-symmetric {head.symmetry_axis} rather than from left to right.",
            "The directions in the file are probably wrong, and with them all structures and sides.",
        )
    if head.facing:
        yield Finding(
            "facing",
            f"The head seems to be {head.facing}, by the directions in the file.",
            "If these are wrong, left and right may be exchanged, and structures are missed.",
        )
    if head.cut_sides:
        yield Finding(
            "head-cut-off",
            f"The head extends beyond the field of view ({', '.join(head.cut_sides)}).",
            "Structures there are too small or missing.",
        )
    if card.contrast == "T1" and head.fluid_is_bright:
        yield Finding(
            "contrast",
            "Deep in the head the rarer tissue is brighter than the rest, as fluid is in T2; the model is for T1.",
            "Structures are very likely misplaced or missing.",
        )
    elif card.contrast == "T1" and head.vessels_are_bright:
        yield Finding(
            "contrast-agent",
            "Vessels deep in the head are much brighter than white matter, as after injection of a contrast agent.",
            "Structures near large vessels and the choroid plexus may be inaccurate.",
        )
