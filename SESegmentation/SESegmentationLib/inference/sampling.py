"""Samples of a segmentation: how far each structure differs among them.

Samples are drawn by changing the image a little (test-time augmentation) or by letting the networks drop channels as in
training (Monte Carlo dropout). Each sample takes as long as a segmentation, so this is done on request. Source of
both measures: Roy et al., "Bayesian QuickNAT", NeuroImage 195, 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..errors import UsageError
from ..memory import memory_errors
from ..models import View
from ..progress import PhasedProgress, Progress, ReportFraction, no_progress, part_of
from ..result import SegmentOptions
from .engine import Engine
from .predictor import Predictor

SamplingMethod = Literal["augmentation", "dropout"]
#: samples drawn where nothing else is asked for
SAMPLES = 8
#: test-time augmentation: largest shift in voxels, standard deviations of log gamma and of noise (of the volume's own)
_SHIFT, _GAMMA, _NOISE = 2, 0.15, 0.1


@dataclass(frozen=True)
class StructureSpread:
    """How much samples of one structure differ.

    Attributes:
        overlap: voxels that all samples have in common over those that any has; 0 where none has any.
        variation: coefficient of variation of the volume (standard deviation over mean); 0 where the mean is 0.
    """

    overlap: float
    variation: float


def sample_structures(
    engine: Engine,
    image: sitk.Image,
    options: SegmentOptions = SegmentOptions(),
    *,
    kind: SamplingMethod = "augmentation",
    count: int = SAMPLES,
    progress: Progress = no_progress,
) -> dict[int, StructureSpread]:
    """Draw samples of a volume, and measure how much they differ, by the value of the structure in the result.

    Args:
        engine: of the model.
        image, options, progress: as for :meth:`.Engine.segment`; ``doubt`` and ``grid`` are ignored.
        kind, count: see :func:`draw_samples`.

    Raises:
        UsageError: fewer than two samples, or dropout with networks that were trained without it.
        InputError, OutOfMemoryError, CancelledError: as from :meth:`.Engine.segment`.
    """
    if count < 2:
        raise UsageError("A single sample has no spread.", "Draw 2 or more; 8 are usual.")
    phases = PhasedProgress(progress, {"locate": 1, "sample": count})
    predictor, views = engine.predictor, engine.views(options.fast)
    spreads: dict[int, StructureSpread] = {}
    with memory_errors():
        crops = engine.crops(image, options, progress=phases.part("locate"))
        for number, crop in enumerate(crops):
            report = part_of(lambda fraction: phases.update("sample", fraction), number, len(crops))
            samples = draw_samples(predictor, crop.volume, views, kind, count, report=report)
            spread = sample_spread(samples, predictor.classes)
            for channel, label in enumerate(engine.card.labels, start=1):
                if label.value in crop.values:
                    spreads[crop.values[label.value]] = spread[channel]
    return spreads


def sample_spread(samples: Sequence[Tensor], classes: int) -> list[StructureSpread]:
    """The spread of each channel over samples, label maps (k, j, i) of channels.

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
    variation = np.divide(volumes.std(0), means, out=np.zeros(classes), where=means > 0)
    return [StructureSpread(*map(float, pair)) for pair in zip(overlap, variation, strict=True)]


def draw_samples(
    predictor: Predictor,
    volume: np.ndarray,
    views: Sequence[View],
    kind: SamplingMethod = "augmentation",
    count: int = SAMPLES,
    seed: int = 0,
    report: ReportFraction = lambda fraction: None,
) -> list[Tensor]:
    """Segment a volume several times, never in quite the same way.

    Args:
        predictor: of the model.
        volume: (k, j, i) normalised.
        views: as for :meth:`.Predictor.predict`.
        kind: "augmentation" changes the image: shifted by whole voxels, gamma, noise; "dropout" lets the networks drop
            channels as in training.
        count: how many.
        seed: of the randomness.
        report: called with the fraction that is done, after each; may raise to stop.

    Returns:
        Label maps (k, j, i) of channels.

    Raises:
        UsageError: dropout of networks that were trained without: all samples would be the same.
    """
    if kind == "dropout" and not predictor.has_dropout:
        raise UsageError("The networks of this model were trained without dropout.", "Draw samples by augmentation.")
    random = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        if kind == "dropout":
            with predictor.dropout(int(random.integers(1 << 31))):
                probabilities = predictor.predict(volume, views).probabilities
        else:
            shift = tuple(random.integers(-_SHIFT, _SHIFT + 1, 3).tolist())
            moved = np.roll(_changed(volume, random), shift, axis=(0, 1, 2))  # cyclically: can be undone exactly
            probabilities = predictor.predict(moved, views).probabilities
            probabilities = torch.roll(probabilities, tuple(-step for step in shift), dims=(1, 2, 3))
        samples.append(probabilities.argmax(0))
        report((number + 1) / count)
    return samples


def _changed(volume: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Gamma on the range of intensities, then noise."""
    low, high = float(volume.min()), float(volume.max())
    unit = (volume - low) / max(high - low, float(np.finfo(np.float32).tiny))
    changed = low + (high - low) * unit ** np.exp(_GAMMA * random.normal())
    changed += _NOISE * volume.std() * random.normal(size=volume.shape)
    return changed.astype(np.float32)
