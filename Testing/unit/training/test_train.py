"""From a dataset and a recipe to a model package: in one process, killed and resumed, in two processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from SESegmentationLib.errors import CancelledError, DeviceError, InputError, ModelError, UsageError
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.models import ModelPackage, verify_package
from SESegmentationTraining.command_line import training_report
from SESegmentationTraining.evaluation import compare
from SESegmentationTraining.recipe import Recipe
from SESegmentationTraining.train import train_model

PACKAGE = Path(__file__).parents[3] / "SESegmentation"


@pytest.fixture(scope="module")
def trained(blobs_folder, blobs_recipe, tmp_path_factory):
    """A package that finds the blobs, and the reports of progress on the way to it."""
    recipe = blobs_recipe(
        network={"channels": [8, 16, 16]},
        phases=[{"steps": 100, "batch": 8, "size": [24, 24]}],
        fit={"learning_rate": 0.02, "validate_every": 50},
        card={"training": {"data": "Balls drawn at random"}},
    )
    calls = []
    output = tmp_path_factory.mktemp("models") / "blobs"
    package = train_model(blobs_folder, recipe, output, "cpu", lambda *call: calls.append(call))
    return package, calls


def test_training_writes_a_package_that_is_valid(trained, blobs_folder):
    package, calls = trained
    card = verify_package(package.path).card
    assert card == package.card
    assert card.name == "blobs"
    assert {name: network["in_channels"] for name, network in card.networks.items()} == {"planes": 3}
    training = card.training
    assert training["data"] == "Balls drawn at random"
    assert training["cases"] == {"training": 2, "validation": 1, "test": 1}
    assert training["steps"] == {"planes": 100}
    split = json.loads((package.path / "training" / "split.json").read_text(encoding="utf-8"))
    assert training["test_cases"] == split["test"]
    assert len({name for group in split.values() for name in group}) == 4
    assert "Balls drawn at random" in (package.path / "README.md").read_text(encoding="utf-8")
    assert (
        json.loads((package.path / "training" / "recipe.json").read_text(encoding="utf-8"))["phases"][0]["steps"] == 100
    )
    assert all(tensor.dtype in (torch.float16, torch.int64) for tensor in load_file(package.weights_path).values())
    assert sorted(p.name for p in package.path.iterdir()) == [
        "README.md",
        "model.json",
        "model.safetensors",
        "training",
    ]
    assert not list(package.path.rglob("*.part"))
    assert not (package.path / "training" / "model.safetensors").exists()
    assert calls[-1][1:] == (1.0, None)


def test_the_package_segments_a_case_it_never_saw(trained, blobs_folder):
    package, _ = trained
    (case,) = package.card.training["test_cases"]
    result = Engine(package, device="cpu").segment(read_volume(blobs_folder / "imagesTr" / f"{case}_0000.nii.gz"))
    truth = sitk.ReadImage(str(blobs_folder / "labelsTr" / f"{case}.nii.gz"))
    dice = [compare(result.labels, truth, value).dice for value in (17, 53)]
    assert min(dice) > 0.75, dice


def test_training_again_gives_the_same_weights(blobs_folder, blobs_recipe, tmp_path):
    packages = [train_model(blobs_folder, blobs_recipe(), tmp_path / str(n), "cpu") for n in range(2)]
    assert packages[0].card.weights_sha256 == packages[1].card.weights_sha256
    other = train_model(blobs_folder, blobs_recipe(fit={"seed": 5}), tmp_path / "other", "cpu")
    assert other.card.weights_sha256 != packages[0].card.weights_sha256


def specialised(blobs_recipe):
    views = [
        {"plane": plane, "weight": 1.0, "network": plane, "thickness": 3} for plane in ("axial", "coronal", "sagittal")
    ]
    phase = {"batch": 2, "size": [16, 16]}
    return blobs_recipe(
        card={"views": views},
        phases=[{"steps": 4, **phase}],
        specialise=[{"steps": 2, **phase}],
        fit={"checkpoint_seconds": 0, "validate_every": 2},
    )


def test_networks_of_single_views_start_from_a_shared_one(blobs_folder, blobs_recipe, tmp_path):
    calls = []
    package = train_model(blobs_folder, specialised(blobs_recipe), tmp_path, "cpu", lambda *call: calls.append(call))
    assert set(verify_package(tmp_path).card.networks) == {"axial", "coronal", "sagittal"}
    assert package.card.training["steps"] == {"shared": 4, "axial": 2, "coronal": 2, "sagittal": 2}
    tensors = load_file(package.weights_path)
    with safe_open(tmp_path / "training" / "shared.checkpoint.safetensors", "pt") as file:
        shared = file.get_tensor("average|module.classifier.weight")
    for name in ("axial", "coronal", "sagittal"):
        weights = tensors[f"{name}.classifier.weight"].float()
        assert 0 < float((weights - shared).abs().max()) < 0.2 * float(shared.abs().max())
    # progress is that of the whole
    assert [phase for phase, *_ in calls] == ["train shared"] * 4 + [
        f"train {plane}" for plane in ("axial", "coronal", "sagittal") for _ in range(2)
    ]
    assert [fraction for _, fraction, _ in calls] == pytest.approx([n / 10 for n in range(1, 11)])
    assert calls[4][2] > 0


def test_volumetric_networks_of_one_plane_are_trained_each_in_its_own_way(blobs_folder, blobs_recipe, tmp_path):
    """Two networks, seeds one after the other; the result finds the balls in a case that neither saw."""
    views = [{"plane": "coronal", "weight": 1.0, "network": name, "volumetric": True} for name in ("first", "second")]
    recipe = blobs_recipe(
        card={"views": views},
        phases=[],
        volumetric={
            "network": {"channels": [8, 16]},
            "phases": [{"steps": 120, "batch": 2, "size": [24, 28], "depth": 24}],
        },
        fit={"learning_rate": 0.02, "validate_every": 120},
    )
    package = train_model(blobs_folder, recipe, tmp_path, "cpu")
    tensors = load_file(package.weights_path)
    assert (tensors["first.classifier.weight"] != tensors["second.classifier.weight"]).any()
    assert [view.size for view in verify_package(tmp_path).card.views] == [(24, 24, 28)] * 2
    (case,) = package.card.training["test_cases"]
    result = Engine(package, device="cpu").segment(read_volume(blobs_folder / "imagesTr" / f"{case}_0000.nii.gz"))
    truth = sitk.ReadImage(str(blobs_folder / "labelsTr" / f"{case}.nii.gz"))
    dice = [compare(result.labels, truth, value).dice for value in (17, 53)]
    assert min(dice) > 0.75, dice


def test_a_training_of_several_networks_resumes_where_it_stopped(blobs_folder, blobs_recipe, tmp_path):
    recipe = specialised(blobs_recipe)

    def cancel(phase, fraction, left):
        if fraction > 0.65:
            raise CancelledError("Cancelled.")

    with pytest.raises(CancelledError):
        train_model(blobs_folder, recipe, tmp_path / "parts", "cpu", cancel)
    assert not (tmp_path / "parts" / "model.json").exists()
    phases = []
    resumed = train_model(blobs_folder, recipe, tmp_path / "parts", "cpu", lambda phase, *_: phases.append(phase))
    assert phases == ["train coronal", "train sagittal", "train sagittal"]
    whole = train_model(blobs_folder, recipe, tmp_path / "whole", "cpu")
    assert resumed.card.weights_sha256 == whole.card.weights_sha256


@pytest.fixture
def one_thread():
    """Sums do not depend on how threads divide them: as in :func:`run_command`."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run_command(*arguments, program=()):
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *program, "-m", "SESegmentationLib.cli", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


