"""Where voxels are: the grid of an image, boxes and slices of it, and the extent of structures.

Images are SimpleITK's: positions in mm, LPS (x to the left, y to the back, z to the head). Arrays are their numpy
views, indexed (k, j, i).

Slices are counted from 0 along a voxel axis of the file: i, j or k, the order in which its header gives the sizes.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import SimpleITK as sitk

from .errors import InputError, UsageError
from .memory import require_memory

#: direction of a RAS image in LPS coordinates
RAS = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)

#: a box in an array: slices along (k, j, i)
Box = tuple[slice, slice, slice]
_T = TypeVar("_T")
#: axis of the arrays (k, j, i) by its letter
AXES = {"k": 0, "j": 1, "i": 2}
_SLICES = re.compile(r"([ijk]):(\d+(?:,\d+)*)")


def triple(values: Iterable[_T]) -> tuple[_T, _T, _T]:
    """One value for each of three axes, as a tuple.

    Raises:
        ValueError: there are more or fewer than three.
    """
    first, second, third = values
    return first, second, third


def bytes_of_voxel(image: sitk.Image) -> int:
    """Bytes of a voxel, all its components together."""
    return image.GetNumberOfComponentsPerPixel() * image.GetSizeOfPixelComponent()


def whole_box(shape: Iterable[int]) -> Box:
    """The box of a whole array."""
    return triple(slice(0, n) for n in shape)


def mask_box(mask: np.ndarray, margin: int | Sequence[int] = 0) -> Box | None:
    """Smallest box of a mask (k, j, i), grown by ``margin`` voxels within the array; None for an empty mask."""
    box = find_extents(mask.astype(np.uint8), (1,))[1].box
    return box and grown(box, margin, mask.shape)


def grown(box: Box, margin: int | Sequence[int], shape: Iterable[int]) -> Box:
    """A box grown by ``margin`` voxels (one number, or one per axis k, j, i), clipped to an array of this shape."""
    margins = (margin,) * 3 if isinstance(margin, int) else margin
    sides = zip(box, margins, shape, strict=True)
    return triple(slice(max(side.start - more, 0), min(side.stop + more, n)) for side, more, n in sides)


def within(inner: Box, outer: Box) -> Box:
    """A box relative to another that contains it: the same voxels, counted from the start of ``outer``."""
    return triple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(inner, outer, strict=True))


def placed(inner: Box, outer: Box) -> Box:
    """The inverse of :func:`within`: a box counted from the start of ``outer``, as a box of the whole array."""
    return triple(slice(b.start + a.start, b.start + a.stop) for a, b in zip(inner, outer, strict=True))


def union(boxes: Iterable[Box]) -> Box:
    """The smallest box that holds some boxes, at least one."""
    return triple(slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*boxes, strict=True))


def same_grid(first: sitk.Image | Geometry, second: sitk.Image | Geometry) -> bool:
    """Whether the voxels of two images lie at the same places, to a tenth of a voxel."""
    one, other = (g if isinstance(g, Geometry) else Geometry.of(g) for g in (first, second))
    return one.size == other.size and one.shift_of(other) == (0, 0, 0)


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of an image are, without the voxels.

    Attributes:
        size: voxels along (i, j, k).
        spacing: mm along (i, j, k).
        origin: centre of voxel (0, 0, 0), LPS in mm.
        direction: 3 x 3, row by row; its columns are the directions of i, j, k.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...] = RAS

    @classmethod
    def of(cls, image: sitk.Image) -> Geometry:
        """The geometry of ``image``."""
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of its arrays, (k, j, i)."""
        return self.size[::-1]

    @property
    def axes(self) -> np.ndarray:
        """Directions of i, j, k as columns, 3 x 3."""
        return np.reshape(self.direction, (3, 3))

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Lengths of the edges along (i, j, k), outer voxels in full."""
        return triple(n * s for n, s in zip(self.size, self.spacing, strict=True))

    def points(self, indices: np.ndarray) -> np.ndarray:
        """Positions (N, 3), LPS in mm, of continuous ``indices`` (N, 3) along (i, j, k)."""
        return np.asarray(self.origin) + (np.asarray(indices) * self.spacing) @ self.axes.T

    def indices(self, points: np.ndarray) -> np.ndarray:
        """Continuous indices (N, 3) along (i, j, k) of ``points`` (N, 3), LPS in mm."""
        return (np.asarray(points) - self.origin) @ np.linalg.inv(self.axes).T / self.spacing

    def corners(self) -> np.ndarray:
        """Positions (8, 3), LPS in mm, of the outer corners, half a voxel beyond the outer voxels' centres."""
        edges = [(-0.5, n - 0.5) for n in self.size]
        return self.points(np.array(list(itertools.product(*edges))))

    def cropped(self, box: Box) -> Geometry:
        """The geometry of ``box`` within this one."""
        first = [side.start for side in reversed(box)]
        size = tuple(side.stop - side.start for side in reversed(box))
        return replace(self, size=size, origin=tuple(self.points(np.array([first]))[0]))

    def box_of(self, points: np.ndarray, margin_mm: float = 0.0) -> Box:
        """Smallest box of voxels that holds ``points`` (N, 3), LPS in mm, and ``margin_mm`` around them.

        It is clipped to this geometry, and may be empty.
        """
        indices = self.indices(points)
        margin = margin_mm / np.asarray(self.spacing)
        low = np.clip(np.floor(indices.min(0) - margin + 0.5), 0, self.size).astype(int)
        high = np.clip(np.ceil(indices.max(0) + margin + 0.5), 0, self.size).astype(int)
        return triple(slice(int(a), max(int(a), int(b))) for a, b in zip(low[::-1], high[::-1], strict=True))

    def resample(self, image: sitk.Image, interpolator: int, outside: float = 0.0) -> sitk.Image:
        """``image`` at this geometry's voxels, ``outside`` where it has none; its pixel type is kept.

        Raises:
            OutOfMemoryError: it would be too large.
        """
        require_memory(math.prod(self.size) * bytes_of_voxel(image) / 1e9)
        identity = sitk.Transform(3, sitk.sitkIdentity)
        return sitk.Resample(
            image, self.size, identity, interpolator, self.origin, self.spacing, self.direction, outside
        )

    def shift_of(self, other: Geometry) -> tuple[int, int, int] | None:
        """Index (i, j, k) here of voxel (0, 0, 0) of ``other``; None unless all its voxels coincide with voxels here.

        The tolerance is a tenth of a voxel; this grid is taken to continue beyond its edges.
        """
        corners = np.array(list(itertools.product(*[(0, n - 1) for n in other.size])))
        apart = self.indices(other.points(corners)) - corners
        shift = np.rint(apart[0])
        return triple(int(n) for n in shift) if np.abs(apart - shift).max() < 0.1 else None

    def image(self, array: np.ndarray) -> sitk.Image:
        """``array`` (k, j, i) as an image with this geometry."""
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image


