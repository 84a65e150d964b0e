"""Contrasts of MRI: how bright each tissue is in a sequence, as measured on scans, and how far that varies.

A contrast lists label values with the mean and the standard deviation, over patients and scanners, of the tissue's
brightness on a scale of 0 (air) to 255. Labels that it does not list are drawn from the label maps' own priors, or
uniformly at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

#: brightest value of the scale
FULL_SCALE = 255.0


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
