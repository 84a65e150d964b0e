"""What the networks looked at: the spatial gates of their last decoders, on the grid of the input.

Squeeze & excitation networks scale each pixel's features by a gate that they compute from these features (sSE; Roy et
al., IEEE TMI 38(2), 2019). Where the gate of the last decoder is open, the features reach the classifier; where it is
shut, they hardly do. It shows what mattered to the network, not whether it is right. It takes a pass of the networks of
its own, so it is made on request.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from ..errors import UsageError, memory_errors
from ..geometry import Geometry
from ..io.formats import pixel_size
from ..io.reading import check_volume
from ..models import View
from ..preprocess.crops import inside, region_box
from ..progress import PhasedProgress, Progress, no_progress
from .engine import Engine


def gated_views(engine: Engine, fast: bool = False) -> list[View]:
    """The views whose gates can be shown, of all or of the one that ``fast`` takes; UsageError where there is none."""
    predictor = engine.predictor
    views = predictor.gated([predictor.best_view()] if fast else predictor.views)
    if not views:
        raise UsageError(
            f"The networks of {engine.card.title} have no spatial gate (sSE) in their last decoder.",
            "Choose a model whose networks have sSE or scSE blocks in their decoders.",
        )
    return views


def attention_map(
    engine: Engine,
    image: sitk.Image,
    *,
    roi: sitk.Image | None = None,
    fast: bool = False,
    low_memory: bool = False,
    progress: Progress = no_progress,
) -> sitk.Image:
    """The gates of the last decoders, the mean over the views, brought to the input's grid as probabilities are.

    Args:
        engine: of the model.
        image, roi, fast, low_memory, progress: as for :meth:`.Engine.segment`.

    Returns:
        float32, 0 to 1, with exactly the geometry of ``image``; 0 where the networks did not look.

    Raises:
        UsageError: no network has such a gate.
        InputError, OutOfMemoryError, CancelledError: as from :meth:`.Engine.segment`.
    """
    views = gated_views(engine, fast)
    phases = PhasedProgress(progress, {"locate": 1, "prepare": 1, "look": 8, "restore": 1})

    def locating(phase: str, fraction: float, seconds_left: float | None) -> None:
        phases.update("locate", fraction)

    image = check_volume(image, single=pixel_size(engine.card.input, engine.card.spacing) is not None)
    located = engine.locate(image, low_memory=low_memory, progress=locating) if roi is None else None
    with memory_errors():
        phases.update("prepare", 0.0)
        fields = engine.fields(image, roi=roi, located=located)
        geometry = Geometry.of(image)
        attention = np.zeros(geometry.shape, np.float32)
        for number, field in enumerate(fields):

            def report(view: View, fraction: float, before: int = number) -> None:
                done = (views.index(view) + fraction) / len(views)
                phases.update("look", (before + done) / len(fields))

            gates = engine.predictor.gates(field.volume, views, low_memory, report)
            np.maximum(attention, field.grid.to_input(gates[..., ::-1] if field.mirror else gates), out=attention)
        phases.update("restore", 0.0)
        if roi is not None:
            attention[~inside(region_box(roi), geometry)] = 0
        phases.update("restore", 1.0)
        return geometry.image(attention)
