"""What is to be trained: the card and the fits that a recipe asks for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from SESegmentationLib.errors import UsageError
from SESegmentationTraining.training_plan import draft_card, plan_fits

STACK = {"plane": "coronal", "weight": 1.0, "network": "stack", "volumetric": True}
FLAT = {"plane": "axial", "weight": 1.0, "network": "flat", "thickness": 3}
DEEP_PHASE = {"steps": 1, "batch": 1, "size": [8, 8], "depth": 8}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"volumetric": {}}, "volumetric views, but no"),
        ({"phases": []}, "views, but no phases"),
        ({"card": {"views": [STACK, {**FLAT, "network": "stack"}]}}, "different thickness"),
        ({"fit": {"boundary": 1.0}}, "boundary"),
        ({"volumetric": {"phases": [{**DEEP_PHASE, "depth": 0}]}}, "depth"),
        ({"phases": [{"steps": 1, "batch": 1, "size": [8, 8], "spacing": 2.0}]}, "last phase"),
        ({"networks": {"stacks": {"seed": 1}}}, "no view has: stacks"),
    ],
)
def test_recipes_that_cannot_train_their_views_are_refused(blobs_recipe, changes, message):
    entries = {
        "card": {"views": [STACK, FLAT]},
        "volumetric": {"phases": [DEEP_PHASE], "network": {"channels": [4, 6]}},
    }
    networks = draft_card(blobs_recipe(**entries)).networks
    assert (networks["stack"]["channels"], networks["flat"]["channels"]) == ([4, 6], [4, 8])
    with pytest.raises(UsageError, match=message):
        draft_card(blobs_recipe(**entries | changes))


def test_views_have_the_size_that_their_training_ends_with(blobs_recipe):
    coarse = {"steps": 1, "batch": 1, "size": [8, 8], "depth": 6, "spacing": 4.0}
    recipe = blobs_recipe(
        card={"views": [FLAT, STACK]},
        phases=[coarse | {"depth": 1}, {"steps": 1, "batch": 1, "size": [16, 16]}],
        volumetric={"phases": [coarse, coarse | {"size": [12, 10], "spacing": 1.0}]},
    )
    card = draft_card(recipe)
    assert [view.size for view in card.views] == [(16, 16), (6, 12, 10)]


def test_a_shared_network_may_end_with_coarse_pixels(blobs_recipe):
    phase = {"steps": 1, "batch": 1, "size": [8, 8]}
    recipe = blobs_recipe(phases=[phase | {"spacing": 2.0}], specialise=[phase])
    assert {view.size for view in draft_card(recipe).views} == {(8, 8)}


def test_a_shared_network_learns_all_views_of_slices(blobs_recipe):
    phase = {"steps": 1, "batch": 1, "size": [8, 8]}
    recipe = blobs_recipe(
        card={"views": [STACK, FLAT, {**STACK, "network": "other"}]},
        phases=[phase],
        specialise=[phase],
        volumetric={"phases": [DEEP_PHASE]},
        fit={"seed": 5},
    )
    plan = plan_fits(draft_card(recipe), recipe)
    assert [fit.name for fit in plan] == ["shared", "stack", "flat", "other"]
    assert [[view.plane for view in fit.views] for fit in plan] == [
        ["axial"], ["coronal"], ["axial"], ["coronal"]
    ]  # fmt: skip
    assert [fit.seed for fit in plan] == [5, 5, 5, 6]
    assert [fit.volumetric for fit in plan] == [False, True, False, True]
    alone = blobs_recipe(card={"views": [STACK]}, specialise=[phase], volumetric={"phases": [DEEP_PHASE]})
    assert [fit.name for fit in plan_fits(draft_card(alone), alone)] == ["stack"]


def test_networks_of_one_plane_have_a_seed_each_or_their_own(blobs_recipe):
    views = [{**FLAT, "network": name} for name in ("first", "second", "third")]
    recipe = blobs_recipe(card={"views": views}, fit={"seed": 5}, networks={"second": {"seed": 5}})
    assert [fit.seed for fit in plan_fits(draft_card(recipe), recipe)] == [5, 5, 6]


def test_the_work_of_a_fit_counts_what_its_network_does_with_a_pixel(blobs_recipe):
    recipe = blobs_recipe(
        card={"views": [FLAT, {**STACK, "network": "thin"}]},
        phases=[{"steps": 10, "batch": 8, "size": [8, 8]}],
        volumetric={"phases": [DEEP_PHASE | {"steps": 10}], "network": {"channels": [1, 2]}},
    )
    flat, thin = plan_fits(draft_card(recipe), recipe)
    assert flat.schedule.work(10) == thin.schedule.work(10)
    assert flat.work > 2 * thin.work
    longer = replace(flat, schedule=replace(flat.schedule, phases=[replace(flat.schedule.phases[0], steps=20)]))
    assert longer.work == pytest.approx(2 * flat.work)
