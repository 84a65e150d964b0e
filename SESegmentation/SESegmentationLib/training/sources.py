"""Where training examples come from: a folder of labelled images, or label maps from which images are synthesised.

A source hands out batches of network inputs and targets; it knows nothing of networks or optimisers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, UsageError
from ..inference.intensity import normalise
from ..models.card import ModelCard, View
from ..models.terminology import LEFT, RIGHT
from .appearance import change_appearance
from .dataset import Case, box_round, find_cases, find_label_maps, load_case, load_label_map
from .losses import merge_target
from .recipe import Phase, Recipe
from .slabs import Deformation, Slabs, VolumeBank
from .synthesis import ImageSynthesiser, TissuePriors

#: no deformation at all, for validation
UPRIGHT = Deformation(rotation_degrees=0, scale=0, elastic_mm=(0, 0), shift_mm=0, mirror=False)
#: slices are drawn up to this far outside the brain, in mm
FOCUS_MARGIN_MM = 25.0


@dataclass(frozen=True)
class Batch:
    """What one optimiser step sees.

    Attributes:
        images: (N, thickness, H, W) float32.
        target: (N, H, W) int64, output channels of the centre slices.
        merged: (N,) bool, images whose view does not distinguish left from right.
    """

    images: Tensor
    target: Tensor
    merged: Tensor


class Source(Protocol):
    """Hands out batches for the views of one network."""

    def batch(self, views: Sequence[View], phase: Phase, generator: torch.Generator) -> Batch:
        """A random, deformed batch of training cases."""

    def validation_batch(self, views: Sequence[View], phase: Phase, generator: torch.Generator) -> Batch:
        """A batch of validation cases, not deformed."""

    def class_counts(self) -> Tensor:
        """Voxels per output channel among the training cases."""

    def whole_volumes(self, generator: torch.Generator) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """The validation cases, each with its name: normalised image float32 and output channels uint8, (k, j, i)."""


@dataclass(frozen=True)
class Split:
    """Names of the cases for training, validation and test."""

    training: list[str]
    validation: list[str]
    test: list[str]


def split_cases(names: Sequence[str], validation: int, test: int, seed: int, together: str = "") -> Split:
    """Shuffle by ``seed`` and split; the same names and seed give the same split anywhere.

    Cases that belong ``together`` (see :class:`~SESegmentationLib.training.recipe.Data`) stay so: then there may be
    more for validation and test than asked for.

    Raises:
        InputError: nothing would be left for training.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        match = re.match(together, name) if together else None
        groups.setdefault(match[1] if match else name, []).append(name)
    shuffled = list(groups)
    random.Random(seed).shuffle(shuffled)
    parts: list[list[str]] = []
    for count in (test, validation, len(names)):
        part: list[str] = []
        while shuffled and len(part) < count:
            part += groups[shuffled.pop(0)]
        parts.append(part)
    if not parts[2]:
        raise InputError(
            f"There are {len(names)} cases, too few to keep out {validation} for validation and {test} for test.",
            "Add cases, or keep out fewer in the recipe's [data].",
        )
    return Split(training=parts[2], validation=parts[1], test=parts[0])


def split_by_recipe(names: Sequence[str], recipe: Recipe) -> Split:
    """The split that a recipe's [data] asks for; InputError as :func:`split_cases`."""
    data = recipe.data
    return split_cases(names, data.validation, data.test, data.split_seed, data.together)


