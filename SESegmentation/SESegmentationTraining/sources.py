"""Where training examples come from: a folder of labelled images, or label maps from which images are synthesised.

A source hands out batches of network inputs and targets; it knows nothing of networks or optimisers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from SESegmentationLib.errors import InputError, UsageError
from SESegmentationLib.inference.intensity import normalise
from SESegmentationLib.inference.views import other_sides
from SESegmentationLib.models.card import ModelCard, View
from SESegmentationLib.models.labels import LEFT, RIGHT
from SESegmentationLib.networks.losses import merge_target
from SESegmentationLib.progress import Progress, no_progress

from .dataset import box_round, find_cases, find_label_maps, load_case, load_label_map, split_by_recipe
from .distillation import Teacher
from .recipe import Phase, Recipe
from .slabs import Deformation, Slabs, VolumeBank
from .synthesis import ImageSynthesiser, TissuePriors
from .transforms import augment_intensity, augment_structures, enlarge_ventricles, random_anisotropy

#: no deformation at all, for validation
UNDEFORMED = Deformation(rotation_degrees=0, scale=0, elastic_mm=(0, 0), shift_mm=0, mirror=False)
#: slices are drawn up to this far outside the brain, in mm
FOCUS_MARGIN_MM = 25.0
#: slices on each side that thick slices across the image are averaged over
THICK_MARGIN = 4
#: FreeSurfer's values of lateral and third ventricles, which may be drawn larger than they are
VENTRICLES = (4, 43, 14)


@dataclass(frozen=True)
class Batch:
    """What one optimiser step sees.

    Attributes:
        images: (N, thickness, H, W) float32; of volumetric views (N, 1, D, H, W).
        target: (N, H, W) int64, output channels of the centre slices; of volumetric views (N, D, H, W).
        merged: (N,) bool, images whose view does not distinguish left from right.
        soft_target: (N, C, H, W), of volumetric views (N, C, D, H, W): the target with a teacher's probabilities in it;
            None without a teacher.
    """

    images: Tensor
    target: Tensor
    merged: Tensor
    soft_target: Tensor | None = None


class Source(ABC):
    """Hands out batches for the views of one network.

    Attributes:
        split: the cases by what they are for.
        recipe: what to train.
        card: the model's grid, labels and intensities.
        device: where batches are made.
    """

    def __init__(self, cases: Iterable[str], recipe: Recipe, card: ModelCard, device: torch.device) -> None:
        self.split = split_by_recipe(list(cases), recipe)
        self.recipe = recipe
        self.card = card
        self.device = device
        self._banks: dict[str, VolumeBank] = {}

    def _load(self, *groups: str) -> None:
        """Read the cases of "training", "validation" or "test", where there are any and they are not there yet."""
        for group in groups:
            if group not in self._banks and (names := getattr(self.split, group)):
                self._banks[group] = self._bank(names)

    @abstractmethod
    def _bank(self, names: Sequence[str]) -> VolumeBank:
        """The volumes of the cases of these names, at least one."""

    def batch(self, views: Sequence[View], phase: Phase, generator: torch.Generator) -> Batch:
        """A random, deformed batch of training cases."""
        return self._draw("training", views, phase, self.recipe.deformation, generator)

    def validation_batch(self, views: Sequence[View], phase: Phase, generator: torch.Generator) -> Batch:
        """A batch of validation cases, not deformed."""
        return self._draw("validation", views, phase, UNDEFORMED, generator)

    @abstractmethod
    def _draw(
        self, group: str, views: Sequence[View], phase: Phase, deformation: Deformation, generator: torch.Generator
    ) -> Batch:
        """A random batch of the cases for "training" or "validation"."""

    @abstractmethod
    def class_counts(self) -> Tensor:
        """Voxels per output channel among the training cases."""

    def whole_volumes(
        self, generator: torch.Generator, group: str = "validation"
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """The cases of a group, each with its name: normalised image float32 and output channels uint8, (k, j, i)."""
        self._load(group)
        for index, name in enumerate(getattr(self.split, group)):
            yield name, *self._whole(self._banks[group].whole(index), generator)

    @abstractmethod
    def _whole(self, slab: Slabs, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Image and output channels of a whole volume, as :meth:`whole_volumes` gives them."""


