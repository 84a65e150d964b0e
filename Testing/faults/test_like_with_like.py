"""Figures compare like with like: grids, values and files are checked before work; no failure hides the rest."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.cli import main
from SESegmentationLib.files.json_files import to_json
from SESegmentationTraining import accuracy, fit, train
from SESegmentationTraining.fit import Schedule
from SESegmentationTraining.recipe import Phase


def write(path: Path, array: np.ndarray, shift: float = 0.0) -> Path:
    image = sitk.GetImageFromArray(array)
    image.SetOrigin((shift, 0, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def block() -> np.ndarray:
    array = np.zeros((12, 13, 14), np.uint8)
    array[3:9, 3:9, 3:9] = 1
    array[3:9, 9:11, 3:9] = 2
    return array


def evaluate(capfd, *arguments: object) -> tuple[int, dict, str]:
    """Exit code, what was printed as JSON, which holds no NaN, and the error stream."""

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} in JSON")

    code = main(["evaluate", *map(str, arguments), "--json"])
    out, err = capfd.readouterr()
    return code, json.loads(out, parse_constant=refuse), err


def test_one_bad_pair_does_not_take_the_others(capfd, tmp_path, block):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for name in ("a", "short", "shifted", "cut", "twice"):
        write(theirs / f"{name}.nii.gz", block)
        write(ours / f"{name}.nii.gz", block[:-1] if name == "short" else block, 30.0 * (name == "shifted"))
    (ours / "cut.nii.gz").write_bytes((ours / "cut.nii.gz").read_bytes()[:-40])
    write(ours / "twice.nrrd", block)
    code, measured, err = evaluate(capfd, ours, theirs)
    assert code == 2
    assert list(measured["cases"]) == ["a"]
    assert measured["mean_dice"] == 1.0
    failed = {entry["case"]: entry["cause"] for entry in measured["failed"]}
    assert set(failed) == {"short", "shifted", "cut", "twice"}
    assert "different grids" in failed["short"] and "different grids" in failed["shifted"]
    assert "2 files of twice" in failed["twice"]
    assert all(name in err for name in failed)


def test_another_grid_is_resampled_only_when_asked_for(capfd, tmp_path, block):
    reference = write(tmp_path / "r.nii.gz", block)
    shifted = write(tmp_path / "p.nii.gz", block, shift=1.0)
    assert main(["evaluate", str(shifted), str(reference)]) == 2
    capfd.readouterr()
    code, measured, _ = evaluate(capfd, shifted, reference, "--resample")
    assert (code, measured["labels"]["1"]["dice"]["mean"]) == (0, pytest.approx(5 / 6))


def test_what_only_the_prediction_has_counts(capfd, tmp_path, block):
    both, one = write(tmp_path / "p.nii.gz", block), write(tmp_path / "r.nii.gz", block * (block == 1))
    code, measured, _ = evaluate(capfd, both, one)
    assert code == 0
    assert {value: label["dice"]["mean"] for value, label in measured["labels"].items()} == {"1": 1.0, "2": 0.0}
    assert measured["mean_dice"] == 0.5


@pytest.mark.parametrize("value", [256, 257, 65536 + 2])
def test_a_value_that_the_other_file_cannot_hold_is_not_in_it(capfd, tmp_path, block, value):
    """Of 257 the lowest eight bits are 1, and of 256 they are the background of a file of bytes."""
    many = write(tmp_path / "p.nii.gz", np.where(block == 1, np.uint32(value), block))
    few = write(tmp_path / "r.nii.gz", block)
    for pair in ((many, few), (few, many)):
        code, measured, _ = evaluate(capfd, *pair)
        assert code == 0
        assert {v: e["dice"]["mean"] for v, e in measured["labels"].items()} == {"1": 0.0, "2": 1.0, str(value): 0.0}
        assert measured["cases"]["r" if pair[1] == few else "p"][str(value)]["hausdorff95_mm"] is None


def test_nothing_to_average_is_null(capfd, tmp_path, block):
    empty = write(tmp_path / "p.nii.gz", block * 0)
    code, measured, _ = evaluate(capfd, empty, empty)
    assert (code, measured["mean_dice"]) == (0, None)
    assert main(["evaluate", str(empty), str(empty)]) == 0
    numbers = {"a": [float("nan"), {"b": float("-inf")}], "c": (1.5, np.float64("nan"))}
    assert json.loads(to_json(numbers)) == {"a": [None, {"b": None}], "c": [1.5, None]}


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda array: (array, 30.0), "lie on another grid"),
        (lambda array: (array[:-1], 0.0), "lie on another grid"),
        (lambda array: (np.where(array == 2, 9, array).astype(np.uint8), 0.0), "hold values that the model does not"),
    ],
)
def test_a_model_is_measured_on_its_own_grid_and_values(
    tmp_path, tiny_model, block, monkeypatch, capsys, change, cause
):
    """What is wrong with the last pair is told before the first is segmented."""
    monkeypatch.setattr(accuracy, "Engine", None)
    image = write(tmp_path / "image.nii.gz", block.astype(np.float32))
    bad = write(tmp_path / "bad.nii.gz", *change(block))
    pairs = ["--pair", str(image), str(write(tmp_path / "good.nii.gz", block)), "--pair", str(image), str(bad)]
    assert main(["measure", "accuracy", str(tiny_model), *pairs]) == 2
    err = capsys.readouterr().err
    assert cause in err and "bad.nii.gz" in err


def test_labels_that_the_model_lacks_and_other_grids_count_when_asked_for(tmp_path, tiny_model, block, capsys):
    image = write(tmp_path / "image.nii.gz", block.astype(np.float32))
    bad = write(tmp_path / "bad.nii.gz", np.where(block == 2, 9, block).astype(np.uint8), shift=1.0)
    arguments = ["measure", "accuracy", str(tiny_model), "--pair", str(image), str(bad), "--others", "--resample"]
    assert main(arguments) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["command"].endswith("--others --resample")
    assert measured["cases"] == 1


@pytest.fixture
def dataset(tmp_path) -> Path:
    """Four cases of two labels; a third is described and occurs nowhere."""
    random = np.random.default_rng(0)
    for number in range(4):
        labels = np.zeros((16, 18, 20), np.uint8)
        labels[4:10, 4:10, 4:10], labels[4:10, 11:15, 4:10] = 1, 2
        write(tmp_path / "data" / "labelsTr" / f"c{number}.nii.gz", labels)
        image = random.normal(100, 10, labels.shape) + 100 * labels
        write(tmp_path / "data" / "imagesTr" / f"c{number}_0000.nii.gz", image.astype(np.float32))
    description = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "liver": 1, "spleen": 2, "aorta": 3}}
    (tmp_path / "data" / "dataset.json").write_text("\ufeff" + json.dumps(description), encoding="utf-8")
    return tmp_path / "data"


def test_every_case_is_checked_before_training(capfd, dataset, tmp_path, monkeypatch):
    """Those for test, too, which are needed at the end only; and all that is wrong is told together."""
    monkeypatch.setattr(train, "fit_network", None)
    arguments = ["train", str(dataset), "--recipe", "auto", "-o", str(tmp_path / "m"), "--minutes", "0.05"]
    assert main(arguments) == 1
    assert "No case for training has aorta" in capfd.readouterr().err
    split = json.loads((tmp_path / "m" / "training" / "split.json").read_text(encoding="utf-8"))
    assert split["test"]
    label = dataset / "labelsTr" / f"{split['test'][0]}.nii.gz"
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(label)))
    for change in ((array, 30.0), (array[:-1], 0.0), (np.where(array == 2, 9, array).astype(np.uint8), 0.0)):
        write(label, *change)
        assert main(arguments) == 2
        assert split["test"][0] in capfd.readouterr().err
    (dataset / "imagesTr" / f"{split['training'][0]}_0000.nii.gz").write_bytes(b"")
    assert main(arguments) == 2
    err = capfd.readouterr().err
    assert "2 of 4 cases cannot be used." in err
    assert split["test"][0] in err and split["training"][0] in err


def test_a_fit_ends_when_its_time_is_up(blobs_folder, blobs_recipe, tmp_path, monkeypatch):
    """A clock by which every look takes a second: steps are left out evenly, and the rate ends where it should."""
    clock = itertools.count()
    monkeypatch.setattr(fit.time, "monotonic", lambda: float(next(clock)))
    recipe = blobs_recipe(
        fit={"minutes": 0.2, "validate_every": 40}, phases=[{"steps": 100, "batch": 2, "size": [24, 24]}]
    )
    package = train.train_model(blobs_folder, recipe, tmp_path / "m", "cpu")
    steps = package.card.training["steps"]["planes"]
    assert 5 <= steps <= 12
    lines = [
        json.loads(line) for line in (tmp_path / "m/training/planes.log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [line["step"] for line in lines if "validation" in line][-1] >= 80
    assert lines[-1]["step"] == 100


def test_steps_are_due_by_the_work_that_they_are():
    schedule = Schedule([Phase(30, 8, (48, 48), 2.0), Phase(70, 4, (96, 96))], 0.01, 10, seconds=50.0)
    assert [schedule.due(seconds) for seconds in (0, 50, 500)] == [0, 100, 100]
    for step in (1, 29, 30, 31, 99):
        share = schedule.work(step) / schedule.work(100)
        assert schedule.due(50 * share + 1e-9) == step
    assert Schedule([Phase(30, 8, (48, 48), 2.0)], 0.01, 10).due(1e9) == 0
