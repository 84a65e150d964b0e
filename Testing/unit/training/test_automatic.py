"""The automatic recipe, from a folder of cases to a model that is installed and used; volumes and pictures."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from SESegmentationLib.cli import main
from SESegmentationLib.errors import InputError, UsageError
from SESegmentationLib.models import ModelCard, user_models_folder
from SESegmentationTraining import automatic
from SESegmentationTraining.automatic import FEWEST_STEPS, automatic_recipe, read_reasons, with_steps, write_recipe
from SESegmentationTraining.begun import begin, refuse_other_training
from SESegmentationTraining.choices import Machine
from SESegmentationTraining.recipe import Recipe
from SESegmentationTraining.recipe_draft import draft_recipe

STEPS = 100
CPU = Machine(torch.device("cpu"), 4.0, False)


def draw_trunk(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """CT-like volume in HU and labels (k, j, i), 6 mm: a trunk in air with liver 1, right 2 and left 3 kidney."""
    random = np.random.default_rng(seed)
    shape = (18, 26, 32)
    k, j, i = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij")

    def inside(centre, radii):
        centre = np.array(centre) + random.uniform(-1, 1, 3)
        return sum(((x - c) / r) ** 2 for x, c, r in zip((k, j, i), centre, radii, strict=True)) < 1

    labels = np.zeros(shape, np.uint8)
    labels[inside((2, 3, 7), (5, 6, 6))] = 1
    labels[inside((-3, -5, 6), (4.5, 3.5, 3.5))] = 2
    labels[inside((-3, -5, -6), (4.5, 3.5, 3.5))] = 3
    image = np.where(inside((0, 0, 0), (99, 13, 15)), 0, -1000) + random.normal(0, 15, shape)
    image[labels == 1] += 110
    image[labels > 1] += 190
    return image.astype(np.int16), labels


@pytest.fixture(scope="module")
def trunks(tmp_path_factory, to_image) -> Path:
    """Ten cases in nnU-Net's layout, as somebody has them: half of them stored in other axes."""
    folder = tmp_path_factory.mktemp("trunks")
    for seed in range(10):
        image, labels = draw_trunk(seed)
        for array, path in ((image, f"imagesTr/t_{seed:02}_0000.nii.gz"), (labels, f"labelsTr/t_{seed:02}.nii.gz")):
            (folder / path).parent.mkdir(exist_ok=True)
            stored = sitk.DICOMOrient(to_image(array, (6.0, 6.0, 6.0)), "LPS" if seed % 2 else "RAS")
            sitk.WriteImage(stored, str(folder / path))
    description = {
        "name": "Drawn trunks",
        "licence": "CC0",
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "kidney_right": 2, "kidney_left": 3},
        "numTraining": 10,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    return folder


@pytest.fixture
def own_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "data"))


@pytest.fixture
def in_no_hurry(monkeypatch):
    """So many STEPS are made, however long they take: what is learnt does not depend on how fast the computer is."""
    monkeypatch.setattr(automatic, "LEAST_SECONDS", 300.0)
    monkeypatch.setattr(automatic, "FEWEST_STEPS", STEPS)


@pytest.fixture
def quickly(monkeypatch):
    """No time is measured: recipes are made in a moment, and are the same each time."""
    monkeypatch.setattr(automatic, "seconds_per_step", lambda *_: 0.1)
    monkeypatch.setattr(automatic, "seconds_per_case", lambda *_: 0.1)


