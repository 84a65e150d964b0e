"""Corrections propagated to the slices that nobody corrected: the learnt correction, crop by crop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from torch import Tensor

from ..geometry import Geometry
from ..inference.crops import Crop
from ..inference.dividing_plane import divide
from ..inference.roi import inside
from ..io.volume_image import voxels_of
from ..memory import require_memory
from ..models import ModelCard
from ..progress import ReportFraction, part_of
from .corrections import Corrections, channels_of, known_channels
from .learnt_correction import CropCorrections, CropPrediction, ExpectedGain, LearntCorrection, Outcome

#: nothing is known of a voxel, it was looked at, or it is right
UNKNOWN, SEEN, RIGHT = 0.0, 0.5, 1.0
#: main memory for propagating corrections, in bytes per voxel of a crop: output channels twice (int64), and masks
_BYTES_PER_VOXEL = 24


def propagate(
    learnt: LearntCorrection,
    card: ModelCard,
    seen: Sequence[tuple[Crop, Tensor]],
    labels: sitk.Image,
    corrections: Corrections,
    whole_slices: bool,
    report: ReportFraction,
) -> tuple[sitk.Image, dict[int, ExpectedGain]]:
    """Propagate corrections to the slices that nobody corrected.

    Args:
        learnt: predicts what changes.
        card: of the model.
        seen: the crops that its networks saw, each with their probabilities (C, k, j, i) before smoothing, as in the
            training of the correction.
        labels: the resulting label map, on the volume's grid.
        corrections: on the same grid.
        whole_slices: whether unchanged voxels of corrected slices are right too.
        report: called with the fraction that is done; may raise to stop.

    Returns:
        Labels, the corrected slices not yet put in; and by value the expected gain of each structure.

    Raises:
        OutOfMemoryError: not enough memory, asked for before it is taken.
    """
    array = sitk.GetArrayFromImage(labels)
    expected_gains: dict[int, ExpectedGain] = {}
    for number, (crop, probabilities) in enumerate(seen):
        require_memory(crop.volume.size * _BYTES_PER_VOXEL / 1e9)
        prediction = CropPrediction(crop.volume, probabilities, channels_of(crop, labels, card).astype(np.uint8))
        crop_corrections = _crop_corrections(crop, prediction, corrections, card, whole_slices)
        outcome = learnt.correct(prediction, crop_corrections, card, part_of(report, number, len(seen)))
        for channel, gain in outcome.expected_gains.items():
            expected_gains[crop.values[card.labels[channel - 1].value]] = gain
        _apply(outcome, crop, probabilities, card, array)
    report(1.0)
    return Geometry.of(labels).image(array), expected_gains


def _crop_corrections(
    crop: Crop, prediction: CropPrediction, corrections: Corrections, card: ModelCard, whole_slices: bool
) -> CropCorrections:
    """The corrections on a crop's grid, and how much is known of each voxel."""
    channels, known = known_channels(crop, corrections, card)
    right = known & (whole_slices | (channels != prediction.own))
    return CropCorrections(channels, np.where(right, RIGHT, np.where(known, SEEN, UNKNOWN)).astype(np.float32))


def _apply(outcome: Outcome, crop: Crop, probabilities: Tensor, card: ModelCard, array: np.ndarray) -> None:
    """Change ``array``, the labels (k, j, i) on the volume's grid, where the outcome for a crop changes them.

    Only structures whose change was accepted appear or disappear.
    """
    if outcome.probabilities is None or outcome.box is None:
        return
    box = outcome.box
    before, after = divide(probabilities, card)[(slice(None), *box)], outcome.probabilities
    if crop.mirrored:
        before, after = before.flip(-1), after.flip(-1)
        width = crop.volume.shape[-1]
        box = (*box[:2], slice(width - box[2].stop, width - box[2].start))
    grid = crop.grid.cropped(box)
    was, now = (voxels_of(grid.from_model_grid(each)) for each in (before, after))
    accepted = [
        card.labels[channel - 1].value
        for channel, gain in outcome.expected_gains.items()
        if gain.accepted or gain.divided
    ]
    table = np.zeros(max(crop.values) + 1, array.dtype)
    table[list(crop.values)] = list(crop.values.values())
    changed = (was != now) & (np.isin(was, accepted) | np.isin(now, accepted))
    if crop.region is not None:
        changed &= inside(crop.region, crop.grid.input)
    changed &= array == table[was]  # what the clean-up changed stays so
    array[changed] = table[now[changed]]
