"""Batch norms adapted to a scan that differs from those of the training, if corrected slices show that it helps.

Networks that see a crop as a whole have all its statistics at once. Their divergence from those of the training tells
whether the scan differs (:mod:`..networks.batch_norms`); the threshold is in the card of the learnt correction. Without
corrections nothing would show whether it helps, so plain segmentation does not do it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

import numpy as np
import SimpleITK as sitk
import torch

from ..inference.crops import Crop
from ..inference.engine import Engine
from ..inference.views import network_input, stack
from ..io.volume_image import voxels_of
from ..networks.batch_norms import divergence, scan_statistics, with_statistics
from ..networks.losses import mean_dice
from ..networks.weights import load_networks
from .corrections import Corrections

#: weights of the scan's statistics that are tried; chosen on validation cases
SHARES = (0.25, 0.5)
#: least gain in Dice on the corrected voxels for which a share is accepted
LEAST_GAIN = 0.01


def adapted_engines(engine: Engine, crops: Sequence[Crop], least_divergence: float) -> Iterator[Engine]:
    """Engines whose batch norms are adapted to the crops of a scan, by increasing shares.

    Yields none if the scan is like those of the training, or if networks see it slice by slice.

    Args:
        engine: with the model as it is; not modified.
        crops: of the scan.
        least_divergence: in nats, from which on the scan counts as different, mean over the networks, see
            :func:`.batch_norms.divergence`.

    Raises:
        ModelError: the weights cannot be loaded.
    """
    views = engine.card.views
    if not crops or not all(view.volumetric for view in views):
        return
    loaded = load_networks(engine.package)
    networks = {name: loaded[name].to(engine.device) for name in {view.network: None for view in views}}
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


def known_dice(labels: sitk.Image, corrections: Corrections) -> float:
    """Mean Dice over the structures of a label map, on the known voxels."""
    ours, theirs = (voxels_of(image)[corrections.known] for image in (labels, corrections.labels))
    return mean_dice(torch.from_numpy(ours.astype(np.int64)), torch.from_numpy(theirs.astype(np.int64)))
