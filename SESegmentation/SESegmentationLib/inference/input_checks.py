"""Input checks: what in a volume puts a good result in doubt, found before the networks run.

Findings are advice and never stop a run; ``io.reading`` refuses what cannot be segmented at all. Size, resolution and
units are checked in the header alone, so that a panel can do it at every choice; the rest needs the voxels. What can
only be seen in the result is in :mod:`.output_checks`. Needs no torch.

Heads are measured at 3 mm, on a grid along the patient's axes, which takes a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ..geometry import RAS, Geometry, covering, triple
from ..io.reading import NOT_NUMBERS
from ..io.volume_image import remarks_of, voxels_of
from ..models import ModelCard
from ..result import Finding
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
#: of the grid on which heads are measured
SPACING_MM = 3.0
#: voxels are averaged over blocks of about this size in mm first, so that noise and small vessels do not count
BLOCK_MM = 2.0
#: how much better another axis' mirror symmetry must be than left-right's (correlations; heads here: 0.1 to 0.3 worse)
SYMMETRY_LEAD = 0.05
#: share of the largest depth in the head; all that lies deeper is brain, with or without skull
CORE_DEPTH = 0.55
#: skewness of the core's intensities: in T1 from -0.6 to 0, for fluid is dark and rare; in T2 about 0.7
BRIGHT_FLUID = 0.25
#: share of the core that is brighter than white matter by ``VESSEL_CONTRAST``; without contrast agent about 0.0001
BRIGHT_VESSELS = 0.002
VESSEL_CONTRAST = 1.4
#: area of the head in a volume's outermost slice over that in its largest one: ears and nose reach 0.1
CUT_AREA = 0.2
#: how far the core lies above the middle of a head, as a share of its height: 0 to 0.05 in heads measured; less than
#: this if it is upside down
UPSIDE_DOWN = -0.01
#: ``forward`` below this means backwards: it is 0.3 to 4 in heads measured, the negative of that if turned round
BACKWARDS = -0.3
#: typical skewness of a head's profile from back to front, and typical place of its core; see ``forward``
_USUAL_SKEWNESS, _USUAL_PLACE = 0.08, 0.012
_AXES = ("from bottom to top", "from back to front", "from left to right")
_SIDES = (("bottom", "top"), ("back", "front"), ("left", "right"))


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
        survey = HeadSurvey.of(image)
        findings += _head(survey, card) if survey else []
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


def _head(survey: HeadSurvey, card: ModelCard) -> Iterator[Finding]:
    if survey.sideways:
        yield Finding(
            "orientation",
            f"The head is mirror-symmetric {survey.symmetry_axis} rather than from left to right.",
            "The directions in the file are probably wrong, and with them all structures and sides.",
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
            f"The head extends beyond the field of view ({', '.join(survey.cut_sides)}).",
            "Structures there are too small or missing.",
        )
    if card.contrast == "T1" and survey.fluid_is_bright:
        yield Finding(
            "contrast",
            "Deep in the head the rarer tissue is brighter than the rest, as fluid is in T2; the model is for T1.",
            "Structures are very likely misplaced or missing.",
        )
    elif card.contrast == "T1" and survey.vessels_are_bright:
        yield Finding(
            "contrast-agent",
            "Vessels deep in the head are much brighter than white matter, as after injection of a contrast agent.",
            "Structures near large vessels and the choroid plexus may be inaccurate.",
        )


@dataclass(frozen=True)
class HeadSurvey:
    """Measurements of a head.

    Attributes:
        symmetry: correlation with its mirror image along (k, j, i), that is bottom-top, back-front, left-right.
        skewness: Bowley's, from the 5th and 95th percentile, of the intensities in the core of the head.
        bright_share: share of the core brighter than its 90th percentile by ``VESSEL_CONTRAST``.
        edge_areas: area of the head in the outermost slices over the largest, by axis (k, j, i): lower and upper end.
        upward: how far the core lies above the head's middle, in heights of the head.
        forward: above 0 where the head faces forward. Brain lies behind the middle, and a head ends steeper behind.
    """

    symmetry: tuple[float, float, float]
    skewness: float
    bright_share: float
    edge_areas: tuple[tuple[float, float], ...]
    upward: float = 0.0
    forward: float = 0.0

    @classmethod
    def of(cls, image: sitk.Image) -> HeadSurvey | None:
        """Measure ``image``; None where there is nothing to be measured."""
        array = _coarse(image)
        bright = float(np.percentile(array[array >= array.mean(dtype=np.float64)], 90))
        head = array > 0.15 * bright
        if not head.any():
            return None
        deep = _core(head)
        core, place = array[deep], _place_of(deep, head)
        low, middle, white, high = np.percentile(core, [5, 50, 90, 95])
        return cls(
            symmetry=triple(_mirror_correlation(np.minimum(array, bright), axis) for axis in range(3)),
            skewness=float((high + low - 2 * middle) / max(high - low, 1e-6)),
            bright_share=float((core > VESSEL_CONTRAST * white).mean()),
            edge_areas=tuple(_edge_areas(head, axis) for axis in range(3)),
            upward=float(place[0]),
            forward=float(_skewness(head, 1) / _USUAL_SKEWNESS - place[1] / _USUAL_PLACE),
        )

    @property
    def sideways(self) -> bool:
        """Whether the head's plane of symmetry is not where the file's directions put it."""
        return max(self.symmetry[:2]) > self.symmetry[2] + SYMMETRY_LEAD

    @property
    def facing(self) -> str | None:
        """The head is "upside down" or "backwards" by the file's directions; None if it faces forward.

        Also None for a head that lies sideways or is cut off on several sides, where it cannot be measured.
        """
        if len(self.cut_sides) > 1 or self.sideways:
            return None
        return "upside down" if self.upward < UPSIDE_DOWN else "backwards" if self.forward < BACKWARDS else None

    @property
    def symmetry_axis(self) -> str:
        """The direction along which the head is most symmetric, in words."""
        return _AXES[int(np.argmax(self.symmetry))]

    @property
    def fluid_is_bright(self) -> bool:
        """Whether the rarer tissue deep in the head, the fluid, is brighter than the rest."""
        return self.skewness > BRIGHT_FLUID

    @property
    def vessels_are_bright(self) -> bool:
        """Whether vessels stand out from white matter."""
        return self.bright_share > BRIGHT_VESSELS

    @property
    def cut_sides(self) -> list[str]:
        """Sides on which the head extends beyond the volume, in words; never the bottom, where the neck always does."""
        return [
            side
            for sides, areas in zip(_SIDES, self.edge_areas, strict=True)
            for side, area in zip(sides, areas, strict=True)
            if area > CUT_AREA and side != "bottom"
        ]


def _coarse(image: sitk.Image) -> np.ndarray:
    """Intensities above the lowest (k, j, i), on a grid of ``SPACING_MM`` along the patient's axes."""
    lowest = float(voxels_of(image).min())
    spacing_and_size = zip(image.GetSpacing(), image.GetSize(), strict=True)
    blocks = [min(max(round(BLOCK_MM / spacing), 1), size) for spacing, size in spacing_and_size]
    averaged = sitk.BinShrink(sitk.Cast(image, sitk.sitkFloat32), blocks)
    grid = covering(Geometry.of(averaged), (SPACING_MM,) * 3, RAS)
    return sitk.GetArrayFromImage(grid.resample(averaged, sitk.sitkLinear, lowest)) - lowest


