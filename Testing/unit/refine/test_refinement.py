"""The whole: corrected slices are kept and learnt from, changes are told, nothing else is touched."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from SESegmentationLib import memory
from SESegmentationLib.errors import CancelledError, InputError, OutOfMemoryError
from SESegmentationLib.geometry import AXES, Slices
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.io.reading import read_label_volume, read_volume
from SESegmentationLib.models import find_model, sha256_of
from SESegmentationLib.models.store import _PACKAGE
from SESegmentationLib.refine import propagation, refinement
from SESegmentationLib.refine.corrections import Corrections
from SESegmentationLib.refine.learnt_correction import LearntCorrection
from SESegmentationLib.refine.recalibration import RecalibrationSettings
from SESegmentationLib.refine.refinement import refine
from SESegmentationLib.result import NO_GAIN, NOTHING_CORRECTED, IntracranialVolume, SegmentOptions
from SESegmentationTraining.calibration import shift_volume

QUICK = RecalibrationSettings(steps=2)


def array_of(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def with_array(array: np.ndarray, image: sitk.Image) -> sitk.Image:
    result = sitk.GetImageFromArray(array)
    result.CopyInformation(image)
    return result


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean([2 * ((a == v) & (b == v)).sum() / max((a == v).sum() + (b == v).sum(), 1) for v in (1, 2)]))


@given(st.sampled_from("ijk"), st.sets(st.integers(0, 35), min_size=1, max_size=3), st.integers(0, 99))
@settings(deadline=None, max_examples=5)
def test_corrected_slices_stay_as_they_were_left(tiny_engine, sample, axis, numbers, seed):
    """Whatever was left there, noise included."""
    array = np.random.default_rng(seed).integers(0, 3, array_of(sample.labels).shape).astype(np.uint8)
    labels = with_array(array, sample.labels)
    refined = refine(tiny_engine, sample.image, labels, [Slices(axis, tuple(sorted(numbers)))])
    result = np.moveaxis(array_of(refined.result.labels), AXES[axis], 0)
    assert (result[sorted(numbers)] == np.moveaxis(array, AXES[axis], 0)[sorted(numbers)]).all()
    assert refined.result.labels.GetDirection() == sample.image.GetDirection()
    for structure in refined.result.structures:
        assert structure.voxels == (result == structure.label.value).sum()


def test_found_slices_are_as_good_as_named_ones(tiny_engine, sample, own_labels):
    array = array_of(own_labels)
    array[10, 5:9, 5:9] = 2 - array[10, 5:9, 5:9] // 2
    array[20, 8:12, 8:20] = 1
    corrected = with_array(array, own_labels)
    found = refine(tiny_engine, sample.image, corrected)
    named = refine(tiny_engine, sample.image, corrected, [Slices("k", (10, 20))], whole_slices=False)
    assert found.slices == [Slices("k", (10, 20))]
    assert (array_of(found.result.labels) == array_of(named.result.labels)).all()


def test_the_intracranial_volume_is_that_of_the_labels_as_they_are_now(tiny_engine, sample, own_labels, monkeypatch):
    """Shares of it add up to 1, as those of a segmentation do."""
    segment = Engine.segment

    def measured(*arguments, **named):
        result = segment(*arguments, **named)
        ml = sum(structure.volume_ml for structure in result.structures)
        return replace(result, intracranial=IntracranialVolume(ml, 0.02 * ml))

    monkeypatch.setattr(Engine, "segment", measured)
    array = array_of(own_labels)
    array[:, 20:25] = 0
    refined = refine(tiny_engine, sample.image, with_array(array, own_labels), [Slices("j", tuple(range(20, 25)))])
    before, now = refined.own.intracranial, refined.result.intracranial
    assert now.ml == pytest.approx(sum(structure.volume_ml for structure in refined.result.structures))
    assert now.ml < before.ml and now.error_ml == pytest.approx(0.02 * now.ml)


def test_changes_add_up(tiny_engine, sample, own_labels):
    slices = [Slices("j", (20, 30))]
    refined = refine(tiny_engine, sample.image, sample.labels, slices)
    before, after = array_of(own_labels), array_of(refined.result.labels)
    known = np.zeros(before.shape, bool)
    known[:, [20, 30]] = True
    assert (array_of(refined.own.labels) == before).all()
    assert any(change.corrected for change in refined.changes)
    for change in refined.changes:
        had, has = before == change.label.value, after == change.label.value
        assert change.gained == (has & ~had).sum()
        assert change.lost == (had & ~has).sum()
        assert change.corrected == ((had ^ has) & known).sum()


def test_without_a_correction_nothing_changes_at_all(tiny_engine, sample, own_labels):
    refined = refine(tiny_engine, sample.image, own_labels, [Slices("k", (16, 20))], recalibration=QUICK)
    assert (array_of(refined.result.labels) == array_of(own_labels)).all()
    assert refined.kept_because == NOTHING_CORRECTED
    assert refined.adapted is None and refined.expected_gains == {}


def test_what_promises_no_gain_is_left(tiny_engine, sample, own_labels, monkeypatch):
    """Only the corrected slices differ, and it is told why."""
    demanding = replace(LearntCorrection.of_model(tiny_engine.card), card={"least_gain": 1.0, "models": ["tiny-t1"]})
    monkeypatch.setattr(LearntCorrection, "of_model", lambda card: demanding)
    refined = refine(tiny_engine, sample.image, sample.labels, [Slices("k", (16, 20))])
    expected = array_of(own_labels)
    expected[[16, 20]] = array_of(sample.labels)[[16, 20]]
    assert (array_of(refined.result.labels) == expected).all()
    assert refined.kept_because == NO_GAIN
    assert not any(gain.accepted for gain in refined.expected_gains.values())


@given(st.integers(0, 99))
@settings(deadline=None, max_examples=5)
def test_a_structure_that_was_not_corrected_only_gives_way_or_takes_room(tiny_engine, sample, own_labels, seed):
    """Structure 1 is corrected alone, however: wherever 2 changes, 1 was or is."""
    random = np.random.default_rng(seed)
    before = array_of(own_labels)
    corrected = before.copy()
    for k in random.choice(np.arange(8, 28), 3, replace=False):
        corrected[k][before[k] == 1] = 0
        low = random.integers(5, 20, 2)
        corrected[k, low[0] : low[0] + 12, low[1] : low[1] + 10][
            before[k, low[0] : low[0] + 12, low[1] : low[1] + 10] == 0
        ] = 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LearntCorrection, "least_gain", -1.0)
        refined = refine(tiny_engine, sample.image, with_array(corrected, own_labels))
    after = array_of(refined.result.labels)
    of_two = (before != after) & ((before == 2) | (after == 2))
    assert ((before == 1) | (after == 1))[of_two].all()
    assert set(refined.expected_gains) <= {1}


def test_a_recalibration_changes_corrected_structures_alone(tiny_engine, sample, own_labels, monkeypatch):
    """The networks find another structure 2 after it; where 1 neither was nor is, that is not taken.

    The engine and the model's files stay as they are.
    """
    monkeypatch.setattr("SESegmentationLib.refine.cross_validation.LEAST_GAIN", -1.0)
    files = sorted(tiny_engine.package.path.iterdir())
    hashes = [sha256_of(path) for path in files]
    before = array_of(own_labels)
    corrected = before.copy()
    for k in (12, 20):
        corrected[k][before[k] == 1] = 0
    labels = with_array(corrected, own_labels)
    refined = refine(
        tiny_engine,
        sample.image,
        labels,
        [Slices("k", (12, 20))],
        recalibration=RecalibrationSettings(steps=5, rate=0.2),
    )
    package = tiny_engine.package
    recalibrated = Engine(package, "cpu", refined.adapted.networks(package)).segment(sample.image).labels
    assert ((array_of(recalibrated) == 2) != (before == 2)).any(), "there is nothing to limit"
    after = array_of(refined.result.labels)
    of_two = (before != after) & ((before == 2) | (after == 2))
    assert ((before == 1) | (after == 1))[of_two].all()
    assert (array_of(tiny_engine.segment(sample.image).labels) == before).all()
    assert sorted(package.path.iterdir()) == files and [sha256_of(path) for path in files] == hashes


def test_other_grids_and_orientations(tiny_engine, sample):
    """A volume of other axes and spacing: the corrected slice is kept, and is learnt from."""
    image = sitk.DICOMOrient(sample.image, "PIL")
    image.SetSpacing((1.0, 1.3, 0.8))
    labels = sitk.DICOMOrient(sample.labels, "PIL")
    labels.CopyInformation(image)
    refined = refine(tiny_engine, image, labels, [Slices("i", (25,))])
    assert (array_of(refined.result.labels)[:, :, 25] == array_of(labels)[:, :, 25]).all()
    assert refined.result.labels.GetSpacing() == image.GetSpacing()


def test_a_region(tiny_engine, sample):
    inside = np.zeros_like(array_of(sample.labels))
    inside[5:30, 10:40, 5:30] = 1
    roi = with_array(inside, sample.labels)
    refined = refine(tiny_engine, sample.image, sample.labels, [Slices("k", (16,))], options=SegmentOptions(roi=roi))
    result = array_of(refined.result.labels)
    assert not result[np.where(inside.any((1, 2)), False, True)].any()
    assert (result[16] == array_of(sample.labels)[16]).all()
    outside = refine(
        tiny_engine, sample.image, sample.labels, [Slices("k", (35,))], options=SegmentOptions(roi=_small(roi))
    )
    assert outside.kept_because == NOTHING_CORRECTED


def test_nothing_is_found_outside_of_a_region(shared_data):
    data = shared_data / "hippocampus"
    image = shift_volume(read_volume(data / "imagesTr" / "hippocampus_011_0000.nii.gz"), "low contrast", 1)
    truth = read_label_volume(data / "labelsTr" / "hippocampus_011.nii.gz")
    first, last = np.flatnonzero(array_of(truth).any((0, 2)))[[0, -1]]
    low, high = first + (last - first) // 4, last - (last - first) // 4
    inside = np.zeros_like(array_of(truth))
    inside[:, low:high] = 1
    options = SegmentOptions(roi=with_array(inside, image))
    engine = Engine(find_model("hippocampus-t1"), "cpu")
    labels = array_of(engine.segment(image, options).labels)
    slices = (int(low), int(low + high) // 2, int(high) - 1)
    labels[:, slices] = array_of(truth)[:, slices]
    refined = refine(engine, image, with_array(labels, image), [Slices("j", slices)], options=options)
    found = array_of(refined.result.labels)
    assert (found != labels)[inside > 0].any() and not found[inside == 0].any()


def test_what_cannot_be_used_is_refused_before_the_networks_run(tiny_engine, sample):
    def never(phase: str, fraction: float, seconds_left: float | None) -> None:
        raise AssertionError(phase)

    moved = sitk.Image(sample.labels)
    moved.SetOrigin((9, 9, 9))
    with pytest.raises(InputError, match="differ in size"):
        refine(tiny_engine, sample.image, moved, [Slices("k", (3,))], progress=never)
    with pytest.raises(InputError, match="no slice k:36"):
        refine(tiny_engine, sample.image, sample.labels, [Slices("k", (36,))], progress=never)
    with pytest.raises(InputError, match="No slice is corrected"):
        refine(tiny_engine, sample.image, sample.labels, [], progress=never)


def test_unknown_values_and_unchanged_labels_are_refused(tiny_engine, sample, own_labels):
    with pytest.raises(InputError, match="does not have: 7"):
        refine(tiny_engine, sample.image, sitk.Cast(sample.labels * 7, sitk.sitkUInt8), [Slices("k", (16,))])
    with pytest.raises(InputError, match="No slice is corrected"):
        refine(tiny_engine, sample.image, own_labels)


def test_cancelling(tiny_engine, sample):
    phases = []

    def cancel(phase: str, fraction: float, seconds_left: float | None) -> None:
        phases.append((phase, fraction))
        if phase == "carry":
            raise CancelledError("Cancelled.")

    with pytest.raises(CancelledError):
        refine(tiny_engine, sample.image, sample.labels, [Slices("k", (16,))], progress=cancel)
    fractions = [fraction for _, fraction in phases]
    assert fractions == sorted(fractions)


def test_the_shipped_model_learns_from_two_slices(sample, monkeypatch):
    """The drawn sample as with a bad coil: two corrected slices improve those that were not corrected."""
    monkeypatch.setenv("SESEGMENTATION_MODELS", str(_PACKAGE.parents[1] / "weights"))
    try:
        package = find_model("hippocampus-t1")
    except Exception:
        pytest.skip("needs the weights of hippocampus-t1")
    engine = Engine(package, "cpu")
    image = shift_volume(sample.image, "low contrast", seed=1)
    slices = [Slices("k", (16,)), Slices("j", (30,))]
    refined = refine(engine, image, sample.labels, slices)
    truth = array_of(sample.labels)
    elsewhere = np.ones(truth.shape, bool)
    elsewhere[16], elsewhere[:, 30] = False, False
    before, after = (dice(array_of(r.labels)[elsewhere], truth[elsewhere]) for r in (refined.own, refined.result))
    print(before, after)
    assert after - before > 0.1 * (1 - before)


def _small(roi: sitk.Image) -> sitk.Image:
    array = array_of(roi)
    array[12:] = 0
    return with_array(array, roi)


def test_memory_is_asked_for_before_anything_is_copied(tiny_engine, sample, monkeypatch):
    def copied(*_arguments: object) -> None:
        raise AssertionError("copied in spite of it")

    monkeypatch.setattr(memory, "available_gigabytes", lambda: 0.0)
    monkeypatch.setattr(Corrections, "in_slices", copied)
    with pytest.raises(OutOfMemoryError, match="need"):
        refine(tiny_engine, sample.image, sample.labels, [Slices("k", (10,))])


def test_memory_is_asked_for_before_corrections_are_propagated(tiny_engine, sample, monkeypatch):
    """Segmenting may leave too little for that."""
    carry = refinement.propagate

    def no_more_memory(*arguments: object) -> object:
        monkeypatch.setattr(memory, "available_gigabytes", lambda: 0.0)
        monkeypatch.setattr(propagation, "known_channels", lambda *_: pytest.fail("copied in spite of it"))
        return carry(*arguments)

    monkeypatch.setattr(refinement, "propagate", no_more_memory)
    with pytest.raises(OutOfMemoryError, match="need"):
        refine(tiny_engine, sample.image, sample.labels, [Slices("k", (10,))])
