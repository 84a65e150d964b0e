"""Views: a volume as slices along one of the patient's axes, and their predictions put together again.

Arrays are (k, j, i) on a model grid: k to the head, j to the front, i to the right. An axial slice has rows j and
columns i, a coronal one rows k and columns i, a sagittal one rows k and columns j.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

#: array axis that a plane's slices are stacked along
PLANE_AXIS = {"axial": 0, "coronal": 1, "sagittal": 2}


def slabs(volume: Tensor, plane: str, thickness: int = 1, batch: int = 8) -> Iterator[tuple[slice, Tensor]]:
    """Cut a volume into batches of thick slices.

    Args:
        volume: (k, j, i).
        plane: "axial", "coronal" or "sagittal".
        thickness: T, odd: the slice and its (T - 1) / 2 neighbours on each side, in ascending order; beyond the ends
            the outermost slice is repeated.
        batch: most slices at once.

    Yields:
        Which slices along the plane's axis, and the slabs (N, T, H, W) centred on them.
    """
    slices = volume.movedim(PLANE_AXIS[plane], 0)
    neighbours = torch.arange(thickness, device=volume.device) - thickness // 2
    for start in range(0, len(slices), batch):
        centres = torch.arange(start, min(start + batch, len(slices)), device=volume.device)
        yield slice(start, start + len(centres)), slices[(centres[:, None] + neighbours).clamp(0, len(slices) - 1)]


def along(volume: Tensor, plane: str, which: slice) -> Tensor:
    """The slices ``which`` of ``volume`` (..., k, j, i) as a view (N, ..., H, W), to be read or written."""
    return volume.movedim(PLANE_AXIS[plane] - 3, 0)[which]


def fuse(total: Tensor, plane: str, which: slice, probabilities: Tensor, weight: float) -> None:
    """Add the weighted prediction of one batch of slices to the fused probabilities.

    Args:
        total: (C, k, j, i), changed in place; any memory order.
        plane: the plane that the slices were cut in.
        which: the slices.
        probabilities: (N, C, H, W).
        weight: share of this view; the shares of all views add up to 1.
    """
    along(total, plane, which).add_(probabilities, alpha=weight)


def split_merged(probabilities: Tensor, others: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
    """Give each side its part of what a view that cannot tell left from right says of a pair of structures.

    The sum of both is divided in the ratio of what the other views together say of left and right (QuickNAT's rule of
    remapping, Roy et al., NeuroImage 2019, made continuous); evenly where they say nothing.

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
    others_left, others_right = others[:, left].float() + tiny, others[:, right].float() + tiny
    together = probabilities[:, left] + probabilities[:, right]
    share = (others_left / (others_left + others_right)).to(together.dtype)
    result = probabilities.clone()
    result[:, left] = together * share
    result[:, right] = together * (1 - share)
    return result
