"""Views: a volume as slices along one of the patient's axes, and their predictions put together again.

Arrays are (k, j, i) on a model grid: k to the head, j to the front, i to the right. An axial slice has rows j and
columns i, a coronal one rows k and columns i, a sagittal one rows k and columns j.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from types import EllipsisType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import ModelCard, View

#: array axis that a plane's slices are stacked along
PLANE_AXIS = {"axial": 0, "coronal": 1, "sagittal": 2}


def fastest_order(volumes: bool, device: torch.device) -> torch.memory_format:
    """The memory format in which networks run and train fastest, for volumes (3-D) or slices (2-D)."""
    if not volumes:
        return torch.channels_last
    return torch.channels_last_3d if device.type == "cuda" else torch.contiguous_format  # others know no other in 3-D


def slab(volume: Tensor, plane: str, which: slice, thickness: int = 1) -> Tensor:
    """Cut a batch of thick slices out of a volume.

    Args:
        volume: (k, j, i).
        plane: "axial", "coronal" or "sagittal".
        which: the slices, by their number along the plane's axis; without a step.
        thickness: T, odd: a slice and its (T - 1) / 2 neighbours on each side, in ascending order; beyond the ends the
            outermost slice is repeated.

    Returns:
        (N, T, H, W).
    """
    slices = volume.movedim(PLANE_AXIS[plane], 0)
    centres = torch.arange(which.start, which.stop, device=volume.device)
    neighbours = torch.arange(thickness, device=volume.device) - thickness // 2
    return slices[(centres[:, None] + neighbours).clamp(0, len(slices) - 1)]


def along(volume: Tensor, plane: str, which: slice) -> Tensor:
    """The slices ``which`` of ``volume`` (..., k, j, i) as a view (N, ..., H, W), to be read or written."""
    return volume.movedim(PLANE_AXIS[plane] - 3, 0)[which]


def add_along(volume: Tensor, plane: str, which: slice, values: Tensor, weight: float) -> None:
    """Add ``weight`` times ``values`` (N, C, H, W) to the slices ``which`` of ``volume`` (C, k, j, i), in place."""
    slices = along(volume, plane, which)
    if plane != "sagittal" or volume.device.type != "cpu":
        slices.add_(values, alpha=weight)
        return
    # these lie scattered in memory, a few values at a time: CPUs add to a copy in one piece three times as fast
    for part, value in zip(slices, values, strict=True):
        part.copy_(_together(part).add_(value, alpha=weight))


def _together(maps: Tensor) -> Tensor:
    """``maps`` (..., C, H, W) with their memory in one piece, channels last; themselves where it is."""
    return maps.movedim(-3, -1).contiguous().movedim(-1, -3)


def stack(volume: Tensor, plane: str) -> Tensor:
    """All slices of ``volume`` (k, j, i) as the input of a volumetric view's network: (1, 1, D, H, W)."""
    return volume.movedim(PLANE_AXIS[plane], 0)[None, None]


