"""What is learnt: known voxels in every view, an anchor elsewhere, nothing else."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from SESegmentationLib.geometry import Slices
from SESegmentationLib.inference.crops import Crop
from SESegmentationLib.inference.predictor import Predictor
from SESegmentationLib.inference.views import along
from SESegmentationLib.models import View
from SESegmentationLib.models.labels import LEFT, RIGHT, structure_label
from SESegmentationLib.networks import build_network
from SESegmentationLib.networks.weights import load_networks
from SESegmentationLib.refine.corrections import Corrections, known_channels
from SESegmentationLib.refine.training_slices import prepare_training_slices

CPU = torch.device("cpu")


@pytest.fixture
def crop(tiny_engine, sample) -> Crop:
    return tiny_engine.crops(sample.image)[0]


@pytest.fixture(scope="module")
def networks(tiny_engine):
    return load_networks(tiny_engine.package)


def training_slices_of(engine, networks, crop, corrections, plane):
    view = next(view for view in engine.card.views if view.plane == plane)
    return prepare_training_slices(networks[view.network], view, crop, corrections, engine.card, CPU)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_every_view_sees_the_corrected_slice(tiny_engine, networks, crop, sample, plane):
    corrections = Corrections.in_slices(sample.labels, [Slices("k", (16,))])
    training = training_slices_of(tiny_engine, networks, crop, corrections, plane)
    truth = torch.from_numpy(sitk.GetArrayFromImage(sample.labels).astype(np.int64))
    # the sample lies on the model's grid: nothing is permuted
    expected = torch.zeros(truth.shape, dtype=torch.bool)
    expected[16] = True
    everything = slice(0, truth.shape[{"axial": 0, "coronal": 1, "sagittal": 2}[plane]])
    assert (training.known == along(expected, plane, everything)).all()
    assert (training.target[training.known] == along(truth, plane, everything)[training.known]).all()
    assert training.corrected.sum() == (1 if plane == "axial" else 0)
    assert training.own.float().sum(1).sub(1).abs().max() < 1e-2


def test_draws_take_the_corrected_slice_and_prefer_structures(tiny_engine, networks, crop, sample):
    corrections = Corrections.in_slices(sample.labels, [Slices("j", (30,))])
    generator = torch.Generator().manual_seed(0)
    coronal = training_slices_of(tiny_engine, networks, crop, corrections, "coronal")
    for _ in range(5):
        chosen = coronal.draw(4, generator)
        assert chosen[0] == 30
        assert len(set(chosen.tolist())) == 4
    axial = training_slices_of(tiny_engine, networks, crop, corrections, "axial")
    drawn = torch.cat([axial.draw(4, generator) for _ in range(50)])
    structure = (axial.known & (axial.target > 0)).flatten(1).any(1)
    often = torch.bincount(drawn, minlength=len(structure)).float()
    assert often[structure].mean() > 2 * often[~structure].mean()


def test_nothing_known_gives_no_lesson(tiny_engine, networks, crop, sample):
    corrections = Corrections.in_slices(sample.labels, [Slices("k", (3,))])
    above = replace(
        crop, grid=crop.grid.cropped((slice(5, 20), *[slice(0, n) for n in crop.volume.shape[1:]])),
        volume=crop.volume[5:20],
    )  # fmt: skip
    assert training_slices_of(tiny_engine, networks, above, corrections, "axial") is None


def test_the_loss_depends_on_known_and_sure_voxels_only(tiny_engine, networks, crop, sample):
    corrections = Corrections.in_slices(sample.labels, [Slices("k", (16,))])
    training = training_slices_of(tiny_engine, networks, crop, corrections, "coronal")
    network, chosen = networks["coronal"], torch.tensor([20, 25, 30])
    with torch.no_grad():
        without_anchor = training.loss(network, chosen, anchor=0.0)
        other = replace(training, target=torch.where(training.known, training.target, 2))
        assert other.loss(network, chosen, anchor=0.0) == without_anchor
        wrong = replace(training, target=torch.where(training.known, (training.target + 1) % 3, training.target))
        assert wrong.loss(network, chosen, anchor=0.0) != without_anchor
        # an untrained network is sure of nothing; where it was, the anchor counts
        unsure = replace(training, own=torch.full_like(training.own, 1 / 3))
        assert unsure.loss(network, chosen, anchor=1.0) == without_anchor
        sure = training.own.clone().zero_()
        sure[:, 1] = 1
        assert replace(training, own=sure).loss(network, chosen, anchor=1.0) > without_anchor


def test_without_known_or_sure_voxels_the_loss_is_zero_and_has_a_gradient(tiny_engine, networks, crop, sample):
    corrections = Corrections.in_slices(sample.labels, [Slices("k", (16,))])
    training = training_slices_of(tiny_engine, networks, crop, corrections, "axial")
    empty = replace(training, known=torch.zeros_like(training.known), own=torch.full_like(training.own, 1 / 3))
    loss = empty.loss(networks["axial"], torch.tensor([0, 1]), anchor=1.0)
    assert loss == 0
    loss.backward()


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("size", [None, (56, 60)])
def test_networks_see_in_lessons_what_they_see_in_inference(tiny_engine, crop, sample, plane, size):
    """Padded to the view's size, and of mirror images the other side's structures, mirrored back."""
    labels = (structure_label(1, "hippocampus", LEFT), structure_label(2, "hippocampus", RIGHT))
    view = next(view for view in tiny_engine.card.views if view.plane == plane)
    view = replace(view, size=size, mirrored=True)
    card = replace(tiny_engine.card, labels=labels, merged_pairs=((1, 2),), views=(view,))
    own = load_networks(tiny_engine.package)
    corrections = Corrections.in_slices(sample.labels, [Slices("k", (16,))])
    training = prepare_training_slices(own[view.network], view, crop, corrections, card, CPU)
    assert len(training.slabs) == crop.volume.shape[{"axial": 0, "coronal": 1, "sagittal": 2}[plane]]
    with torch.no_grad():
        plain, mirrored = (
            torch.softmax(training.logits(own[view.network], slice(None), mirror), dim=1) for mirror in (False, True)
        )
    assert (plain - mirrored).abs().max() > 0.01
    assert (training.own.float() - plain).abs().max() < 1e-3
    predictor = Predictor(card, load_networks(tiny_engine.package), CPU)
    everything = slice(0, len(plain))
    for seen, expected in ((replace(view, mirrored=False), plain), (view, (plain + mirrored) / 2)):
        probabilities = predictor.predict(crop.volume, [seen]).probabilities.float()
        assert (along(probabilities, plane, everything) - expected).abs().max() < 2e-2  # half or lower precision


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("size", [None, (44, 52, 60)])
def test_volumetric_networks_learn_from_all_slices_at_once(tiny_engine, crop, sample, plane, size):
    """What they see in training is what they see in inference; everything known counts in every step."""
    description = {"type": "PyramidUNet", "classes": 3, "channels": [4, 8], "se": "scSE", "dimensions": 3}
    torch.manual_seed(1)
    network = build_network(description).eval()
    view = View(plane, 1.0, "stack", size=size, mirrored=True, volumetric=True)
    card = replace(tiny_engine.card, views=(view,))
    corrections = Corrections.in_slices(sample.labels, [Slices("k", (16,))])
    training = prepare_training_slices(network, view, crop, corrections, card, CPU)
    chosen = training.draw(4, torch.Generator().manual_seed(0))
    assert training.known[chosen].sum() == crop.volume[0].size
    with torch.no_grad():
        plain, mirrored = (
            torch.softmax(training.logits(network, slice(None), mirror), dim=1) for mirror in (False, True)
        )
        part = torch.softmax(training.logits(network, torch.tensor([3, 9])), dim=1)
    torch.testing.assert_close(part, plain[[3, 9]])
    assert (plain - mirrored).abs().max() > 0.01
    predictor = Predictor(card, {"stack": copy.deepcopy(network)}, CPU)
    everything = slice(0, len(plain))
    for seen, expected in ((replace(view, mirrored=False), plain), (view, (plain + mirrored) / 2)):
        probabilities = predictor.predict(crop.volume, [seen]).probabilities.float()
        assert (along(probabilities, plane, everything) - expected).abs().max() < 2e-2  # half or lower precision
    training.loss(network, chosen, anchor=0.1, mirror=True).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_mirrored_crops_and_other_values(tiny_engine, sample, crop):
    """The crop of a cascade's right side: mirrored, its own values 1 and 2 called 3 and 4 in the result."""
    array = sitk.GetArrayFromImage(sample.labels)
    array[array > 0] += 2
    array[:, :, 0] = 1  # the other side's: background here
    labels = sitk.GetImageFromArray(array)
    labels.CopyInformation(sample.labels)
    corrections = Corrections.in_slices(labels, [Slices("i", (0, 20))])
    other = replace(crop, mirrored=True, values={1: 3, 2: 4})
    channels, known = known_channels(other, corrections, tiny_engine.card)
    truth = sitk.GetArrayFromImage(sample.labels)
    truth[:, :, 0] = 0
    assert (channels == truth[:, :, ::-1]).all()
    assert known.any((0, 1)).nonzero()[0].tolist() == [truth.shape[2] - 21, truth.shape[2] - 1]


def test_merged_views_do_not_tell_left_from_right(tiny_engine, networks, crop, sample):
    labels = (structure_label(1, "hippocampus", LEFT), structure_label(2, "hippocampus", RIGHT))
    card = replace(tiny_engine.card, labels=labels, merged_pairs=((1, 2),))
    view = replace(card.views[2], merged=True)
    corrections = Corrections.in_slices(sample.labels, [Slices("i", (18,))])
    training = prepare_training_slices(networks[view.network], view, crop, corrections, card, CPU)
    assert set(training.target[training.known].tolist()) == {0, 1}
    assert training.own[:, 2].max() == 0
    assert torch.isfinite(training.loss(networks[view.network], torch.tensor([18, 19]), anchor=1.0))
