"""From a corrected segmentation to a better one: propagate the corrections to the other slices, and list the changes.

The learnt correction does that, where it expects a gain. Before it, batch norms are adapted to a scan that differs from
those of the training. On request the networks are recalibrated instead, as far as that improves the result on held-out
corrected slices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import SimpleITK as sitk
from torch import Tensor

from ..errors import memory_errors
from ..geometry import Geometry
from ..inference.crops import Crop
from ..inference.engine import Engine
from ..inference.output_checks import measure_structures
from ..inference.postprocess import divide
from ..inference.roi import inside
from ..io.volume_image import voxels_of
from ..models import ModelCard
from ..progress import PhasedProgress, Progress, no_progress, part_of
from ..result import (
    NO_GAIN,
    NOTHING_CORRECTED,
    NOTHING_SAID,
    Confidence,
    SegmentationResult,
    SegmentOptions,
    StructureChange,
)
from . import Corrections, Slices, check_place, check_values, edited_slices
from .adapted import AdaptedParameters
from .batch_norm_adaptation import LEAST_GAIN, SHARES, adapted_engines, known_dice
from .cross_validation import recalibrate_cross_validated
from .learnt_correction import CropCorrections, CropPrediction, Judgement, LearntCorrection, Report
from .recalibration import RecalibrationSettings, channels_of, known_channels

#: nothing is known of a voxel, it was looked at, or it is right
UNKNOWN, SEEN, RIGHT = 0.0, 0.5, 1.0


def propagate(
    learnt: LearntCorrection,
    card: ModelCard,
    seen: Sequence[tuple[Crop, Tensor]],
    labels: sitk.Image,
    corrections: Corrections,
    whole_slices: bool,
    report: Report,
) -> tuple[sitk.Image, dict[int, Judgement]]:
    """Propagate corrections to the slices that nobody corrected.

    Args:
        learnt: predicts what changes.
        card: of the model.
        seen: the crops that its networks saw, each with their probabilities (C, k, j, i) before smoothing, as in the
            training of the correction.
        labels: the resulting label map, on the volume's grid.
        corrections: on the same grid.
        whole_slices: whether unchanged voxels of corrected slices are right too.
        report: told the fraction that is done; may raise to stop.

    Returns:
        Labels, the corrected slices not yet put in; and by value the expected gain of each structure.
    """
    array = sitk.GetArrayFromImage(labels)
    judgements: dict[int, Judgement] = {}
    for number, (crop, probabilities) in enumerate(seen):
        channels, known = known_channels(crop, corrections, card)
        present = CropPrediction(crop.volume, probabilities, channels_of(crop, labels, card).astype(np.uint8))
        right = known & (whole_slices | (channels != present.own))
        strength = np.where(right, RIGHT, np.where(known, SEEN, UNKNOWN)).astype(np.float32)
        outcome = learnt.correct(present, CropCorrections(channels, strength), card, part_of(report, number, len(seen)))
        values = {channel: crop.values[label.value] for channel, label in enumerate(card.labels, start=1)}
        judgements |= {values[channel]: judged for channel, judged in outcome.judgements.items()}
        if outcome.probabilities is None or outcome.box is None:
            continue
        before, after = divide(probabilities, card)[(slice(None), *outcome.box)], outcome.probabilities
        box = outcome.box
        if crop.mirrored:
            before, after = before.flip(-1), after.flip(-1)
            width = crop.volume.shape[-1]
            box = (*box[:2], slice(width - box[2].stop, width - box[2].start))
        grid = crop.grid.cropped(box)
        was, now = (voxels_of(grid.from_model_grid(each)) for each in (before, after))
        taken = [
            card.labels[channel - 1].value
            for channel, judged in outcome.judgements.items()
            if judged.taken or judged.divided
        ]
        table = np.zeros(max(crop.values) + 1, array.dtype)
        table[list(crop.values)] = list(crop.values.values())
        changed = (was != now) & (np.isin(was, taken) | np.isin(now, taken))
        if crop.region is not None:
            changed &= inside(crop.region, crop.grid.input)
        changed &= array == table[was]  # what the clean-up changed stays so
        array[changed] = table[now[changed]]
    report(1.0)
    return Geometry.of(labels).image(array), judgements


@dataclass(frozen=True)
class _Segmented:
    """A segmentation, and what the networks saw and gave, crop by crop; see :func:`propagate`."""

    result: SegmentationResult
    seen: list[tuple[Crop, Tensor]]


@dataclass(frozen=True)
class Refinement:
    """A refined segmentation.

    Attributes:
        result: the new one, corrected slices as they were left.
        own: the model's own segmentation.
        changes: by structure.
        slices: the corrected ones, named or found.
        judgements: expected gains of the structures that were corrected, by value.
        kept_because: why nothing but the corrected slices changed; empty where something did.
        adapted: the recalibrated parameters; None where none were.
        batch_norms_adapted: whether batch norms were adapted to the scan.
    """

    result: SegmentationResult
    own: SegmentationResult
    changes: list[StructureChange]
    slices: list[Slices]
    judgements: dict[int, Judgement] = field(default_factory=dict)
    kept_because: str = ""
    adapted: AdaptedParameters | None = None
    batch_norms_adapted: bool = False


def refine(
    engine: Engine,
    image: sitk.Image,
    labels: sitk.Image,
    slices: Sequence[Slices] | None = None,
    *,
    whole_slices: bool = True,
    options: SegmentOptions = SegmentOptions(),
    recalibration: RecalibrationSettings | None = None,
    progress: Progress = no_progress,
) -> Refinement:
    """Segment a volume, insert the corrected slices, and propagate the corrections to the others.

    Args:
        engine: with the model as it is; not modified.
        image: the volume.
        labels: the corrected label map on the same grid.
        slices: which of its slices were corrected; found by comparing with the model's own result where None.
        whole_slices: whether unchanged voxels of ``slices`` are right too. In slices that were found by comparison only
            changed voxels are known.
        options: as for the result that was corrected; its grid is that of ``image``. The map of doubt is 0 where labels
            are known.
        recalibration: settings for recalibrating the networks first; None: no recalibration.
        progress: told phase, fraction and seconds left; may raise to cancel.

    Raises:
        InputError: the volume or the corrections cannot be used.
        ModelError: the learnt correction is missing or cannot be used.
        UsageError: the networks do not have the parameters that are to be trained.
        OutOfMemoryError: not enough memory.
        CancelledError: from ``progress``.
    """
    image = engine.checked(image)
    check_place(image, labels)
    whole = whole_slices and slices is not None
    corrections = None if slices is None else Corrections.in_slices(labels, slices)
    learnt = LearntCorrection.of_model(engine.card)
    adapts = learnt.adapts_from < math.inf and not recalibration
    again = {"learn": 20, "segment again": 5} if recalibration else {"adapt": 10} if adapts else {}
    phases = PhasedProgress(progress, {"locate": 2, "segment": 5, **again, "carry": 2})
    located = None
    if options.roi is None:
        located = engine.locate(image, low_memory=options.low_memory, progress=phases.part("locate"))

    def segment(by: Engine, inside: Progress) -> _Segmented:
        seen: list[tuple[Crop, Tensor]] = []

        def observe(crop: Crop, probabilities: Tensor) -> None:
            seen.append((crop, probabilities))

        return _Segmented(by.segment(image, options, located=located, observe=observe, progress=inside), seen)

    first = now = segment(engine, phases.part("segment"))
    own = first.result
    check_values(labels, [structure.label.value for structure in own.structures])
    if corrections is None or slices is None:
        slices = edited_slices(voxels_of(labels) != voxels_of(own.labels))
        corrections = Corrections.in_slices(labels, slices)
    adapted = None
    with memory_errors():
        if recalibration and _differs(corrections, own):
            adapted = recalibrate_cross_validated(
                engine,
                image,
                corrections,
                slices,
                recalibration,
                options,
                located,
                lambda share: phases.update("learn", share),
            )
            if adapted is not None:
                recalibrated = Engine(engine.package, str(engine.device), adapted.networks(engine.package))
                now = segment(recalibrated, phases.part("segment again"))
        elif adapts and _differs(corrections, own):
            engines = adapted_engines(engine, [crop for crop, _ in first.seen], learnt.adapts_from)
            now = _best(first, engines, corrections, segment, lambda share: phases.update("adapt", share))
        carried, judgements = propagate(
            learnt,
            engine.card,
            now.seen,
            now.result.labels,
            corrections,
            whole,
            lambda share: phases.update("carry", share),
        )
        carried = _limited(carried, own.labels, corrections)
    result = _relabelled(now.result, corrections.kept_in(carried), engine.pairs(image, options.roi))
    result = replace(result, timings=phases.seconds(), doubt=_outside(corrections, result.doubt))
    changes = _changes(own, result, corrections)
    because = "" if any(change.elsewhere for change in changes) else _reason(judgements, learnt)
    by_scan = now is not first and adapted is None
    return Refinement(result, own, changes, list(slices), judgements, because, adapted, by_scan)


def _best(
    first: _Segmented,
    engines: Iterable[Engine],
    corrections: Corrections,
    segment: Callable[[Engine, Progress], _Segmented],
    report: Report,
) -> _Segmented:
    """The segmentation that agrees best with the corrections: the model's, or that of an adapted engine.

    The engines are adapted by increasing shares. Each is accepted only if it agrees clearly better than the best before
    it.
    """
    best, most = first, known_dice(first.result.labels, corrections)
    for number, engine in enumerate(engines):
        part = part_of(report, number, len(SHARES))
        found = segment(engine, lambda name, fraction, seconds_left, part=part: part(fraction))
        agreement = known_dice(found.result.labels, corrections)
        if agreement >= most + LEAST_GAIN:
            best, most = found, agreement
    return best


def _differs(corrections: Corrections, own: SegmentationResult) -> bool:
    """Whether anything was corrected at all."""
    return bool((voxels_of(corrections.labels) != voxels_of(own.labels))[corrections.known].any())


def _limited(labels: sitk.Image, own: sitk.Image, corrections: Corrections) -> sitk.Image:
    """New labels where a structure that was corrected was or is; the model's own elsewhere."""
    new, before, corrected = (voxels_of(image) for image in (labels, own, corrections.labels))
    edited = corrections.known & (corrected != before)
    values = np.setdiff1d(np.union1d(before[edited], corrected[edited]), [0])
    there = np.nonzero(new != before)
    allowed = np.isin(new[there], values) | np.isin(before[there], values)
    result = before.copy()
    result[there] = np.where(allowed, new[there], before[there])
    return Geometry.of(own).image(result)


