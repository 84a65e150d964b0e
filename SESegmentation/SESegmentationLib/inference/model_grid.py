"""The model's grid over a volume: resampling to it, and bringing probabilities and labels back.

Images are SimpleITK's: positions in mm, LPS (x to the left, y to the back, z to the head). Arrays are their numpy
views, indexed (k, j, i). On a model grid i runs to the right, j to the front and k to the head (RAS).

An input whose axes lie close to the patient's is only permuted and flipped, and resampled along its own axes where its
spacing differs from the model's; one that is oblique beyond that is resampled to the patient's axes. In either case the
result comes back to the input's own grid, so nothing is lost by leaving a small obliquity as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from ..geometry import RAS, Box, Geometry, covering, grown, placed, triple, whole_box
from ..memory import require_for_grid
from ..models import ModelCard

if TYPE_CHECKING:
    from torch import Tensor

#: largest rotation between the input's axes and the patient's that the networks tolerate (they are trained with 15
#: degrees)
ALIGNED_DEGREES = 10.0
#: largest relative difference of spacing that the networks tolerate (they are trained with 15 %)
FITTING_SPACING = 0.05
#: voxels longer than this times the model's are thick slices
THICK = 1.5


@dataclass(frozen=True)
class ModelGrid:
    """The model's grid over one input, and the way back from it.

    Attributes:
        input: geometry of the input.
        geometry: geometry of the grid, or of the box of it that is in use.
        values: voxel value of each output channel, background first.
        exact: whether the grid's voxels are the input's, permuted and flipped.
        whole: geometry of the grid before any :meth:`cropped`.
        box: where the box in use lies in the whole grid.
    """

    input: Geometry
    geometry: Geometry
    values: tuple[int, ...]
    exact: bool
    whole: Geometry
    box: Box

    def cropped(self, box: Box) -> ModelGrid:
        """The grid over ``box`` of this one; outside it everything is background."""
        return replace(self, geometry=self.geometry.cropped(box), box=placed(box, self.box))

    def image_to_grid(self, image: sitk.Image) -> np.ndarray:
        """Array (k, j, i) float32 of an image on the input's grid at the grid's voxels, as :func:`to_model_grid`."""
        image = sitk.Cast(image, sitk.sitkFloat32)  # whole numbers would be cut off, not rounded
        if not self.exact:
            image = smoothed(sitk.DICOMOrient(image, "RAS"), self.geometry.spacing)
        return sitk.GetArrayFromImage(self.geometry.resample(image, sitk.sitkLinear))

    def labels_to_grid(self, labels: sitk.Image) -> np.ndarray:
        """Array (k, j, i) of a label map at the grid's voxels, nearest neighbour, 0 where it has none."""
        return sitk.GetArrayFromImage(self.geometry.resample(labels, sitk.sitkNearestNeighbor))

    def to_input(self, values: np.ndarray) -> np.ndarray:
        """Values (k, j, i) on the grid at the input's voxels, interpolated linearly, 0 where the grid has none."""
        return sitk.GetArrayFromImage(self.input.resample(self.geometry.image(values), sitk.sitkLinear))

    def from_model_grid(self, probabilities: Tensor) -> sitk.Image:
        """Label map on the input's grid from probabilities on the model's.

        The probabilities are interpolated, linearly, one class at a time and only where that class can win; then the
        most probable class is taken. Without interpolation (``exact``) voxels are only permuted and flipped back.

        Args:
            probabilities: (C, k, j, i), background first, adding up to 1; any floating type and memory order.

        Returns:
            Values of ``values``, uint8 where they fit, else uint16, with exactly the input's geometry.
        """
        labels = self._permuted_back(probabilities) if self.exact else self._resampled_back(probabilities)
        labels.SetSpacing(self.input.spacing)
        labels.SetOrigin(self.input.origin)
        labels.SetDirection(self.input.direction)
        return labels

    @property
    def _table(self) -> np.ndarray:
        return np.array(self.values, dtype=np.uint8 if max(self.values) < 256 else np.uint16)

    def _permuted_back(self, probabilities: Tensor) -> sitk.Image:
        table = self._table
        array = np.zeros(self.whole.shape, dtype=table.dtype)
        inside = array[self.box]
        for k in range(len(inside)):  # slice by slice: indices take 8 bytes a voxel; argmax takes twice the time
            inside[k] = table[probabilities[:, k].max(0).indices.cpu().numpy()]
        code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(self.input.direction)
        return sitk.DICOMOrient(self.whole.image(array), code)

    def _resampled_back(self, probabilities: Tensor) -> sitk.Image:
        background = self.geometry.image(_float_array(probabilities[0]))
        best = sitk.GetArrayFromImage(self.input.resample(background, sitk.sitkLinear, outside=1.0))
        table = self._table
        labels = np.zeros(self.input.shape, dtype=table.dtype)
        for channel, box in enumerate(_boxes_above(probabilities, 1 / len(table))):
            if channel == 0 or box is None:
                continue
            part = self.geometry.cropped(box)
            there = self.input.box_of(part.corners())
            if any(side.stop == side.start for side in there):
                continue
            image = part.image(_float_array(probabilities[channel][box]))
            values = sitk.GetArrayFromImage(self.input.cropped(there).resample(image, sitk.sitkLinear))
            wins = values > best[there]
            best[there][wins] = values[wins]
            labels[there][wins] = table[channel]
        return self.input.image(labels)


def check_room_for_grid(image: sitk.Image, card: ModelCard) -> None:
    """Raise OutOfMemoryError if there is not enough memory to bring ``image`` to the grid of a model."""
    voxels = math.prod(image.GetSize())
    resampled = voxels * math.prod(image.GetSpacing()) / math.prod(card.spacing)
    # the grid of slices is the image's
    require_for_grid(voxels, voxels if card.takes_slices else max(resampled, 0.0))


