"""A model whose training kept no cases out: what would be measured on them is refused, with what can be done."""

from __future__ import annotations

import pytest

from SESegmentationLib.cli import main
from SESegmentationTraining.train import train_model


@pytest.fixture(scope="module")
def model(blobs_folder, blobs_recipe, tmp_path_factory):
    """Its folder."""
    recipe = blobs_recipe(
        phases=[{"steps": 1, "batch": 1, "size": [8, 8]}],
        data={"validation": 0, "test": 0},
        fit={"validate_every": 0},
    )
    output = tmp_path_factory.mktemp("models") / "blobs"
    return train_model(blobs_folder, recipe, output, "cpu").path


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["measure", "accuracy"], "The training of blobs kept out no cases for test"),
        (["measure", "repeatability"], "The training of blobs kept out no cases for test"),
        (["measure", "calibration"], "There are no validation cases"),
        (["measure", "intracranial", "--write"], "blobs was trained on scans, whose intracranial volume is not known"),
        (["prepare", "mistakes", "--group", "validation", "-o", "OUT"], "There are no cases for validation"),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_it_is_said(model, blobs_folder, tmp_path, capsys, command, words):
    before = (model / "model.json").read_bytes()
    group, name, *options = [str(tmp_path / "out") if argument == "OUT" else argument for argument in command]
    assert main([group, name, str(model), "--dataset", str(blobs_folder), *options]) == 2
    shown = capsys.readouterr()
    cause, remedy = shown.err.strip().splitlines()
    assert words in cause and remedy
    assert not shown.out
    assert (model / "model.json").read_bytes() == before and not (tmp_path / "out").exists()