def _core(mask: np.ndarray) -> np.ndarray:
    """The voxels (k, j, i) that lie at least ``CORE_DEPTH`` times as deep in a head as its deepest one."""
    padded = sitk.GetImageFromArray(np.pad(mask, 3).astype(np.uint8))
    filled = sitk.BinaryFillhole(sitk.BinaryMorphologicalClosing(padded, (3, 3, 3)))
    depth = sitk.SignedMaurerDistanceMap(filled, insideIsPositive=True, squaredDistance=False)
    depth = sitk.GetArrayFromImage(depth)[3:-3, 3:-3, 3:-3]
    return depth >= CORE_DEPTH * depth.max()


def _place_of(core: np.ndarray, head: np.ndarray) -> np.ndarray:
    """How far the middle of ``core`` lies from that of ``head`` along (k, j, i), in lengths of the head."""
    voxels = np.argwhere(head)
    lengths = np.subtract(*np.percentile(voxels, (99, 1), axis=0))
    return (np.argwhere(core).mean(0) - voxels.mean(0)) / np.maximum(lengths, 1)


def _skewness(head: np.ndarray, axis: int) -> float:
    """Skewness of the positions of a head's voxels along an axis."""
    places = np.nonzero(head)[axis].astype(float)
    deviation = places.std()
    return float(((places - places.mean()) ** 3).mean() / deviation**3) if deviation else 0.0


def _mirror_correlation(array: np.ndarray, axis: int) -> float:
    """Best correlation of ``array`` with its mirror image along ``axis``, over mirrors near its centre of mass."""
    count = array.shape[axis]
    profile = array.sum(axis=tuple(other for other in range(3) if other != axis), dtype=np.float64)
    centre = float(profile @ np.arange(count) / profile.sum())
    best = -1.0
    for doubled in range(round(2 * centre) - 8, round(2 * centre) + 9):  # twice the mirror's position
        mirrored = doubled - np.arange(count)
        both = (mirrored >= 0) & (mirrored < count)
        if both.sum() > count // 3:
            one, other = np.compress(both, array, axis), np.take(array, mirrored[both], axis)
            if one.min() < one.max():  # a constant has no correlation
                best = max(best, float(np.corrcoef(one.ravel(), other.ravel())[0, 1]))
    return best


def _edge_areas(head: np.ndarray, axis: int) -> tuple[float, float]:
    """Area of the head at both ends over its largest; in the second slices, as the outermost may be partly empty."""
    areas = head.sum(axis=tuple(other for other in range(3) if other != axis))
    lower, upper = areas[min(1, len(areas) - 1)], areas[max(-2, -len(areas))]
    return float(lower / areas.max()), float(upper / areas.max())
