"""Plans: what is run, when runs are the same, what is refused."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from SESegmentationLib.errors import UsageError
from SESegmentationLib.networks import build_network
from SESegmentationTraining.experiments.plan import PLANS_FOLDER, Plan, Run
from SESegmentationTraining.training_plan import draft_card

SHIPPED = sorted(path.stem for path in PLANS_FOLDER.glob("*.toml"))


def test_every_variant_is_run_for_every_seed_one_seed_after_the_other(plan):
    runs = plan().runs_of(plan().comparisons[0])
    assert [(run.seed, run.variant) for run in runs] == [(1, "none"), (1, "scSE"), (2, "none"), (2, "scSE")]
    assert [run.recipe.fit.seed for run in runs] == [1, 1, 2, 2]
    assert [run.recipe.network.get("se", "scSE") for run in runs] == [None, "scSE", None, "scSE"]


def test_runs_that_are_the_same_are_done_once(plan):
    """Two variants stand in both comparisons: "none" and, under another name, scSE with its default aggregation."""
    runs = plan().runs()
    assert len(runs) == len({run.key for run in runs}) == 2 * 3
    assert [run.variant for run in runs] == ["none", "scSE", "none", "scSE", "add", "add"]


def test_the_key_does_not_depend_on_names_or_defaults(plan):
    keys = {run.key for run in plan().runs()}
    other = plan(
        ('title = "Blobs"', 'title = "Globes"'),
        ('name = "aggregation"', 'name = "joining"'),
        ('max = { aggregation = "max" }', 'max = { positions = ["decoder", "encoder"] }'),
        ('add = { aggregation = "add" }', 'sum = { aggregation = "add", reduction = 2, se = "scSE" }'),
        ('none = { se = "none" }', 'none = { se = "none", reduction = 8 }'),  # of no effect without a channel branch
        ("steps = 6", "steps = 6, depth = 1"),
        ("free = true", 'free = true, attribution = "nobody"'),
        name="other",
    )
    assert {run.key for run in other.runs()} == keys


@pytest.mark.parametrize(
    "change",
    [
        ("seeds = [1, 2]", "seeds = [3, 4]"),
        ("channels = 4", "channels = 5"),
        ("steps = 6", "steps = 7"),
        ("steps = 6", "steps = 6, depth = 2"),
        ("learning_rate = 0.01", "learning_rate = 0.02"),
        ('protocol = "modern"', 'protocol = "paper"'),
        ("spacing = [1.0", "spacing = [2.0"),
        ("thickness = 1", "thickness = 3"),
        ("test = 2", "test = 1"),
        ("shift_mm = 2", "shift_mm = 3"),
    ],
    ids=lambda change: change[0],
)
def test_the_key_depends_on_all_that_decides(plan, change):
    assert not {run.key for run in plan().runs()} & {run.key for run in plan(change).runs()}


def test_with_folds_every_case_is_for_test(plan):
    runs = plan(("test = 2", "folds = 2")).runs_of(plan().comparisons[0])
    assert [(run.seed, run.fold) for run in runs] == [(s, f) for s in (1, 2) for f in (0, 1) for _ in range(2)]
    assert [run.recipe.data.fold for run in runs[:4]] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("seeds = [1, 2]", "seeds = []"), "seeds"),
        (("seeds = [1, 2]", "seeds = [1, 1]"), "seeds"),
        (("seeds = [1, 2]", 'seeds = ["one"]'), "seeds[0]"),
        (('networks = ["UNet"]', 'networks = ["VNet"]'), "UNet"),
        (('protocol = "modern"', 'protocol = "future"'), "modern, paper"),
        (('name = "aggregation"', 'name = "networks"'), "same name"),
        (('name = "aggregation"', 'name = "../networks"'), "letters"),
        (('title = "Kinds of recalibration"', 'headline = "Kinds"'), "headline"),
        (("none = { se", "nothing = { se"), "baseline"),
        (('max = { aggregation = "max" }', "max = 1"), "table"),
        (("steps = 6", "steps = 0"), "steps"),
        (('add = { aggregation = "add" }', 'add = { aggregation = "sum" }'), "sum"),
        (('add = { aggregation = "add" }', "add = { colour = 3 }"), "colour"),
        (('add = { aggregation = "add" }', 'add = { se = "SE" }'), "SE"),
        (('add = { aggregation = "add" }', 'add = { positions = ["encoder", "skip"] }'), "not skip"),
        (('add = { aggregation = "add" }', "add = { positions = 3 }"), "UNet"),
        (("network = { channels = 4, blocks = 2, kernel = 3 }", "network = 3"), "recipe.network is a table"),
        (("[protocols.modern]", "[protocols]\nfuture = 3\n[protocols.modern]"), "a protocol is a table"),
        (('optimizer = "sgd"', 'optimizer = "adam"'), ""),
        (("seeds = [1, 2]", "seeds = [1, 2"), "cannot be read"),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_a_plan_of_no_use_is_refused_with_a_remedy(plan, change, words):
    with pytest.raises(UsageError) as refused:
        changes = [change, ('protocol = "modern"', 'protocol = "paper"')] if "optimizer" in change[0] else [change]
        plan(*changes).runs()
    assert words in refused.value.cause
    assert refused.value.remedy


def test_an_unknown_plan_is_refused_with_those_that_there_are():
    with pytest.raises(UsageError) as refused:
        Plan.load("liver")
    assert "no plan liver" in refused.value.cause
    assert "hippocampus" in refused.value.remedy


def test_more_than_one_view_is_refused(plan):
    view = '{ plane = "PLANE", network = "PLANE", weight = 1.0, thickness = 1 }'
    two = f"views = [{view.replace('PLANE', 'axial')}, {view.replace('PLANE', 'coronal')}]"
    with pytest.raises(UsageError, match="one view"):
        plan((f"views = [{view.replace('PLANE', 'coronal')}]", two)).runs()


def test_a_teacher_is_refused(plan):
    with pytest.raises(UsageError, match="from the labels alone"):
        plan(("[recipe]\n", '[recipe]\nteacher = { model = "brain-t1" }\n')).runs()


@cache
def shipped(name: str) -> tuple[Plan, list[Run]]:
    """A plan of the project and its runs, each of which has a network built."""
    plan = Plan.load(name)
    return plan, plan.runs()


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_plans_have_at_least_three_seeds_and_networks_that_can_be_built(name):
    plan, runs = shipped(name)
    assert len(set(plan.seeds)) >= 3
    for run in runs[: len(runs) // len(plan.seeds)]:
        (description,) = draft_card(run.recipe).networks.values()
        with torch.device("meta"):
            assert build_network(description)


def test_shipped_plans_compare_what_the_paper_does():
    variants = {c.name: c for c in Plan.load("hippocampus").comparisons}
    assert variants["networks"].networks == ["UNet", "SDNet", "DenseFCN"]
    assert [v["se"] for v in variants["networks"].variants.values()] == ["none", "cSE", "sSE", "scSE"]
    assert {"max", "add", "mul", "concat"} < variants["aggregation"].variants.keys()
    assert {v.get("reduction") for v in variants["reduction"].variants.values()} == {None, 2, 4, 8, 16}
    assert len(variants["position"].variants) == 5
    assert variants["wider"].variants["wider"] == {"parameters_of": "scSE"}
    assert Plan.load("abdomen-mr").recipe["data"]["folds"] == 5
    paper = Plan.load("hippocampus-paper").runs()[0].recipe.fit
    assert (paper.optimizer, paper.momentum, paper.class_balance, paper.boundary) == ("sgd", 0.95, 1.0, 2.0)


def test_full_size_plans_have_the_papers_networks():
    for name in ("hippocampus-gpu", "brain-gpu"):
        _, runs = shipped(name)
        recalibrated = next(run for run in runs if run.network == "UNet" and run.variant == "scSE")
        (description,) = draft_card(recalibrated.recipe).networks.values()
        with torch.device("meta"):
            parameters = dict(build_network(description).named_parameters())
        added = sum(p.numel() for key, p in parameters.items() if ".se." in key)
        assert added == 34_056  # 8 blocks of 64 channels, r = 2, with biases
