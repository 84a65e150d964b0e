"""Logit adjustment is measured on validation cases, and written into the weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from SESegmentationLib.cli import main
from SESegmentationLib.errors import InputError, UsageError
from SESegmentationLib.inference.predictor import Prediction, Predictor
from SESegmentationLib.models import verify_package
from SESegmentationLib.networks.weights import load_networks
from SESegmentationTraining import tuning
from SESegmentationTraining.recipe import Recipe
from SESegmentationTraining.train import train_model

VALUE = 17


@pytest.fixture
def package(blobs_folder, blobs_recipe, tmp_path):
    recipe = blobs_recipe(phases=[{"steps": 20, "batch": 4, "size": [16, 16]}])
    return train_model(blobs_folder, recipe, tmp_path / "blobs", "cpu")


def predicted(package, volume) -> torch.Tensor:
    predictor = Predictor(package.card, load_networks(package), torch.device("cpu"))
    return predictor.predict(volume, predictor.views).probabilities.float()


def test_the_factor_is_found_that_draws_what_is_true(package, monkeypatch):
    channel = tuning._channels(package, [VALUE])[0]
    volume = np.zeros((16, 18, 20), np.float32)
    probabilities = torch.softmax(torch.randn((3, *volume.shape), generator=torch.Generator().manual_seed(3)), 0)
    monkeypatch.setattr(Predictor, "predict", lambda *_: Prediction(probabilities, []))
    other = np.delete(probabilities.numpy(), channel, axis=0).max(axis=0)
    truth = np.where(0.5 * probabilities[channel].numpy() > other, channel, 0).astype(np.uint8)
    scores = tuning.dice_by_factor(package, [("case", volume, truth)], [VALUE])
    assert max(scores, key=scores.get) == 0.5
    assert scores[0.5] == pytest.approx(1.0)
    assert scores[2.0] < scores[1.0] < 1.0
    assert scores[0.25] < 1.0


def test_the_factor_is_written_into_every_classifier(package):
    channel = tuning._channels(package, [VALUE])[0]
    volume = np.random.default_rng(4).normal(0.5, 0.2, (16, 16, 16)).astype(np.float32)
    before, weights = predicted(package, volume), load_file(package.weights_path)
    written = tuning.adjust_logits(tuning.adjust_logits(package, [VALUE], 0.5), [VALUE], 0.5)
    assert verify_package(written.path).card == written.card
    assert written.card.training["logit_factors"] == {str(VALUE): 0.25}
    assert written.card.weights_sha256 != package.card.weights_sha256
    after = load_file(written.weights_path)
    changed = [key for key in weights if not torch.equal(weights[key], after[key])]
    assert changed == [f"{name}.classifier.bias" for name in package.card.networks]
    ratio = lambda p: p[channel] / (1 - p[channel])  # noqa: E731
    several = len(package.card.views) > 1
    now = predicted(written, volume)
    assert (now[channel] <= before[channel] + 1e-3).all()
    if not several:
        sure = (before[channel] > 0.05) & (before[channel] < 0.95)
        assert torch.allclose(ratio(now)[sure], 0.25 * ratio(before)[sure], rtol=0.15)
    assert not list(written.path.glob(".*"))


def test_what_cannot_be_measured_is_refused(package, capsys, blobs_folder):
    with pytest.raises(InputError, match="No validation case"):
        empty = np.zeros((16, 16, 16), np.uint8)
        tuning.dice_by_factor(package, [("case", empty.astype(np.float32), empty)], [VALUE])
    with pytest.raises(UsageError, match="no structure"):
        tuning.adjust_logits(package, [99], 0.5)
    call = [str(package.path), "--dataset", str(blobs_folder), "--recipe", "hippocampus-t1", "--value", "99"]
    assert main(["measure", "logit-adjustment", *call]) == UsageError.exit_code
    assert "Give some of the values" in capsys.readouterr().err


def test_the_command_looks_at_validation_cases_as_often_as_told_and_writes_the_best(
    package, blobs_folder, blobs_recipe, capsys, monkeypatch
):
    monkeypatch.setattr(Recipe, "load", lambda name: blobs_recipe())
    seen, dice_by_factor = [], tuning.dice_by_factor

    def measure(package, cases, values):
        seen.extend(cases)
        return dice_by_factor(package, seen, values)

    monkeypatch.setattr(tuning, "dice_by_factor", measure)
    call = [str(package.path), "--dataset", str(blobs_folder), "--recipe", "blobs", "--value", str(VALUE)]
    assert main(["measure", "logit-adjustment", *call, "--volumes", "2", "--write"]) == 0
    split = json.loads((package.path / "training" / "split.json").read_text(encoding="utf-8"))
    assert [name for name, *_ in seen] == split["validation"] * 2
    scores = {float(factor): float(dice) for factor, dice in map(str.split, capsys.readouterr().out.splitlines())}
    written = verify_package(package.path).card.training["logit_factors"][str(VALUE)]
    assert list(scores) == list(tuning.FACTORS)
    assert scores[written] == max(scores.values())