def _reason(judgements: dict[int, Judgement], learnt: LearntCorrection) -> str:
    """Why nothing changed outside of the corrected slices."""
    if not judgements:
        return NOTHING_CORRECTED
    if all(judged.expected < learnt.least_gain for judged in judgements.values()):
        return NO_GAIN
    return NOTHING_SAID


def _relabelled(result: SegmentationResult, labels: sitk.Image, pairs: Sequence[tuple[int, int]]) -> SegmentationResult:
    """``result`` with other labels, measured again; its confidences are kept."""
    structures = [structure.label for structure in result.structures]
    confidences = {entry.label.value: Confidence(entry.confidence, entry.expected_dice) for entry in result.structures}
    implausible_before = measure_structures(result.labels, structures, pairs, confidences)[1]
    measured, implausible = measure_structures(labels, structures, pairs, confidences)
    findings = [*(finding for finding in result.findings if finding not in implausible_before), *implausible]
    return replace(result, labels=labels, structures=measured, findings=findings)


def _changes(own: SegmentationResult, new: SegmentationResult, corrections: Corrections) -> list[StructureChange]:
    before, after = (voxels_of(result.labels) for result in (own, new))
    differs = before != after
    there = np.nonzero(differs)
    before, after, known = before[there], after[there], corrections.known[there]
    changes = []
    for structure in new.structures:
        had, has = before == structure.label.value, after == structure.label.value
        corrected = int(((had | has) & known).sum())
        changes.append(StructureChange(structure.label, int(has.sum()), int(had.sum()), corrected))
    return changes


def _outside(corrections: Corrections, doubt: sitk.Image | None) -> sitk.Image | None:
    """A map of doubt, 0 where the labels are known."""
    if doubt is None:
        return None
    array = sitk.GetArrayFromImage(doubt)
    array[corrections.known] = 0
    return Geometry.of(doubt).image(array)
