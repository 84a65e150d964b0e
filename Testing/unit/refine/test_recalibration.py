"""Training: only the chosen parameters move, near their old values, and the corrections are learnt."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from SESegmentationLib.errors import CancelledError, UsageError
from SESegmentationLib.geometry import Slices
from SESegmentationLib.networks.weights import load_networks
from SESegmentationLib.refine.adapted import PARAMETER_SETS, parameters_to_adapt
from SESegmentationLib.refine.corrections import Corrections
from SESegmentationLib.refine.recalibration import RecalibrationSettings, recalibrate
from SESegmentationLib.refine.training_slices import prepare_training_slices

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def networks(tiny_engine):
    return load_networks(tiny_engine.package)


@pytest.fixture(scope="module")
def training(tiny_engine, networks, sample):
    corrections = Corrections.in_slices(sample.labels, [Slices("k", (16,)), Slices("j", (28,))])
    crop = tiny_engine.crops(sample.image)[0]
    return {
        view.network: [prepare_training_slices(networks[view.network], view, crop, corrections, tiny_engine.card, CPU)]
        for view in tiny_engine.card.views
    }


def learn(networks, training, **changes):
    return recalibrate(networks, training, RecalibrationSettings(**{"steps": 3} | changes), CPU)


def learn_axial(networks, training, **changes):
    """The axial network after it has learnt alone."""
    return learn({"axial": networks["axial"]}, {"axial": training["axial"]}, **changes)["axial"]


def distance(before, after) -> float:
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    return sum(float(((a - b) ** 2).sum().detach()) for a, b in pairs)


@pytest.mark.parametrize("which", PARAMETER_SETS)
def test_only_the_chosen_parameters_move(networks, training, which):
    before = copy.deepcopy(networks)
    after = learn(networks, training, parameters=which)
    for name, network in after.items():
        chosen = set(parameters_to_adapt(network, which))
        was, now = before[name].state_dict(), network.state_dict()
        moved = {key for key in now if not torch.equal(now[key], was[key])}
        assert moved <= chosen  # the batch norms' statistics stay too
        assert len(moved) >= len(chosen) / 2  # the branch of scSE that is the smaller everywhere learns nothing
        assert all(torch.equal(value, was[key]) for key, value in networks[name].state_dict().items())
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_the_loss_on_what_is_known_falls(networks, training):
    after = learn(networks, training, steps=25)
    for name, (examples,) in training.items():
        everything = torch.arange(len(examples.slabs))
        with torch.no_grad():
            losses = [examples.loss(network[name], everything, anchor=0.0) for network in (networks, after)]
        assert losses[1] < 0.9 * losses[0]


def test_the_same_seed_gives_the_same_parameters(networks, training):
    first, second, other = (learn_axial(networks, training, seed=seed) for seed in (4, 4, 5))
    assert distance(first, second) == 0
    assert distance(first, other) > 0


def test_the_pull_keeps_parameters_near_their_old_values(networks, training):
    free = distance(networks["axial"], learn_axial(networks, training, steps=20, stay=0.0))
    held = distance(networks["axial"], learn_axial(networks, training, steps=20, stay=10.0))
    assert 0 < held < free / 2


def test_networks_without_lessons_stay(networks, training):
    after = learn(networks, {"axial": training["axial"], "coronal": []})
    assert distance(networks["axial"], after["axial"]) > 0
    assert distance(networks["coronal"], after["coronal"]) == 0
    assert distance(networks["sagittal"], after["sagittal"]) == 0


def test_large_slices_are_seen_in_turn(networks, training):
    """With few pixels a step one network still learns in all its views."""
    shared = {"axial": [examples for (examples,) in training.values()]}
    seen = []
    for examples in shared["axial"]:
        object.__setattr__(examples, "draw", _noting(examples, seen))
    try:
        learn({"axial": networks["axial"]}, shared, steps=3, pixels=1)
    finally:
        for examples in shared["axial"]:
            object.__delattr__(examples, "draw")
    assert [plane for plane, _ in seen] == ["axial", "coronal", "sagittal"]
    assert all(count == 2 for _, count in seen)


def test_networks_of_one_view_share_what_one_of_all_views_sees(networks, training):
    """Three networks take as long as one, and those of mirrored views see mirror images in every other step."""
    seen, mirrors = [], []
    mirrored = {
        name: [replace(examples, view=replace(examples.view, mirrored=True))] for name, (examples,) in training.items()
    }
    for (examples,) in mirrored.values():
        object.__setattr__(examples, "draw", _noting(examples, seen))
        object.__setattr__(examples, "loss", _noting_mirrors(examples, mirrors))
    learn(networks, mirrored, steps=2, batch=9)
    assert [count for _, count in seen] == [3] * 6
    assert mirrors == [False, True] * 3


def test_progress_may_stop_it_and_ends_at_one(networks, training):
    told = []
    recalibrate(networks, training, RecalibrationSettings(steps=2), CPU, told.append)
    assert told == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])

    def stop(fraction):
        raise CancelledError("Cancelled.")

    with pytest.raises(CancelledError):
        recalibrate(networks, training, RecalibrationSettings(steps=2), CPU, stop)


def test_an_unknown_set_is_refused(networks, training):
    with pytest.raises(UsageError):
        learn(networks, training, parameters="some")


def _noting_mirrors(examples, mirrors):
    loss = type(examples).loss

    def noting(network, chosen, anchor, mirror):
        mirrors.append(mirror)
        return loss(examples, network, chosen, anchor, mirror)

    return noting


def _noting(examples, seen):
    draw = type(examples).draw

    def noting(count, generator):
        seen.append((examples.view.plane, count))
        return draw(examples, count, generator)

    return noting
