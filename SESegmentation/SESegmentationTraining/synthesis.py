"""Images synthesised from label maps, in any contrast of MRI, so that no scan has to be licensed for training.

A contrast lists label values with the mean and the standard deviation, over patients and scanners, of the tissue's
brightness on a scale of 0 (air) to 255. Labels that it does not list are drawn from the label maps' own priors, or
uniformly at random.

Idea: Billot et al., "SynthSeg: Segmentation of brain MRI scans of any contrast and resolution without retraining",
Medical Image Analysis 86, 2023. Every tissue class of a label map gets a random mean and spread, here mostly round
priors of one contrast; what an image would look like follows from the labels. Labels themselves are only looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from SESegmentationLib.errors import InputError, reason_of

from .slabs import Slabs
from .transforms import add_lesions, add_vessels, gaussian_blur, random_anisotropy, thick_slabs

#: brightest value of the scale
FULL_SCALE = 255.0
#: FreeSurfer's values of cerebral white matter, in which lesions are drawn
WHITE_MATTER = (2, 41)


@dataclass(frozen=True)
class Contrast:
    """One MR contrast.

    Attributes:
        name: "T1", "T2", "FLAIR", ...
        share: of the images that are drawn with it.
        means: (label value, mean, standard deviation) of each tissue's brightness; the value of the left side stands
            for both.
        exponents: least and greatest exponent of the brightness curve, drawn log-uniformly: below 1 grey matter comes
            nearer to bright white matter, as in heavily windowed scans.
        texture: least and greatest standard deviation within a tissue.
        random_rest: share of the images in which tissues that are not listed have any brightness, whatever the priors
            of the label maps say.
    """

    name: str
    share: float
    means: tuple[tuple[int, float, float], ...]
    exponents: tuple[float, float] = (1.0, 1.0)
    texture: tuple[float, float] = (4.0, 18.0)
    random_rest: float = 1.0


class ContrastTable:
    """Draws the brightness of tissue classes under contrasts.

    Args:
        contrasts: their shares add up to 1 at most; images that none is drawn for are left as they are.
        class_of: tissue class of each label value.
        classes: number of classes.
    """

    def __init__(self, contrasts: Sequence[Contrast], class_of: dict[int, int], classes: int) -> None:
        self.contrasts = contrasts
        self.shares = torch.tensor([contrast.share for contrast in contrasts]).cumsum(0)
        self.means = torch.full((len(contrasts), classes), -1.0)
        self.deviations = torch.zeros(len(contrasts), classes)
        for index, contrast in enumerate(contrasts):
            for value, mean, deviation in contrast.means:
                self.means[index, class_of[value]] = mean
                self.deviations[index, class_of[value]] = deviation

    def apply(self, means: Tensor, spreads: Tensor, width: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Means and spreads (B, K) of tissue classes, with those that a contrast lists replaced in its images.

        Args:
            width: (B, 1) factor on the deviations.
        """
        batch, classes = means.shape
        drawn = torch.bucketize(torch.rand(batch, generator=generator), self.shares, right=True)
        for index, contrast in enumerate(self.contrasts):
            chosen = (drawn == index)[:, None]
            listed = self.means[index] >= 0
            normal = torch.randn(batch, classes, generator=generator)
            here = (self.means[index] + self.deviations[index] * width * normal).clamp(1, FULL_SCALE)
            low, high = np.log(contrast.exponents)
            exponent = torch.exp(low + (high - low) * torch.rand(batch, 1, generator=generator))
            here = FULL_SCALE * (here / FULL_SCALE) ** exponent
            any_rest = torch.rand(batch, 1, generator=generator) < contrast.random_rest
            rest = torch.where(any_rest, FULL_SCALE * torch.rand(batch, classes, generator=generator), means)
            means = torch.where(chosen, torch.where(listed, here, rest), means)
            least, most = contrast.texture
            texture = least + (most - least) * torch.rand(batch, 1, generator=generator)
            texture = texture * (0.6 + 0.8 * torch.rand(batch, classes, generator=generator))
            spreads = torch.where(chosen & listed, texture, spreads)
        return means, spreads


