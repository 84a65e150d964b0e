"""From the volume's grid to the learnt correction on a model's grid, and back into the label map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from torch import Tensor

from ..inference.division import divide
from ..inference.engine import Field
from ..inference.voxels import voxels_of
from ..models import ModelCard
from .corrections import Corrections
from .learnt_correction import Judgement, LearntCorrection, Present, Report, Shown
from .lessons import known_channels

#: nothing is known of a voxel, it was looked at, or it is right
UNKNOWN, SEEN, RIGHT = 0.0, 0.5, 1.0


def carry(
    learnt: LearntCorrection,
    card: ModelCard,
    seen: Sequence[tuple[Field, Tensor]],
    labels: sitk.Image,
    corrections: Corrections,
    whole_slices: bool,
    report: Report,
) -> tuple[sitk.Image, dict[int, Judgement]]:
    """Carry corrections to the slices that nobody corrected.

    Args:
        learnt: says what changes.
        card: of the model.
        seen: what its networks saw and the probabilities (C, k, j, i) that they gave, field by field.
        labels: what came of that, on the volume's grid.
        corrections: on the same grid.
        whole_slices: what was not changed in corrected slices is right too.
        report: told the fraction that is done; may raise to stop.

    Returns:
        Labels, the corrected slices not yet put in; and by value what spoke for and against the structures' change.
    """
    array = sitk.GetArrayFromImage(labels)
    judgements: dict[int, Judgement] = {}
    own = Corrections(labels, np.ones_like(corrections.known))
    for number, (there, probabilities) in enumerate(seen):

        def told(fraction: float, number: int = number) -> None:
            report((number + fraction) / len(seen))

        channels, known = known_channels(there, corrections, card)
        present = Present(there.volume, probabilities, known_channels(there, own, card)[0].astype(np.uint8))
        right = known & (whole_slices | (channels != present.own))
        strength = np.where(right, RIGHT, np.where(known, SEEN, UNKNOWN)).astype(np.float32)
        outcome = learnt.correct(present, Shown(channels, strength), card, told)
        values = {channel: there.values[label.value] for channel, label in enumerate(card.labels, start=1)}
        judgements |= {values[channel]: judged for channel, judged in outcome.judgements.items()}
        if outcome.probabilities is None:
            continue
        before, after = divide(probabilities, card)[(slice(None), *outcome.box)], outcome.probabilities
        box = outcome.box
        if there.mirror:
            before, after = before.flip(-1), after.flip(-1)
            width = there.volume.shape[-1]
            box = (*box[:2], slice(width - box[2].stop, width - box[2].start))
        grid = there.grid.cropped(box)
        was, now = (voxels_of(grid.from_model_grid(each)) for each in (before, after))
        taken = [
            card.labels[channel - 1].value
            for channel, judged in outcome.judgements.items()
            if judged.taken or judged.divided
        ]
        table = np.zeros(max(there.values) + 1, array.dtype)
        table[list(there.values)] = list(there.values.values())
        changed = (was != now) & (np.isin(was, taken) | np.isin(now, taken))
        changed &= array == table[was]  # what was tidied up stays so
        array[changed] = table[now[changed]]
    report(1.0)
    carried = sitk.GetImageFromArray(array)
    carried.CopyInformation(labels)
    return carried, judgements
