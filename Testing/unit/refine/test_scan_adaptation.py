"""Networks are adapted to scans that differ from those of the training, if corrected slices speak for it.

By hippocampus-t1 and a case that its training kept for validation.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from SESegmentationLib.geometry import Slices
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.inference.intensity import normalise
from SESegmentationLib.io.reading import read_label_volume, read_volume
from SESegmentationLib.io.volume_image import voxels_of
from SESegmentationLib.models import find_model
from SESegmentationLib.models.store import _PACKAGE
from SESegmentationLib.networks.weights import load_networks
from SESegmentationLib.refine import scan_adaptation
from SESegmentationLib.refine.batch_norm_adaptation import adapted_engines
from SESegmentationLib.refine.contrast_reversal import can_be_reversed, reversed_networks
from SESegmentationLib.refine.corrections import Corrections
from SESegmentationLib.refine.learnt_correction import LearntCorrection
from SESegmentationLib.refine.refinement import refine
from SESegmentationLib.refine.scan_adaptation import known_dice
from SESegmentationTraining.mistakes import shifted

CASE = "hippocampus_049"
#: by both together the case is segmented much worse
SHIFTS = ("bias field", "thick slices")
CORRECTED = [Slices("j", (15, 30))]


@pytest.fixture(scope="module")
def weights() -> Iterator[None]:
    """The project's models are found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SESEGMENTATION_MODELS", str(_PACKAGE.parents[1] / "weights"))
        yield


@pytest.fixture(scope="module")
def engine(weights) -> Engine:
    return Engine(find_model("hippocampus-t1"), "cpu")


@pytest.fixture(scope="module")
def truth(shared_data) -> sitk.Image:
    return read_label_volume(shared_data / "hippocampus" / "labelsTr" / f"{CASE}.nii.gz")


@pytest.fixture(scope="module")
def as_it_is(shared_data) -> sitk.Image:
    return read_volume(shared_data / "hippocampus" / "imagesTr" / f"{CASE}_0000.nii.gz")


@pytest.fixture(scope="module")
def other(as_it_is) -> sitk.Image:
    """The scan, much worse."""
    return shifted(as_it_is, SHIFTS, zlib.crc32(CASE.encode()))


def dice_elsewhere(labels: sitk.Image, truth: sitk.Image) -> float:
    """Mean Dice on the slices that nobody corrected."""
    there = np.ones(truth.GetSize()[::-1], bool)
    there[:, CORRECTED[0].numbers] = False
    return known_dice(labels, Corrections(truth, there))


def test_a_scan_like_those_of_the_training_is_left_alone(engine, as_it_is, truth):
    least = LearntCorrection.of_model(engine.card).adapts_from
    assert not list(adapted_engines(engine, load_networks(engine.package), engine.crops(as_it_is), least))
    refined = refine(engine, as_it_is, truth, CORRECTED)
    assert not refined.batch_norms_adapted and not refined.contrast_reversed


def test_of_a_scan_that_differs_more_is_regained(engine, other, truth, monkeypatch):
    with_it = refine(engine, other, truth, CORRECTED)
    assert with_it.batch_norms_adapted
    before, after = (dice_elsewhere(result.labels, truth) for result in (with_it.own, with_it.result))
    monkeypatch.setattr(LearntCorrection, "adapts_from", float("inf"))
    without = refine(engine, other, truth, CORRECTED)
    assert not without.batch_norms_adapted
    alone = dice_elsewhere(without.result.labels, truth)
    print(before, alone, after)
    assert after - before > 0.25 * (1 - before)
    assert after > alone + 0.02


def test_progress_goes_forward(engine, other, truth):
    told = []
    refine(engine, other, truth, CORRECTED, progress=lambda phase, fraction, left: told.append((phase, fraction)))
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert {"segment", "adapt", "carry"} <= {phase for phase, _ in told}


def test_the_engine_stays_as_it_is(engine, other):
    before = sitk.GetArrayFromImage(engine.segment(other).labels)
    engines = adapted_engines(engine, load_networks(engine.package), engine.crops(other), 0.0)
    little, more = (each.segment(other).labels for each in engines)
    changed = [int((sitk.GetArrayFromImage(labels) != before).sum()) for labels in (little, more)]
    assert 0 < changed[0] < changed[1]
    assert (sitk.GetArrayFromImage(engine.segment(other).labels) == before).all()


def test_where_corrected_slices_do_not_speak_for_it_nothing_is_adapted(engine, other):
    """The clinician finds the result right but for a stroke."""
    own = engine.segment(other).labels
    array = sitk.GetArrayFromImage(own)
    most = int((array > 0).sum((0, 2)).argmax())
    middle = array[:, most]
    middle[tuple(np.argwhere(middle > 0)[0])] = 0
    labels = sitk.GetImageFromArray(array)
    labels.CopyInformation(own)
    assert not refine(engine, other, labels, [Slices("j", (most,))]).batch_norms_adapted


