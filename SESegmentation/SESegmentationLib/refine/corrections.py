"""Corrections: the voxels of a volume whose labels are known, on its own grid, a model's grid or in a crop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..geometry import Geometry, Slices, same_grid, slices_mask
from ..inference.crops import Crop
from ..inference.model_grid import ModelGrid
from ..io.volume_image import voxels_of
from ..models import ModelCard

#: values that a message names
_MOST_NAMED = 8


@dataclass(frozen=True)
class Corrections:
    """Voxels whose labels are known.

    Attributes:
        labels: label map on the volume's grid.
        known: (k, j, i) bool, where ``labels`` are reliable; at least one voxel.
    """

    labels: sitk.Image
    known: np.ndarray

    def __post_init__(self) -> None:
        if not self.known.any():
            raise InputError("No slice is corrected: there is nothing to learn from.", "Correct at least one slice.")

    @classmethod
    def in_slices(cls, labels: sitk.Image, slices: Iterable[Slices]) -> Corrections:
        """Corrections in which all voxels of some slices are known.

        Raises:
            InputError: a slice is outside, or none is given.
        """
        return cls(labels, slices_mask(slices, labels.GetSize()[::-1]))

    def on_grid(self, grid: ModelGrid) -> tuple[np.ndarray, np.ndarray]:
        """Labels and known voxels at the voxels of a model's grid, (k, j, i) each.

        A voxel of the grid is known if the volume's voxel nearest to it is, or if it is the nearest one to a known
        voxel of the volume: slices thinner than the grid's are not lost.
        """
        mask = Geometry.of(self.labels).image(self.known.astype(np.uint8))
        labels, known = grid.labels_to_grid(self.labels), grid.labels_to_grid(mask) > 0
        if not grid.exact:
            where = np.argwhere(self.known)
            points = Geometry.of(self.labels).points(where[:, ::-1])
            there = np.rint(grid.geometry.indices(points)).astype(int)[:, ::-1]
            inside = ((there >= 0) & (there < labels.shape)).all(1)
            place, source = tuple(there[inside].T), tuple(where[inside].T)
            missed = ~known[place]
            place, source = tuple(axis[missed] for axis in place), tuple(axis[missed] for axis in source)
            labels[place] = voxels_of(self.labels)[source]
            known[place] = True
        return labels, known

    def kept_in(self, labels: sitk.Image) -> sitk.Image:
        """``labels``, on the same grid, with the known voxels as they were corrected."""
        array = sitk.GetArrayFromImage(labels)
        array[self.known] = voxels_of(self.labels)[self.known]
        return Geometry.of(labels).image(array)


def check_place(image: sitk.Image, labels: sitk.Image) -> None:
    """Raise InputError if a label map does not lie on a volume's grid."""
    if not same_grid(image, labels):
        raise InputError(
            "The corrected labels and the volume differ in size, spacing, origin or direction.",
            "Correct a segmentation of this very volume, or export it with the volume as reference.",
        )


def check_values(labels: sitk.Image, values: Iterable[int]) -> None:
    """Raise InputError if a label map has values other than 0 and ``values``."""
    unknown = sorted(set(np.unique(voxels_of(labels)).tolist()) - {0, *values})
    if unknown:
        more = f" and {len(unknown) - _MOST_NAMED} more" if len(unknown) > _MOST_NAMED else ""  # an image, by mistake
        raise InputError(
            "The corrected labels hold values that the model does not have: "
            f"{', '.join(map(str, unknown[:_MOST_NAMED]))}{more}.",
            f"Use the values of its structures: {', '.join(map(str, sorted(values)))}.",
        )


def known_channels(crop: Crop, corrections: Corrections, card: ModelCard) -> tuple[np.ndarray, np.ndarray]:
    """Output channels, see :func:`channels_of`, and known voxels (bool) of a crop, (k, j, i)."""
    labels, known = corrections.on_grid(crop.grid)
    return _channels(crop, labels, card), _as_seen(crop, known)


def channels_of(crop: Crop, labels: sitk.Image, card: ModelCard) -> np.ndarray:
    """Output channels (int64) of a label map in a crop, (k, j, i), as its networks see it.

    Structures for which the model has no channel in this crop, such as those of the other side, are background.
    """
    return _channels(crop, crop.grid.labels_to_grid(labels), card)


def _channels(crop: Crop, labels: np.ndarray, card: ModelCard) -> np.ndarray:
    channels = np.zeros(labels.shape, dtype=np.int64)
    for channel, label in enumerate(card.labels, start=1):
        if label.value in crop.values:
            channels[labels == crop.values[label.value]] = channel
    return _as_seen(crop, channels)


def _as_seen(crop: Crop, array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array[..., ::-1] if crop.mirrored else array)
