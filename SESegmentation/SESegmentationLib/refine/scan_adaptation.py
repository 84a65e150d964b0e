"""Adaptation to a scan that differs from those of the training, as far as the result agrees better with corrections.

The scan is segmented again with bright and dark exchanged: that is accepted if the views agree better with each other,
and the result no worse with the corrected slices. Then it is segmented with adapted batch norms, which are accepted if
the result agrees clearly better with the corrected slices than the best before it.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import torch
from torch import nn

from ..inference.engine import Engine
from ..io.volume_image import voxels_of
from ..models import ModelCard
from ..networks.losses import mean_dice
from ..networks.weights import load_networks
from ..progress import ReportFraction, part_of
from .batch_norm_adaptation import SHARES, adapted_engines
from .contrast_reversal import as_seen_reversed, can_be_reversed, reversed_networks
from .corrections import Corrections
from .segmented_scan import Scan, SegmentedScan

#: least gain in Dice on the corrected voxels for which adapted batch norms are accepted
LEAST_GAIN = 0.01


@dataclass(frozen=True)
class Adapted:
    """The segmentation that agrees best with the corrections.

    Attributes:
        segmented: the model's own, or that of an adapted engine.
        unadapted: the same without adapted batch norms. What nobody corrected stays as it is here: in the wrong
            contrast all structures are wrong, while batch norms are adapted to what was corrected.
        contrast_reversed: whether the networks saw the scan with bright and dark exchanged.
        batch_norms_adapted: whether their batch norms were adapted to it.
    """

    segmented: SegmentedScan
    unadapted: SegmentedScan
    contrast_reversed: bool = False
    batch_norms_adapted: bool = False


def can_adapt(card: ModelCard, least_divergence: float) -> bool:
    """Whether there is any way to adapt a model; ``least_divergence`` as for :func:`adapt_to_scan`."""
    return can_be_reversed(card) or _can_adapt_batch_norms(card, least_divergence)


def adapt_to_scan(
    first: SegmentedScan,
    engine: Engine,
    scan: Scan,
    corrections: Corrections,
    least_divergence: float,
    report: ReportFraction,
) -> Adapted:
    """Segment a scan by adapted engines, and choose.

    The reverse contrast takes the agreement of the views too: corrected slices are often the worst ones, on which any
    other result may be better by chance.

    Args:
        first: the model's own segmentation.
        engine: with the model as it is; not modified.
        scan: that is segmented.
        corrections: of it.
        least_divergence: in nats, from which on batch norms are adapted, see :func:`.adapted_engines`; infinity: never.
        report: called with the fraction that is done; may raise to stop.

    Raises:
        ModelError: the weights cannot be loaded.
        OutOfMemoryError: not enough memory.
    """
    card, networks = engine.card, _own_networks(engine)
    best, most = Adapted(first, first), known_dice(first.result.labels, corrections)
    adapts_batch_norms = _can_adapt_batch_norms(card, least_divergence)

    def segmented(other: Engine, step: int) -> tuple[SegmentedScan, float]:
        part = part_of(report, step, 1 + len(SHARES) if adapts_batch_norms else 1)
        found = scan.segmented(other, lambda name, fraction, seconds_left: part(fraction))
        return found, known_dice(found.result.labels, corrections)

    if can_be_reversed(card):
        reversing = reversed_networks(networks, card)
        # an engine modifies its networks
        found, agreement = segmented(Engine(engine.package, str(engine.device), copy.deepcopy(reversing)), 0)
        if agreement >= most and found.confidence > first.confidence:
            seen = as_seen_reversed(found, card)
            best, most, networks = Adapted(seen, seen, contrast_reversed=True), agreement, reversing
    if adapts_batch_norms:
        crops = [crop for crop, _ in first.seen]
        for step, adapted in enumerate(adapted_engines(engine, networks, crops, least_divergence), start=1):
            found, agreement = segmented(adapted, step)
            if agreement >= most + LEAST_GAIN:
                seen = as_seen_reversed(found, card) if best.contrast_reversed else found
                best, most = replace(best, segmented=seen, batch_norms_adapted=True), agreement
    return best


def _can_adapt_batch_norms(card: ModelCard, least_divergence: float) -> bool:
    """Networks that see slices do not have the statistics of the whole scan at once."""
    return least_divergence < math.inf and all(view.volumetric for view in card.views)


def _own_networks(engine: Engine) -> dict[str, nn.Module]:
    """Those that the model's views use, as they are in its package, on its device."""
    loaded = load_networks(engine.package)
    return {view.network: loaded[view.network].to(engine.device) for view in engine.card.views}


def known_dice(labels: sitk.Image, corrections: Corrections) -> float:
    """Mean Dice over the structures of a label map, on the known voxels."""
    ours, theirs = (voxels_of(image)[corrections.known] for image in (labels, corrections.labels))
    return mean_dice(torch.from_numpy(ours.astype(np.int64)), torch.from_numpy(theirs.astype(np.int64)))
