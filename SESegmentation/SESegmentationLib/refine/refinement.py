"""From a corrected segmentation to a better one: recalibrate, segment again, keep the corrections, tell the changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from torch import nn

from ..errors import InputError
from ..inference.engine import Engine
from ..inference.memory import memory_errors
from ..inference.pictures import pixel_size
from ..inference.reading import check_volume
from ..inference.result import Finding, SegmentationResult
from ..inference.voxels import voxels_of
from ..inference.weights import load_networks
from ..models import Label
from ..progress import PhasedProgress, Progress, no_progress
from .adapted import AdaptedParameters
from .corrections import Corrections, Slices, check_place, check_values, edited_slices
from .lessons import Lessons, prepare_lessons
from .parameters import adapted_parameters
from .recalibration import Settings, recalibrate


@dataclass(frozen=True)
class Change:
    """What refinement does to one structure.

    Attributes:
        label: which.
        gained, lost: voxels that the new result has and the network's own had not, and the reverse.
        corrected: how many of these lie in what the clinician corrected; all of the others are the network's.
    """

    label: Label
    gained: int
    lost: int
    corrected: int


@dataclass(frozen=True)
class Refinement:
    """A refined segmentation.

    Attributes:
        result: the new one, corrected slices as they were left.
        own: the network's own, before.
        changes: by structure.
        slices: the corrected ones, named or found.
        adapted: what it took.
    """

    result: SegmentationResult
    own: SegmentationResult
    changes: list[Change]
    slices: list[Slices]
    adapted: AdaptedParameters


def refine(
    engine: Engine,
    image: sitk.Image,
    labels: sitk.Image,
    slices: Sequence[Slices] | None = None,
    *,
    roi: sitk.Image | None = None,
    low_memory: bool = False,
    doubt: bool = False,
    settings: Settings | None = None,
    progress: Progress = no_progress,
) -> Refinement:
    """Let the networks of ``engine`` learn from corrected slices, and segment the volume again.

    Args:
        engine: with the model as it is; it stays so.
        image: the volume.
        labels: the corrected label map on the same grid.
        slices: which of its slices were corrected; found by comparing with the network's own result where None.
        roi: as it was given for the result that was corrected.
        low_memory: smaller batches; slower.
        doubt: give the new result's map of doubt too; there is none in the corrected slices.
        settings: how to learn; None: what did best.
        progress: told phase, fraction and seconds left; may raise to cancel.

    Raises:
        InputError: the volume or the corrections cannot be used, or lie where the networks do not look.
        UsageError: the networks do not have the parameters that shall learn.
        OutOfMemoryError: not enough memory.
        CancelledError: from ``progress``.
    """
    image = check_volume(image, single=pixel_size(engine.card.input, engine.card.spacing) is not None)
    check_place(image, labels)
    corrections = None if slices is None else Corrections.in_slices(labels, slices)
    phases = PhasedProgress(progress, {"locate": 2, "segment": 2, "learn": 4, "segment again": 2})
    located = engine.locate(image, low_memory=low_memory, progress=_inside(phases, "locate")) if roi is None else None
    options = {"roi": roi, "low_memory": low_memory, "located": located}
    own = engine.segment(image, **options, progress=_inside(phases, "segment"))
    check_values(labels, [structure.label.value for structure in own.structures])
    if corrections is None:
        slices = edited_slices(voxels_of(labels) != voxels_of(own.labels))
        corrections = Corrections.in_slices(labels, slices)
    settings = settings or Settings.of(slices=_count(slices))
    with memory_errors():
        networks = {name: net.to(engine.device) for name, net in load_networks(engine.package).items()}
        lessons = _lessons(engine, networks, image, corrections, roi, located)
        adapted = recalibrate(networks, lessons, settings, engine.device, lambda share: phases.update("learn", share))
    parameters = _adapted_parameters(engine, adapted, lessons, settings)
    again = Engine(engine.package, str(engine.device), adapted)
    inside = _inside(phases, "segment again")
    result = again.segment(image, **options, doubt=doubt, keep=corrections.kept_in, progress=inside)
    result = replace(
        result,
        timings=phases.seconds(),
        doubt=_outside(corrections, result.doubt),
        findings=[*result.findings, *_too_few(slices)],
    )
    return Refinement(result, own, _changes(own, result, corrections), list(slices), parameters)


def _count(slices: Sequence[Slices]) -> int:
    return sum(len(entry.numbers) for entry in slices)


def _too_few(slices: Sequence[Slices]) -> list[Finding]:
    """What is to be said of a single corrected slice: a result that was good before may be worse elsewhere."""
    if _count(slices) > 1:
        return []
    return [
        Finding(
            "one-slice",
            "The network learnt from one corrected slice only.",
            "Elsewhere a good result can have become worse: look at the changes, or correct a second slice.",
        )
    ]


def _lessons(
    engine: Engine,
    networks: dict[str, nn.Module],
    image: sitk.Image,
    corrections: Corrections,
    roi: sitk.Image | None,
    located: sitk.Image | None,
) -> dict[str, list[Lessons]]:
    """What each network can learn."""
    lessons: dict[str, list[Lessons]] = {name: [] for name in networks}
    for field in engine.fields(image, roi=roi, located=located):
        for view in engine.card.views:
            lesson = prepare_lessons(networks[view.network], view, field, corrections, engine.card, engine.device)
            if lesson is not None:
                lessons[view.network].append(lesson)
    if not any(lessons.values()):
        raise InputError(
            "The corrected slices lie where the model does not look.", "Correct slices that cross its structures."
        )
    return lessons


def _adapted_parameters(
    engine: Engine, adapted: dict[str, nn.Module], lessons: dict[str, list[Lessons]], settings: Settings
) -> AdaptedParameters:
    tensors = {
        f"{name}.{key}": parameter.detach().cpu().clone()
        for name, network in adapted.items()
        if lessons[name]
        for key, parameter in adapted_parameters(network, settings.parameters).items()
    }
    notes = {"model": engine.card.name, "version": engine.card.version, "parameters": settings.parameters}
    return AdaptedParameters(tensors, engine.card.weights_sha256, notes)


def _changes(own: SegmentationResult, new: SegmentationResult, corrections: Corrections) -> list[Change]:
    before, after = (voxels_of(result.labels) for result in (own, new))
    differs = before != after
    there = np.nonzero(differs)
    before, after, known = before[there], after[there], corrections.known[there]
    changes = []
    for structure in new.structures:
        had, has = before == structure.label.value, after == structure.label.value
        corrected = int(((had | has) & known).sum())
        changes.append(Change(structure.label, int(has.sum()), int(had.sum()), corrected))
    return changes


def _outside(corrections: Corrections, doubt: sitk.Image | None) -> sitk.Image | None:
    """A map of doubt, 0 where the labels are known."""
    if doubt is None:
        return None
    array = sitk.GetArrayFromImage(doubt)
    array[corrections.known] = 0
    outside = sitk.GetImageFromArray(array)
    outside.CopyInformation(doubt)
    return outside


def _inside(phases: PhasedProgress, phase: str) -> Progress:
    """Progress of a task that is one phase of another."""
    return lambda name, fraction, seconds_left: phases.update(phase, fraction)
