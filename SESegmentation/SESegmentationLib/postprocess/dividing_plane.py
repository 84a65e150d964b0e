"""Structures that their definition divides by a plane: each slice belongs to the one or to the other.

Those who drew the hippocampi of the Medical Segmentation Decathlon divided head from body at one coronal slice: in 148
of the 150 training crops of hippocampus-t1 at most one slice holds both. Networks decide voxel by voxel, and mix the
two over some slices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..models import ModelCard
from ..predict.views import PLANE_AXIS

#: a network's certainty beyond this counts no more
_LEAST = 1e-4


def divide(probabilities: Tensor, card: ModelCard) -> Tensor:
    """Give what two structures share to one of them in each slice, as the card's "division" asks.

    They meet where that is most likely, taking voxels as independent.

    Args:
        probabilities: (C, k, j, i), of the background and each structure, on the model's grid.

    Returns:
        (C, k, j, i) of the same sum at each voxel; in no slice are both structures above 0. Without a division in the
        card they are ``probabilities`` themselves.
    """
    if card.division is None:
        return probabilities
    values = [0, *(label.value for label in card.labels)]
    higher, lower = map(values.index, card.division.values)
    axis = PLANE_AXIS[card.division.plane]
    pair = probabilities[[higher, lower]].float()
    joint = pair.sum(0)
    for_higher, for_lower = pair.clamp(min=_LEAST).log()
    evidence = ((for_higher - for_lower) * (joint > 0.5)).movedim(axis, 0).flatten(1).sum(1)
    # what speaks for the higher structure in slices below the meeting speaks against that meeting
    against = torch.cat([evidence.new_zeros(1), evidence.cumsum(0)])
    meeting = int(against.argmin())
    divided = probabilities.clone()
    for channel, other in ((higher, slice(0, meeting)), (lower, slice(meeting, None))):
        divided[channel] = joint
        divided[channel].movedim(axis, 0)[other] = 0.0
    return divided
