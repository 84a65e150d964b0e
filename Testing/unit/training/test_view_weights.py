"""Weights of views are measured: the better view counts more, and whole validation cases are what it is measured on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from SESegmentationLib.cli import main
from SESegmentationLib.errors import InputError
from SESegmentationLib.inference.predictor import Predictor
from SESegmentationLib.models import verify_package
from SESegmentationLib.networks.weights import load_networks
from SESegmentationTraining import tuning
from SESegmentationTraining.recipe import Recipe
from SESegmentationTraining.sources import open_source
from SESegmentationTraining.train import train_model
from SESegmentationTraining.training_plan import draft_card

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def package(blobs_folder, blobs_recipe, tmp_path_factory):
    """Two views that tell the sides apart and one that does not, with networks of their own, hardly trained."""
    views = [
        {"plane": plane, "weight": 1.0, "network": plane, "thickness": 3, "merged": plane == "sagittal"}
        for plane in ("sagittal", "axial", "coronal")
    ]
    recipe = blobs_recipe(card={"views": views}, phases=[{"steps": 2, "batch": 2, "size": [16, 16]}])
    return train_model(blobs_folder, recipe, tmp_path_factory.mktemp("models") / "blobs", "cpu")


def truth_volume() -> np.ndarray:
    truth = np.zeros((20, 20, 20), np.uint8)
    truth[4:12, 4:12, 2:8] = 1
    truth[4:12, 4:12, 12:18] = 2
    return truth


def test_every_ratio_is_tried_once_and_one_side_telling_view_always_counts(package):
    views = sorted(package.card.views, key=lambda view: view.merged)[1:]  # one that tells the sides apart, one not
    tried = tuning.combinations(views)
    assert len(set(tried)) == len(tried)
    assert all(max(weights) == 1 and weights[0] > 0 for weights in tried)
    assert {(1, 0), (1, 1), (1, 0.25), (0.25, 1)} <= set(tried)


def test_the_view_that_is_right_counts_and_the_one_that_is_wrong_does_not(package, monkeypatch):
    truth = truth_volume()

    def certain(labels) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.from_numpy(labels).long(), 3).permute(3, 0, 1, 2).half()

    wrong = np.where(truth == 1, 2, np.where(truth == 2, 1, 0)).astype(np.uint8)
    monkeypatch.setattr(
        tuning, "view_probabilities", lambda predictor, volume: [certain(wrong), certain(truth), certain(truth)]
    )
    scores = tuning.dice_by_weights(package, [("case", truth.astype(np.float32), truth)])
    assert scores[(0.0, 1.0, 1.0)] == 1.0
    assert scores[(1.0, 0.0, 0.0)] == 0.0
    assert scores[(1.0, 0.25, 0.0)] == 0.0
    assert scores[(0.25, 1.0, 0.0)] == 1.0


def test_fusing_views_by_hand_is_what_the_predictor_does(package):
    predictor = Predictor(package.card, load_networks(package), CPU)
    volume = np.random.default_rng(1).random((18, 20, 22), dtype=np.float32)
    together = predictor.predict(volume, predictor.views).probabilities
    alone = tuning.view_probabilities(predictor, volume)
    assert [view.plane for view in predictor.views][-1] == "sagittal"
    assert torch.allclose(sum(p.float() for p in alone) / 3, together.float(), atol=5e-3)
    assert torch.allclose(alone[2].float().sum(0), torch.ones(volume.shape), atol=2e-2)


def test_the_card_gets_the_weights_of_its_own_views(package, tmp_path):
    copied = tuning.write_package(tmp_path / "copy", package.card, package.weights_path)
    tuning.write_view_weights(copied, (2.0, 0.5, 1.0))
    views = {view.plane: view.weight for view in verify_package(tmp_path / "copy").card.views}
    assert views == {"axial": 2.0, "coronal": 0.5, "sagittal": 1.0}
    assert "weight 0.5" in (tmp_path / "copy" / "README.md").read_text(encoding="utf-8")


def test_without_validation_cases_there_is_nothing_to_measure(package):
    with pytest.raises(InputError, match="no validation cases"):
        tuning.dice_by_weights(package, [])


def test_whole_validation_volumes_of_a_folder(blobs_folder, blobs_recipe):
    recipe = blobs_recipe()
    source = open_source(blobs_folder, recipe, draft_card(recipe), CPU)
    ((name, image, labels),) = source.whole_volumes(torch.Generator())
    assert name == source.split.validation[0]
    assert image.shape == labels.shape and image.dtype == np.float32
    assert set(np.unique(labels)) == {0, 1, 2}
    assert image[labels > 0].mean() > image[labels == 0].mean() + 0.3


def test_the_command_prints_and_writes(package, blobs_folder, blobs_entries, tmp_path, capsys, monkeypatch):
    copied = tuning.write_package(tmp_path / "copy", package.card, package.weights_path)
    monkeypatch.setattr(Recipe, "load", lambda name: Recipe.from_dict(blobs_entries()))
    arguments = [str(copied.path), "--dataset", str(blobs_folder), "--recipe", "blobs", "--write"]
    assert main(["measure", "view-weights", *arguments]) == 0
    best = capsys.readouterr().out.splitlines()[0]
    assert "axial" in best and "sagittal" in best
    assert verify_package(copied.path).card.views
    assert main(["measure", "view-weights", str(tmp_path / "nothing"), *arguments[1:]]) == 3
