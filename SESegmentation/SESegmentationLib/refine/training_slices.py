"""What a network can learn from corrected slices: the slices of one view of one crop, and the loss on them.

A corrected slice is known as a whole in its own view, and as a line of pixels in the slices of the other views that
cross it. Where nothing is known and the network was sure, its own probabilities serve as an anchor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..inference.crops import Crop
from ..inference.views import PLANE_AXIS, along, logits_of, other_sides, slab, stack
from ..models import ModelCard, View
from ..networks.losses import merge_pairs, merge_target, segmentation_loss
from .corrections import Corrections, known_channels

#: the network was sure where it gave a class at least this probability
SURE = 0.9
#: at most this many slices of a view and crop take part
POOL = 64
#: relative frequency with which slices without a known voxel of a structure are drawn
EMPTY_SHARE = 0.2


@dataclass(frozen=True)
class TrainingSlices:
    """Slices of one view of one crop.

    Attributes:
        view: whose network learns.
        slabs: (N, T, H, W) inputs of the network; of a volumetric view (1, 1, N, H, W).
        target: (N, H, W) int64, channels; arbitrary where not known.
        known: (N, H, W) bool.
        own: (N, C, H, W) the network's probabilities before it learns, half precision.
        corrected: (N,) bool, slices most of which is known.
        pairs: channels (left, right) that are merged in this view; empty if it tells them apart.
        other_side: of every channel that of the same structure on the other side.
    """

    view: View
    slabs: Tensor
    target: Tensor
    known: Tensor
    own: Tensor
    corrected: Tensor
    pairs: list[tuple[int, int]]
    other_side: list[int]

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Indices of ``count`` slices at most; half of them corrected ones, if there are enough.

        A volumetric view's network looks at all slices anyway, so it learns from all of them.
        """
        if self.view.volumetric:
            return torch.arange(len(self.target))
        corrected = self.corrected.nonzero().flatten()
        first = corrected[torch.randperm(len(corrected), generator=generator)[: (count + 1) // 2]]
        share = torch.where((self.known & (self.target > 0)).flatten(1).any(1).cpu(), 1.0, EMPTY_SHARE)
        share[corrected] = 0
        rest = min(count - len(first), int((share > 0).sum()))
        return torch.cat([first, torch.multinomial(share, rest, generator=generator)]) if rest > 0 else first

    def logits(self, network: nn.Module, chosen: Tensor | slice, mirror: bool = False) -> Tensor:
        """The logits of ``network`` for the slices ``chosen``, or for their mirror images: (N, C, H, W), sides merged.

        As in inference, slices are padded to the view's size, and the logits of a mirror image are mirrored back.
        """
        if self.view.volumetric:
            logits = logits_of(network, self.view, self.slabs, self.other_side, mirror)[chosen].float()
        else:
            logits = logits_of(network, self.view, self.slabs[chosen], self.other_side, mirror).float()
        return merge_pairs(logits, self.pairs, torch.ones(len(logits), dtype=torch.bool, device=logits.device))

    def loss(self, network: nn.Module, chosen: Tensor, anchor: float, mirror: bool = False) -> Tensor:
        """Cross-entropy and Dice on the known voxels of the slices ``chosen``, and the anchor on the others.

        The anchor is the cross-entropy with the network's own former probabilities, where it was sure, times
        ``anchor``. With ``mirror`` the network sees mirror images.
        """
        logits = self.logits(network, chosen, mirror)
        known, target, own = self.known[chosen], self.target[chosen], self.own[chosen].float()
        by_voxel = logits.movedim(1, -1)
        loss = 0 * logits.sum()  # in case that nothing is known or sure
        if known.any():  # as one image of a single row
            loss = segmentation_loss(by_voxel[known].T[None, :, None], target[known][None, None])
        sure = (own.amax(1) >= SURE) & ~known
        if anchor and sure.any():
            entropy = -(own * F.log_softmax(logits, dim=1)).sum(1)
            loss = loss + anchor * entropy[sure].mean()
        return loss


def prepare_training_slices(
    network: nn.Module, view: View, crop: Crop, corrections: Corrections, card: ModelCard, device: torch.device
) -> TrainingSlices | None:
    """What ``network`` can learn in one view of one crop; None where nothing is known there.

    Args:
        network: before it learns, on ``device``, set to evaluation.
    """
    volumes = [torch.from_numpy(array) for array in known_channels(crop, corrections, card)]
    if not bool(volumes[1].any()):
        return None
    everything = slice(0, crop.volume.shape[PLANE_AXIS[view.plane]])
    target, known = (along(volume, view.plane, everything) for volume in volumes)
    corrected = known.float().flatten(1).mean(1) > 0.5
    image = torch.from_numpy(np.ascontiguousarray(crop.volume))
    if view.volumetric:
        kept, slabs = torch.arange(len(known)), stack(image, view.plane).to(device)
    else:
        kept = _most_known(corrected, (known & (target > 0)).flatten(1).sum(1))
        slabs = slab(image, view.plane, everything, view.thickness)[kept].to(device)
    both = card.channel_pairs
    pairs = both if view.merged else []
    target = merge_target(target[kept].to(device), pairs, torch.ones(len(kept), dtype=torch.bool, device=device))
    sides = other_sides(both, len(card.labels) + 1)
    training = TrainingSlices(view, slabs, target, known[kept].to(device), slabs[:0], corrected[kept], pairs, sides)
    with torch.no_grad():
        most = len(kept) if view.volumetric else 8
        parts = [training.logits(network, slice(n, n + most)) for n in range(0, len(kept), most)]
    return replace(training, own=torch.cat([torch.softmax(part, dim=1).half() for part in parts]))


def _most_known(corrected: Tensor, structure: Tensor) -> Tensor:
    """Indices of ``POOL`` slices: the corrected ones, then those with the most known voxels of structures."""
    rank = structure.double() + corrected.double() * (structure.max() + 1)
    return rank.argsort(descending=True, stable=True)[:POOL].sort().values
