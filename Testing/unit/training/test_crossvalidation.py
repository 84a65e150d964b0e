"""Cross-validation: a model for each fold, measured on its own cases; the final model's card states their figures."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import SimpleITK as sitk

from SESegmentationLib.cli import main
from SESegmentationLib.errors import InputError, UsageError
from SESegmentationLib.models import verify_package
from SESegmentationTraining import crossvalidation
from SESegmentationTraining.automatic import write_recipe
from SESegmentationTraining.calibration import SHIFTS, Observation
from SESegmentationTraining.crossvalidation import MEASURED_NAME, OBSERVED_NAME, cross_validate, expected_of_folds
from SESegmentationTraining.recipe import Recipe
from SESegmentationTraining.train import train_model


@pytest.fixture(scope="module")
def quick(blobs_recipe):
    return blobs_recipe(
        network={"channels": [8, 16, 16]},
        data={"validation": 0, "test": 1},
        phases=[{"steps": 150, "batch": 8, "size": [24, 24]}],
        fit={"learning_rate": 0.01, "validate_every": 0},
    )


@pytest.fixture(scope="module")
def finished(blobs_folder, quick, tmp_path_factory):
    """The folder in which the command line cross-validated in two folds, one after the other, and then trained."""
    folder = tmp_path_factory.mktemp("crossvalidation")
    recipe = folder / "quick.toml"
    write_recipe(recipe, {key: value for key, value in quick.to_dict().items() if value != []}, ["for a test"])
    call = ["blobs", "--recipe", str(recipe), "--dataset", str(blobs_folder), "-o", str(folder), "--folds", "2"]
    call += ["--device", "cpu"]
    assert main(["measure", "crossvalidation", *call, "--only", "1"]) == 0
    assert not (folder / "fold-0").exists()
    assert not (folder / "blobs").exists()
    assert main(["measure", "crossvalidation", *call]) == 0
    return folder, call


def test_every_case_is_measured_by_weights_that_never_saw_it(finished):
    folder, _ = finished
    seen = []
    for fold in (0, 1):
        training = verify_package(folder / f"fold-{fold}").card.training
        measured = json.loads((folder / f"fold-{fold}" / MEASURED_NAME).read_text(encoding="utf-8"))
        assert sorted(measured["cases"]) == sorted(training["test_cases"])
        split = json.loads((folder / f"fold-{fold}" / "training" / "split.json").read_text(encoding="utf-8"))
        assert not set(split["training"]) & set(measured["cases"])
        seen += measured["cases"]
    assert len(seen) == len(set(seen)) == 4


def test_too_many_folds_are_refused_before_any_training(blobs_folder, quick, tmp_path):
    with pytest.raises(InputError, match="too few for 9 folds"):
        cross_validate(blobs_folder, quick, tmp_path / "out", 9, device="cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", "../model", "a/b", "fold-1"])
def test_a_name_that_is_no_folder_of_its_own_is_refused_before_any_training(blobs_folder, tmp_path, capsys, name):
    """The final model comes after hours of folds, and would lie elsewhere or meet one of them."""
    command = ["--recipe", "hippocampus-t1", "--dataset", str(blobs_folder), "-o", str(tmp_path / "out")]
    assert main(["measure", "crossvalidation", name, *command]) == 2
    assert "cannot be the name of the model" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_final_model_learns_from_all_and_states_the_figures_of_the_folds(finished):
    folder, _ = finished
    card = verify_package(folder / "blobs").card
    assert card.training["cases"] == {"training": 4, "validation": 0, "test": 0}
    assert card.accuracy["cases"] == 4
    assert card.accuracy["folds"] == 2
    assert "2-fold" in card.accuracy["data"]
    value = str(card.labels[0].value)
    dice = [
        case[value]["dice"]
        for fold in (0, 1)
        for case in json.loads((folder / f"fold-{fold}" / MEASURED_NAME).read_text(encoding="utf-8"))["cases"].values()
    ]
    assert card.accuracy["labels"][value]["dice"]["mean"] == pytest.approx(sum(dice) / 4, abs=1e-4)
    assert min(dice) > 0.5


def test_the_final_model_knows_what_dice_to_expect_from_cases_its_folds_never_saw(finished):
    folder, _ = finished
    card = verify_package(folder / "blobs").card
    assert card.calibration["data"].startswith("4 cases by weights that never saw them, as they are and under 5 shifts")
    observed = [json.loads((folder / f"fold-{fold}" / OBSERVED_NAME).read_text(encoding="utf-8")) for fold in (0, 1)]
    for fold, entries in enumerate(observed):
        tested = verify_package(folder / f"fold-{fold}").card.training["test_cases"]
        assert {entry["case"] for entry in entries} == set(tested)
        assert {entry["shift"] for entry in entries} == {None, *SHIFTS}
    values = {str(label.value) for label in card.labels}
    assert set(card.calibration["fast"]) == values  # its only view
    assert "Expected Dice" in (folder / "blobs" / "README.md").read_text(encoding="utf-8")


def test_the_dice_expected_of_a_fold_is_learnt_from_the_others():
    """In fold 0 results are always as confident as in the others, and always worse than these make set_soft_targets."""
    certain = (0.2, 0.4, 0.6, 0.8)
    worse = [Observation(f"a{c}", None, 1, 2, c, c - 0.1) for c in certain]
    other = [[Observation(f"{name}{c}", None, 1, 2, c, c) for c in certain] for name in "bc"]
    shifted = Observation("a", "noise", 1, 2, 0.9, 0.85)
    fast = Observation("a", None, 1, 1, 0.9, 0.0)
    found = expected_of_folds([[*worse, shifted, fast], other[0], other[1]])
    assert found["n"] == 12
    # of fold 0 all are expected 0.1 too high; of each other one half of the curve's examples lie 0.1 below the truth
    assert found["mean_error"] == pytest.approx((0.1 + 0.05 + 0.05) / 3, abs=0.02)
    assert found["spearman"] > 0.9


def test_what_was_done_is_not_done_again(finished, monkeypatch, capsys):
    folder, call = finished
    monkeypatch.setattr(crossvalidation, "measure", None)
    monkeypatch.setattr(crossvalidation, "observe", None)
    before = (folder / "fold-0" / "model.safetensors").stat().st_mtime_ns
    assert main(["measure", "crossvalidation", *call, "--write", str(folder / "blobs")]) == 0
    assert (folder / "fold-0" / "model.safetensors").stat().st_mtime_ns == before
    assert json.loads(capsys.readouterr().out)["cases"] == 4


def test_folds_that_make_no_sense_are_refused(blobs_folder, quick, tmp_path, capsys):
    with pytest.raises(UsageError, match="fold is below folds"):
        cross_validate(blobs_folder, quick, tmp_path, 2, [2])
    for wrong in (["--folds", "1"], ["--only", "5"]):
        call = ["blobs", "--recipe", "hippocampus-t1", "--dataset", str(blobs_folder), "-o", str(tmp_path), *wrong]
        assert main(["measure", "crossvalidation", *call]) == UsageError.exit_code
        assert "folds" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("checkpoints", [True, False])
def test_folds_of_another_recipe_or_number_are_not_mixed(finished, blobs_folder, tmp_path, checkpoints):
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    quick = Recipe.load(folder / "quick.toml")
    for path in [] if checkpoints else folder.rglob("*.checkpoint.safetensors"):
        path.unlink()
    assert len(cross_validate(blobs_folder, quick, folder, 2, device="cpu")["cases"]) == 4
    for other, folds in ((replace(quick, fit=replace(quick.fit, seed=9)), 2), (quick, 3)):
        with pytest.raises(UsageError, match="other"):
            cross_validate(blobs_folder, other, folder, folds, device="cpu")


@pytest.mark.parametrize("checkpoints", [True, False])
def test_folds_of_other_labels_are_not_mixed(finished, blobs_folder, tmp_path, checkpoints):
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    dataset = shutil.copytree(blobs_folder, tmp_path / "blobs")
    for path in [] if checkpoints else folder.rglob("*.checkpoint.safetensors"):
        path.unlink()
    label = dataset / "labelsTr" / "blob_1.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(label)) * 0, str(label))
    with pytest.raises(UsageError, match="other images or labels"):
        cross_validate(dataset, Recipe.load(folder / "quick.toml"), folder, 2, device="cpu")


@pytest.mark.parametrize("content", [b"", b'{"cases": {"a"', b'{"cases": 7}', b"7", b"\xff\x00", b"[" * 100_000])
@pytest.mark.parametrize("name", [MEASURED_NAME, OBSERVED_NAME])
def test_a_damaged_file_of_a_fold_is_told(finished, tmp_path, capfd, name, content):
    """A full disk, another program or an editor may leave such a file."""
    folder, call = shutil.copytree(finished[0], tmp_path / "copy"), list(finished[1])
    call[call.index("-o") + 1] = str(folder)
    (folder / "fold-1" / name).write_bytes(content)
    capfd.readouterr()
    code = main(["measure", "crossvalidation", *call, "--write", str(folder / "blobs")])
    cause, remedy = capfd.readouterr().err.splitlines()[-2:]
    assert code == InputError.exit_code, cause
    assert str(folder / "fold-1" / name) in cause and "cannot be read: it is damaged" in cause
    assert remedy.startswith("Delete it")


def test_folds_that_started_from_other_weights_are_refused(blobs_folder, blobs_recipe, tmp_path):
    """Figures of folds that learnt from different models would be one table."""
    short = {"phases": [{"steps": 1, "batch": 1, "size": [8, 8]}], "data": {"validation": 0}}
    first, second = (
        train_model(blobs_folder, blobs_recipe(**short, fit={"seed": seed}), tmp_path / str(seed), "cpu").path
        for seed in (1, 2)
    )
    recipe = blobs_recipe(**short, start=str(first))
    for _ in range(2):
        cross_validate(blobs_folder, recipe, tmp_path / "folds", 2, [0], "cpu")
    for name in ("model.json", "model.safetensors"):
        shutil.copyfile(second / name, first / name)
    with pytest.raises(UsageError, match="begun with other weights"):
        cross_validate(blobs_folder, recipe, tmp_path / "folds", 2, [0], "cpu")
