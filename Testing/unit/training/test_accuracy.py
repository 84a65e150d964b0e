"""Accuracy of a finished model: measured on pairs of files, written into its card, cortical parcels folded."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.cli import main
from SESegmentationLib.errors import InputError, ModelError, UsageError
from SESegmentationLib.inference.engine import Engine
from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.models import verify_package
from SESegmentationTraining import accuracy
from SESegmentationTraining.dataset import Case


@pytest.fixture
def package(tiny_model, tmp_path):
    """A copy of the tiny model that may be written to."""
    return verify_package(shutil.copytree(tiny_model, tmp_path / "tiny-t1"))


@pytest.fixture
def own_labels(package, sample_file, tmp_path):
    """What the tiny model finds in the sample, as a file: a reference that it reaches exactly."""
    labels = Engine(package, "cpu").segment(read_volume(sample_file)).labels
    sitk.WriteImage(labels, str(tmp_path / "labels.nii.gz"))
    return tmp_path / "labels.nii.gz"


def test_figures_go_into_card_and_readme(package, sample_file, own_labels, capsys):
    """A reference with one structure wiped out gives Dice 1 and 0; the mean is of those that count."""
    reference = sitk.ReadImage(str(own_labels))
    assert set(np.unique(sitk.GetArrayFromImage(reference))) == {0, 1, 2}
    sitk.WriteImage(reference * sitk.Cast(reference != 2, reference.GetPixelID()), str(own_labels))
    pair = ["--pair", str(sample_file), str(own_labels), "--data", "The sample"]
    assert main(["measure", "accuracy", str(package.path), *pair]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["labels"]["1"]["dice"]["mean"] == 1.0
    assert printed["labels"]["2"]["dice"]["mean"] == 0.0
    assert printed["mean_dice"] == 0.5
    assert not verify_package(package.path).card.accuracy, "without --write the card stays"

    assert main(["measure", "accuracy", str(package.path), *pair, "--apart", "2", "--write"]) == 0
    written = verify_package(package.path).card.accuracy
    assert written["mean_dice"] == 1.0
    assert written["not_in_mean"] == [2]
    assert written["command"].endswith("--apart 2")
    readme = (package.path / "README.md").read_text(encoding="utf-8")
    assert "| posterior hippocampus (not in the mean) | 0.000" in readme
    assert "Mean Dice over the structures: **1.000**" in readme


def test_the_same_measurement_again_keeps_what_the_card_says_of_the_data(package, sample_file, own_labels, capsys):
    pair = ["--pair", str(sample_file), str(own_labels)]
    assert main(["measure", "accuracy", str(package.path), *pair, "--data", "The sample", "--write"]) == 0
    assert main(["measure", "accuracy", str(package.path), *pair, "--write"]) == 0
    assert verify_package(package.path).card.accuracy["data"] == "The sample"
    assert main(["measure", "accuracy", str(package.path), *pair, *pair, "--write"]) == 0, "other data"
    assert verify_package(package.path).card.accuracy["data"] == ""


def test_what_the_model_expected_is_compared_with_what_came():
    entries = {"1": (0.9, 0.8), "2": (0.7, 0.75), "3": (0.5, 0.2), "4": (None, 0.3), "24": (0.99, 0.0)}
    case = {value: {"expected_dice": expected, "dice": dice} for value, (expected, dice) in entries.items()}
    measured = {"cases": {"a": case, "b": {"1": {"expected_dice": 0.6, "dice": None}}}}
    found = accuracy.expectation(measured, apart=[24])
    assert found == {"n": 3, "mean_error": pytest.approx(0.15), "spearman": 1.0}
    assert accuracy.expectation(measured)["spearman"] == pytest.approx(-0.2)
    assert accuracy.expectation({"cases": {"b": measured["cases"]["b"]}}) == {}


def test_what_cannot_be_measured_is_refused(package, sample_file, own_labels, tmp_path, capsys):
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    with pytest.raises(InputError):
        accuracy.test_cases(package, tmp_path)
    pair = ["--pair", str(sample_file), str(own_labels)]
    assert main(["measure", "accuracy", str(package.path), *pair, "--apart", "7"]) == UsageError.exit_code
    assert "--apart" in capsys.readouterr().err
    assert (
        main(["measure", "accuracy", str(package.path), *pair, "--apart", "1", "--apart", "2"]) == UsageError.exit_code
    )


def test_cortical_parcels_become_the_cortex_of_their_side():
    labels = sitk.GetImageFromArray(np.array([[[0, 17, 1035, 2035, 11100, 11175, 12101, 3, 42]]], np.uint16))
    labels.SetSpacing((0.9, 1.0, 1.1))
    folded = accuracy.fold_parcels(labels)
    assert sitk.GetArrayFromImage(folded).ravel().tolist() == [0, 17, 3, 42, 3, 3, 42, 3, 42]
    assert folded.GetSpacing() == labels.GetSpacing()


def test_a_model_is_found_by_its_name_as_its_card_says(package, sample_file, own_labels, monkeypatch, capsys):
    monkeypatch.setenv("SESEGMENTATION_MODELS", str(package.path.parent))
    pair = ["--pair", str(sample_file), str(own_labels)]
    assert main(["measure", "accuracy", package.card.name, *pair]) == 0
    assert json.loads(capsys.readouterr().out)["mean_dice"] == 1.0
    assert main(["measure", "accuracy", "no-such-model", *pair]) == ModelError.exit_code
    assert "no-such-model" in capsys.readouterr().err


def test_without_cases_nothing_is_measured(tiny_model, capsys):
    assert main(["measure", "accuracy", str(tiny_model)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "--dataset" in err


def test_a_structure_that_was_neither_there_nor_found_has_no_dice(package, sample_file, own_labels, monkeypatch):
    """That is no success, and would lift the mean."""
    reference = sitk.ReadImage(str(own_labels))
    reference = reference * sitk.Cast(reference != 2, reference.GetPixelID())
    sitk.WriteImage(reference, str(own_labels))
    result = SimpleNamespace(labels=reference, structures=[])
    monkeypatch.setattr(accuracy, "Engine", lambda *_, **__: SimpleNamespace(segment=lambda *_: result))
    measured = accuracy.measure(package, [Case("sample", sample_file, own_labels)])
    assert set(measured["cases"]["sample"]) == {"1"}
    assert set(accuracy.card_accuracy(package, measured, "", "")["labels"]) == {"1"}

    sitk.WriteImage(reference * 0, str(own_labels))
    result.labels = reference * 0
    measured = accuracy.measure(package, [Case("sample", sample_file, own_labels)])
    with pytest.raises(InputError, match="nothing can be measured"):
        accuracy.card_accuracy(package, measured, "", "")


def test_values_that_the_model_has_are_no_cortical_parcels():
    labels = sitk.GetImageFromArray(np.array([[[0, 1000, 1035, 2000]]], np.uint16))
    assert sitk.GetArrayFromImage(accuracy.fold_parcels(labels, [1000, 2000])).ravel().tolist() == [0, 1000, 1035, 2000]
    assert sitk.GetArrayFromImage(accuracy.fold_parcels(labels, [3, 1000])).ravel().tolist() == [0, 1000, 3, 2000]