def write_recipe(path, recipe):
    """A recipe as TOML: JSON is TOML's syntax for values but for null and the colon of inline tables."""

    def value(entry):
        if isinstance(entry, dict):
            return "{" + ", ".join(f"{json.dumps(k)} = {value(v)}" for k, v in entry.items() if v is not None) + "}"
        if isinstance(entry, list):
            return "[" + ", ".join(map(value, entry)) + "]"
        return json.dumps(entry)

    path.write_text("".join(f"{key} = {value(entry)}\n" for key, entry in recipe.items()), encoding="utf-8")
    return path


def checkpoint_step(path):
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["state"])["step"]


def test_a_training_that_is_killed_resumes_to_the_same_package(blobs_folder, blobs_entries, one_thread, tmp_path):
    entries = blobs_entries(
        phases=[{"steps": 60, "batch": 1, "size": [16, 16]}], fit={"checkpoint_seconds": 0, "validate_every": 0}
    )
    recipe = write_recipe(tmp_path / "own.toml", entries)
    output = tmp_path / "killed"
    process = run_command("train", blobs_folder, "--recipe", recipe, "-o", output, "--device", "cpu")
    checkpoint = output / "training" / "planes.checkpoint.safetensors"
    deadline = time.monotonic() + 90
    while checkpoint_step(checkpoint) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    text, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, text
    assert 3 <= checkpoint_step(checkpoint) < 60
    assert not (output / "model.json").exists()
    loaded = Recipe.load(recipe)
    resumed = train_model(blobs_folder, loaded, output, "cpu")
    whole = train_model(blobs_folder, loaded, tmp_path / "whole", "cpu")
    assert resumed.card.weights_sha256 == whole.card.weights_sha256
    assert verify_package(output).card.training["steps"] == {"planes": 60}


