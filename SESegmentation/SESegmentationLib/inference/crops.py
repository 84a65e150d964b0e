"""Crops: the parts of a volume that the networks segment, each by itself; a cascade finds them by another model.

A whole volume is one crop, without the air round the patient; a region of interest is one; a cascade has one for each
of its targets. What crops give comes back to the grid of the input.

The card's "pipeline" says which model locates ("locator"), and of each target: the locator's value for it, whether the
crop is mirrored from left to right before the networks see it (which were trained on one side), and which value of the
result each of the model's own values becomes. If the locator's label of a target has a side, so have its structures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk
from torch import Tensor

from ..errors import InputError, ModelError
from ..geometry import Box, Geometry, find_extents, triple, whole_box
from ..io.volume_image import voxels_of
from ..models import Label, ModelCard, ModelPackage, find_locator
from ..models.store import PIPELINE_REMEDY
from .postprocess import divide
from .predictor import Predictor
from .preprocess import ModelGrid, normalise, to_model_grid
from .roi import box_of_pieces, foreground_box, inside, region_box
from .views import PLANE_AXIS

#: of a head's slices, one in so many is segmented to find the brain
FOCUS_STEP = 5


@dataclass(frozen=True)
class Crop:
    """A box of a model's grid that its networks segment.

    Attributes:
        grid: the grid over the box.
        volume: (k, j, i) float32, normalised, as the networks see it.
        mirrored: whether they see it mirrored from left to right.
        values: the result's value of each of the model's own values.
        region: box outside of which nothing is found, or None.
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
        # crops are normalised by themselves, as they were in training; whole volumes as a whole
        self._separately = card.input.get("kind") == "crop"
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
        """The whole volume; where it is large, the patient in it, and of a head the brain."""
        if self._separately:
            return self._crop(whole_box(self._array.shape))
        box = foreground_box(self._array, self._grid.geometry.spacing, self._card.margin_mm)
        return self._crop(self._focused(box, predictor) if self._card.input.get("kind") == "head" else box)

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
        """The part of ``box`` round what is found in a few slices: about what training slices show.

        That is not only faster: cSE blocks squeeze the whole slice, so what lies round the brain affects it.
        """
        view = predictor.best_view()
        steps = [FOCUS_STEP if axis == PLANE_AXIS[view.plane] else 1 for axis in range(3)]
        margin = [round(self._card.margin_mm / length) for length in reversed(self._grid.geometry.spacing)]
        part = self._array[box]
        found = box_of_pieces(predictor.find(part, FOCUS_STEP), steps, margin, part.shape)
        if found is None:
            return box
        return triple(slice(a.start + b.start, a.start + b.stop) for a, b in zip(box, found, strict=True))


@dataclass(frozen=True)
class Target:
    """What the model proper is to segment in one crop.

    Attributes:
        name: for people, for example "left hippocampus".
        located_as: the locator's value.
        mirrored: whether the networks see the crop mirrored.
        labels: by the model's own value, the label of the result.
    """

    name: str
    located_as: int
    mirrored: bool
    labels: dict[int, Label]


@dataclass(frozen=True)
class Cascade:
    """A locator, and what the model proper segments where that finds it.

    Attributes:
        locator: the model that locates.
        targets: what is segmented, each in a crop of its own.
        margin_mm: round what the locator finds.
    """

    locator: ModelPackage
    targets: list[Target]
    margin_mm: float

    @classmethod
    def of(cls, package: ModelPackage) -> Cascade:
        """The cascade of a package whose card has a pipeline; ModelError where its locator cannot be used."""
        locator = find_locator(package)
        margin_mm = float((package.card.pipeline or {}).get("margin_mm", package.card.margin_mm))
        return cls(locator, plan_targets(package.card, locator.card), margin_mm)

    @property
    def structures(self) -> list[Label]:
        """Every structure of the result."""
        return [label for target in self.targets for label in target.labels.values()]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Values (left, right) of the result's structures that are each other's counterpart."""
        return sided_pairs(self.targets)

    def boxes(self, located: sitk.Image, grid: ModelGrid) -> list[Box | None]:
        """The crop for each target on the model's grid, see :func:`locate_targets`."""
        return locate_targets(self.targets, located, grid, self.margin_mm)


def plan_targets(card: ModelCard, locator: ModelCard) -> list[Target]:
    """The targets of a card's pipeline.

    Raises:
        ModelError: the pipeline does not suit the card or the locator.
    """
    try:
        targets = []
        for entry in (card.pipeline or {})["targets"]:
            found_as = locator.label(int(entry["locator_value"]))
            labels = _labels(card, entry["values"], found_as)
            targets.append(Target(found_as.name, found_as.value, bool(entry.get("mirror")), labels))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"The pipeline of the model {card.name} does not suit its labels or those of {locator.name}: {error!r}.",
            PIPELINE_REMEDY,
        ) from error
    return targets


def locate_targets(
    targets: Sequence[Target], located: sitk.Image, grid: ModelGrid, margin_mm: float
) -> list[Box | None]:
    """The crop for each target on the model's grid: round what the locator found, with a margin; None for nothing."""
    extents = find_extents(voxels_of(located), [target.located_as for target in targets])
    geometry = Geometry.of(located)
    boxes = [extents[target.located_as].box for target in targets]
    return [box and grid.geometry.box_of(geometry.cropped(box).corners(), margin_mm) for box in boxes]


def sided_pairs(targets: Sequence[Target]) -> list[tuple[int, int]]:
    """Values (left, right) of the result's structures that are each other's counterpart."""
    sides: dict[int, dict[str, int]] = {}
    for target in targets:
        for own, label in target.labels.items():
            if label.modifier:
                sides.setdefault(own, {})[label.modifier.meaning.lower()] = label.value
    return [(side["left"], side["right"]) for side in sides.values() if {"left", "right"} <= side.keys()]


def _labels(card: ModelCard, values: Mapping[str, Any], found_as: Label) -> dict[int, Label]:
    labels = {}
    for own, value in values.items():
        label = replace(card.label(int(own)), value=int(value))
        if found_as.modifier and not label.modifier:
            name = f"{found_as.modifier.meaning.lower()} {label.name}"
            label = replace(label, name=name, modifier=found_as.modifier)
        labels[int(own)] = label
    return labels