def test_a_folder_of_ten_cases_becomes_a_model_that_is_installed_and_used(
    trunks, tmp_path, own_data_folder, in_no_hurry, capfd
):
    model, result = tmp_path / "My Trunk", tmp_path / "result.nii.gz"
    train = ["train", str(trunks), "--recipe", "auto", "-o", str(model), "--device", "cpu", "--minutes", "0.05"]
    code = main(train)
    out, err = capfd.readouterr()
    assert code == 0, err
    assert "10 cases: 7 for training, 1 for validation, 2 for test (t_0" in out
    assert "on 2 test cases, which the training never saw" in out
    assert f"sesegment models add '{model}'" in out
    assert "less than a minute" in out or " min on " in out

    card = ModelCard.from_file(model)
    assert card.name == "my-trunk"
    assert (card.modality, card.spacing, card.intensity["type"]) == ("CT", (6.0, 6.0, 6.0), "window")
    assert [label.name for label in card.labels] == ["liver", "right kidney", "left kidney"]
    assert card.merged_pairs == ((3, 2),)
    assert card.accuracy["cases"] == 2
    assert card.accuracy["mean_dice"] > 0.6
    readme = (model / "README.md").read_text(encoding="utf-8")
    assert f"{card.accuracy['mean_dice']:.3f}" in readme
    assert "right kidney" in readme
    assert f"{card.accuracy['mean_dice']:.3f}" in out

    assert main(["models", "add", str(model)]) == 0
    assert (user_models_folder() / "my-trunk" / "model.safetensors").is_file()
    case = card.training["test_cases"][0]
    code = main(["run", str(trunks / f"imagesTr/{case}_0000.nii.gz"), "--model", "my-trunk", "-o", str(result)])
    assert code == 0, capfd.readouterr().err
    truth = sitk.ReadImage(str(trunks / "labelsTr" / f"{case}.nii.gz"))
    found = sitk.ReadImage(str(result))
    assert found.GetDirection() == pytest.approx(truth.GetDirection())
    found, truth = sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(truth)
    for value in (1, 2, 3):
        overlap = 2 * ((found == value) & (truth == value)).sum()
        assert overlap / ((found == value).sum() + (truth == value).sum()) > 0.5, value

    # the recipe lies beside the model, readable, and is gone on with
    recipe = tomllib.loads((model / "training" / "recipe.toml").read_text(encoding="utf-8"))
    assert sum(phase["steps"] for phase in recipe["phases"]) == STEPS
    capfd.readouterr()
    assert main([*train[:-1], "9"]) == 2
    assert "another recipe (0.05 minutes)" in capfd.readouterr().err


@pytest.fixture(scope="module")
def plan(trunks):
    return draft_recipe(trunks, "trunk", CPU)


def test_the_plan_says_why(plan):
    text = "\n".join(plan.reasons)
    for part in (
        "10 cases: 7",
        "grid 6 x 6 x 6 mm",
        "32 x 26 x 18 voxels",
        "axial, coronal, sagittal",
        "one side: liver",
    ):
        assert part in text, part
    recipe = Recipe.from_dict(plan.entries)
    assert not recipe.deformation.mirror
    assert not recipe.deformation.in_plane
    assert recipe.data.mirrored_pairs == ((3, 2),)
    low, high = recipe.card["intensity"]["lower"], recipe.card["intensity"]["upper"]
    assert 40 <= low <= 90  # the liver's 110 HU less noise
    assert 210 <= high <= 250


def test_steps_fit_the_time(plan, trunks, monkeypatch):
    monkeypatch.setattr("SESegmentationTraining.automatic.seconds_per_step", lambda *_: 0.1)
    steps = {}
    for minutes in (0.001, 2, 4, 100_000):
        entries = with_steps(plan, trunks, CPU, minutes)
        steps[minutes] = sum(phase["steps"] for phase in entries["phases"])
        recipe = Recipe.from_dict(entries)
        assert recipe.fit.warmup < steps[minutes] / 10
        assert 0.9 <= recipe.fit.average <= 0.998
    assert steps[0.001] == FEWEST_STEPS
    assert steps[2] == pytest.approx(2 * 60 * 0.85 / 0.1, rel=0.02)
    assert steps[4] == pytest.approx(2 * steps[2], rel=0.02)
    assert steps[100_000] == pytest.approx(plan.most_steps, rel=0.02)
    assert plan.entries["phases"][0]["steps"] == 1  # the plan itself stays as it was


