"""Batch norms adapted to a scan that differs from those of the training.

Networks that see a crop as a whole have all its statistics at once. Their divergence from those of the training tells
whether the scan differs (:mod:`..networks.batch_norms`); the threshold is in the card of the learnt correction. Without
corrections nothing would show whether it helps, so plain segmentation does not do it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

import torch
from torch import nn

from ..inference.crops import Crop
from ..inference.engine import Engine
from ..inference.views import network_input, stack
from ..networks.batch_norms import divergence, scan_statistics, with_statistics

#: weights of the scan's statistics that are tried; chosen on validation cases
SHARES = (0.25, 0.5)


def adapted_engines(
    engine: Engine, networks: Mapping[str, nn.Module], crops: Sequence[Crop], least_divergence: float
) -> Iterator[Engine]:
    """Engines whose batch norms are adapted to the crops of a scan, by increasing shares.

    Yields none if the scan is like those of the training.

    Args:
        engine: with the model as it is; not modified.
        networks: that are adapted, by name, as they were trained: batch norms not folded. They see volumes.
        crops: of the scan.
        least_divergence: in nats, from which on the scan counts as different, mean over the networks, see
            :func:`.batch_norms.divergence`.
    """
    views = engine.card.views
    if not crops:
        return
    statistics = {}
    for name, network in networks.items():
        inputs = [
            network_input(stack(torch.from_numpy(crop.volume.copy()).to(engine.device), view.plane), view)[0]
            for view in views
            if view.network == name
            for crop in crops
        ]
        statistics[name] = scan_statistics(network, inputs)
    if fmean(divergence(networks[name], found) for name, found in statistics.items()) < least_divergence:
        return
    for share in SHARES:
        adapted = {name: with_statistics(network, statistics[name], share) for name, network in networks.items()}
        yield Engine(engine.package, str(engine.device), adapted)