def test_a_structure_that_was_not_corrected_only_gives_way_or_takes_room(engine, other, truth):
    """The posterior hippocampus is corrected alone: wherever the anterior one changes, the posterior one was or is."""
    own = engine.segment(other).labels
    before, array = sitk.GetArrayFromImage(own), sitk.GetArrayFromImage(truth)
    corrected = before.copy()
    for number in CORRECTED[0].numbers:
        corrected[:, number][(before[:, number] == 2) | (array[:, number] == 2)] = 0
        corrected[:, number][array[:, number] == 2] = 2
    assert not ((before == 1) & (corrected != before)).any(), "the anterior one lies in other slices"
    labels = sitk.GetImageFromArray(corrected)
    labels.CopyInformation(own)
    refined = refine(engine, other, labels, CORRECTED)
    assert refined.batch_norms_adapted, "there is nothing to limit"
    after = sitk.GetArrayFromImage(refined.result.labels)
    of_anterior = (before != after) & ((before == 1) | (after == 1))
    assert ((before == 2) | (after == 2))[of_anterior].all()


def reverse(image: sitk.Image) -> sitk.Image:
    """Bright tissue dark and dark tissue bright, as between T1- and T2-weighted images."""
    return shifted(image, ("other contrast",), 0)


def test_of_a_scan_of_the_reverse_contrast_nearly_all_is_regained(engine, as_it_is, truth, monkeypatch):
    likely = dice_elsewhere(refine(engine, as_it_is, truth, CORRECTED).result.labels, truth)
    refined = refine(engine, reverse(as_it_is), truth, CORRECTED)
    assert refined.contrast_reversed
    before, after = (dice_elsewhere(result.labels, truth) for result in (refined.own, refined.result))
    monkeypatch.setattr(scan_adaptation, "can_be_reversed", lambda card: False)
    without = refine(engine, reverse(as_it_is), truth, CORRECTED)
    assert not without.contrast_reversed
    alone = dice_elsewhere(without.result.labels, truth)
    print(before, alone, after, likely)
    assert after > alone + 0.02 > before
    assert after > likely - 0.02


def reversing_engine(engine: Engine) -> Engine:
    """The model, seeing scans with bright and dark exchanged."""
    return Engine(engine.package, "cpu", reversed_networks(load_networks(engine.package), engine.card))


def test_corrected_slices_that_agree_by_chance_do_not_reverse_the_contrast(engine, as_it_is, truth, monkeypatch):
    """In the slices that are segmented worst any other result may be better, though it is worse everywhere else."""
    scan = shifted(as_it_is, ("low contrast", "noise"), zlib.crc32(CASE.encode()))
    own, reversed_result = engine.segment(scan), reversing_engine(engine).segment(scan)
    array, right = sitk.GetArrayFromImage(own.labels), sitk.GetArrayFromImage(truth)
    most_wrong = int((array != right).sum((0, 2)).argmax())
    slices = [Slices("j", (most_wrong,))]
    corrections = Corrections.in_slices(truth, slices)
    assert known_dice(reversed_result.labels, corrections) > known_dice(own.labels, corrections) + 0.05
    assert dice_elsewhere(reversed_result.labels, truth) < dice_elsewhere(own.labels, truth) - 0.05
    assert not refine(engine, scan, truth, slices).contrast_reversed


def test_reversed_networks_see_bright_and_dark_exchanged(engine, as_it_is):
    crop = torch.from_numpy(engine.crops(as_it_is)[0].volume)[None, None]
    reversing = reversed_networks(load_networks(engine.package), engine.card)
    for name, network in load_networks(engine.package).items():
        with torch.inference_mode():
            torch.testing.assert_close(reversing[name].eval()(1 - crop), network.eval()(crop))


@pytest.mark.parametrize(
    ("changes", "can"),
    [
        ({}, True),
        ({"contrast": "T2", "intensity": {"type": "zscore"}}, True),
        ({"contrast": "Any"}, False),
        ({"modality": "CT", "intensity": {"type": "window", "lower": -100, "upper": 300}}, False),
    ],
)
def test_only_models_of_one_contrast_of_mri_can_use_the_reverse(engine, changes, can):
    assert can_be_reversed(replace(engine.card, **changes)) == can


def test_normalised_to_mean_0_the_reverse_is_the_negative(engine, as_it_is):
    card = replace(engine.card, intensity={"type": "zscore"})
    image = voxels_of(as_it_is)
    there, back = normalise(image, card.intensity), normalise(-image.astype(np.float32), card.intensity)
    (network,) = reversed_networks({"": nn.Identity()}, card).values()
    np.testing.assert_allclose(network(torch.from_numpy(there)).numpy(), back, atol=1e-4)


def test_networks_that_see_slices_find_the_reverse_contrast_too(weights, shared_data):
    """By abdomen-mr, of a scan that it learnt from: in the wrong contrast all is wrong, not only what was corrected."""
    engine = Engine(find_model("abdomen-mr"), "cpu")
    folder = shared_data / "abdomen-mr"
    image = reverse(read_volume(folder / "imagesTr" / "chaos_001_0000.nii.gz"))
    truth = read_label_volume(folder / "labelsTr" / "chaos_001.nii.gz")
    array = sitk.GetArrayFromImage(truth)
    spleen = 4
    without = np.flatnonzero((array == 1).any((1, 2)) & ~(array == spleen).any((1, 2)))
    refined = refine(engine, image, truth, [Slices("k", tuple(without[[-4, -8]].tolist()))])
    assert refined.contrast_reversed and not refined.batch_norms_adapted
    masks = [sitk.GetArrayFromImage(result.labels) == spleen for result in (refined.own, refined.result)]
    before, after = (2 * (mask & (array == spleen)).sum() / (mask.sum() + (array == spleen).sum()) for mask in masks)
    print(before, after)
    assert before < 0.6 and after > 0.85