def covering(geometry: Geometry, spacing: Sequence[float], direction: tuple[float, ...]) -> Geometry:
    """Grid that covers ``geometry``, centred on it.

    Args:
        geometry: to be covered, outer voxels in full.
        spacing: of the grid, in mm along its (i, j, k).
        direction: of the grid, 3 x 3, row by row, in LPS.
    """
    axes = np.reshape(direction, (3, 3))
    along = geometry.corners() @ axes
    low, high = along.min(0), along.max(0)
    size = np.maximum(np.ceil((high - low) / spacing - 1e-3), 1)
    origin = axes @ ((low + high) / 2 - (size - 1) / 2 * spacing)
    return Geometry(triple(int(n) for n in size), triple(spacing), triple(origin), tuple(direction))


@dataclass(frozen=True)
class Extent:
    """One structure in an array.

    Attributes:
        voxels: how many it has.
        centre: mean index along (k, j, i); NaN where it has no voxel.
        box: smallest box that holds it, or None.
    """

    voxels: int
    centre: tuple[float, float, float]
    box: Box | None


def find_extents(array: np.ndarray, values: Sequence[int]) -> dict[int, Extent]:
    """The extent of each of ``values`` in a label array (k, j, i)."""
    occupied = np.flatnonzero(array)
    found = array.ravel()[occupied]
    rows = np.zeros(int(max(found.max(initial=0), *values)) + 1, dtype=np.intp)
    rows[list(values)] = np.arange(1, len(values) + 1)
    row = rows[found]
    # how many voxels of each structure lie in each slice, along each axis
    counts = [
        np.bincount(row * n + index, minlength=(len(values) + 1) * n).reshape(-1, n)
        for n, index in zip(array.shape, np.unravel_index(occupied, array.shape), strict=True)
    ]
    return {value: _extent([count[number] for count in counts]) for number, value in enumerate(values, start=1)}


def _extent(profiles: Sequence[np.ndarray]) -> Extent:
    voxels = int(profiles[0].sum())
    if voxels == 0:
        return Extent(0, (np.nan, np.nan, np.nan), None)
    centre = triple(float(profile @ np.arange(len(profile)) / voxels) for profile in profiles)
    filled = [np.flatnonzero(profile) for profile in profiles]
    return Extent(voxels, centre, triple(slice(int(f[0]), int(f[-1]) + 1) for f in filled))


@dataclass(frozen=True)
class Slices:
    """Some slices along one axis.

    Attributes:
        axis: "i", "j" or "k", the voxel axis of the file.
        numbers: from 0.
    """

    axis: str
    numbers: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Slices:
        """Read "AXIS:N[,N...]", for example "k:12,17".

        Raises:
            UsageError: it is something else.
        """
        match = _SLICES.fullmatch(text.strip().replace(" ", ""))
        if match is None:
            raise UsageError(
                f"{text!r} does not name slices.", "Write AXIS:N[,N...] with AXIS i, j or k, for example k:12,17."
            )
        return cls(match[1], tuple(sorted({int(number) for number in match[2].split(",")})))

    def __str__(self) -> str:
        return f"{self.axis}:{','.join(map(str, self.numbers))}"


def slices_mask(slices: Iterable[Slices], shape: tuple[int, ...]) -> np.ndarray:
    """A mask (bool) of some slices in an array of this shape (k, j, i).

    Raises:
        InputError: a slice is outside.
    """
    mask = np.zeros(shape, dtype=bool)
    for entry in slices:
        count = shape[AXES[entry.axis]]
        outside = [number for number in entry.numbers if number >= count]
        if outside:
            raise InputError(
                f"There is no slice {entry.axis}:{outside[0]}: along {entry.axis} the volume has {count} slices.",
                f"Slices are counted from 0 to {count - 1}.",
            )
        np.moveaxis(mask, AXES[entry.axis], 0)[list(entry.numbers)] = True
    return mask


def edited_slices(differs: np.ndarray) -> list[Slices]:
    """The slices in which strokes were made, from the voxels (k, j, i) that they changed.

    Corrections made slice by slice change few slices along one axis and many along the others, so the axis with the
    fewest is returned; of several with equally few, the first of k, j, i.
    """
    found = [
        Slices(letter, tuple(np.flatnonzero(differs.any(axis=tuple(a for a in range(3) if a != axis))).tolist()))
        for letter, axis in AXES.items()
    ]
    fewest = min(found, key=lambda entry: len(entry.numbers))
    return [fewest] if fewest.numbers else []
