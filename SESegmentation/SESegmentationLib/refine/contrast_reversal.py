"""Networks that see a scan with bright and dark exchanged, if corrected slices show that it helps.

What is bright on a T1-weighted image is dark on a T2-weighted one. A network that learnt from one of them finds more on
the other if that is reversed first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from ..models import ModelCard
from .segmented_scan import SegmentedScan

#: "contrast" of the card of a model that takes every contrast
ANY_CONTRAST = "any"
#: what a normalised intensity and its reverse add up to, by the type of the card's intensity recipe
_SUMS = {"percentile": 1.0, "zscore": 0.0}


class ReversedContrast(nn.Module):
    """A network that sees images with bright and dark exchanged.

    Args:
        network: any.
        total: what an intensity and its reverse add up to.
    """

    def __init__(self, network: nn.Module, total: float) -> None:
        super().__init__()
        self.network, self.total = network, total
        self.dimensions = getattr(network, "dimensions", 2)

    def forward(self, image: Tensor) -> Tensor:
        """The network's output for the reverse of ``image``."""
        return self.network(self.total - image)


def can_be_reversed(card: ModelCard) -> bool:
    """Whether the reverse of a model's images can be of use to it.

    That is so for models of one contrast of MRI. CT has no other, and who learnt from any contrast knows the reverse.
    """
    return card.modality == "MR" and card.contrast.casefold() != ANY_CONTRAST and card.intensity["type"] in _SUMS


def reversed_networks(networks: Mapping[str, nn.Module], card: ModelCard) -> dict[str, nn.Module]:
    """Networks of a model that see scans with bright and dark exchanged, by name."""
    total = _SUMS[card.intensity["type"]]
    return {name: ReversedContrast(network, total) for name, network in networks.items()}


def as_seen_reversed(segmented: SegmentedScan, card: ModelCard) -> SegmentedScan:
    """The same segmentation with the crops as such networks saw them."""
    total = _SUMS[card.intensity["type"]]
    seen = [(replace(crop, volume=total - crop.volume), probabilities) for crop, probabilities in segmented.seen]
    return replace(segmented, seen=seen)
