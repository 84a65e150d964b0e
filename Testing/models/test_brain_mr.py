"""brain-mr, the shipped weights, on real heads: accuracy, sides, islands, orientation, other contrasts."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.io.reading import read_label_volume, read_volume
from SESegmentationLib.models import verify_package
from SESegmentationLib.result import SegmentOptions
from SESegmentationTraining.accuracy import fold_parcels
from SESegmentationTraining.evaluation import compare
from sides import island_voxels, swapped_voxels

#: FreeSurfer's CSF is a thin rest in the real labels, all of the fluid round the brain in the training's
CSF = 24


@pytest.fixture(scope="module")
def engine(shipped_weights):
    return Engine(verify_package(shipped_weights / "brain-mr"), "cpu")


@pytest.fixture(scope="module")
def head(engine, shared_data):
    """A head with its skull, 1 mm, and what is found in it from one view."""
    image = read_volume(shared_data / "volumes" / "t1-head-lia-256.nii.gz")
    return image, engine.segment(image, SegmentOptions(fast=True))


def test_accuracy_on_the_real_labelled_brain(engine, shared_data):
    brain = shared_data / "volumes" / "t1-brain-stripped.nii.gz"
    truth = fold_parcels(read_label_volume(brain.with_name("t1-brain-stripped-aparc2009s+aseg.nii.gz")))
    labels = engine.segment(read_volume(brain)).labels
    dice = {label.name: compare(labels, truth, label.value).dice for label in engine.card.labels if label.value != CSF}
    assert np.mean(list(dice.values())) >= 0.83, dice
    assert sum(value >= 0.55 for value in dice.values()) >= len(dice) - 1, dice
    assert engine.card.accuracy["mean_dice"] == pytest.approx(np.mean(list(dice.values())), abs=2e-3)
    assert swapped_voxels(labels, engine.card.merged_pairs) == 0
    assert island_voxels(labels) == 0


def test_a_head_has_every_structure_on_its_side_and_nothing_outside_the_brain(engine, head):
    image, result = head
    assert result.labels.GetSize() == image.GetSize()
    assert len(result.structures) == 32
    assert all(structure.voxels for structure in result.structures)
    assert swapped_voxels(result.labels, engine.card.merged_pairs) == 0
    assert island_voxels(result.labels) == 0
    brain_ml = sum(s.volume_ml for s in result.structures if s.label.value != CSF)
    assert 900 < brain_ml < 1700


def test_a_rotated_copy_gives_the_rotated_result(engine, head):
    """The same head lying on its side: voxels as they are, turned by 90 degrees about the long axis of the body."""
    image, result = head
    turned = sitk.PermuteAxes(image, (1, 0, 2))[::-1, :, :]  # voxels in another order: the geometry follows
    rotated = engine.segment(turned, SegmentOptions(fast=True)).labels
    back = sitk.Resample(rotated, result.labels, sitk.Transform(), sitk.sitkNearestNeighbor)
    one, other = (sitk.GetArrayFromImage(labels) for labels in (result.labels, back))
    found = one > 0
    assert (one[found] == other[found]).mean() > 0.98


@pytest.mark.parametrize("contrast", ["T2W", "FLAIR"])
def test_a_clinical_scan_of_thick_slices_loses_no_structure(engine, shared_data, contrast):
    """Of a patient whom the training did not see, 3 mm slices, answered at 1 mm."""
    image = read_volume(shared_data / "ms-contrasts" / "clinical" / f"p12-study1-{contrast}_0000.nii.gz")
    result = engine.segment(image, SegmentOptions(fast=True, grid="auto"))
    assert max(image.GetSpacing()) > 2.9 and result.labels.GetSpacing() == pytest.approx((1.0, 1.0, 1.0))
    assert all(structure.voxels for structure in result.structures)
    assert "contrast" not in {finding.code for finding in result.findings}
    assert 1300 < result.intracranial.ml < 1800
    found = int(np.count_nonzero(sitk.GetArrayFromImage(result.labels)))
    assert swapped_voxels(result.labels, engine.card.merged_pairs) < 1e-4 * found  # one view; T2: 48 of 1.5 million
