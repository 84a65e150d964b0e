"""Calibration: observed confidence and Dice become rising lines in the card, from cases that training kept out."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from SESegmentationLib.cli import main
from SESegmentationLib.errors import InputError, UsageError
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.inference.predictor import Prediction
from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.models import ModelPackage, verify_package, write_package
from SESegmentationLib.models.sections import expected_dice
from SESegmentationLib.result import SegmentOptions
from SESegmentationTraining import calibration
from SESegmentationTraining.automatic import write_recipe
from SESegmentationTraining.begun import recipe_of
from SESegmentationTraining.calibration import (
    SHIFTS,
    Observation,
    fit,
    fit_curve,
    held_out_volumes,
    observations_of,
    observe,
)
from SESegmentationTraining.dataset import find_cases, split_cases
from SESegmentationTraining.train import train_model
from SESegmentationTraining.tuning import validation_volumes


def seen(confidence: float, dice: float, value: int = 17, views: int = 2, case: str = "a") -> Observation:
    return Observation(case, None, value, views, confidence, dice)


PAIRS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40)


@given(PAIRS)
@settings(deadline=None)
def test_curves_rise_and_stay_within_what_was_seen(pairs):
    curve = fit_curve([seen(*pair) for pair in pairs])
    assert 1 <= len(curve["confidence"]) == len(curve["dice"]) <= calibration.POINTS
    assert (np.diff(curve["confidence"]) > 0).all()
    assert (np.diff(curve["dice"]) >= 0).all()
    assert curve["dice"][0] >= 0
    assert curve["dice"][-1] <= 1
    confidences, dice = np.array(pairs).T
    assert curve["confidence"][0] == pytest.approx(confidences.min(), abs=1e-4)
    assert curve["confidence"][-1] == pytest.approx(confidences.max(), abs=1e-4)
    errors = np.interp(confidences, curve["confidence"], curve["dice"]) - dice
    assert (errors**2).mean() <= dice.var() + 1e-3, "worse than the mean of all"


def test_a_relation_is_found_again():
    """Dice is the square of the confidence, and noise."""
    random = np.random.default_rng(0)
    confidences = random.uniform(0.2, 1, 400)
    observations = [seen(c, np.clip(c**2 + 0.05 * random.normal(), 0, 1)) for c in confidences]
    lines = {"views": {"17": fit_curve(observations)}}
    for confidence in (0.4, 0.6, 0.8):
        assert expected_dice(lines, 17, confidence, 2) == pytest.approx(confidence**2, abs=0.05)


def test_views_and_structures_have_lines_of_their_own():
    curves = fit([seen(0.5, 0.1, 17, 2), seen(0.5, 0.2, 53, 2), seen(0.5, 0.3, 17, 1)])
    assert curves["views"]["17"] == {"confidence": [0.5], "dice": [0.1]}
    assert curves["views"]["53"] == {"confidence": [0.5], "dice": [0.2]}
    assert curves["fast"] == {"17": {"confidence": [0.5], "dice": [0.3]}}


def test_what_is_compared(tiny_model):
    """Dice and confidence of channels; structures of a few voxels are left out."""
    package = ModelPackage.from_folder(tiny_model)
    truth = np.zeros((4, 10, 10), np.uint8)
    truth[0] = 1
    truth[2, 0, :5] = 2
    found = torch.zeros(4, 10, 10, dtype=torch.int64)
    found[0, :5] = 1
    found[1, :5] = 1
    probabilities = torch.nn.functional.one_hot(found, 3).permute(3, 0, 1, 2).half()
    observed = observations_of(package, Prediction(probabilities, [found, found]), truth, "a", "noise")
    assert observed == [Observation("a", "noise", 1, 2, 1.0, 0.5)]


@pytest.fixture
def package(tiny_model, blobs_entries, tmp_path) -> ModelPackage:
    """The tiny model under the labels of the dataset of blobs, with its own recipe."""
    plain = ModelPackage.from_folder(tiny_model)
    labels, pairs = blobs_entries()["card"]["labels"], [[17, 53]]
    entries = plain.card.to_dict() | {"name": "blobs", "labels": labels, "merged_pairs": pairs}
    return write_package(tmp_path / "blobs-model", entries, plain.weights_path)


def test_cases_kept_out_are_those_of_the_split(package, blobs_folder, blobs_recipe):
    recipe = blobs_recipe()
    names = sorted(case.name for case in find_cases(blobs_folder))
    split = split_cases(names, recipe.data.validation, recipe.data.test, recipe.data.split_seed)
    for group in ("validation", "test"):
        cases = list(held_out_volumes(package, blobs_folder, recipe, group))
        assert [name for name, _, _ in cases] == list(getattr(split, group))
        for _, image, truth in cases:
            assert image.shape == truth.shape
            assert set(np.unique(truth)) == {0, 1, 2}
    assert not set(split.validation) & set(split.test)
    with pytest.raises(InputError, match="do not split as in the training"):
        entries = package.card.to_dict() | {"training": {"test_cases": ["other"]}}
        other = write_package(package.path, entries, package.weights_path)
        list(held_out_volumes(other, blobs_folder, recipe, "test"))


def test_every_case_is_seen_under_every_shift_with_all_views_and_one(package, blobs_folder, blobs_recipe):
    groups = list(observe(package, held_out_volumes(package, blobs_folder, blobs_recipe(), "validation")))
    assert len(groups) == 1 + len(SHIFTS)
    everything = [entry for group in groups for entry in group]
    assert {entry.shift for entry in everything} == {None, *SHIFTS}
    assert {entry.views for entry in everything} == {1, 3}
    assert all(0 <= entry.dice <= 1 and 0 <= entry.confidence <= 1 for entry in everything)


def test_what_is_observed_is_what_the_engine_says(package, blobs_folder, blobs_recipe):
    """The confidence that was calibrated is the one that results have: the same normalisation, the same views."""
    recipe = blobs_recipe()
    (as_it_is, *_) = observe(package, held_out_volumes(package, blobs_folder, recipe, "validation"))
    case = next(case for case in find_cases(blobs_folder) if case.name == as_it_is[0].case)
    for fast, views in ((False, 3), (True, 1)):
        result = Engine(package, "cpu").segment(read_volume(case.image), SegmentOptions(fast=fast))
        found = {structure.label.value: structure.confidence for structure in result.structures}
        mine = {entry.value: entry.confidence for entry in as_it_is if entry.views == views}
        assert mine
        for value, confidence in mine.items():
            assert found[value] == pytest.approx(confidence, abs=0.01)


def test_the_command_writes_lines_into_the_card(package, blobs_folder, blobs_entries, tmp_path, capsys):
    recipe = tmp_path / "blobs.toml"
    write_recipe(recipe, blobs_entries(), ["for a test"])
    arguments = [str(package.path), "--dataset", str(blobs_folder), "--recipe", str(recipe)]
    before = package.weights_path.read_bytes()
    assert main(["measure", "calibration", *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"data", "command", "views", "fast"}
    assert printed["data"].startswith("1 validation case, ")
    assert not verify_package(package.path).card.calibration, "without --write the card stays"
    assert main(["measure", "calibration", *arguments, "--write"]) == 0
    written = verify_package(package.path)
    assert written.card.calibration == printed
    assert written.weights_path.read_bytes() == before
    readme = (package.path / "README.md").read_text(encoding="utf-8")
    assert f"as it was on {printed['data']}" in readme
    assert printed["command"] in readme
    volume = find_cases(blobs_folder)[0].image
    structures = Engine(written, "cpu").segment(read_volume(volume)).structures
    assert all(0 <= structure.expected_dice <= 1 for structure in structures)


def test_wrong_folders_end_with_cause_and_remedy(package, tmp_path, capsys):
    assert (
        main(["measure", "calibration", str(package.path), "--dataset", str(tmp_path), "--recipe", "hippocampus-t1"])
        == 2
    )
    assert len(capsys.readouterr().err.splitlines()) == 2
    shutil.rmtree(package.path)
    assert (
        main(["measure", "calibration", str(package.path), "--dataset", str(tmp_path), "--recipe", "hippocampus-t1"])
        == 3
    )


@pytest.mark.parametrize("beside", [True, False])
def test_cases_that_a_model_may_have_learnt_from_are_not_measured(
    own_blobs_folder, blobs_entries, blobs_recipe, tmp_path, beside
):
    """The dataset grew after the training: other cases are for validation now."""
    changes = {"phases": [{"steps": 1, "batch": 1, "size": [8, 8]}], "data": {"test": 0}}
    recipe = blobs_recipe(**changes)
    write_recipe(tmp_path / "blobs.toml", blobs_entries(**changes), [])
    package = train_model(own_blobs_folder, recipe, tmp_path / "model", "cpu")
    assert len(list(held_out_volumes(package, own_blobs_folder, recipe, "validation"))) == 1
    if not beside:  # as where the model was installed
        shutil.rmtree(package.path / "training")
    for kind, file in (("images", "{}_0000.nii.gz"), ("labels", "{}.nii.gz")):
        folder = own_blobs_folder / f"{kind}Tr"
        shutil.copy(folder / file.format("blob_1"), folder / file.format("blob_9"))
    with pytest.raises(InputError, match="may have learnt from some"):
        list(held_out_volumes(package, own_blobs_folder, recipe, "validation"))
    with pytest.raises(InputError, match="may have learnt from some"):
        validation_volumes(package, own_blobs_folder, str(tmp_path / "blobs.toml"), 1, 0)


def test_the_recipe_of_an_own_model_is_that_beside_it(own_blobs_folder, blobs_recipe, tmp_path, capsys):
    recipe = blobs_recipe(phases=[{"steps": 1, "batch": 1, "size": [8, 8]}])
    package = train_model(own_blobs_folder, recipe, tmp_path / "model", "cpu")
    assert recipe_of(package) == recipe
    assert main(["measure", "calibration", str(package.path), "--dataset", str(own_blobs_folder)]) == 0
    capsys.readouterr()
    (package.path / "training" / "recipe.json").unlink()
    with pytest.raises(UsageError, match="recipe of your own, blobs, which is not beside it") as caught:
        recipe_of(package)
    assert "--recipe" in caught.value.remedy
