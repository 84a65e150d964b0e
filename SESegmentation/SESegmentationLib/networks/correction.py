"""A network that learns to correct: from a few corrected slices of a structure to its other slices.

It sees one structure at a time, so it works with models of any structures. Volumes are (D, H, W) on a model's grid, of
any spacing. It does not segment from scratch: it predicts by how much the log-odds of the current result change, and
the gain to be expected, so that the result is kept where there is none. Corrections enter as input channels, as prompts
do in interactive segmentation (Isensee et al., nnInteractive, 2025); squeeze & excitation carries information from the
corrected slices to all others (Roy et al., Medical Image Analysis 59, 2020).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..geometry import Box
from .pyramid import PyramidUNet

#: channels of the input
INPUTS = 10
#: output maps of the body besides the correction: their means and SCALAR_FEATURES give the expected gain
AUXILIARY_MAPS = 7
#: numbers that summarise the correction, from which the expected gain is computed too
SCALAR_FEATURES = 6
#: current probabilities are clamped to the range from this to 1 minus this
LEAST = 0.02
#: bins of the intensity histograms of a structure and its surroundings
BINS = 24
#: log-odds of an intensity are clamped to this, positive and negative
MOST_ODDS = 3.0


@dataclass(frozen=True)
class Corrected:
    """A structure of which some slices were corrected, each (D, H, W) float32.

    Attributes:
        image: intensities.
        own: 1 where the current result has the structure.
        probability: of the structure, by the model.
        others: probability of any other structure.
        known: 1 where the labels are known to be right, 0.5 where they were looked at, 0 elsewhere.
        labels: 1 where the corrected labels have the structure; counts where known.
        other_labels: the same of any other structure.
    """

    image: Tensor
    own: Tensor
    probability: Tensor
    others: Tensor
    known: Tensor
    labels: Tensor
    other_labels: Tensor

    def base(self) -> Tensor:
        """The model's probability, moved to that side of 1/2 on which the current result is, (D, H, W)."""
        soft = self.probability.clamp(LEAST, 1 - LEAST)
        return torch.where(self.own > 0, soft.clamp(min=0.55), soft.clamp(max=0.45))

    def errors(self) -> Tensor:
        """1 at false negatives of the current result, -1 at false positives, 0 elsewhere and where nothing is known."""
        return (self.labels - self.own) * (self.known > 0)

    def within(self, box: Box) -> Corrected:
        """The same in a box."""
        return Corrected(*(values[box] for values in vars(self).values()))

    def inputs(self) -> Tensor:
        """(INPUTS, D, H, W), what the network sees."""
        error = self.errors()
        image = (self.image - self.image.mean()) / self.image.std().clamp(min=1e-6)
        return torch.stack(
            [
                image.clamp(-4, 4),
                self.own,
                self.probability,
                self.others,
                self.known,
                self.labels * self.known,
                self.other_labels * self.known,
                error,
                _spread(error, self.known),
                self._odds() / MOST_ODDS,
            ]
        )

    def _odds(self) -> Tensor:
        """Log-odds of the structure given each voxel's intensity, estimated on the known slices, (D, H, W)."""
        near = _around(torch.maximum(self.own, self.labels * (self.known > 0)), 3) > 0
        shown = near & (self.known > 0)
        seen = self.image[near].float()
        some = seen[:: 1 + len(seen) // 100_000]
        low, high = torch.quantile(some, torch.tensor([0.01, 0.99])) if len(some) else (0, 1)
        bins = ((self.image - low) / max(float(high - low), 1e-6) * BINS).long().clamp(0, BINS - 1)
        weight = self.known[shown]
        inside = torch.bincount(bins[shown], weight * self.labels[shown], minlength=BINS)
        outside = torch.bincount(bins[shown], weight * (1 - self.labels[shown]), minlength=BINS)
        kernel = torch.tensor([[[0.05, 0.25, 0.4, 0.25, 0.05]]])
        inside, outside = F.conv1d(torch.stack([inside, outside])[:, None].float(), kernel, padding=2)[:, 0]
        prior = torch.log((inside.sum() + 5) / (outside.sum() + 5))
        odds = torch.log((inside + 2) / (outside + 2)) - prior
        return odds.clamp(-MOST_ODDS, MOST_ODDS)[bins]


class CorrectionNetwork(nn.Module):
    """A 3-D pyramid U-Net with scSE blocks, and a head that predicts the gain of its own correction.

    Args:
        channels: by level, finest first.
    """

    def __init__(self, channels: tuple[int, ...] = (8, 32, 64, 96)) -> None:
        super().__init__()
        self.body = PyramidUNet(INPUTS, 1 + AUXILIARY_MAPS, channels, dimensions=3)
        self.expectation = nn.Sequential(
            nn.Linear(2 * AUXILIARY_MAPS + SCALAR_FEATURES, 32), nn.ReLU(), nn.Linear(32, 1)
        )
        for name in ("weight", "bias"):
            nn.init.zeros_(self.body.classifier.get_parameter(name)[:1])
            nn.init.zeros_(self.expectation[-1].get_parameter(name))

    def forward(self, inputs: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        """Log-odds (N, D, H, W) of the structure after the correction, and the gain in Dice (N,) that is expected.

        Args:
            inputs: (N, INPUTS, D, H, W), see :meth:`Corrected.inputs`.
            base: (N, D, H, W), see :meth:`Corrected.base`.
        """
        return self.outputs(self.body(inputs), inputs, base)

    def outputs(self, maps: Tensor, inputs: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        """What :meth:`forward` gives, from the maps (N, 1 + AUXILIARY_MAPS, D, H, W) of the body."""
        logits = torch.logit(base) + maps[:, 0]
        return logits, self._expected(maps[:, 1:], logits, base, inputs)

    def _expected(self, auxiliary: Tensor, logits: Tensor, base: Tensor, inputs: Tensor) -> Tensor:
        """The gain in Dice (N,) that is expected outside of the known slices; ``logits`` get no gradient from it."""
        known, labels, errors = inputs[:, 4], inputs[:, 5], inputs[:, 7]  # see Corrected.inputs
        after = torch.sigmoid(logits.detach())
        unknown = (known == 0).float()
        own = (base > 0.5).float()
        changed = ((after > 0.5).float() - own).abs() * unknown
        unsure = after * (1 - after) * unknown

        def total(values: Tensor) -> Tensor:
            return values.flatten(1).sum(1)

        size = total(own) + 50
        expected = (2 * total(after * (after > 0.5)) / (total(after) + total((after > 0.5).float()) + 1)) - (
            2 * total(after * own) / (total(after) + total(own) + 1)
        )
        features = torch.stack(
            [
                10 * expected,
                total(changed) / size,
                total(changed * (after - 0.5).abs()) / size,
                total(unsure) / size,
                total(errors.abs()) / (total(labels) + 20),
                total((known > 0).float() * own) / size,
            ],
            dim=1,
        )
        where = torch.stack([changed, unsure], 1)
        share = where.flatten(2) / (where.flatten(2).sum(-1, keepdim=True) + 1)
        means = torch.einsum("nav,nwv->naw", auxiliary.flatten(2), share).flatten(1)
        return self.expectation(torch.cat([means, features], 1))[:, 0] / 10


def _around(mask: Tensor, reach: int) -> Tensor:
    """A mask dilated by ``reach`` voxels."""
    grown = mask[None, None]
    for axis in range(3):  # axis by axis, which is faster
        size, padding = (
            tuple(n if a == axis else one for a in range(3)) for n, one in ((2 * reach + 1, 1), (reach, 0))
        )
        grown = F.max_pool3d(grown, size, 1, padding)
    return grown[0, 0]


def _spread(error: Tensor, known: Tensor) -> Tensor:
    """Errors spread to nearby voxels: 10 times their mean over the known voxels up to 6 voxels away on each axis."""
    sums = torch.stack([error * known, known])[None]
    for length in (9, 5):
        for axis in range(3):
            sums = _mean_along(sums, axis, length)
    return 10 * sums[0, 0] / (sums[0, 1] + 0.01)


def _mean_along(maps: Tensor, axis: int, length: int) -> Tensor:
    """Means of maps (N, C, k, j, i) over ``length`` voxels (odd) along one axis, with zeros beyond the ends."""
    padding = [length // 2 if n == axis else 0 for n in (2, 2, 1, 1, 0, 0)]
    # padded before the pooling, which refuses volumes thinner than its kernel even if it is to pad them itself
    return F.avg_pool3d(F.pad(maps, padding), tuple(length if n == axis else 1 for n in range(3)), 1)