def framed(slabs: Tensor, view: View) -> tuple[Tensor, tuple[slice | EllipsisType, ...]]:
    """``slabs`` (..., H, W), centred and zero-padded to at least the view's size, and their place in that."""
    if view.size is None:
        return slabs, (...,)
    lengths = slabs.shape[-len(view.size) :]
    missing = [max(least - length, 0) for least, length in zip(view.size, lengths, strict=True)]
    before = [length // 2 for length in missing]
    inside = [slice(one, one + length) for one, length in zip(before, lengths, strict=True)]
    sides = [side for one, both in zip(before, missing, strict=True) for side in (both - one, one)]
    return F.pad(slabs, sides[::-1]), (..., *inside)


def network_input(slabs: Tensor, view: View, mirror: bool = False) -> tuple[Tensor, tuple[slice | EllipsisType, ...]]:
    """The input of a view's network for ``slabs``, or for their mirror images.

    Returns:
        The input, and where the slabs lie in it, see :func:`framed`.
    """
    seen = slabs.flip(across_axis(view.plane)) if mirror else slabs
    seen, inside = framed(seen, view)
    return seen.contiguous(memory_format=fastest_order(view.volumetric, seen.device)), inside


def as_slices(maps: Tensor, volumetric: bool) -> Tensor:
    """Network output as slices (N, C, H, W): that of a volumetric view, (1, C, D, H, W), becomes (D, C, H, W)."""
    return maps[0].movedim(1, 0) if volumetric else maps


def logits_of(
    network: nn.Module, view: View, slabs: Tensor, other_side: Sequence[int] = (), mirror: bool = False
) -> Tensor:
    """The logits of a view's network for slabs, or for their mirror images: (N, C, H, W), slice by slice.

    Slabs are brought to the view's size; the logits of a mirror image are mirrored back.

    Args:
        slabs: (N, T, H, W), see :func:`slab`; of a volumetric view (1, 1, D, H, W), see :func:`stack`.
        other_side: see :func:`other_sides`; needed for mirror images.
    """
    seen, inside = network_input(slabs, view, mirror)
    logits = network(seen)[inside]
    if mirror:
        across = across_axis(view.plane)
        logits = logits[:, other_side]
        if view.volumetric or across == -1:
            logits = logits.flip(across)
    return as_slices(logits, view.volumetric)


def across_axis(plane: str) -> int:
    """The axis of slabs (..., T, H, W) from left to right: the columns, or in sagittal slabs the slices."""
    return -3 if plane == "sagittal" else -1


def other_sides(pairs: Iterable[tuple[int, int]], classes: int) -> list[int]:
    """For every channel, that of the same structure on the other side, given the pairs of channels (left, right)."""
    table = list(range(classes))
    for left, right in pairs:
        table[left], table[right] = right, left
    return table


def split_merged(probabilities: Tensor, others: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
    """Divide the probability of a pair, from a view that cannot tell left from right, between its two sides.

    The sum of both is divided in the ratio of the other views' probabilities of left and right (QuickNAT's rule of
    remapping, Roy et al., NeuroImage 2019, made continuous); evenly where these are 0.

    Args:
        probabilities: (N, C, H, W) of the merged view.
        others: (N, C, H, W), fused probabilities of the views that tell the sides apart, up to a factor.
        pairs: channels (left, right).

    Returns:
        (N, C, H, W).
    """
    if not pairs:
        return probabilities
    left, right = (list(side) for side in zip(*pairs, strict=True))
    tiny = 1e-4  # half precision knows 6e-5
    others = _together(others)
    others_left, others_right = others[:, left].float() + tiny, others[:, right].float() + tiny
    both = probabilities[:, left] + probabilities[:, right]
    share = (others_left / (others_left + others_right)).to(both.dtype)
    result = probabilities.clone()
    result[:, left] = both * share
    result[:, right] = both * (1 - share)
    return result


def restrict_fusion(
    card: ModelCard, views: Sequence[View], votes: Sequence[Tensor]
) -> dict[tuple[int, ...], list[int]]:
    """The structures whose fusion is restricted to some of the views, because the others overlook them.

    In a mean of two, a network that never saw a similar organ and is sure that there is none outvotes the one that
    finds it. A view overlooks a structure where it finds less than the share ``card.missed_below`` of the largest
    plausible volume that a view finds. The fusion is never restricted to views that all merge left and right.

    Args:
        card: of the model.
        views: that were used.
        votes: each one's most probable channels, (k, j, i) on the model's grid.

    Returns:
        Output channels by the positions in ``views`` of the views that find them; without structures that no view
        overlooks.
    """
    if not card.missed_below or len(views) < 2:
        return {}
    voxel_ml = math.prod(card.spacing) / 1000
    volumes = [torch.bincount(vote.flatten(), minlength=len(card.labels) + 1) * voxel_ml for vote in votes]
    restricted: dict[tuple[int, ...], list[int]] = {}
    for channel, label in enumerate(card.labels, start=1):
        found = [float(volume[channel]) for volume in volumes]
        low, high = label.plausible_ml or (0.0, math.inf)
        most = max((volume for volume in found if low <= volume <= high), default=0.0)
        finding = tuple(position for position, volume in enumerate(found) if volume >= card.missed_below * most)
        if len(finding) < len(found) and not all(views[position].merged for position in finding):
            restricted.setdefault(finding, []).append(channel)
    return restricted