class FolderSource(Source):
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
        super().__init__(cases, recipe, card, device)
        self._mirrored = mirror_table(card, recipe)
        self._cases = cases
        self._load("training", "validation")
        if not self._banks["training"].labels.any():
            raise InputError("The labels of all training cases are empty: there is nothing to learn.", "Add labels.")

    def _bank(self, names: Sequence[str]) -> VolumeBank:
        images, labels = zip(*(load_case(self._cases[name], self.card) for name in names), strict=True)
        return VolumeBank(labels, images, self.card.spacing[::-1], self._mirrored, device=self.device)

    def _draw(
        self, group: str, views: Sequence[View], phase: Phase, deformation: Deformation, generator: torch.Generator
    ) -> Batch:
        slabs = draw_slabs(self._banks[group], views, phase, deformation, self.recipe.fit.rare_share, generator)
        images = slabs.intensities
        if group == "training":
            augmentation = self.recipe.augmentation_of(views[0].network)
            if augmentation.structures or augmentation.darkening:
                images = augment_structures(images, slabs.labels, augmentation, generator)
            images = augment_intensity(images, augmentation, generator)
        batch = as_batch(images, slabs.labels, slabs.planes, views, self.card)
        if slabs.soft_targets is None:
            return batch
        return replace(
            batch, soft_target=mixed_with_labels(batch, slabs.soft_targets, self.recipe.teacher.share, self.card)
        )

    def distil(self, teacher: Teacher, progress: Progress = no_progress) -> None:
        """Add the teacher's probabilities for the training cases to the targets."""
        images = [image for _, image, _ in self.whole_volumes(torch.Generator(), "training")]
        self._banks["training"].set_soft_targets(teacher.soft_targets(images, progress))

    def class_counts(self) -> Tensor:
        return torch.bincount(self._banks["training"].labels.long(), minlength=len(self.card.labels) + 1)

    def _whole(self, slab: Slabs, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        return slab.intensities[0].cpu().numpy(), slab.labels[0].cpu().numpy()


class SynthesisSource(Source):
    """Images synthesised from label maps, new ones at every step.

    Args: as :class:`FolderSource`; ``dataset`` holds label maps and a folder of tissue priors.

    Raises:
        InputError: maps or priors are missing or cannot be used.
        UsageError: the recipe names labels that the priors do not know.
    """

    def __init__(self, dataset: Path, recipe: Recipe, card: ModelCard, device: torch.device) -> None:
        maps = find_label_maps(dataset)
        super().__init__(maps, recipe, card, device)
        listed = [value for contrast in recipe.synthesis.contrasts for value, *_ in contrast.means]
        priors = TissuePriors.from_folder(dataset / recipe.data.priors)
        _check_known(listed, priors.values.tolist(), "The contrasts' labels")
        priors = priors.with_own_classes(listed, recipe.data.mirrored_pairs)
        channels = card.channels
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
        ventricles = {value: positions[value] for value in VENTRICLES if value in positions}
        self._ventricle = torch.as_tensor([ventricles.get(int(value), 0) for value in priors.values], device=device)
        self._maps, self._values, self._brain, self._mirrored = maps, priors.values, brain, mirrored
        self._load("training", "validation")
        self._dataset = dataset

    @cached_property
    def _scans(self) -> VolumeBank:
        """The real scans, read when they are first shown: measuring needs none."""
        folder = self._dataset / self.recipe.data.scans
        images, labels = zip(*(load_case(case, self.card) for case in find_cases(folder)), strict=True)
        return VolumeBank(
            labels, images, self.card.spacing[::-1], exchanged(self.card.channel_pairs), device=self.device
        )

    def _bank(self, names: Sequence[str]) -> VolumeBank:
        spacing = self.card.spacing[::-1]
        labels = [load_label_map(self._maps[name], self._values, self.card) for name in names]
        for name, array in zip(names, labels, strict=True):
            if not self._brain[array].any():
                raise InputError(f"The label map {name} holds no structure to learn.", "Take it out of the folder.")
        focus = [box_round(self._brain[array], FOCUS_MARGIN_MM / np.array(spacing)) for array in labels]
        return VolumeBank(labels, None, spacing, self._mirrored, focus, self.device)

    def _draw(
        self, group: str, views: Sequence[View], phase: Phase, deformation: Deformation, generator: torch.Generator
    ) -> Batch:
        share = self.recipe.data.scans_share if group == "training" else 0.0
        if share and torch.rand((), generator=generator) < share:
            return self._draw_scans(views, phase, deformation, generator)
        settings, rare_share = self.recipe.synthesis, self.recipe.fit.rare_share
        # half of the thick slices lie across the image: these need the slices around
        across = bool(settings.thick_share) and bool(torch.rand((), generator=generator) < settings.thick_share / 2)
        margin = THICK_MARGIN if across else 0
        slabs = draw_slabs(self._banks[group], views, phase, deformation, rare_share, generator, margin)
        if settings.large_ventricles:
            white_matter = self.synthesise.white_matter
            grown = enlarge_ventricles(
                slabs.labels, self._ventricle, white_matter, settings.large_ventricles, generator
            )
            slabs = replace(slabs, labels=grown)
        thickness = slabs.labels.shape[1] - 2 * margin
        images, removed = self.synthesise(slabs, generator, thickness)
        images = augment_intensity(images, self.recipe.augmentation_of(views[0].network), generator)
        labels = slabs.labels[:, margin : margin + thickness].long()
        # what was removed from the image cannot be found in it
        targets = torch.where(removed, 0, self.targets[labels])
        return as_batch(images, targets, slabs.planes, views, self.card)

    def _draw_scans(
        self, views: Sequence[View], phase: Phase, deformation: Deformation, generator: torch.Generator
    ) -> Batch:
        """A batch of real scans."""
        slabs = draw_slabs(self._scans, views, phase, deformation, self.recipe.fit.rare_share, generator)
        images, augmentation = slabs.intensities, self.recipe.scans_augmentation
        if augmentation is None:
            settings, augmentation = self.recipe.synthesis, self.recipe.augmentation_of(views[0].network)
            images = random_anisotropy(images, settings.thick_share, settings.thickest, generator)
        images = augment_intensity(images, augmentation, generator)
        return as_batch(images, slabs.labels, slabs.planes, views, self.card)

    def _whole(self, slab: Slabs, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        images, removed = self.synthesise(slab, generator)
        images = augment_intensity(images, self.recipe.augmentation, generator)
        targets = torch.where(removed, 0, self.targets[slab.labels.long()])
        return normalise(images[0].cpu().numpy(), self.card.intensity), targets[0].to(torch.uint8).cpu().numpy()

    def class_counts(self) -> Tensor:
        counts = torch.bincount(self._banks["training"].labels.long(), minlength=len(self.targets))
        total = torch.zeros(len(self.card.labels) + 1, dtype=counts.dtype, device=counts.device)
        return total.index_add(0, self.targets, counts[: len(self.targets)])


SOURCES = {"folder": FolderSource, "label-maps": SynthesisSource}


def open_source(dataset: Path, recipe: Recipe, card: ModelCard, device: torch.device) -> Source:
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
    margin: int = 0,
) -> Slabs:
    """Slabs for ``views``, each view equally often; all as thick as the thickest view, or as the phase is deep.

    Args:
        margin: slices more on each side.
    """
    stacks = views[0].volumetric
    return bank.draw(
        [view.plane for view in views],
        [1.0] * len(views),
        phase.batch,
        (phase.depth if stacks else max(view.thickness for view in views)) + 2 * margin,
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
        return Batch(images[:, None], merge_target(labels.long(), card.channel_pairs, merged), merged)
    target = labels[:, labels.shape[1] // 2].long()
    return Batch(images, merge_target(target, card.channel_pairs, merged), merged)


def mixed_with_labels(batch: Batch, soft_targets: Tensor, share: float, card: ModelCard) -> Tensor:
    """The target of a batch as probabilities, ``share`` of them a teacher's.

    Args:
        soft_targets: (N, C - 1, D, H, W), see :class:`.slabs.Slabs`.

    Returns:
        (N, C, H, W), of volumetric views (N, C, D, H, W).
    """
    merged = batch.merged[:, None, None, None]
    for left, right in card.channel_pairs:
        both = soft_targets[:, left - 1] + soft_targets[:, right - 1]
        soft_targets = soft_targets.clone()
        soft_targets[:, left - 1] = torch.where(merged, both, soft_targets[:, left - 1])
        soft_targets[:, right - 1] = torch.where(merged, 0, soft_targets[:, right - 1])
    whole = torch.cat([1 - soft_targets.sum(1, keepdim=True), soft_targets], 1)
    if batch.target.dim() == 3:
        whole = whole[:, :, 0]
    labels = F.one_hot(batch.target, whole.shape[1]).movedim(-1, 1).to(whole.dtype)
    return torch.lerp(labels, whole, share)


def mirror_table(card: ModelCard, recipe: Recipe) -> np.ndarray:
    """The output channel that each channel becomes in a mirror, (256,) uint8.

    Raises:
        UsageError: volumes are mirrored, but a label of one side has no other side, or a pair no label.
    """
    channels = card.channels
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
    return np.array(other_sides(pairs, 256), np.uint8)


def _check_known(values: Iterable[int], known: Iterable[int], where: str) -> None:
    unknown = sorted(set(values) - {int(value) for value in known})
    if unknown:
        raise UsageError(f"{where}: there is no label {', '.join(map(str, unknown))} to learn.", "Correct the recipe.")