class FolderSource:
    """Labelled images in nnU-Net's folder layout.

    Args:
        dataset: folder with ``imagesTr`` and ``labelsTr``.
        recipe: what to train.
        card: the model's grid, labels and intensities.
        device: where batches are made.

    Raises:
        InputError: the folder has no usable cases, or too few.
        UsageError: the recipe mirrors labels of one side without naming those of the other.
    """

    def __init__(self, dataset: Path, recipe: Recipe, card: ModelCard, device: torch.device) -> None:
        cases = {case.name: case for case in find_cases(dataset)}
        self.split = split_by_recipe(list(cases), recipe)
        self.recipe = recipe
        self.card = card
        self.device = device
        self._mirrored = mirror_table(card, recipe)
        self._banks = {
            name: self._bank([cases[case] for case in group]) if group else None
            for name, group in (("training", self.split.training), ("validation", self.split.validation))
        }
        if not self._banks["training"].labels.any():
            raise InputError("The labels of all training cases are empty: there is nothing to learn.", "Add labels.")

    def _bank(self, cases: Sequence[Case]) -> VolumeBank:
        images, labels = zip(*(load_case(case, self.card) for case in cases), strict=True)
        return VolumeBank(labels, images, self.card.spacing[::-1], self._mirrored, device=self.device)

    def batch(self, views: Sequence[View], phase: Phase, generator: torch.Generator) -> Batch:
        return self._draw("training", views, phase, self.recipe.deformation, generator)

    def validation_batch(self, views: Sequence[View], phase: Phase, generator: torch.Generator) -> Batch:
        return self._draw("validation", views, phase, UPRIGHT, generator)

    def _draw(
        self, group: str, views: Sequence[View], phase: Phase, deformation: Deformation, generator: torch.Generator
    ) -> Batch:
        slabs = draw_slabs(self._banks[group], views, phase, deformation, self.recipe.fit.rare_share, generator)
        images = slabs.images
        if group == "training":
            images = change_appearance(images, self.recipe.appearance, generator)
        return as_batch(images, slabs.labels, slabs.planes, views, self.card)

    def class_counts(self) -> Tensor:
        return torch.bincount(self._banks["training"].labels.long(), minlength=len(self.card.labels) + 1)

    def whole_volumes(self, generator: torch.Generator) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for index, name in enumerate(self.split.validation):
            slab = self._banks["validation"].whole(index)
            yield name, slab.images[0].cpu().numpy(), slab.labels[0].cpu().numpy()


class SynthesisSource:
    """Images synthesised from label maps, new ones at every step.

    Args: as :class:`FolderSource`; ``dataset`` holds label maps and a folder of tissue priors.

    Raises:
        InputError: maps or priors are missing or cannot be used.
        UsageError: the recipe names labels that the priors do not know.
    """

    def __init__(self, dataset: Path, recipe: Recipe, card: ModelCard, device: torch.device) -> None:
        maps = find_label_maps(dataset)
        self.split = split_by_recipe(list(maps), recipe)
        priors = TissuePriors.from_folder(dataset / recipe.data.priors)
        self.recipe = recipe
        self.card = card
        channels = channels_by_value(card)
        fluid = np.isin(priors.values, recipe.data.fluid_values)
        learnt = np.where(fluid, priors.values, priors.targets)
        _check_known(channels, learnt, "The recipe's labels")
        targets = np.array([channels.get(int(value), 0) for value in learnt])
        self.targets = torch.as_tensor(targets, device=device)
        brain = (targets > 0) & ~fluid
        self.synthesise = ImageSynthesiser(priors, recipe.synthesis, brain, fluid, device)
        positions = {int(value): position for position, value in enumerate(priors.values)}
        _check_known([value for pair in recipe.data.mirrored_pairs for value in pair], positions, "mirrored_pairs")
        mirrored = exchanged((positions[left], positions[right]) for left, right in recipe.data.mirrored_pairs)
        spacing = card.spacing[::-1]
        self._banks: dict[str, VolumeBank | None] = {}
        for name, group in (("training", self.split.training), ("validation", self.split.validation)):
            labels = [load_label_map(maps[case], priors.values, card) for case in group]
            for case, array in zip(group, labels, strict=True):
                if not brain[array].any():
                    raise InputError(f"The label map {case} holds no structure to learn.", "Take it out of the folder.")
            focus = [box_round(brain[array], FOCUS_MARGIN_MM / np.array(spacing)) for array in labels]
            self._banks[name] = VolumeBank(labels, None, spacing, mirrored, focus, device) if group else None

    def batch(self, views: Sequence[View], phase: Phase, generator: torch.Generator) -> Batch:
        return self._draw("training", views, phase, self.recipe.deformation, generator)

    def validation_batch(self, views: Sequence[View], phase: Phase, generator: torch.Generator) -> Batch:
        return self._draw("validation", views, phase, UPRIGHT, generator)

    def _draw(
        self, group: str, views: Sequence[View], phase: Phase, deformation: Deformation, generator: torch.Generator
    ) -> Batch:
        slabs = draw_slabs(self._banks[group], views, phase, deformation, self.recipe.fit.rare_share, generator)
        images, removed = self.synthesise(slabs, generator)
        images = change_appearance(images, self.recipe.appearance, generator)
        # what was removed from the image cannot be found in it
        targets = torch.where(removed, 0, self.targets[slabs.labels.long()])
        return as_batch(images, targets, slabs.planes, views, self.card)

    def whole_volumes(self, generator: torch.Generator) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for index, name in enumerate(self.split.validation):
            slab = self._banks["validation"].whole(index)
            images, removed = self.synthesise(slab, generator)
            images = change_appearance(images, self.recipe.appearance, generator)
            targets = torch.where(removed, 0, self.targets[slab.labels.long()])
            image = normalise(images[0].cpu().numpy(), self.card.intensity)
            yield name, image, targets[0].to(torch.uint8).cpu().numpy()

    def class_counts(self) -> Tensor:
        counts = torch.bincount(self._banks["training"].labels.long(), minlength=len(self.targets))
        total = torch.zeros(len(self.card.labels) + 1, dtype=counts.dtype, device=counts.device)
        return total.index_add(0, self.targets, counts[: len(self.targets)])


