"""The whole: corrected slices are kept and learnt from, changes are told, nothing else is touched."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from SESegmentationLib.errors import CancelledError, InputError
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.models import ModelPackage, find_model, sha256_of
from SESegmentationLib.models.store import _PACKAGE
from SESegmentationLib.refine.adapted import AdaptedParameters
from SESegmentationLib.refine.corrections import AXES, Slices
from SESegmentationLib.refine.recalibration import Settings
from SESegmentationLib.refine.refinement import refine
from SESegmentationLib.training.shifts import shift_volume

QUICK = Settings(steps=2)


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
    refined = refine(tiny_engine, sample.image, labels, [Slices(axis, tuple(sorted(numbers)))], settings=QUICK)
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
    found = refine(tiny_engine, sample.image, corrected, settings=QUICK)
    named = refine(tiny_engine, sample.image, corrected, [Slices("k", (10, 20))], settings=QUICK)
    assert found.slices == [Slices("k", (10, 20))]
    assert (array_of(found.result.labels) == array_of(named.result.labels)).all()


@pytest.mark.parametrize(("slices", "few"), [([Slices("k", (14,))], True), ([Slices("k", (14, 20))], False)], ids=str)
def test_a_single_slice_is_remarked_on(tiny_engine, sample, slices, few):
    found = refine(tiny_engine, sample.image, sample.labels, slices, settings=QUICK).result.findings
    assert ("one-slice" in [finding.code for finding in found]) == few
    assert all(finding.message and finding.consequence for finding in found)


@pytest.mark.parametrize(
    ("slices", "anchor"), [([Slices("k", (14,))], 1.0), ([Slices("k", (14,)), Slices("j", (20,))], 0.1)], ids=str
)
def test_after_a_single_slice_the_network_is_held_nearer_to_what_it_was(
    tiny_engine, sample, monkeypatch, slices, anchor
):
    used = []

    def noting(networks, lessons, settings, device, report):
        used.append(settings)
        return networks

    monkeypatch.setattr("SESegmentationLib.refine.refinement.recalibrate", noting)
    refine(tiny_engine, sample.image, sample.labels, slices)
    assert used == [replace(Settings(), anchor=anchor)]


def test_changes_add_up(tiny_engine, sample, own_labels):
    slices = [Slices("j", (20, 30))]
    refined = refine(tiny_engine, sample.image, sample.labels, slices, settings=QUICK)
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


def test_engine_and_model_stay_as_they_are(tiny_model, sample, own_labels):
    files = sorted(tiny_model.iterdir())
    before = {path: sha256_of(path) for path in files}
    engine = Engine(ModelPackage.from_folder(tiny_model), "cpu")
    refine(engine, sample.image, sample.labels, [Slices("k", (16,))], settings=Settings(steps=5, rate=0.1))
    assert (array_of(engine.segment(sample.image).labels) == array_of(own_labels)).all()
    assert {path: sha256_of(path) for path in sorted(tiny_model.iterdir())} == before


def test_saved_parameters_give_the_same_result(tiny_engine, sample, tmp_path):
    settings = Settings(steps=5, rate=0.1)
    refined = refine(tiny_engine, sample.image, sample.labels, [Slices("k", (16,))], settings=settings)
    refined.adapted.save(tmp_path / "adapted.safetensors")
    package = tiny_engine.package
    networks = AdaptedParameters.load(tmp_path / "adapted.safetensors").networks(package)
    again = array_of(Engine(package, "cpu", networks).segment(sample.image).labels)
    elsewhere = np.arange(len(again)) != 16
    assert (again[elsewhere] == array_of(refined.result.labels)[elsewhere]).all()
    assert refined.adapted.notes["parameters"] == settings.parameters


def test_other_grids_and_orientations(tiny_engine, sample):
    """A volume of other axes and spacing: the corrected slice is kept, and is learnt from."""
    image = sitk.DICOMOrient(sample.image, "PIL")
    image.SetSpacing((1.0, 1.3, 0.8))
    labels = sitk.DICOMOrient(sample.labels, "PIL")
    labels.CopyInformation(image)
    refined = refine(tiny_engine, image, labels, [Slices("i", (25,))], settings=QUICK)
    assert (array_of(refined.result.labels)[:, :, 25] == array_of(labels)[:, :, 25]).all()
    assert refined.result.labels.GetSpacing() == image.GetSpacing()


def test_a_region(tiny_engine, sample):
    inside = np.zeros_like(array_of(sample.labels))
    inside[5:30, 10:40, 5:30] = 1
    roi = with_array(inside, sample.labels)
    refined = refine(tiny_engine, sample.image, sample.labels, [Slices("k", (16,))], roi=roi, settings=QUICK)
    result = array_of(refined.result.labels)
    assert not result[np.where(inside.any((1, 2)), False, True)].any()
    assert (result[16] == array_of(sample.labels)[16]).all()
    with pytest.raises(InputError, match="where the model does not look"):
        refine(tiny_engine, sample.image, sample.labels, [Slices("k", (35,))], roi=_small(roi), settings=QUICK)


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
        if phase == "learn":
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
