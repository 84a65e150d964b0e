"""Structures that a view overlooks: about these the other views alone are heard.

In a mean of two, a network that has never seen the like of an organ and is sure that there is none outvotes the one
that finds it. That it overlooks the organ shows by the volumes: it finds hardly any of what another finds in a volume
that such an organ may have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..models import ModelCard, View


def heard_alone(card: ModelCard, views: Sequence[View], votes: Sequence[Tensor]) -> dict[tuple[int, ...], list[int]]:
    """The views that are heard alone, and about what.

    A view overlooks a structure where it finds less than the share ``card.overlooked`` of the largest plausible volume
    that a view finds. Views that merge left and right are not heard alone.

    Args:
        views: that were asked.
        votes: each one's most probable channels, (k, j, i) on the model's grid.

    Returns:
        Output channels by the positions in ``views`` of those that do not overlook them; without what none overlooks.
    """
    if not card.overlooked or len(views) < 2:
        return {}
    voxel_ml = math.prod(card.spacing) / 1000
    volumes = [torch.bincount(vote.flatten(), minlength=len(card.labels) + 1) * voxel_ml for vote in votes]
    alone: dict[tuple[int, ...], list[int]] = {}
    for channel, label in enumerate(card.labels, start=1):
        found = [float(volume[channel]) for volume in volumes]
        low, high = label.plausible_ml or (0.0, math.inf)
        most = max((volume for volume in found if low <= volume <= high), default=0.0)
        heard = tuple(position for position, volume in enumerate(found) if volume >= card.overlooked * most)
        if len(heard) < len(found) and not all(views[position].merged for position in heard):
            alone.setdefault(heard, []).append(channel)
    return alone
