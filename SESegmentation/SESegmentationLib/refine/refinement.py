"""From a corrected segmentation to a better one: propagate the corrections to the other slices, and list the changes.

The learnt correction does that, where it expects a gain. Before it, the networks are adapted to a scan that differs
from those of the training. On request the networks are recalibrated instead, as far as that improves the result on
held-out corrected slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import SimpleITK as sitk

from ..geometry import Geometry, Slices, edited_slices
from ..inference.engine import Engine
from ..inference.model_grid import check_room_for_grid
from ..inference.output_checks import measure_structures
from ..io.volume_image import voxels_of
from ..memory import memory_errors
from ..progress import PhasedProgress, Progress, no_progress
from ..result import (
    NO_GAIN,
    NOTHING_CORRECTED,
    NOTHING_SAID,
    Confidence,
    IntracranialVolume,
    SegmentationResult,
    SegmentOptions,
    StructureChange,
)
from .adapted import AdaptedParameters
from .corrections import Corrections, check_place, check_values
from .cross_validation import recalibrate_cross_validated
from .learnt_correction import ExpectedGain, LearntCorrection
from .propagation import propagate
from .recalibration import RecalibrationSettings
from .scan_adaptation import Adapted, adapt_to_scan, can_adapt
from .segmented_scan import Scan, SegmentedScan


@dataclass(frozen=True)
class Refinement:
    """A refined segmentation.

    Attributes:
        result: the new one, corrected slices as they were left.
        own: the model's own segmentation.
        changes: by structure.
        slices: the corrected ones, named or found.
        expected_gains: of the structures that were corrected, by value.
        kept_because: why nothing but the corrected slices changed; empty where something did.
        adapted: the recalibrated parameters; None where none were.
        contrast_reversed: whether the networks saw the scan with bright and dark exchanged.
        batch_norms_adapted: whether batch norms were adapted to the scan.
    """

    result: SegmentationResult
    own: SegmentationResult
    changes: list[StructureChange]
    slices: list[Slices]
    expected_gains: dict[int, ExpectedGain] = field(default_factory=dict)
    kept_because: str = ""
    adapted: AdaptedParameters | None = None
    contrast_reversed: bool = False
    batch_norms_adapted: bool = False


@memory_errors()
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
        progress: called with the phase, fraction and seconds left; may raise to cancel.

    Raises:
        InputError: the volume or the corrections cannot be used.
        ModelError: the learnt correction is missing or cannot be used.
        UsageError: the networks do not have the parameters that are to be trained.
        OutOfMemoryError: not enough memory.
        CancelledError: from ``progress``.
    """
    check_room_for_grid(image, engine.card)
    image = engine.checked(image)
    check_place(image, labels)
    whole = whole_slices and slices is not None
    corrections = None if slices is None else Corrections.in_slices(labels, slices)
    learnt = LearntCorrection.of_model(engine.card)
    adapts = can_adapt(engine.card, learnt.adapts_from) and not recalibration
    again = {"learn": 20, "segment again": 5} if recalibration else {"adapt": 10} if adapts else {}
    phases = PhasedProgress(progress, {"locate": 2, "segment": 5, **again, "carry": 2})
    scan = Scan.located_by(engine, image, options, phases.part("locate"))
    first = now = scan.segmented(engine, phases.part("segment"))
    own = first.result
    check_values(labels, [structure.label.value for structure in own.structures])
    if corrections is None or slices is None:
        slices = edited_slices(voxels_of(labels) != voxels_of(own.labels))
        corrections = Corrections.in_slices(labels, slices)
    adapted, by_scan = None, Adapted(first, first)
    if recalibration and _differs(corrections, own):
        now, adapted = _recalibrated(first, engine, scan, corrections, slices, recalibration, phases)
    elif adapts and _differs(corrections, own):
        by_scan = adapt_to_scan(
            first, engine, scan, corrections, learnt.adapts_from, lambda share: phases.update("adapt", share)
        )
        now = by_scan.segmented
    carried, expected_gains = propagate(
        learnt,
        engine.card,
        now.seen,
        now.result.labels,
        corrections,
        whole,
        lambda share: phases.update("carry", share),
    )
    carried = _limited(carried, by_scan.unadapted.result.labels, corrections)
    result = _relabelled(now.result, corrections.kept_in(carried), engine.pairs(image, options.roi))
    result = replace(result, timings=phases.seconds(), doubt=_outside(corrections, result.doubt))
    changes = _changes(own, result, corrections)
    because = "" if any(change.elsewhere for change in changes) else _reason(expected_gains, learnt)
    return Refinement(
        result,
        own,
        changes,
        list(slices),
        expected_gains,
        because,
        adapted,
        by_scan.contrast_reversed,
        by_scan.batch_norms_adapted,
    )


def _recalibrated(
    first: SegmentedScan,
    engine: Engine,
    scan: Scan,
    corrections: Corrections,
    slices: Sequence[Slices],
    settings: RecalibrationSettings,
    phases: PhasedProgress,
) -> tuple[SegmentedScan, AdaptedParameters | None]:
    """The segmentation by recalibrated networks, and their parameters; ``first`` where they do no better."""
    adapted = recalibrate_cross_validated(
        engine,
        scan.image,
        corrections,
        slices,
        settings,
        scan.options,
        scan.located,
        lambda share: phases.update("learn", share),
    )
    if adapted is None:
        return first, None
    recalibrated = Engine(engine.package, str(engine.device), adapted.networks(engine.package))
    return scan.segmented(recalibrated, phases.part("segment again")), adapted


def _differs(corrections: Corrections, own: SegmentationResult) -> bool:
    """Whether anything was corrected at all."""
    return bool((voxels_of(corrections.labels) != voxels_of(own.labels))[corrections.known].any())


def _limited(labels: sitk.Image, own: sitk.Image, corrections: Corrections) -> sitk.Image:
    """New labels where a structure that was corrected was or is; those of ``own`` elsewhere."""
    new, before, corrected = (voxels_of(image) for image in (labels, own, corrections.labels))
    edited = corrections.known & (corrected != before)
    values = np.setdiff1d(np.union1d(before[edited], corrected[edited]), [0])
    there = np.nonzero(new != before)
    allowed = np.isin(new[there], values) | np.isin(before[there], values)
    result = before.copy()
    result[there] = np.where(allowed, new[there], before[there])
    return Geometry.of(own).image(result)


def _reason(expected_gains: dict[int, ExpectedGain], learnt: LearntCorrection) -> str:
    """Why nothing changed outside of the corrected slices."""
    if not expected_gains:
        return NOTHING_CORRECTED
    if all(gain.dice < learnt.least_gain for gain in expected_gains.values()):
        return NO_GAIN
    return NOTHING_SAID


def _relabelled(result: SegmentationResult, labels: sitk.Image, pairs: Sequence[tuple[int, int]]) -> SegmentationResult:
    """``result`` with other labels, measured again; its confidences are kept."""
    structures = [structure.label for structure in result.structures]
    confidences = {entry.label.value: Confidence(entry.confidence, entry.expected_dice) for entry in result.structures}
    implausible_before = measure_structures(result.labels, structures, pairs, confidences)[1]
    measured, implausible = measure_structures(labels, structures, pairs, confidences)
    findings = [*(finding for finding in result.findings if finding not in implausible_before), *implausible]
    known = result.intracranial
    if known is not None:
        ml = sum(structure.volume_ml for structure in measured)
        known = IntracranialVolume(ml, ml * known.error_ml / known.ml)
    return replace(result, labels=labels, structures=measured, findings=findings, intracranial=known)


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