def to_model_grid(image: sitk.Image, card: ModelCard) -> tuple[sitk.Image, ModelGrid]:
    """Bring ``image`` to the grid of a model.

    Args:
        image: a scalar volume as :func:`~SESegmentationLib.io.reading.check_volume` passes it.
        card: gives the spacing and the labels.

    Returns:
        The image on the grid, float32, in RAS orientation, covering all of the input; and the grid.
    """
    values = (0, *(label.value for label in card.labels))
    if card.takes_slices:  # slices are used pixel by pixel, as stored in the file
        plain = sitk.Cast(image, sitk.sitkFloat32)
        return plain, _grid(image, Geometry.of(plain), values, exact=True)
    oriented = sitk.DICOMOrient(sitk.Cast(image, sitk.sitkFloat32), "RAS")
    axes = RAS
    if _rotation_degrees(oriented) <= ALIGNED_DEGREES:
        axes = oriented.GetDirection()
        if all(abs(s / m - 1) <= FITTING_SPACING for s, m in zip(oriented.GetSpacing(), card.spacing, strict=True)):
            return oriented, _grid(image, Geometry.of(oriented), values, exact=True)
    geometry = covering(Geometry.of(image), card.spacing, axes)
    smallest = sitk.MinimumMaximumImageFilter()
    smallest.Execute(oriented)
    on_grid = geometry.resample(smoothed(oriented, card.spacing), sitk.sitkLinear, outside=smallest.GetMinimum())
    return on_grid, _grid(image, geometry, values, exact=False)


def is_thick(image: sitk.Image, card: ModelCard) -> bool:
    """Whether the slices of ``image`` are so thick that its own grid cannot show what the model finds."""
    if card.takes_slices:
        return False
    return any(s > THICK * m for s, m in zip(patient_spacing(image), card.spacing, strict=True))


def patient_spacing(image: sitk.Image) -> tuple[float, float, float]:
    """Voxel size in mm along right-left, posterior-anterior, inferior-superior."""
    # of a single voxel, because reorienting the whole volume takes time and memory
    return sitk.DICOMOrient(image[:1, :1, :1], "RAS").GetSpacing()


def on_model_grid(image: sitk.Image, card: ModelCard) -> sitk.Image:
    """``image`` resampled to the model's grid, with its metadata: a volume like any other."""
    resampled, _ = to_model_grid(image, card)
    for key in image.GetMetaDataKeys():
        resampled.SetMetaData(key, image.GetMetaData(key))
    return resampled


def on_grid_of(labels: Geometry, image: sitk.Image, card: ModelCard) -> sitk.Image:
    """``image`` on the grid that a segmentation of it has: its own, or the model's, where slices are thick."""
    if Geometry.of(image).shift_of(labels) is not None:
        return image
    resampled = on_model_grid(image, card)
    return image if Geometry.of(resampled).shift_of(labels) is None else resampled


def _grid(image: sitk.Image, geometry: Geometry, values: tuple[int, ...], exact: bool) -> ModelGrid:
    return ModelGrid(Geometry.of(image), geometry, values, exact, whole=geometry, box=whole_box(geometry.shape))


def _rotation_degrees(oriented: sitk.Image) -> float:
    """Angle of the rotation from the axes of an image in nearly RAS orientation to the patient's."""
    rotation = np.reshape(RAS, (3, 3)).T @ np.reshape(oriented.GetDirection(), (3, 3))
    return math.degrees(math.acos(np.clip((np.trace(rotation) - 1) / 2, -1, 1)))


def smoothed(oriented: sitk.Image, spacing: Sequence[float]) -> sitk.Image:
    """Blur along axes that are finer than ``spacing``, so that coarser sampling does not alias.

    The standard deviation is that which turns the finer voxel's point spread function into the coarser one's (Cardoso
    et al., MICCAI 2015, "Scale factor point spread function matching").
    """
    fine = np.array(oriented.GetSpacing())
    variance = np.maximum(np.square(spacing) - np.square(fine), 0) / (8 * math.log(2))
    variance[np.asarray(spacing) / fine < 1 + FITTING_SPACING] = 0
    return sitk.DiscreteGaussian(oriented, variance.tolist()) if variance.any() else oriented


def _boxes_above(probabilities: Tensor, threshold: float) -> list[Box | None]:
    """Per channel, the box of voxels at or above ``threshold``, grown by one voxel; None where there is no such voxel.

    The most probable of C classes has at least 1 / C, and an interpolated value exceeds no neighbour's: outside the box
    for 1 / C a class cannot win.
    """
    shape = probabilities.shape[1:]
    occupied = [np.zeros((len(probabilities), n), dtype=bool) for n in shape]
    for k in range(shape[0]):
        above = probabilities[:, k] >= threshold * (1 - 1e-3)  # half precision rounds
        rows, columns = above.any(2).cpu().numpy(), above.any(1).cpu().numpy()
        occupied[0][:, k] = rows.any(1)
        occupied[1] |= rows
        occupied[2] |= columns
    boxes: list[Box | None] = []
    for channel in range(len(probabilities)):
        filled = [np.flatnonzero(axis[channel]) for axis in occupied]
        if filled[0].size:
            boxes.append(grown(triple(slice(int(side[0]), int(side[-1]) + 1) for side in filled), 1, shape))
        else:
            boxes.append(None)
    return boxes


def _float_array(values: Tensor) -> np.ndarray:
    return values.float().contiguous().cpu().numpy()
