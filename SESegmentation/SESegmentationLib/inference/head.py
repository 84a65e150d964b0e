"""A head measured: its symmetry, which way it faces, its contrast, and where it is cut off. Needs no torch.

Heads are measured at 3 mm, on a grid along the patient's axes, which takes a fraction of a second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ..geometry import RAS, Geometry, covering, triple
from ..io.volume_image import voxels_of

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


@dataclass(frozen=True)
class HeadMeasurements:
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
    def of(cls, image: sitk.Image) -> HeadMeasurements | None:
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
