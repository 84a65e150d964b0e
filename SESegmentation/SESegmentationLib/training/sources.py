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
from .appearance import change_appearance, change_structures
from .dataset import box_round, find_cases, find_label_maps, load_case, load_label_map
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
        images: (N, thickness, H, W) float32; of volumetric views (N, 1, D, H, W).
        target: (N, H, W) int64, output channels of the centre slices; of volumetric views (N, D, H, W).
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

    def whole_volumes(
        self, generator: torch.Generator, group: str = "validation"
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """The cases of a group, each with its name: normalised image float32 and output channels uint8, (k, j, i)."""


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
    groups = _shuffled_groups(names, seed, together)
    parts = [_take(groups, count) for count in (test, validation, len(names))]
    return _checked(Split(training=parts[2], validation=parts[1], test=parts[0]), len(names))


def fold_of_cases(names: Sequence[str], validation: int, folds: int, fold: int, seed: int, together: str = "") -> Split:
    """The split of one fold of a cross-validation: every case is for test in exactly one of the ``folds``.

    Args: as :func:`split_cases`; ``fold`` counts from 0.

    Raises:
        InputError: a fold would have nothing for test, or nothing would be left for training.
    """
    groups = _shuffled_groups(names, seed, together)
    test = [name for group in groups[fold::folds] for name in group]
    rest = [group for index, group in enumerate(groups) if index % folds != fold]
    kept_out = _take(rest, validation)
    if not test:
        raise InputError(f"There are {len(names)} cases, too few for {folds} folds.", "Add cases, or use fewer folds.")
    return _checked(Split(training=_take(rest, len(names)), validation=kept_out, test=test), len(names))


def _shuffled_groups(names: Sequence[str], seed: int, together: str) -> list[list[str]]:
    """Cases that belong together, shuffled."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        match = re.match(together, name) if together else None
        groups.setdefault(match[1] if match else name, []).append(name)
    shuffled = list(groups)
    random.Random(seed).shuffle(shuffled)
    return [groups[key] for key in shuffled]


def _take(groups: list[list[str]], count: int) -> list[str]:
    """Remove groups from the front until there are ``count`` cases, and return these."""
    part: list[str] = []
    while groups and len(part) < count:
        part += groups.pop(0)
    return part


def _checked(split: Split, cases: int) -> Split:
    """``split``, which has to leave something for training."""
    if not split.training:
        raise InputError(
            f"There are {cases} cases, too few to keep out {len(split.validation)} for validation and "
            f"{len(split.test)} for test.",
            "Add cases, or keep out fewer in the recipe's [data].",
        )
    return split


def split_by_recipe(names: Sequence[str], recipe: Recipe) -> Split:
    """The split that a recipe's [data] asks for; InputError as :func:`split_cases`."""
    data = recipe.data
    if data.folds:
        return fold_of_cases(names, data.validation, data.folds, data.fold, data.split_seed, data.together)
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
        self._cases = cases
        self._banks = {group: self._bank(group) for group in ("training", "validation")}
        if not self._banks["training"].labels.any():
            raise InputError("The labels of all training cases are empty: there is nothing to learn.", "Add labels.")

    def _bank(self, group: str) -> VolumeBank | None:
        """The volumes of "training", "validation" or "test"; None where there are none."""
        cases = [self._cases[name] for name in getattr(self.split, group)]
        if not cases:
            return None
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
            look = self.recipe.look(views[0].volumetric)
            if look.structures or look.darkening:
                images = change_structures(images, slabs.labels, look, generator)
            images = change_appearance(images, look, generator)
        return as_batch(images, slabs.labels, slabs.planes, views, self.card)

    def class_counts(self) -> Tensor:
        return torch.bincount(self._banks["training"].labels.long(), minlength=len(self.card.labels) + 1)

    def whole_volumes(
        self, generator: torch.Generator, group: str = "validation"
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        bank = self._banks[group] if group in self._banks else self._bank(group)
        for index, name in enumerate(getattr(self.split, group)):
            slab = bank.whole(index)
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
        self.device = device
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
        self._maps, self._values, self._brain, self._mirrored = maps, priors.values, brain, mirrored
        self._banks = {group: self._bank(group) for group in ("training", "validation")}

    def _bank(self, group: str) -> VolumeBank | None:
        """The label maps of "training", "validation" or "test"; None where there are none."""
        names, spacing = getattr(self.split, group), self.card.spacing[::-1]
        labels = [load_label_map(self._maps[name], self._values, self.card) for name in names]
        for name, array in zip(names, labels, strict=True):
            if not self._brain[array].any():
                raise InputError(f"The label map {name} holds no structure to learn.", "Take it out of the folder.")
        focus = [box_round(self._brain[array], FOCUS_MARGIN_MM / np.array(spacing)) for array in labels]
        return VolumeBank(labels, None, spacing, self._mirrored, focus, self.device) if names else None

    def batch(self, views: Sequence[View], phase: Phase, generator: torch.Generator) -> Batch:
        return self._draw("training", views, phase, self.recipe.deformation, generator)

    def validation_batch(self, views: Sequence[View], phase: Phase, generator: torch.Generator) -> Batch:
        return self._draw("validation", views, phase, UPRIGHT, generator)

    def _draw(
        self, group: str, views: Sequence[View], phase: Phase, deformation: Deformation, generator: torch.Generator
    ) -> Batch:
        slabs = draw_slabs(self._banks[group], views, phase, deformation, self.recipe.fit.rare_share, generator)
        images, removed = self.synthesise(slabs, generator)
        images = change_appearance(images, self.recipe.look(views[0].volumetric), generator)
        # what was removed from the image cannot be found in it
        targets = torch.where(removed, 0, self.targets[slabs.labels.long()])
        return as_batch(images, targets, slabs.planes, views, self.card)

    def whole_volumes(
        self, generator: torch.Generator, group: str = "validation"
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        bank = self._banks[group] if group in self._banks else self._bank(group)
        for index, name in enumerate(getattr(self.split, group)):
            slab = bank.whole(index)
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
    """Slabs for ``views``, each view equally often; all as thick as the thickest view, or as the phase is deep."""
    stacks = views[0].volumetric
    return bank.draw(
        [view.plane for view in views],
        [1.0] * len(views),
        phase.batch,
        phase.depth if stacks else max(view.thickness for view in views),
        phase.size,
        phase.spacing,
        deformation,
        generator,
        rare_share,
        stacks,
    )


def as_batch(images: Tensor, labels: Tensor, planes: Tensor, views: Sequence[View], card: ModelCard) -> Batch:
    """Inputs and the centre slices' targets; left and right merged where the view asks for it."""
    merged = torch.tensor([view.merged for view in views], device=images.device)[planes]
    if views[0].volumetric:
        return Batch(images[:, None], merge_target(labels.long(), channel_pairs(card), merged), merged)
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