def test_two_processes_train_one_package(blobs_folder, blobs_entries, tmp_path):
    """Over gloo."""
    entries = blobs_entries(
        phases=[{"steps": 3, "batch": 2, "size": [16, 16]}, {"steps": 6, "batch": 2, "size": [16, 16]}],
        fit={"checkpoint_seconds": 0, "validate_every": 2},
    )
    recipe = write_recipe(tmp_path / "own.toml", entries)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    output = tmp_path / "model"
    process = run_command("train", blobs_folder, "--recipe", recipe, "-o", output, "--device", "cpu", program=torchrun)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, text
    assert text.count(f"{output}: blobs 1.0.0") == 1
    package = verify_package(output)
    assert package.card.training["steps"] == {"planes": 9}
    steps = [
        json.loads(line)["step"]
        for line in (output / "training" / "planes.log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert steps == sorted(steps)  # one process writes
    Engine(package, device="cpu")


@pytest.fixture
def teachers_recipe(blobs_entries, tmp_path):
    """File of the recipe of a teacher that is not installed."""
    entries = blobs_entries(
        name="elder", phases=[{"steps": 6, "batch": 4, "size": [24, 24]}], fit={"checkpoint_seconds": 0}
    )
    return write_recipe(tmp_path / "elder.toml", entries)


def test_a_teacher_that_is_not_installed_is_trained_first_and_once(
    blobs_folder, blobs_recipe, teachers_recipe, tmp_path
):
    recipe = blobs_recipe(teacher={"model": "elder", "recipe": str(teachers_recipe), "share": 0.7})
    output = tmp_path / "student"

    def stop_in_the_teacher(phase, fraction, seconds_left):
        if (output / "training" / "teacher" / "training" / "planes.checkpoint.safetensors").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_model(blobs_folder, recipe, output, "cpu", stop_in_the_teacher)
    assert not (output / "training" / "teacher" / "model.json").exists()
    calls = []
    student = train_model(blobs_folder, recipe, output, "cpu", lambda *call: calls.append(call))
    elder = verify_package(output / "training" / "teacher")
    assert student.card.training["teacher"]["sha256"] == elder.card.weights_sha256
    assert elder.card.training["test_cases"] == student.card.training["test_cases"]
    assert elder.card.training["steps"] == {"planes": 6}
    fractions = [fraction for phase, fraction, _ in calls]
    assert fractions == sorted(fractions)
    asked = next(fraction for phase, fraction, _ in calls if phase.startswith("ask the teacher"))
    assert 0.1 < asked < 0.9

    phases = []
    train_model(blobs_folder, recipe, output, "cpu", lambda phase, *_: phases.append(phase))
    assert phases[0].startswith("ask the teacher")


def test_two_processes_train_the_teacher_first(blobs_folder, blobs_entries, teachers_recipe, tmp_path):
    entries = blobs_entries(
        phases=[{"steps": 4, "batch": 2, "size": [24, 24]}],
        teacher={"model": "elder", "recipe": str(teachers_recipe)},
    )
    recipe, output = write_recipe(tmp_path / "own.toml", entries), tmp_path / "model"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = run_command("train", blobs_folder, "--recipe", recipe, "-o", output, "--device", "cpu", program=torchrun)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, text
    elder = verify_package(output / "training" / "teacher")
    assert verify_package(output).card.training["teacher"]["sha256"] == elder.card.weights_sha256


@pytest.mark.parametrize(
    ("dataset", "changes", "device", "error"),
    [
        ("absent", {}, "cpu", InputError),
        ("", {"data": {"test": 9}}, "cpu", InputError),
        ("", {"network": {"type": "Transformer"}}, "cpu", UsageError),
        ("", {"network": {"depth": 9}}, "cpu", UsageError),
        ("", {}, "tpu", UsageError),
        pytest.param(
            "", {}, "cuda", DeviceError, marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
        ),
    ],
)
def test_a_training_that_cannot_begin_leaves_nothing(
    blobs_folder, blobs_recipe, tmp_path, dataset, changes, device, error
):
    with pytest.raises(error) as caught:
        train_model(blobs_folder / dataset, blobs_recipe(**changes), tmp_path / "model", device)
    assert caught.value.remedy
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("network", ["planes", "other"])
def test_a_model_with_other_networks_is_nothing_to_start_from(trained, blobs_folder, blobs_recipe, tmp_path, network):
    views = [{"plane": "axial", "weight": 1.0, "network": network, "thickness": 3}]
    recipe = blobs_recipe(start=str(trained[0].path), card={"views": views}, network={"channels": [8, 8, 8]})
    with pytest.raises(UsageError, match="cannot start from blobs"):
        train_model(blobs_folder, recipe, tmp_path / "model", "cpu")


def test_a_model_to_start_from_that_is_not_there_is_told(blobs_folder, blobs_recipe, tmp_path):
    with pytest.raises(
        ModelError, match="starts from the weights of elder, which cannot be used: .*no model"
    ) as caught:
        train_model(blobs_folder, blobs_recipe(start="elder"), tmp_path / "out", "cpu")
    assert "sesegment models add" in caught.value.remedy


def test_the_card_names_the_weights_that_a_training_starts_from(blobs_folder, blobs_recipe, tmp_path):
    short = {"phases": [{"steps": 1, "batch": 1, "size": [8, 8]}]}
    elder = train_model(blobs_folder, blobs_recipe(**short, name="elder"), tmp_path / "elder", "cpu")
    recipe = blobs_recipe(**short, start=str(elder.path), card={"version": "2.0.0"})
    package = train_model(blobs_folder, recipe, tmp_path / "model", "cpu")
    record = {"name": "elder", "version": "1.0.0", "sha256": elder.card.weights_sha256}
    assert verify_package(package.path).card.training["start"] == record
    row = f"| **start** | name: elder, version: 1.0.0, sha256: {elder.card.weights_sha256} |"
    assert row in (package.path / "README.md").read_text(encoding="utf-8")
    assert "start" not in elder.card.training


def test_a_longer_training_is_advised_by_what_its_recipe_has(trained, tmp_path):
    dice = {str(value): {"dice": {"mean": 0.3, "std": 0.0, "n": 1}} for value in (17, 53)}
    card = replace(trained[0].card, accuracy={"cases": 1, "mean_dice": 0.3, "labels": dice})
    assert "More cases, or more steps in the recipe, may help" in training_report(ModelPackage(tmp_path, card))
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "recipe.toml").touch()  # of the recipe auto
    assert "a longer training (--minutes), may help" in training_report(ModelPackage(tmp_path, card))


@pytest.fixture
def told_by_training(blobs_recipe, tmp_path):
    """Function that trains for one step on a dataset, and gives what the user is told."""

    def trained_on(dataset: Path) -> list[str]:
        told: list[str] = []
        recipe = blobs_recipe(phases=[{"steps": 1, "batch": 1, "size": [8, 8]}])
        train_model(dataset, recipe, tmp_path / "model", "cpu", tell=told.append)
        return told

    return trained_on


def test_images_without_labels_are_told_of(own_blobs_folder, told_by_training):
    (own_blobs_folder / "labelsTr" / "blob_2.nii.gz").unlink()
    told = told_by_training(own_blobs_folder)
    assert told == ["1 of the images have no labels and are left out: blob_2."]


def test_channels_that_are_not_learnt_from_are_told_of(own_blobs_folder, told_by_training):
    images = own_blobs_folder / "imagesTr"
    for name in ("blob_1", "blob_3"):
        shutil.copyfile(images / "blob_0_0000.nii.gz", images / f"{name}_0001.nii.gz")
    told = told_by_training(own_blobs_folder)
    assert told == ["2 of the cases have several channels, of which only _0000 is learnt from: blob_1."]


def test_images_that_are_copies_are_told_of(own_blobs_folder, told_by_training):
    """One for training and one for test: what is measured is then no result on cases that were never seen."""
    images = own_blobs_folder / "imagesTr"
    shutil.copyfile(images / "blob_0_0000.nii.gz", images / "blob_2_0000.nii.gz")
    told = told_by_training(own_blobs_folder)
    assert len(told) == 1 and told[0].startswith("The images of blob_0, blob_2 are the same")
