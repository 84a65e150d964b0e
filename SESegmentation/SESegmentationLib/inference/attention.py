"""The attention map: where in a volume the networks' features pass the last spatial gate.

Squeeze & excitation networks scale each pixel's features by a gate that they compute from these features (sSE; Roy et
al., IEEE TMI 38(2), 2019). Where the gate of the last decoder is open, the features reach the classifier; where it is
shut, they hardly do. It shows what mattered to the network, not whether it is right. It needs a forward pass of its
own, so it is made on request.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from ..errors import UsageError
from ..geometry import Geometry
from ..memory import memory_errors
from ..models import View
from ..progress import PhasedProgress, Progress, ReportFraction, no_progress, part_of
from ..result import SegmentOptions
from .engine import Engine


def gated_views(engine: Engine, fast: bool = False) -> list[View]:
    """The views whose gates can be shown, among all, or the one that ``fast`` uses; UsageError if there is none."""
    views = engine.predictor.gated(engine.views(fast))
    if not views:
        raise UsageError(
            f"The networks of {engine.card.title} have no spatial gate (sSE) in their last decoder.",
            "Choose a model whose networks have sSE or scSE blocks in their decoders.",
        )
    return views


def attention_map(
    engine: Engine,
    image: sitk.Image,
    options: SegmentOptions = SegmentOptions(),
    progress: Progress = no_progress,
) -> sitk.Image:
    """The gates of the last decoders, mean over the views, interpolated linearly to the input's grid.

    Args:
        engine: of the model.
        image, options, progress: as for :meth:`.Engine.segment`; ``doubt`` and ``grid`` are ignored.

    Returns:
        float32, 0 to 1, with exactly the geometry of ``image``; 0 where the networks did not look.

    Raises:
        UsageError: no network has such a gate.
        InputError, OutOfMemoryError, CancelledError: as from :meth:`.Engine.segment`.
    """
    views = gated_views(engine, options.fast)
    phases = PhasedProgress(progress, {"locate": 1, "prepare": 1, "look": 8, "restore": 1})
    image = engine.checked(image)
    located = None
    if options.roi is None:
        located = engine.locate(image, low_memory=options.low_memory, progress=phases.part("locate"))
    with memory_errors():
        phases.update("prepare", 0.0)
        crops = engine.crops(image, options, located=located)
        geometry = Geometry.of(image)
        attention = np.zeros(geometry.shape, np.float32)
        for number, crop in enumerate(crops):
            report_crop = part_of(lambda fraction: phases.update("look", fraction), number, len(crops))

            def report(view: View, fraction: float, report_crop: ReportFraction = report_crop) -> None:
                report_crop((views.index(view) + fraction) / len(views))

            gates = engine.predictor.gates(crop.volume, views, options.low_memory, report)
            np.maximum(attention, crop.on_input(gates), out=attention)
        phases.update("restore", 0.0)
        phases.update("restore", 1.0)
        return geometry.image(attention)
