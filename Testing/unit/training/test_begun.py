"""A training goes on with the cases, the recipe and the files that it was begun with only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tomli_w

from SESegmentationLib.errors import InputError, UsageError
from SESegmentationLib.files.json_files import without_nulls
from SESegmentationTraining.train import train_model


def test_a_folder_that_was_trained_with_other_cases_is_refused(blobs_folder, blobs_recipe, tmp_path):
    train_model(blobs_folder, blobs_recipe(), tmp_path, "cpu")
    split = (tmp_path / "training" / "split.json").read_bytes()
    for seed in range(1, 9):  # until the split is another one
        recipe = blobs_recipe(data={"split_seed": seed})
        try:
            train_model(blobs_folder, recipe, tmp_path, "cpu")
        except UsageError as error:
            assert "other cases" in error.cause
            break
    else:
        pytest.fail("no other split was refused")
    assert (tmp_path / "training" / "split.json").read_bytes() == split
    (tmp_path / "training" / "split.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"split\.json cannot be read: it is damaged"):
        train_model(blobs_folder, blobs_recipe(), tmp_path, "cpu")


def test_a_training_goes_on_with_its_own_recipe_only(blobs_folder, blobs_recipe, tmp_path):
    """Left and right exchanged: the card would no longer describe the weights."""
    package = train_model(blobs_folder, blobs_recipe(), tmp_path, "cpu")
    before = (tmp_path / "model.json").read_bytes()
    first, second = package.card.to_dict()["labels"]
    labels = [first | {"value": second["value"]}, second | {"value": first["value"]}]
    with pytest.raises(UsageError, match="begun with another recipe"):
        train_model(blobs_folder, blobs_recipe(card={"labels": labels}), tmp_path, "cpu")
    assert (tmp_path / "model.json").read_bytes() == before
    recorded = tmp_path / "training" / "recipe.json"
    entries = json.loads(recorded.read_text(encoding="utf-8"))
    del entries["bits"]  # as of a version that did not have it
    recorded.write_text(json.dumps(entries), encoding="utf-8")
    train_model(blobs_folder, blobs_recipe(), tmp_path, "cpu")
    for checkpoint in recorded.parent.glob("*.checkpoint.safetensors"):
        checkpoint.unlink()
    train_model(blobs_folder, blobs_recipe(fit={"seed": 7}), tmp_path, "cpu")  # nothing is gone on with


def test_a_training_goes_on_with_its_own_images_and_labels_only(own_blobs_folder, blobs_recipe, tmp_path):
    """Corrected under the same name: what was learnt from the first would be reported as new."""
    recipe = blobs_recipe(phases=[{"steps": 1, "batch": 1, "size": [8, 8]}])
    output, copy = tmp_path / "model", tmp_path / "copy"
    train_model(own_blobs_folder, recipe, output, "cpu")
    before = (output / "model.json").read_bytes()
    split = json.loads((output / "training" / "split.json").read_text(encoding="utf-8"))
    shutil.copytree(own_blobs_folder, copy, copy_function=shutil.copyfile)  # with the dates of today
    (test,), (validation,), (training, other) = split["test"], split["validation"], split["training"]

    def labels(name: str) -> Path:
        return copy / "labelsTr" / f"{name}.nii.gz"

    def image(name: str) -> Path:
        return copy / "imagesTr" / f"{name}_0000.nii.gz"

    shutil.copyfile(labels(training), labels(test))  # nothing is learnt from it
    train_model(copy, recipe, output, "cpu")
    for changed, by in ((labels(training), labels(other)), (image(validation), image(other))):
        kept = changed.read_bytes()
        shutil.copyfile(by, changed)
        with pytest.raises(UsageError, match=rf"other images or labels: \S+{changed.name} changed since"):
            train_model(copy, recipe, output, "cpu")
        changed.write_bytes(kept)
    assert (output / "model.json").read_bytes() == before
    shutil.copyfile(labels(other), labels(training))
    (output / "training" / "contents.json").unlink()  # as of a version that did not record it
    train_model(copy, recipe, output, "cpu")


SHORT = {"phases": [{"steps": 1, "batch": 1, "size": [8, 8]}]}


@pytest.fixture
def other_model(blobs_folder, blobs_recipe, tmp_path):
    """Function that puts a model of few steps into a folder."""

    def put(seed: int) -> Path:
        recipe = blobs_recipe(**SHORT, fit={"seed": seed})
        package = train_model(blobs_folder, recipe, tmp_path / str(seed), "cpu")
        place = tmp_path / "other"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(package.path, place, ignore=shutil.ignore_patterns("training"))
        return place

    return put


@pytest.mark.parametrize("role", ["teacher", "start"])
def test_a_training_goes_on_with_the_weights_it_learns_from_only(
    blobs_folder, blobs_recipe, other_model, tmp_path, role
):
    """Replaced by others of the same name: what was learnt from the first would be said to be of the second."""
    place = str(other_model(1))
    recipe, output = blobs_recipe(**SHORT, **{role: {"model": place} if role == "teacher" else place}), tmp_path / "own"
    train_model(blobs_folder, recipe, output, "cpu")
    before = (output / "model.json").read_bytes()
    train_model(blobs_folder, recipe, output, "cpu")
    other_model(2)
    with pytest.raises(UsageError, match="begun with other weights of .*other") as refused:
        train_model(blobs_folder, recipe, output, "cpu")
    assert "Put the former weights back" in refused.value.remedy
    assert (output / "model.json").read_bytes() == before
    (output / "training" / "models.json").unlink()  # as of a version that did not record it
    train_model(blobs_folder, recipe, output, "cpu")
    other_model(1)
    (output / "training" / "planes.checkpoint.safetensors").unlink()
    train_model(blobs_folder, recipe, output, "cpu")  # nothing is gone on with


def test_a_teacher_that_was_trained_before_on_other_labels_is_refused(
    own_blobs_folder, blobs_recipe, blobs_entries, tmp_path
):
    elder = tmp_path / "elder.toml"
    elder.write_text(tomli_w.dumps(without_nulls(blobs_entries(**SHORT, name="elder"))), encoding="utf-8")
    recipe = blobs_recipe(**SHORT, teacher={"model": "elder", "recipe": str(elder)})
    package = train_model(own_blobs_folder, recipe, tmp_path / "own", "cpu")
    (package.path / "training" / "planes.checkpoint.safetensors").unlink()  # to start again
    split = json.loads((package.path / "training" / "split.json").read_text(encoding="utf-8"))
    changed, by = (own_blobs_folder / "labelsTr" / f"{name}.nii.gz" for name in split["training"])
    shutil.copyfile(by, changed)
    with pytest.raises(UsageError, match=rf"teacher.* with other images or labels: \S+{changed.name} changed since"):
        train_model(own_blobs_folder, recipe, package.path, "cpu")
