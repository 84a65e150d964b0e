"""A cascade: one model, the locator, finds the targets; the model proper segments them in crops around them.

The card's "pipeline" names the locator ("locator") and, for each target, the locator's value for it, whether the crop
is mirrored from left to right for the networks (if they were trained on one side only), and the value in the result for
each of the model's own values. If the locator's label of a target has a side, so have its structures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import ModelError
from ..geometry import Box, Geometry, find_extents
from ..io.volume_image import voxels_of
from ..models import Label, ModelCard, ModelPackage, find_locator, locator_of
from ..models.store import PIPELINE_REMEDY
from .input_checks import expected_extent, extent_of
from .model_grid import ModelGrid

#: a volume counts as a crop up to this extent along every axis, in mm, if the card gives none
LARGEST_CROP_MM = 100.0


@dataclass(frozen=True)
class Target:
    """What the model proper is to segment in one crop.

    Attributes:
        name: shown to the user, for example "left hippocampus".
        located_as: the locator's value.
        mirrored: whether the networks see the crop mirrored.
        labels: the labels of the result, by the model's own values.
    """

    name: str
    located_as: int
    mirrored: bool
    labels: dict[int, Label]


@dataclass(frozen=True)
class Cascade:
    """A locator, and the targets that the model proper segments where the locator finds them.

    Attributes:
        locator: the model that locates.
        targets: what is segmented, each in a crop of its own.
        margin_mm: margin around what the locator finds.
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

    @classmethod
    def for_volume(cls, package: ModelPackage, image: sitk.Image, roi: sitk.Image | None = None) -> Cascade | None:
        """The cascade of a model; None if it has none, a region is given, or ``image`` is no larger than a crop.

        Raises:
            ModelError: the locator cannot be used.
        """
        if roi is not None or package.card.pipeline is None:
            return None
        expected = expected_extent(package.card)
        largest = LARGEST_CROP_MM if expected is None else expected[:, 1]
        lengths = np.minimum(extent_of(image), _edges_of(image))  # a turned crop reaches further than it is long
        return cls.of(package) if (lengths > largest).any() else None

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


def _edges_of(image: sitk.Image) -> np.ndarray:
    """Lengths (3,) in mm of a volume's edges, those nearest to right-left, posterior-anterior, inferior-superior."""
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    along = {letter: axis for axis, letters in enumerate(("LR", "PA", "SI")) for letter in letters}
    edges = np.zeros(3)
    edges[[along[letter] for letter in code]] = np.multiply(image.GetSize(), image.GetSpacing())
    return edges


def sought_structures(package: ModelPackage, image: sitk.Image, roi: sitk.Image | None = None) -> list[Label]:
    """The structures that a model looks for in ``image``; ModelError where its locator cannot be used."""
    cascade = Cascade.for_volume(package, image, roi)
    return cascade.structures if cascade else list(package.card.labels)


def possible_structures(card: ModelCard, folder: Path | None = None) -> list[tuple[int, Label]]:
    """Every structure that a model can return, and the model's own value for it; needs no torch.

    First those of the card, which a model with a pipeline finds in a crop; then those that it finds in a whole volume.
    These are missing where the locator cannot be used.

    Args:
        card: of the model.
        folder: the folder that holds its package, and perhaps that of the locator; None where unknown.
    """
    own = [(label.value, label) for label in card.labels]
    if card.pipeline is None:
        return own
    try:
        targets = plan_targets(card, locator_of(card, folder).card)
    except ModelError:  # whole volumes are refused then, crops are not
        return own
    return own + [entry for target in targets for entry in target.labels.items()]


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
    """The crop for each target, as a box of the model's grid: what the locator found, and ``margin_mm`` around it.

    None for a target that the locator did not find.
    """
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
