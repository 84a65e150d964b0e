"""Crops: the parts of a volume that the networks segment, each by itself; in a cascade another model finds them.

A whole volume without the surrounding air is one crop, so is a region of interest; a cascade has one for each target.
The results of crops are brought back to the input's grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from torch import Tensor

from ..errors import InputError
from ..geometry import Box, Geometry, placed, whole_box
from ..models import ModelCard
from .cascade import Cascade, Target
from .dividing_plane import divide
from .intensity import normalise
from .model_grid import ModelGrid, to_model_grid
from .predictor import Predictor
from .roi import box_of_pieces, foreground_box, inside, region_box
from .views import PLANE_AXIS

#: to find the brain, only every FOCUS_STEP-th slice of a head is segmented
FOCUS_STEP = 5


@dataclass(frozen=True)
class Crop:
    """A box of a model's grid that its networks segment.

    Attributes:
        grid: the grid over the box.
        volume: (k, j, i) float32, normalised, as the networks see it.
        mirrored: whether they see it mirrored from left to right.
        values: the result's value of each of the model's own values.
        region: box outside of which the results are discarded, or None.
    """

    grid: ModelGrid
    volume: np.ndarray
    mirrored: bool
    values: dict[int, int]
    region: Geometry | None = None

    def labels_on_input(self, probabilities: Tensor, card: ModelCard) -> sitk.Image:
        """The label map on the input's grid, of the model's own values, from probabilities (C, k, j, i) of the crop."""
        labels = self.grid.from_model_grid(divide(probabilities.flip(-1) if self.mirrored else probabilities, card))
        if self.region is None:
            return labels
        return self.grid.input.image(self._limited(sitk.GetArrayFromImage(labels)))

    def intensities(self, image: sitk.Image) -> np.ndarray:
        """Those of the whole volume ``image`` in the crop, (k, j, i) as ``volume``, before normalisation clips them."""
        array = self.grid.image_to_grid(image)
        return array[..., ::-1] if self.mirrored else array

    def on_input(self, values: np.ndarray) -> np.ndarray:
        """Values (k, j, i) of the crop at the input's voxels, interpolated linearly, 0 outside of it."""
        return self._limited(self.grid.to_input(values[..., ::-1] if self.mirrored else values))

    def _limited(self, array: np.ndarray) -> np.ndarray:
        if self.region is not None:
            array[~inside(self.region, self.grid.input)] = 0
        return array


class CropPlanner:
    """Brings a volume to a model's grid and cuts crops out of it.

    Args:
        image: a volume that was checked.
        card: of the model.
    """

    def __init__(self, image: sitk.Image, card: ModelCard) -> None:
        on_grid, self._grid = to_model_grid(image, card)
        self._card = card
        # for models of crops each crop is normalised by itself, as in training; else the whole volume
        self._separately = card.input_kind == "crop"
        array = sitk.GetArrayFromImage(on_grid)
        self._array = array if self._separately else normalise(array, card.intensity)

    def region(self, roi: sitk.Image) -> Crop:
        """A region of interest, and the card's margin round it.

        Raises:
            InputError: it is empty, or outside the volume.
        """
        region = region_box(roi)
        box = self._grid.geometry.box_of(region.corners(), self._card.margin_mm)
        if not inside(region, self._grid.input).any() or not self._array[box].size:
            raise InputError(
                "The region of interest lies outside the volume.", "Draw it on this volume, without a transform."
            )
        return self._crop(box, region=region)

    def whole(self, predictor: Predictor) -> Crop:
        """The whole volume; of a large one only the patient, and of a head only the brain."""
        if self._separately:
            return self._crop(whole_box(self._array.shape))
        box = foreground_box(self._array, self._grid.geometry.spacing, self._card.margin_mm)
        return self._crop(self._focused(box, predictor) if self._card.input_kind == "head" else box)

    def targets(self, cascade: Cascade, located: sitk.Image) -> list[Crop | None]:
        """A crop for each target of a cascade; None where the locator did not find it.

        Args:
            cascade: of the model.
            located: what its locator found.
        """
        return [
            None if box is None else self._crop(box, target)
            for target, box in zip(cascade.targets, cascade.boxes(located, self._grid), strict=True)
        ]

    def _crop(self, box: Box, target: Target | None = None, region: Geometry | None = None) -> Crop:
        volume = self._array[box]
        if self._separately:
            volume = normalise(volume, self._card.intensity)
        if target is None:
            values = {label.value: label.value for label in self._card.labels}
            return Crop(self._grid.cropped(box), volume, False, values, region)
        values = {own: label.value for own, label in target.labels.items()}
        return Crop(self._grid.cropped(box), volume[..., ::-1] if target.mirrored else volume, target.mirrored, values)

    def _focused(self, box: Box, predictor: Predictor) -> Box:
        """The part of ``box`` around what is found in a few slices, about the field of view of training slices.

        This is not only faster: cSE blocks average over the whole slice, so the surroundings of the brain affect its
        result.
        """
        view = predictor.best_view()
        steps = [FOCUS_STEP if axis == PLANE_AXIS[view.plane] else 1 for axis in range(3)]
        margin = [round(self._card.margin_mm / length) for length in reversed(self._grid.geometry.spacing)]
        part = self._array[box]
        found = box_of_pieces(predictor.find(part, FOCUS_STEP), steps, margin, part.shape)
        if found is None:
            return box
        return placed(found, box)
