"""Training: only the chosen parameters move, near their old values, and the corrections are learnt."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from SESegmentationLib.errors import CancelledError, UsageError
from SESegmentationLib.networks.weights import load_networks
from SESegmentationLib.refine.adapted import PARAMETER_SETS, adapted_parameters
from SESegmentationLib.refine.corrections import Corrections, Slices
from SESegmentationLib.refine.recalibration import Settings, prepare_lessons, recalibrate

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def networks(tiny_engine):
    return load_networks(tiny_engine.package)


@pytest.fixture(scope="module")
def lessons(tiny_engine, networks, sample):
    corrections = Corrections.in_slices(sample.labels, [Slices("k", (16,)), Slices("j", (28,))])
    crop = tiny_engine.crops(sample.image)[0]
    return {
        view.network: [prepare_lessons(networks[view.network], view, crop, corrections, tiny_engine.card, CPU)]
        for view in tiny_engine.card.views
    }


def learn(networks, lessons, **changes):
    return recalibrate(networks, lessons, Settings(**{"steps": 3} | changes), CPU)


def distance(before, after) -> float:
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    return sum(float(((a - b) ** 2).sum().detach()) for a, b in pairs)


@pytest.mark.parametrize("which", PARAMETER_SETS)
def test_only_the_chosen_parameters_move(networks, lessons, which):
    before = copy.deepcopy(networks)
    after = learn(networks, lessons, parameters=which)
    for name, network in after.items():
        chosen = set(adapted_parameters(network, which))
        was, now = before[name].state_dict(), network.state_dict()
        moved = {key for key in now if not torch.equal(now[key], was[key])}
        assert moved <= chosen  # the batch norms' statistics stay too
        assert len(moved) >= len(chosen) / 2  # the branch of scSE that is the smaller everywhere learns nothing
        assert all(torch.equal(value, was[key]) for key, value in networks[name].state_dict().items())
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_the_loss_on_what_is_known_falls(networks, lessons):
    after = learn(networks, lessons, steps=25)
    for name, (lesson,) in lessons.items():
        everything = torch.arange(len(lesson.slabs))
        with torch.no_grad():
            losses = [lesson.loss(network[name], everything, anchor=0.0) for network in (networks, after)]
        assert losses[1] < 0.9 * losses[0]


def test_the_same_seed_gives_the_same_parameters(networks, lessons):
    first, second, other = (learn(networks, lessons, seed=seed) for seed in (4, 4, 5))
    assert distance(first["axial"], second["axial"]) == 0
    assert distance(first["axial"], other["axial"]) > 0


def test_the_pull_keeps_parameters_near_their_old_values(networks, lessons):
    free = distance(networks["axial"], learn(networks, lessons, steps=20, stay=0.0)["axial"])
    held = distance(networks["axial"], learn(networks, lessons, steps=20, stay=10.0)["axial"])
    assert 0 < held < free / 2


def test_networks_without_lessons_stay(networks, lessons):
    after = learn(networks, {"axial": lessons["axial"], "coronal": []})
    assert distance(networks["axial"], after["axial"]) > 0
    assert distance(networks["coronal"], after["coronal"]) == 0
    assert distance(networks["sagittal"], after["sagittal"]) == 0


def test_large_slices_are_seen_in_turn(networks, lessons):
    """With few pixels a step one network still learns in all its views."""
    shared = {"axial": [lesson for (lesson,) in lessons.values()]}
    seen = []
    for lesson in shared["axial"]:
        object.__setattr__(lesson, "draw", _noting(lesson, seen))
    try:
        learn({"axial": networks["axial"]}, shared, steps=3, pixels=1)
    finally:
        for lesson in shared["axial"]:
            object.__delattr__(lesson, "draw")
    assert [plane for plane, _ in seen] == ["axial", "coronal", "sagittal"]
    assert all(count == 2 for _, count in seen)


def test_networks_of_one_view_share_what_one_of_all_views_sees(networks, lessons):
    """Three networks take as long as one, and those of mirrored views see mirror images in every other step."""
    seen, mirrors = [], []
    mirrored = {
        name: [replace(lesson, view=replace(lesson.view, mirrored=True))] for name, (lesson,) in lessons.items()
    }
    for (lesson,) in mirrored.values():
        object.__setattr__(lesson, "draw", _noting(lesson, seen))
        object.__setattr__(lesson, "loss", _noting_mirrors(lesson, mirrors))
    learn(networks, mirrored, steps=2, batch=9)
    assert [count for _, count in seen] == [3] * 6
    assert mirrors == [False, True] * 3


def test_progress_may_stop_it_and_ends_at_one(networks, lessons):
    told = []
    recalibrate(networks, lessons, Settings(steps=2), CPU, told.append)
    assert told == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])

    def stop(fraction):
        raise CancelledError("Cancelled.")

    with pytest.raises(CancelledError):
        recalibrate(networks, lessons, Settings(steps=2), CPU, stop)


def test_an_unknown_set_is_refused(networks, lessons):
    with pytest.raises(UsageError):
        learn(networks, lessons, parameters="some")


def _noting_mirrors(lesson, mirrors):
    loss = type(lesson).loss

    def noting(network, chosen, anchor, mirror):
        mirrors.append(mirror)
        return loss(lesson, network, chosen, anchor, mirror)

    return noting


def _noting(lesson, seen):
    draw = type(lesson).draw

    def noting(count, generator):
        seen.append((lesson.view.plane, count))
        return draw(lesson, count, generator)

    return noting
