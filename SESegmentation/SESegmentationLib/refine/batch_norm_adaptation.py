"""Batch norms adapted to a scan that differs from those of the training, if corrected slices speak for it.

Networks that see a crop whole have the statistics of all of it at once. How far these lie from those of the training
tells whether the scan differs (:mod:`..networks.batch_norms`); the correction's card says from where on. Without
corrections nothing would show whether it helps, so it is no part of segmenting.
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
from . import Corrections

#: shares of the scan in the statistics that are tried; chosen on validation cases
SHARES = (0.25, 0.5)
#: a share is taken if it adds this to the Dice on what was corrected
LEAST_GAIN = 0.01


def adapted_engines(engine: Engine, crops: Sequence[Crop], least_divergence: float) -> Iterator[Engine]:
    """Engines whose batch norms are adapted to the crops of a scan, by little and by more.

    There is no such engine where the scan is as those of the training, or networks see it slice by slice.

    Args:
        engine: with the model as it is; it stays so.
        crops: of the scan.
        least_divergence: from which on the scan differs, mean over the networks, see :func:`.batch_norms.divergence`.

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
    """Mean Dice of the structures of a label map with what is known."""
    ours, theirs = (voxels_of(image)[corrections.known] for image in (labels, corrections.labels))
    return mean_dice(torch.from_numpy(ours.astype(np.int64)), torch.from_numpy(theirs.astype(np.int64)))
