"""Two structures that by definition meet at a plane: each slice is given to one of them.

The annotators of the hippocampi of the Medical Segmentation Decathlon divided head from body at one coronal slice: in
148 of the 150 training crops of hippocampus-t1 at most one slice holds both. Networks decide voxel by voxel, and mix
the two over some slices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..models import ModelCard
from .views import PLANE_AXIS

#: probabilities below this count as this, so that no single voxel decides
_LEAST = 1e-4


def divide(probabilities: Tensor, card: ModelCard) -> Tensor:
    """Give the joint probability of two structures to one of them in each slice, divided at the card's plane.

    The plane is put where it is most likely, treating voxels as independent.

    Args:
        probabilities: (C, k, j, i), of the background and each structure, on the model's grid.

    Returns:
        (C, k, j, i) with the same sum at each voxel; in no slice are both structures above 0. ``probabilities``
        themselves if the card has no dividing plane.
    """
    if card.dividing_plane is None:
        return probabilities
    values = [0, *(label.value for label in card.labels)]
    higher, lower = map(values.index, card.dividing_plane.values)
    axis = PLANE_AXIS[card.dividing_plane.plane]
    pair = probabilities[[higher, lower]].float()
    joint = pair.sum(0)
    for_higher, for_lower = pair.clamp(min=_LEAST).log()
    evidence = ((for_higher - for_lower) * (joint > 0.5)).movedim(axis, 0).flatten(1).sum(1)
    # evidence for the higher structure in slices below a plane is evidence against that plane
    against = torch.cat([evidence.new_zeros(1), evidence.cumsum(0)])
    meeting = int(against.argmin())
    divided = probabilities.clone()
    for channel, other in ((higher, slice(0, meeting)), (lower, slice(meeting, None))):
        divided[channel] = joint
        divided[channel].movedim(axis, 0)[other] = 0.0
    return divided