SOURCES = {"folder": FolderSource, "label-maps": SynthesisSource}


def open_source(dataset: Path, recipe: Recipe, card: ModelCard, device: torch.device) -> FolderSource | SynthesisSource:
    """The source a recipe asks for, loaded into memory.

    Raises:
        InputError: the folder has no usable cases.
    """
    return SOURCES[recipe.data.source](dataset, recipe, card, device)


def draw_slabs(
    bank: VolumeBank,
    views: Sequence[View],
    phase: Phase,
    deformation: Deformation,
    rare_share: float,
    generator: torch.Generator,
) -> Slabs:
    """Slabs for ``views``, each view equally often; all as thick as the thickest view."""
    return bank.draw(
        [view.plane for view in views],
        [1.0] * len(views),
        phase.batch,
        max(view.thickness for view in views),
        phase.size,
        phase.spacing,
        deformation,
        generator,
        rare_share,
    )


def as_batch(images: Tensor, labels: Tensor, planes: Tensor, views: Sequence[View], card: ModelCard) -> Batch:
    """Inputs and the centre slices' targets; left and right merged where the view asks for it."""
    merged = torch.tensor([view.merged for view in views], device=images.device)[planes]
    target = labels[:, labels.shape[1] // 2].long()
    return Batch(images, merge_target(target, channel_pairs(card), merged), merged)


def channels_by_value(card: ModelCard) -> dict[int, int]:
    """The output channel of each label value, background left out."""
    return {label.value: channel for channel, label in enumerate(card.labels, start=1)}


def channel_pairs(card: ModelCard) -> list[tuple[int, int]]:
    """The output channels (left, right) of the card's merged pairs."""
    channels = channels_by_value(card)
    return [(channels[left], channels[right]) for left, right in card.merged_pairs]


def mirror_table(card: ModelCard, recipe: Recipe) -> np.ndarray:
    """The output channel that each channel becomes in a mirror, (256,) uint8.

    Raises:
        UsageError: volumes are mirrored, but a label of one side has no other side, or a pair no label.
    """
    channels = channels_by_value(card)
    pairs = {*card.merged_pairs, *recipe.data.mirrored_pairs}
    _check_known([value for pair in pairs for value in pair], channels, "mirrored_pairs")
    table = exchanged((channels[left], channels[right]) for left, right in pairs)
    for channel, label in enumerate(card.labels, start=1):
        sided = label.modifier is not None and label.modifier.value in (LEFT.value, RIGHT.value)
        if recipe.deformation.mirror and sided and table[channel] == channel:
            raise UsageError(
                f"In a mirror the label {label.name!r} becomes that of the other side, which the recipe does not name.",
                "Add both to mirrored_pairs in [data], or set mirror = false in [deformation].",
            )
    return table


def exchanged(pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """Table (256,) uint8 of the numbers below 256 in which each pair changes places."""
    table = np.arange(256, dtype=np.uint8)
    for left, right in pairs:
        table[left], table[right] = right, left
    return table


def _check_known(values: Iterable[int], known: Iterable[int], where: str) -> None:
    unknown = sorted(set(values) - {int(value) for value in known})
    if unknown:
        raise UsageError(f"{where}: there is no label {', '.join(map(str, unknown))} to learn.", "Correct the recipe.")