def test_a_written_recipe_is_the_same_when_read(plan, tmp_path):
    plan.entries["card"]["summary"] = 'Back\\slash, "quotes", ümlaut\nand a line'
    plan.entries["card"]["training"]["scans of Köln, 3.0 T"] = "a key that is no bare one"
    write_recipe(tmp_path / "recipe.toml", plan.entries, ["because\nof this", "and that"])
    assert read_reasons(tmp_path / "recipe.toml") == ["because of this", "and that"]
    read, made = Recipe.load(tmp_path / "recipe.toml"), Recipe.from_dict(plan.entries)

    def without_none(value):
        if isinstance(value, dict):
            return {key: without_none(entry) for key, entry in value.items() if entry is not None}
        return [without_none(entry) for entry in value] if isinstance(value, list | tuple) else value

    assert without_none(read.to_dict()) == without_none(made.to_dict())


def _begun(trunks, output):
    """The automatic recipe of a training that was stopped after a checkpoint."""
    recipe = automatic_recipe(trunks, output, "cpu", 0.05)
    begin(output / "training", recipe, {}, {})
    (output / "training" / "planes.checkpoint.safetensors").touch()
    return recipe


def test_a_training_that_was_stopped_goes_on(trunks, quickly, tmp_path):
    recipe = _begun(trunks, tmp_path)
    again = automatic_recipe(trunks, tmp_path, "cpu", 0.05)
    assert again == recipe
    refuse_other_training(tmp_path / "training", again, {})


def test_a_training_that_was_begun_with_other_labels_does_not_go_on(trunks, quickly, tmp_path):
    dataset, output = tmp_path / "trunks", tmp_path / "model"
    shutil.copytree(trunks, dataset)
    _begun(dataset, output)
    path = dataset / "dataset.json"
    path.write_text(path.read_text(encoding="utf-8").replace("liver", "spleen"), encoding="utf-8")
    with pytest.raises(UsageError, match=r"begun with other labels than .*dataset\.json names now"):
        automatic_recipe(dataset, output, "cpu", 0.05)


def test_a_recipe_of_a_dataset_that_was_refused_is_made_anew(trunks, quickly, tmp_path):
    dataset, output = tmp_path / "trunks", tmp_path / "model"
    shutil.copytree(trunks, dataset)
    automatic_recipe(dataset, output, "cpu", 0.05)
    path = dataset / "dataset.json"
    path.write_text(path.read_text(encoding="utf-8").replace("liver", "spleen"), encoding="utf-8")
    recipe = automatic_recipe(dataset, output, "cpu", 0.05)
    assert recipe.card["labels"][0]["name"] == "spleen"


def test_several_processes_make_no_recipe(trunks, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="Several processes"):
        automatic_recipe(trunks, tmp_path / "model", "cpu")


def test_without_a_description_nothing_is_written(trunks, tmp_path):
    dataset = tmp_path / "data"
    for folder in ("imagesTr", "labelsTr"):
        (dataset / folder).mkdir(parents=True)
        for path in sorted((trunks / folder).iterdir())[:4]:
            (dataset / folder / path.name).symlink_to(path)
    with pytest.raises(InputError, match=r"dataset\.json"):
        automatic_recipe(dataset, tmp_path / "model", "cpu")
    assert not (tmp_path / "model").exists()


def test_minutes_are_for_the_automatic_recipe(trunks, tmp_path, capfd):
    code = main(["train", str(trunks), "--recipe", "hippocampus-t1", "-o", str(tmp_path / "m"), "--minutes", "5"])
    assert code == 2
    assert "--recipe auto" in capfd.readouterr().err


