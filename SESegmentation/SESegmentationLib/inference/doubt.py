"""Where not to trust a result: doubt voxel by voxel, the most doubtful slices, and samples of a structure.

Voxel by voxel, doubt is the probability that the label is wrong: 1 less the winner's share in the fused probabilities,
which disagreeing views spread over several classes. Its sum over a slice is the number of wrong voxels to be expected
there, so that slices can be ranked.

Structure by structure, the views' agreement (:mod:`.uncertainty`) tells how good the structure is; on request samples
do, drawn by Monte Carlo dropout or by changing the image a little (test-time augmentation). Source of both measures
over samples: Roy et al., "Bayesian QuickNAT", NeuroImage 195, 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..models import View
from .predictor import Predictor

#: samples drawn where nothing else is asked for
SAMPLES = 8
#: test-time augmentation: largest shift in voxels, standard deviations of log gamma and of noise (of the volume's own)
_SHIFT, _GAMMA, _NOISE = 2, 0.15, 0.1


@dataclass(frozen=True)
class DoubtfulSlice:
    """One slice, and how doubtful it is.

    Attributes:
        axis: of the array: 0, 1 or 2 for k, j or i.
        number: along that axis.
        doubt: number of wrong voxels to be expected in it.
    """

    axis: int
    number: int
    doubt: float


def voxel_doubt(probabilities: Tensor) -> np.ndarray:
    """Probability that a voxel's label is wrong, (k, j, i) float32, from fused probabilities (C, k, j, i)."""
    doubt = np.empty(probabilities.shape[1:], dtype=np.float32)
    for k in range(len(doubt)):  # slice by slice: the probabilities are large, and in half precision
        doubt[k] = 1 - probabilities[:, k].amax(0).float().clamp(0, 1).cpu().numpy()
    return doubt


def doubtful_slices(
    doubt: np.ndarray, count: int | None = None, axes: Sequence[int] = (0, 1, 2), apart: int = 1
) -> list[DoubtfulSlice]:
    """Slices by their doubt, worst first.

    Args:
        doubt: see :func:`voxel_doubt`; 0 where it does not matter, for example outside one structure.
        count: how many; all where None.
        axes: of the array, along which slices may lie.
        apart: slices of one axis whose numbers differ by less are not both listed: neighbours tell the same.
    """
    ranked = sorted(
        (
            DoubtfulSlice(axis, number, float(total))
            for axis in axes
            for number, total in enumerate(doubt.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64))
        ),
        key=lambda entry: -entry.doubt,
    )
    chosen: list[DoubtfulSlice] = []
    for entry in ranked:
        if count is not None and len(chosen) == count:
            break
        if all(other.axis != entry.axis or abs(other.number - entry.number) >= apart for other in chosen):
            chosen.append(entry)
    return chosen


@dataclass(frozen=True)
class SampleSpread:
    """How much samples of a segmentation differ, by channel.

    Attributes:
        overlap: (C,) voxels that all samples have in common over those that any has; 0 where none has any.
        variation: (C,) standard deviation of the volume over its mean; 0 where the mean is.
    """

    overlap: np.ndarray
    variation: np.ndarray


def sample_spread(samples: Sequence[Tensor], classes: int) -> SampleSpread:
    """The spread of samples, label maps (k, j, i) of channels.

    Raises:
        ValueError: fewer than two samples.
    """
    if len(samples) < 2:
        raise ValueError("the spread of samples needs at least two of them")
    overlap, volumes = np.zeros(classes), np.zeros((len(samples), classes))
    for channel in range(classes):
        masks = torch.stack([sample == channel for sample in samples])
        volumes[:, channel] = masks.flatten(1).sum(1).cpu().numpy()
        overlap[channel] = float(masks.all(0).sum()) / max(float(masks.any(0).sum()), 1.0)
    means = volumes.mean(0)
    return SampleSpread(overlap, np.divide(volumes.std(0), means, out=np.zeros(classes), where=means > 0))


def draw_samples(
    predictor: Predictor,
    volume: np.ndarray,
    views: Sequence[View],
    kind: Literal["augmentation", "dropout"] = "augmentation",
    count: int = SAMPLES,
    seed: int = 0,
) -> list[Tensor]:
    """Segment a volume several times, never in quite the same way.

    Args:
        predictor: of the model.
        volume: (k, j, i) normalised.
        views: as for :meth:`.Predictor.predict`.
        kind: "augmentation" changes the image: shifted by whole voxels, gamma, noise; "dropout" lets the networks drop
            channels as in training. Networks that were trained without dropout give the same every time.
        count: how many.
        seed: of the randomness.

    Returns:
        Label maps (k, j, i) of channels.
    """
    random = np.random.default_rng(seed)
    samples = []
    for _ in range(count):
        if kind == "dropout":
            with predictor.dropout(int(random.integers(1 << 31))):
                probabilities = predictor.predict(volume, views).probabilities
        else:
            shift = tuple(random.integers(-_SHIFT, _SHIFT + 1, 3).tolist())
            moved = _moved(_changed(volume, random), shift)
            probabilities = predictor.predict(moved, views).probabilities
            probabilities = torch.roll(probabilities, tuple(-step for step in shift), dims=(1, 2, 3))
        samples.append(probabilities.argmax(0))
    return samples


def _changed(volume: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Gamma on the range of intensities, then noise."""
    low, high = float(volume.min()), float(volume.max())
    unit = (volume - low) / max(high - low, np.finfo(np.float32).tiny)
    changed = low + (high - low) * unit ** np.exp(_GAMMA * random.normal())
    changed += _NOISE * volume.std() * random.normal(size=volume.shape)
    return changed.astype(np.float32)


def _moved(volume: np.ndarray, shift: tuple[int, ...]) -> np.ndarray:
    """Shifted by whole voxels; what leaves at one end comes in at the other, so that it can be undone exactly."""
    return np.roll(volume, shift, axis=(0, 1, 2))