def own_classes(
    values: np.ndarray, classes: np.ndarray, listed: Sequence[int], pairs: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Tissue classes in which every listed label has one of its own, both sides together.

    Args:
        values: (L,) label values.
        classes: (L,) their classes so far.
        listed: label values, of the left side where there are two.
        pairs: (left, right) label values.

    Returns:
        (L,) new classes, and (K,) of each new class the one it was part of.
    """
    right = dict(pairs)
    new, parents = classes.copy(), list(range(classes.max() + 1))
    for value in sorted(set(listed)):
        members = np.isin(values, [value, right.get(value, value)])
        new[members] = len(parents)
        parents.append(int(classes[members][0]))
    return new, np.array(parents)


@dataclass(frozen=True)
class TissuePriors:
    """What is known of the tissues of a set of label maps.

    Attributes:
        values: (L,) label values in the maps' files; the bank holds their indices 0..L-1, background first.
        classes: (L,) tissue class of each label; labels of one class look alike.
        targets: (L,) label value that the network shall learn, 0 for background.
        means, spreads: (2, K) expectation and standard deviation, per class, of the class's mean intensity and of its
            standard deviation within an image, on a scale of 0 to 255.
    """

    values: np.ndarray
    classes: np.ndarray
    targets: np.ndarray
    means: np.ndarray
    spreads: np.ndarray

    @classmethod
    def from_folder(cls, folder: Path) -> TissuePriors:
        """Read the arrays of a ``priors`` folder as SynthSeg's repository lays it out.

        Raises:
            InputError: a file is missing or does not fit the others.
        """
        names = (
            "generation_labels",
            "generation_classes_contrast_specific",
            "synthseg_segmentation_labels",
            "prior_means_t1",
            "prior_stds_t1",
        )
        try:
            arrays = [np.load(folder / f"{name}.npy", allow_pickle=False) for name in names]
        except (OSError, ValueError) as error:
            raise InputError(
                f"The intensity priors in {folder} cannot be read: {reason_of(error)}.",
                "Point the recipe's priors to a folder with SynthSeg's .npy files.",
            ) from error
        values, classes, targets, means, spreads = arrays
        fit = (
            values.ndim == 1
            and values.shape == classes.shape == targets.shape
            and means.shape == spreads.shape == (2, classes.max() + 1)
            and values[0] == classes[0] == 0
            and len(set(values.tolist())) == len(values) <= 256
        )
        if not fit:
            raise InputError(f"The intensity priors in {folder} do not fit each other.", "Use files of one set.")
        return cls(values, classes, targets, means, spreads)

    def with_own_classes(self, listed: Sequence[int], pairs: Sequence[tuple[int, int]]) -> TissuePriors:
        """The same, with a tissue class of its own for each listed label value, both sides together."""
        classes, parents = own_classes(self.values, self.classes, listed, pairs)
        return replace(self, classes=classes, means=self.means[:, parents], spreads=self.spreads[:, parents])


@dataclass(frozen=True)
class Synthesis:
    """Shares and strengths of what can happen to a synthesised image.

    Attributes:
        random_contrast: share of images whose class means are uniformly random instead of near the priors.
        wide: share of the others whose means vary twice as much as the priors say.
        stripped: share with everything but the brain removed.
        defaced: share with the face cut off by a plane.
        cropped: share whose field of view ends inside the head.
        partial_volume: largest standard deviation, in pixels, of the blur that mixes neighbouring tissues.
        least_partial_volume: its smallest standard deviation.
        contrasts: of MR sequences as measured; the images that are left have the priors of the label maps.
        thick_share: share of images with thick slices, in the image's rows or columns or across them.
        thickest: thickness of the thickest slices, in voxels of the model's grid.
        saturation: largest share of the range of intensities that is cut off at its upper end.
        lesions: share with spots in white matter that are brighter or darker than it.
        vessels: share with bright vessels in the fluid round the brain.
        large_ventricles: share with ventricles that are larger than in the label maps.
    """

    random_contrast: float = 0.08
    wide: float = 0.3
    stripped: float = 0.3
    defaced: float = 0.15
    cropped: float = 0.15
    partial_volume: float = 0.8
    least_partial_volume: float = 0.0
    contrasts: tuple[Contrast, ...] = ()
    thick_share: float = 0.0
    thickest: float = 7.0
    saturation: float = 0.0
    lesions: float = 0.0
    vessels: float = 0.0
    large_ventricles: float = 0.0


class ImageSynthesiser:
    """Makes images from slabs of label indices.

    Args:
        priors: the tissues.
        settings: what may happen to an image.
        brain: (L,) whether a label is part of the brain, which stripping keeps.
        fluid: (L,) whether a label is fluid round the brain, which stripping keeps in half of the cases.
        device: where the slabs are.
    """

    def __init__(
        self,
        priors: TissuePriors,
        settings: Synthesis,
        brain: np.ndarray,
        fluid: np.ndarray,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings = settings
        self.classes = torch.as_tensor(priors.classes, device=device).long()
        self.means = torch.as_tensor(priors.means, dtype=torch.float32)
        self.spreads = torch.as_tensor(priors.spreads, dtype=torch.float32)
        class_of = {int(value): int(kind) for value, kind in zip(priors.values, priors.classes, strict=True)}
        self.contrasts = ContrastTable(settings.contrasts, class_of, priors.means.shape[1])
        self.white_matter = torch.as_tensor(np.isin(priors.targets, WHITE_MATTER), device=device)
        self.brain = torch.as_tensor(brain, device=device)
        self.fluid = torch.as_tensor(fluid, device=device)

    def __call__(self, slabs: Slabs, generator: torch.Generator, thickness: int | None = None) -> tuple[Tensor, Tensor]:
        """Images of ``slabs`` and what was removed from them.

        Args:
            thickness: number of slices of the images; where ``slabs`` have more of them, each slice of an image is an
                average over thick ones.

        Returns:
            Images (B, T, H, W), intensities scaled to about 0 to 1, and a mask of the same shape.
        """
        labels = slabs.labels.long()
        batch = len(labels)
        device = labels.device
        classes = self.classes[labels]
        means, spreads = (table.to(device) for table in self._tissues(batch, generator))
        image = _look_up(means, classes)
        image += _look_up(spreads, classes) * _texture(image, generator)
        removed = self._removed(labels, slabs.points_mm, generator)
        if self.settings.lesions:
            image = add_lesions(image, self.white_matter[labels], self.settings.lesions, 0.5 * FULL_SCALE, generator)
        if self.settings.vessels:
            image = add_vessels(image, self.fluid[labels], self.settings.vessels, FULL_SCALE, generator)
        image = torch.where(removed, 0, image)
        least, most = self.settings.least_partial_volume, self.settings.partial_volume
        sigmas = least + (most - least) * torch.rand(batch, 1, generator=generator).expand(-1, 2)
        image = gaussian_blur(image, sigmas.to(device))
        if thickness and thickness < image.shape[1]:
            first = (image.shape[1] - thickness) // 2
            image = thick_slabs(image, thickness, self.settings.thickest, generator)
            removed = removed[:, first : first + thickness]
        elif self.settings.thick_share:
            image = random_anisotropy(image, self.settings.thick_share, self.settings.thickest, generator)
        image = scale_to_unit(image)
        if self.settings.saturation:
            cut = self.settings.saturation * torch.rand(batch, 1, 1, 1, generator=generator).to(device)
            image = (image / (1 - cut)).clamp(max=1)
        return image, removed

    def _tissues(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, K) of every class in every image."""
        count = self.means.shape[1]

        def uniform(*shape: int) -> Tensor:
            return torch.rand(batch, *shape, generator=generator)

        def normal() -> Tensor:
            return torch.randn(batch, count, generator=generator)

        width = torch.where(uniform(1) < self.settings.wide, 2.0, 1.0)
        means = self.means[0] + self.means[1] * width * normal()
        is_random = uniform(1) < self.settings.random_contrast
        means = torch.where(is_random, 225 * uniform(count), means).clamp(min=0)
        # the priors' spreads hold partial volume and bias field too, which are added separately: take a part of them
        spreads = (0.6 * self.spreads[0] + 0.5 * self.spreads[1] * normal()).abs() * (0.15 + 0.85 * uniform(1))
        background = torch.where(uniform(1) < 0.5, 0.0, 15 * uniform(1))
        if self.settings.contrasts:
            means, spreads = self.contrasts.apply(means, spreads, width, generator)
        means[:, :1] = background
        spreads[:, :1] = background / 2
        return means, spreads

    def _removed(self, labels: Tensor, points_mm: Tensor, generator: torch.Generator) -> Tensor:
        """Where the skull is stripped, the face cut off, or the field of view at its end."""
        batch = len(labels)
        device = labels.device

        def chosen(share: float) -> Tensor:
            return (torch.rand(batch, 1, 1, 1, generator=generator) < share).to(device)

        brain = self.brain[labels]
        kept = brain | (chosen(0.5) & self.fluid[labels])
        margin = int(torch.randint(0, 4, (), generator=generator))
        near = F.max_pool2d(kept.float(), 2 * margin + 1, stride=1, padding=margin) > 0
        removed = chosen(self.settings.stripped) & ~near
        # the face lies in front of and below a plane that leans forward
        tilt, depth = torch.rand(2, batch, 1, 1, 1, generator=generator).to(device)
        face = points_mm[:, 1] - (0.3 + tilt) * points_mm[:, 0] > 75 + 35 * depth
        removed |= chosen(self.settings.defaced) & face & ~brain
        # a random half-space
        normal = F.normalize(torch.randn(batch, 3, generator=generator), dim=1).to(device)
        distance = torch.einsum("bx,bxthw->bthw", normal, points_mm)
        limit = (40 + 60 * torch.rand(batch, 1, 1, 1, generator=generator)).to(device)
        return removed | (chosen(self.settings.cropped) & (distance > limit))


def scale_to_unit(image: Tensor) -> Tensor:
    """Scale each slab so that 0 is its minimum and 1 the 99th percentile of what is brighter than its mean; clip."""
    flat = image.flatten(1)
    low = flat.amin(1, keepdim=True)
    sample = flat[:, ::5].sort(dim=1).values
    count = (sample > flat.mean(1, keepdim=True)).sum(1)
    index = (sample.shape[1] - 1 - 0.01 * count).long().clamp(min=0)
    high = sample.gather(1, index[:, None])
    return ((flat - low) / (high - low).clamp(min=1e-3)).clamp(max=1).reshape(image.shape)


def _look_up(table: Tensor, classes: Tensor) -> Tensor:
    """Values (B, T, H, W) of per-image ``table`` (B, K) at ``classes`` (B, T, H, W)."""
    return table.gather(1, classes.flatten(1)).reshape(classes.shape)


def _texture(image: Tensor, generator: torch.Generator) -> Tensor:
    """Unit noise, partly correlated: tissue is not white noise."""
    noise = torch.randn(image.shape, generator=generator).to(image.device)
    coarse = torch.randn(*image.shape[:2], *[n // 4 + 1 for n in image.shape[2:]], generator=generator)
    coarse = F.interpolate(coarse.to(image.device), image.shape[2:], mode="bilinear", align_corners=False)
    return 0.8 * noise + 0.6 * coarse
