"""``sesegment evaluate`` and ``sesegment train``."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib import progress
from SESegmentationLib.cli import main
from SESegmentationLib.errors import CancelledError, DependencyError


@pytest.fixture
def folders(tmp_path):
    """Two references, and for one of them a prediction that is shifted by one voxel of 2 mm."""
    predictions, references = tmp_path / "out", tmp_path / "labels"
    predictions.mkdir()
    references.mkdir()
    array = np.zeros((20, 20, 20), np.uint8)
    array[5:15, 5:15, 5:15] = 1
    for folder, name, values in (
        (references, "a", array),
        (references, "b", array),
        (predictions, "a", np.roll(array, 1, axis=0)),
    ):
        image = sitk.GetImageFromArray(values)
        image.SetSpacing((1, 1, 2))
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
    return predictions, references


def test_evaluate_prints_the_measures(capfd, folders, tiny_model):
    code = main(["evaluate", *map(str, folders), "--model", str(tiny_model)])
    out, err = capfd.readouterr()
    assert code == 0, err
    assert "anterior hippocampus" in out
    assert out.startswith("1 case ")
    assert "0.900" in out and "±" not in out  # of one case there is no spread
    assert err == "Warning: Without a segmentation: 1 reference (b).\n"


def test_evaluate_tells_the_spread_of_several_cases(capfd, folders):
    predictions, _ = folders
    shutil.copy(predictions / "a.nii.gz", predictions / "b.nii.gz")
    assert main(["evaluate", *map(str, folders)]) == 0
    out = capfd.readouterr().out
    assert out.startswith("2 cases, mean ± standard deviation") and "0.900 ± 0.000" in out


def test_evaluate_as_json(capfd, folders):
    code = main(["evaluate", *map(str, folders), "--json"])
    out, err = capfd.readouterr()
    assert code == 0, err
    measures = json.loads(out)
    assert measures["labels"]["1"]["dice"]["mean"] == pytest.approx(0.9)
    assert measures["labels"]["1"]["hausdorff95_mm"]["mean"] == pytest.approx(2.0)
    assert measures["missing"] == ["b"]


def test_files_that_are_compared_with_themselves_are_told(capfd, folders):
    predictions, references = folders
    same = "Warning: Segmentation and reference are the same file, byte for byte, in"
    assert main(["evaluate", *map(str, folders)]) == 0
    assert same not in capfd.readouterr().err
    shutil.copy(references / "b.nii.gz", predictions / "b.nii.gz")
    assert main(["evaluate", *map(str, folders)]) == 0
    assert f"{same} 1 of 2 cases (b)." in capfd.readouterr().err
    assert main(["evaluate", str(references), str(references), "--json"]) == 0
    out, err = capfd.readouterr()
    assert f"{same} 2 of 2 cases (a, b)." in err
    assert json.loads(out)["same"] == ["a", "b"]


def test_segmentations_without_reference_are_told(capfd, folders):
    """A reference of another name would be left out without a word."""
    shutil.copy(folders[0] / "a.nii.gz", folders[0] / "case-b.nii.gz")
    for more in ([], ["--json"]):
        assert main(["evaluate", *map(str, folders), *more]) == 0
        out, err = capfd.readouterr()
        assert err.splitlines() == [
            "Warning: Without a segmentation: 1 reference (b).",
            "Warning: Without a reference: 1 segmentation (case-b).",
        ]
    assert json.loads(out)["unmatched"] == ["case-b"]


@pytest.mark.parametrize("which", [0, 1])
def test_evaluate_refuses_absent_folders(capfd, folders, which, tmp_path):
    paths = list(map(str, folders))
    paths[which] = str(tmp_path / "absent")
    assert main(["evaluate", *paths]) == 2
    assert len(capfd.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize(
    ("dataset", "recipe"), [("absent", "hippocampus-t1"), (".", "hippocampus-t1"), (".", "no-such-recipe")]
)
def test_train_refuses_what_is_not_there(capfd, tmp_path, dataset, recipe):
    code = main(["train", str(tmp_path / dataset), "--recipe", recipe, "-o", str(tmp_path / "model")])
    err = capfd.readouterr().err
    assert code == 2, err
    assert len(err.splitlines()) == 2
    assert not (tmp_path / "model" / "model.json").exists()


@pytest.mark.parametrize(
    ("package", "command"),
    [
        *(("Training", command) for command in ("train", "experiment", "evaluate", "measure", "prepare")),
        ("Server", "serve"),
        ("Cohort", "cohort"),
    ],
)
def test_without_a_package_its_commands_say_so(capfd, monkeypatch, package, command):
    monkeypatch.setitem(sys.modules, f"SESegmentation{package}", None)
    monkeypatch.delitem(sys.modules, "SESegmentationLib.cli.app", raising=False)
    assert main([command, "accuracy", "--dataset", "somewhere"]) == DependencyError.exit_code
    cause, remedy = capfd.readouterr().err.splitlines()
    assert "not installed" in cause
    assert "pip install" in remedy
    assert main(["models"]) == 0


def test_evaluate_names_the_structures_of_whole_heads(capfd, tmp_path):
    array = np.arange(4 * 5 * 6 * 7).reshape(20, 6, 7) % 5
    named = {}
    for values in ((1, 2), (1, 2, 3, 4)):
        path = tmp_path / f"{len(values)}.nii.gz"
        sitk.WriteImage(sitk.GetImageFromArray(np.where(np.isin(array, values), array, 0).astype(np.uint8)), str(path))
        assert main(["evaluate", str(path), str(path), "-m", "hippocampus-t1", "--json"]) == 0
        labels = json.loads(capfd.readouterr().out)["labels"]
        named[len(values)] = {int(value): entry["name"] for value, entry in labels.items()}
    parts = ("anterior hippocampus", "posterior hippocampus")
    assert named[2] == dict(enumerate(parts, start=1))
    assert named[4] == dict(enumerate((f"{side} {part}" for side in ("left", "right") for part in parts), start=1))


def test_names_from_a_model_do_not_change_figures(capfd, folders):
    """What is in neither file is no perfect result: brain-mr knows 32 structures, of which the files hold one."""
    for path in (path for folder in folders for path in folder.iterdir()):
        sitk.WriteImage(sitk.ReadImage(str(path)) * 17, str(path))
    measures = []
    for model in ([], ["--model", "brain-mr"]):
        assert main(["evaluate", *map(str, folders), "--json", *model]) == 0
        measures.append(json.loads(capfd.readouterr().out))
    assert measures[1]["labels"]["17"].pop("name") == "left hippocampus"
    assert measures[0]["labels"]["17"].pop("name") == ""
    assert measures[0] == measures[1]
    assert measures[1]["mean_dice"] == pytest.approx(0.9)


#: what does the work of a command that goes on where it was stopped, and the command
CONTINUED = {
    "SESegmentationTraining.train.train_model": "train {dataset} --recipe {recipe} -o {out}",
    "SESegmentationTraining.crossvalidation.cross_validate": (
        "measure crossvalidation blobs --recipe {recipe} --dataset {dataset} -o {out} --folds 2"
    ),
    "SESegmentationTraining.learnt_correction.train_correction": "prepare corrections --mistakes {dataset} -o {out}",
    "SESegmentationTraining.mistakes.collect_mistakes": "prepare mistakes hippocampus-t1 --dataset {dataset} -o {out}",
    "SESegmentationTraining.experiments.schedule.do_runs": "experiment hippocampus --data {dataset} -o {out}",
}


@pytest.mark.parametrize("work", CONTINUED)
def test_where_a_long_command_ends_early_it_is_told_how_to_go_on(monkeypatch, tmp_path, work):
    """As Ctrl-C or the end of a job's time would meet it."""
    told = []

    def stop(*arguments, **options):
        told.extend(progress.early_end_notes)
        raise CancelledError("Stopped.")

    monkeypatch.setattr(work, stop)
    command = CONTINUED[work].format(dataset=tmp_path, recipe="hippocampus-three-planes", out=tmp_path / "out")
    assert main(command.split()) == CancelledError.exit_code
    assert len(told) == 1 and "Run the same command again to go on" in told[0]
    assert progress.early_end_notes == []