def test_cases_for_test_of_their_own_are_all_that_is_kept_out(trunks, tmp_path):
    for path in trunks.iterdir():
        (tmp_path / path.name).symlink_to(path)
    for folder in ("images", "labels"):
        (tmp_path / f"{folder}Ts").symlink_to(trunks / f"{folder}Tr")
    assert draft_recipe(tmp_path, "trunk", CPU).entries["data"]["test"] == 0


def draw_layers(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture (j, i) of two deformed layers on dark ground, and its labels."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:32, :48]
    depth = rows - 12 - 3 * np.sin(columns / 9 + random.uniform(0, 6))
    labels = np.where((depth > 0) & (depth < 6), 1, np.where((depth >= 6) & (depth < 12), 2, 0)).astype(np.uint8)
    grey = np.array([30, 200, 110])[labels] + random.normal(0, 10, labels.shape)
    return grey.clip(0, 255).astype(np.uint8), labels


def test_a_folder_of_pictures_becomes_a_model_that_segments_pictures(tmp_path, in_no_hurry, capfd):
    dataset, model, out = tmp_path / "data", tmp_path / "layers", tmp_path / "out"
    for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (dataset / folder).mkdir(parents=True)
    for patient in range(5):
        for number in range(3):
            grey, labels = draw_layers(10 * patient + number)
            part = "Ts" if patient == 4 else "Tr"
            Image.fromarray(grey).save(dataset / f"images{part}" / f"P{patient}_{number:02}_0000.png")
            Image.fromarray(labels).save(dataset / f"labels{part}" / f"P{patient}_{number:02}.png")
    description = {"channel_names": {"0": "OCT"}, "labels": {"background": 0, "upper": 1, "lower": 2}}
    (dataset / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    train = ["train", str(dataset), "--recipe", "auto", "-o", str(model), "--device", "cpu", "--minutes", "0.05"]
    assert main(train) == 0, capfd.readouterr().err
    assert "Dice on 3 test cases" in capfd.readouterr().out
    card = ModelCard.from_file(model)
    assert card.input["kind"] == "slices"
    assert [(view.plane, view.thickness) for view in card.views] == [("axial", 1)]
    assert card.accuracy["mean_dice"] > 0.7
    split = json.loads((model / "training" / "split.json").read_text(encoding="utf-8"))
    patients = [{name[:2] for name in names} for names in split.values()]
    assert len(patients[0] & patients[1]) == 0  # no patient is in two parts
    assert sum(len(names) for names in split.values()) == 12

    # a folder of pictures gives pictures, of the same rows and columns
    assert main(["run", str(dataset / "imagesTs"), "--model", str(model), "-o", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == [f"P4_0{n}.png" for n in range(3)]
    found = np.asarray(Image.open(out / "P4_01.png"))
    assert found.shape == (32, 48)
    truth = np.asarray(Image.open(dataset / "labelsTs" / "P4_01.png"))
    assert (found == truth).mean() > 0.8
    capfd.readouterr()
    assert main(["evaluate", str(out), str(dataset / "labelsTs"), "--json"]) == 0
    measures = json.loads(capfd.readouterr().out)
    assert measures["mean_dice"] == pytest.approx(card.accuracy["mean_dice"], abs=1e-3)
    assert measures["labels"]["1"]["surface_mm"]["mean"] < 3

    # one picture, into a file for Slicer, with a report and a picture of the result
    one = str(dataset / "imagesTs" / "P4_00_0000.png")
    files = [tmp_path / name for name in ("one.seg.nrrd", "report.json", "view.png", "one.png")]
    options = ["-o", str(files[0]), "--report", str(files[1]), "--picture", str(files[2])]
    assert main(["run", one, "--model", str(model), *options]) == 0
    assert main(["run", one, "--model", str(model), "-o", str(files[3])]) == 0
    assert all(path.is_file() for path in files)
    single = sitk.GetArrayFromImage(sitk.ReadImage(str(files[0])))
    np.testing.assert_array_equal(single.squeeze(), np.asarray(Image.open(files[3])))
