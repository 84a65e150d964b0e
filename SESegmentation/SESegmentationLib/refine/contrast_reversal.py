"""Networks that see a scan with bright and dark exchanged, if corrected slices show that it helps.

What is bright on a T1-weighted image is dark on a T2-weighted one. A network that learnt from one of them finds more on
the other if that is reversed first.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from ..inference.engine import Engine
from .segmented_scan import SegmentedScan


class ReversedContrast(nn.Module):
    """A network that sees images with bright and dark exchanged.

    Args:
        network: of images with intensities from 0 to 1.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.dimensions = getattr(network, "dimensions", 2)

    def forward(self, image: Tensor) -> Tensor:
        """The network's output for the reverse of ``image``."""
        return self.network(1 - image)


def can_be_reversed(engine: Engine) -> bool:
    """Whether a model's images can: intensities of MRI are relative, those of CT (HU) are not."""
    return engine.card.intensity["type"] == "percentile"


def as_seen_reversed(segmented: SegmentedScan) -> SegmentedScan:
    """The same segmentation with the crops as networks of the reverse contrast saw them."""
    return replace(
        segmented,
        seen=[(replace(crop, volume=1 - crop.volume), probabilities) for crop, probabilities in segmented.seen],
    )
