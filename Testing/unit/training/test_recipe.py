"""Recipes: what is shipped is valid, what is wrong is named."""

from __future__ import annotations

import json
import math
import re

import pytest

from SESegmentationLib.errors import UsageError
from SESegmentationLib.models import ModelCard
from SESegmentationLib.models.labels import LEFT, RIGHT
from SESegmentationLib.networks import build_network
from SESegmentationTraining.recipe import RECIPES_FOLDER, SOURCE_KINDS, Recipe
from SESegmentationTraining.sources import SOURCES
from SESegmentationTraining.training_plan import draft_card, plan_fits

SHIPPED = sorted(path.stem for path in RECIPES_FOLDER.glob("*.toml"))
PHASE = {"steps": 3, "batch": 2, "size": [8, 8]}
T1 = {"name": "T1", "share": 0.6, "means": [[17, 140, 12]]}
BRAIN = [name for name in SHIPPED if name.startswith("brain-t1")]


def test_recipes_are_shipped():
    assert {"brain-t1", "brain-t1-gpu", "hippocampus-t1"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_make_valid_cards_and_networks(name):
    recipe = Recipe.load(name)
    card = draft_card(recipe)
    assert ModelCard.from_dict(card.to_dict()) == card
    assert card.licence.spdx
    assert card.input["limits"]
    for view in card.views:
        network = build_network(card.networks[view.network])
        assert network.in_channels == view.thickness
        assert network.classes == len(card.labels) + 1
    assert all(fit.work > 0 for fit in plan_fits(card, recipe))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_have_sane_schedules(name):
    recipe = Recipe.load(name)
    schedules = [phases for phases in (recipe.phases, recipe.volumetric.phases) if phases]
    assert schedules
    for phases in schedules:
        spacings = [phase.spacing for phase in phases]
        assert spacings == sorted(spacings, reverse=True)  # coarse to fine
        assert spacings[-1] == 1  # the last phase sees what inference sees
        assert 0 < recipe.fit.warmup < sum(phase.steps for phase in phases) / 10


@pytest.mark.parametrize("name", [name for name in SHIPPED if Recipe.load(name).teacher.model])
def test_shipped_recipes_can_train_their_teachers(name):
    recipe = Recipe.load(name)
    teacher = Recipe.load(recipe.teacher.recipe)
    assert teacher.name == recipe.teacher.model
    ours, its = draft_card(recipe), draft_card(teacher)
    assert (ours.spacing, ours.intensity, ours.labels) == (its.spacing, its.intensity, its.labels)


@pytest.mark.parametrize("name", BRAIN)
def test_brain_recipes_learn_the_listed_structures(name, shared_data):
    text = (shared_data / "README.md").read_text(encoding="utf-8").split("used by the brain models")[1]
    pairs = {(int(left), int(right)) for left, right in re.findall(r"(\d+)/(\d+)", text)}
    single = {int(value) for value in re.findall(r"(?:ventricle|stem|CSF) (\d+)(?![/\d])", text)}
    assert len(pairs) == 14
    assert single == {14, 15, 16, 24}
    card = draft_card(Recipe.load(name))
    assert {label.value for label in card.labels} == {value for pair in pairs for value in pair} | single
    assert len(card.labels) == 32
    assert set(card.merged_pairs) == pairs


@pytest.mark.parametrize("name", BRAIN)
def test_every_sided_structure_of_a_brain_recipe_has_its_other_side(name):
    recipe = Recipe.load(name)
    card = draft_card(recipe)
    sided = {label.value: label for label in card.labels if label.modifier}
    assert {value for pair in card.merged_pairs for value in pair} == set(sided)
    for left, right in card.merged_pairs:
        assert (sided[left].modifier, sided[right].modifier) == (LEFT, RIGHT)
        assert sided[left].name.removeprefix("left ") == sided[right].name.removeprefix("right ")
        assert sided[left].type == sided[right].type
        assert sided[left].color == sided[right].color
    assert set(card.merged_pairs) <= set(recipe.data.mirrored_pairs)


def test_every_side_of_the_label_maps_is_exchanged_in_a_mirror(shared_data):
    import numpy as np

    values = set(np.load(shared_data / "brain-labelmaps" / "priors" / "generation_labels.npy").tolist())
    mirrored = [value for pair in Recipe.load("brain-t1").data.mirrored_pairs for value in pair]
    assert len(mirrored) == len(set(mirrored))
    assert set(mirrored) <= values
    # FreeSurfer's left structures below 40 and right ones above, the midline and extra-cerebral ones apart
    assert {value for value in values if 2 <= value < 70 or 136 <= value < 170} - {14, 15, 16, 24} == set(mirrored)


def test_the_kinds_of_source_are_those_that_exist():
    assert tuple(SOURCES) == SOURCE_KINDS


def test_a_recipe_extends_another(tmp_path):
    (tmp_path / "base.toml").write_text('extends = "hippocampus-t1"\n[fit]\nseed = 7\nwarmup = 2\n', encoding="utf-8")
    (tmp_path / "own.toml").write_text(
        'extends = "base.toml"\nname = "own"\n[fit]\nwarmup = 3\n[[phases]]\nsteps = 5\nbatch = 2\nsize = [8, 8]\n',
        encoding="utf-8",
    )
    recipe, base = Recipe.load(tmp_path / "own.toml"), Recipe.load("hippocampus-t1")
    assert recipe.name == "own"
    assert (recipe.fit.seed, recipe.fit.warmup) == (7, 3)
    assert recipe.fit.rare_share == base.fit.rare_share
    assert [phase.steps for phase in recipe.phases] == [5]
    assert recipe.card == base.card


def test_a_recipe_as_plain_values_is_json(blobs_recipe):
    entries = blobs_recipe().to_dict()
    assert json.loads(json.dumps(entries))["phases"][1]["size"] == [24, 24]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser": "sgd"}, "no entry optimiser"),
        ({"fit": {"learning_rates": 0.1}}, r"no entry fit\.learning_rates"),
        ({"fit": {"learning_rate": "fast"}}, r"fit\.learning_rate is 'fast', expected a finite number"),
        ({"fit": {"bf16": 1}}, r"fit\.bf16 is 1, expected true or false"),
        ({"fit": {"warmup": 2.5}}, r"fit\.warmup is 2\.5, expected a whole number"),
        ({"fit": {"warmup": 11}}, r"\[fit\] warmup, 11 steps, must not be longer than phases, 10 steps"),
        (
            {"fit": {"warmup": 3}, "specialise": [{**PHASE, "steps": 2}]},
            r"warmup, 3 steps, .* than specialise, 2 steps",
        ),
        (
            {"fit": {"warmup": 3}, "volumetric": {"phases": [{**PHASE, "steps": 1}] * 2}},
            r"warmup, 3 steps, .* \[volumetric\] phases, 2 steps",
        ),
        ({"fit": {"optimizer": "adam"}}, "adamw, sgd, not 'adam'"),
        ({"fit": {"step_decays": -1}}, "step_decays"),
        ({"fit": {"learning_rate": -0.1}}, "learning_rate is a number above 0"),
        ({"fit": {"learning_rate": 1e300}}, "learning_rate is a number above 0, at most 1e30"),
        ({"fit": {"learning_rate": 10**400}}, r"fit\.learning_rate is 10+, expected a finite number"),
        ({"fit": {"seed": 2**32}}, r"fit\.seed is 4294967296, expected a whole number below"),
        ({"data": {"split_seed": -(10**30)}}, r"data\.split_seed is -10+, expected a whole number below"),
        ({"fit": {"checkpoint_seconds": -1}}, "checkpoint_seconds and minutes are numbers, at least 0"),
        ({"start_class_balance": -1}, "start_class_balance is a number from 0 to 10"),
        ({"data": {"source": "label-maps", "scans": "scans", "scans_share": 2}}, "scans_share is a number from 0 to 1"),
        ({"fit": {"weight_decay": -1}}, "at least 0"),
        ({"fit": {"dice": -1}}, "dice are numbers from 0 to 1000"),
        ({"fit": {"dice": 1e9}}, "dice are numbers from 0 to 1000"),
        ({"fit": {"frozen": ["classifier."]}}, "frozen is for networks that start from a model's"),
        ({"teacher": {"model": "blobs"}, "fit": {"dice": 0.5}}, "dice is 1"),
        ({"scans_augmentation": {"noise": 0}}, r"\[scans_augmentation\] is for the scans"),
        ({"fit": {"class_balance": -1}}, "class_balance is a number from 0 to 10"),
        ({"fit": {"class_balance": 1e9}}, "class_balance is a number from 0 to 10"),
        ({"fit": {"boundary": 1e9}}, "boundary and dice are numbers from 0 to 1000"),
        ({"start_class_balance": 1e9}, "start_class_balance is a number from 0 to 10"),
        ({"fit": {"average": 1.5}}, "average and momentum"),
        ({"fit": {"rare_share": 4}}, "rare_share"),
        ({"fit": {"validation_batches": 0}}, "validation_batches above 0"),
        ({"phases": [{"steps": 3, "batch": 2}]}, r"entry phases\[0\]\.size is missing"),
        ({"phases": [{"steps": 3, "batch": 2, "size": [8]}]}, r"phases\[0\]\.size"),
        ({"phases": [{"steps": 0, "batch": 2, "size": [8, 8]}]}, "above 0"),
        ({"phases": [{**PHASE, "spacing": 0}]}, "spacing of a phase, .* from 0.1 to 16"),
        ({"phases": [{**PHASE, "spacing": 1e9}, PHASE]}, "spacing of a phase, .* from 0.1 to 16"),
        ({"specialise": [{**PHASE, "size": [8, 10**9]}, PHASE]}, "size and depth of a phase must be .* at most 4096"),
        ({"volumetric": {"phases": [{**PHASE, "depth": 10**9}]}}, "size and depth of a phase must be .* at most 4096"),
        ({"phases": [{**PHASE, "batch": 10**9}]}, "batch, size and depth of a phase must be .* at most 4096"),
        ({"phases": []}, "no phase"),
        ({"phases": {"steps": 3}}, "phases"),
        ({"data": {"source": "cloud"}}, "folder, label-maps, not 'cloud'"),
        ({"data": {"mirrored_pairs": [[1, 2, 3]]}}, r"data\.mirrored_pairs\[0\]"),
        ({"data": {"test": -1}}, "numbers of cases"),
        ({"deformation": 3}, "deformation is 3, expected a table"),
        ({"deformation": {"rotation_degrees": -5}}, "rotation_degrees is a number from 0 to 180"),
        ({"deformation": {"scale": 3}}, "scale is a number from 0, below 1"),
        ({"deformation": {"share": 8}}, "share is a number from 0 to 1"),
        ({"deformation": {"elastic_mm": [1, -1]}}, "elastic_mm and shift_mm are numbers from 0 to 1000"),
        ({"deformation": {"shift_mm": float("inf")}}, r"deformation\.shift_mm is inf, expected a finite number"),
        ({"augmentation": {"contrast": 1.5}}, "contrast and gain are numbers from 0 to 1"),
        ({"deformation": {"shift_mm": 1e9}}, "elastic_mm and shift_mm are numbers from 0 to 1000"),
        ({"augmentation": {"bias": 1e9}}, "bias, .* are numbers from 0 to 5"),
        ({"augmentation": {"blur_pixels": -5}}, "blur_pixels is a number from 0 to 100"),
        ({"augmentation": {"blur_pixels": 1e9}}, "blur_pixels is a number from 0 to 100"),
        ({"augmentation": {"noise": 1e9}}, "noise is a number from 0 to 10"),
        ({"augmentation": {"gamma": float("nan")}}, r"augmentation\.gamma is nan, expected a finite number"),
        ({"networks": {"axial": {"augmentation": {"noise": -1}}}}, "noise is a number from 0 to 10"),
        ({"synthesis": {"stripped": 3}}, "stripped, .* are numbers from 0 to 1"),
        ({"synthesis": {"saturation": 1}}, "saturation is a number from 0, below 1"),
        ({"synthesis": {"partial_volume": -1}}, "partial_volume is a number"),
        ({"synthesis": {"partial_volume": 1e9}}, "partial_volume is a number .* to 100"),
        ({"synthesis": {"thickest": 1e9}}, "thickest is a number .* to 100"),
        ({"synthesis": {"thickest": 0.2}}, "thickest is a number from 1.5"),
        ({"synthesis": {"contrasts": [T1, T1]}}, "contrasts add up to 1 at most"),
        ({"synthesis": {"contrasts": [{**T1, "share": -1}]}}, "share and random_rest of T1"),
        ({"synthesis": {"contrasts": [{**T1, "means": [[17, 300, 4]]}]}}, "a mean of T1 is a number from 0 to 255"),
        ({"synthesis": {"contrasts": [{**T1, "exponents": [0, 1]}]}}, "exponents of T1"),
        ({"synthesis": {"contrasts": [{**T1, "texture": [9, 4]}]}}, "texture of T1"),
        ({"synthesis": {"contrasts": [{**T1, "texture": [9, 1e9]}]}}, "texture of T1"),
        ({"synthesis": {"contrasts": [{**T1, "exponents": [1, 1e9]}]}}, "exponents of T1"),
        ({"synthesis": {"contrasts": [{**T1, "means": [[17, 3, 1e9]]}]}}, "and so is its deviation"),
        ({"card": {"intensity": {"type": "zscore"}}}, "mean 0"),
        ({"augmentation": {"darkening": 1.5}}, "go together"),
        ({"augmentation": {"darkened": [1]}}, "go together"),
        ({"augmentation": {"darkening": 1.5, "darkened": [0]}}, "darkened are channels"),
        ({"augmentation": {"darkening": 1.5, "darkened": [99]}}, "darkened are channels"),
        ({"networks": {"axial": {"augmentation": {"darkening": 1.5}}}}, "go together"),
        ({"networks": {"axial": {"augmentation": {"tint": 1.5}}}}, "no entry networks.axial.augmentation.tint"),
        ({"networks": {"axial": {"steps": 3}}}, "no entry networks.axial.steps"),
        ({"teacher": {"model": "blobs", "share": 0.0}}, "share is above 0"),
        ({"teacher": {"model": "blobs"}, "fit": {"boundary": 2}}, "no class_balance and no boundary"),
        ({"teacher": {"model": "blobs"}, "data": {"source": "label-maps"}}, "not for label maps"),
        ({"networks": {"axial": {}}, "specialise": [{"steps": 3, "batch": 2, "size": [8, 8]}]}, "do not specialise"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_faults_are_named(blobs_recipe, changes, message):
    with pytest.raises(UsageError, match=message) as caught:
        blobs_recipe(**changes)
    assert caught.value.remedy
    assert "\n" not in caught.value.cause


def numbers_of(entries, path=()):
    """Paths of all numbers in nested entries that may be other than whole."""
    if isinstance(entries, dict | list | tuple):
        items = entries.items() if isinstance(entries, dict) else enumerate(entries)
        return [found for key, entry in items for found in numbers_of(entry, (*path, key))]
    return [path] if type(entries) is float else []


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_named(blobs_recipe, number):
    """Wherever they stand: with some a training would learn nothing for hours, or never be saved."""
    whole = blobs_recipe(synthesis={"contrasts": [T1]}, networks={"planes": {"augmentation": {"noise": 0.5}}})
    entries = json.loads(json.dumps(whole.to_dict()))
    del entries["card"]  # checked when a card is made of it
    paths = numbers_of(entries)
    assert {("phases", 0, "spacing"), ("fit", "checkpoint_seconds"), ("teacher", "share")} <= set(paths)
    for path in paths:
        changed = json.loads(json.dumps(whole.to_dict()))
        place = changed
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = number
        with pytest.raises(UsageError, match=rf"{path[-1]}\]? is -?(nan|inf), expected a finite number"):
            Recipe.from_dict(changed)


@pytest.mark.parametrize("pairs", [[[17, 53], [17, 18]], [[53, 18]]], ids=str)
def test_a_label_with_two_other_sides_is_refused(blobs_recipe, pairs):
    """The second pair contradicts the first, or the card's merged pairs."""
    with pytest.raises(UsageError, match="a mirror exchanges label (17|53) with several others"):
        draft_card(blobs_recipe(data={"mirrored_pairs": pairs}))
    draft_card(blobs_recipe(data={"mirrored_pairs": [[53, 17], [17, 53]]}))


@pytest.mark.parametrize(
    ("network", "phase"),
    [
        ({}, {"batch": 1, "size": [2, 2]}),
        ({"type": "UNet", "channels": 4, "blocks": 4}, {"batch": 1, "size": [8, 8]}),
    ],
    ids=["PyramidUNet", "UNet"],
)
def test_phases_that_are_too_small_for_the_network_are_refused(blobs_entries, network, phase):
    entries = blobs_entries(phases=[{"steps": 2, **phase}])
    entries["network"] = network or entries["network"]
    recipe = Recipe.from_dict(entries)
    with pytest.raises(UsageError, match="is too small for the network planes"):
        plan_fits(draft_card(recipe), recipe)


@pytest.mark.parametrize("name", ["name", "network", "card", "phases"])
def test_missing_parts_are_named(blobs_entries, name):
    entries = blobs_entries()
    del entries[name]
    # phases may be those of volumetric views alone
    with pytest.raises(UsageError, match="there is no phase" if name == "phases" else f"the entry {name} is missing"):
        Recipe.from_dict(entries)


@pytest.mark.parametrize(
    "changes",
    [
        {"views": []},
        {"views": [{"plane": "oblique", "weight": 1.0, "network": "planes"}]},
        {"views": [{"plane": "axial", "weight": 1.0}]},
        {"views": ["axial"]},
        {"labels": "all"},
        {"spacing": [1.0]},
        {"merged_pairs": [[17, 99]]},
        {"licence": None},
    ],
    ids=str,
)
def test_invalid_cards_are_the_recipes_fault(blobs_recipe, changes):
    with pytest.raises(UsageError, match="blobs") as caught:
        draft_card(blobs_recipe(card=changes))
    assert "recipe" in caught.value.remedy


def test_unknown_and_unreadable_recipes(tmp_path):
    with pytest.raises(UsageError, match="no recipe heart") as caught:
        Recipe.load("heart")
    assert all(name in caught.value.remedy for name in SHIPPED)
    with pytest.raises(UsageError, match="no recipe"):
        Recipe.load(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("name = ", encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be read"):
        Recipe.load(tmp_path / "bad.toml")
    (tmp_path / "long.toml").write_text(f"seed = {'9' * 5000}", encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be read"):
        Recipe.load(tmp_path / "long.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read"):
        Recipe.load(tmp_path / "binary.toml")


def test_recipes_that_extend_each_other_are_refused(tmp_path):
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n', encoding="utf-8")
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n', encoding="utf-8")
    with pytest.raises(UsageError, match="extends itself"):
        Recipe.load(tmp_path / "a.toml")


def test_networks_are_as_thick_as_their_views(blobs_recipe):
    views = [
        {"plane": "axial", "weight": 1.0, "network": "thin", "thickness": 1},
        {"plane": "coronal", "weight": 1.0, "network": "thick", "thickness": 5},
    ]
    card = draft_card(blobs_recipe(card={"views": views}))
    assert {name: entry["in_channels"] for name, entry in card.networks.items()} == {"thin": 1, "thick": 5}


@pytest.mark.parametrize("shared", [False, True])
def test_views_of_one_network_must_be_of_one_thickness(blobs_recipe, shared):
    names = ("axial", "coronal") if shared else ("planes", "planes")
    views = [
        {"plane": plane, "weight": 1.0, "network": network, "thickness": thickness}
        for plane, network, thickness in zip(("axial", "coronal"), names, (1, 3), strict=True)
    ]
    specialise = [{"steps": 2, "batch": 2, "size": [8, 8]}] if shared else []
    with pytest.raises(UsageError, match="thickness"):
        draft_card(blobs_recipe(card={"views": views}, specialise=specialise))
