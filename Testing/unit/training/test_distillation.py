"""Learning from a trained model beside the labels."""

from __future__ import annotations

import json

import pytest
import torch

from SESegmentationLib.errors import ModelError, UsageError
from SESegmentationLib.models import find_model
from SESegmentationTraining.distillation import Teacher
from SESegmentationTraining.sources import open_source
from SESegmentationTraining.train import train_model
from SESegmentationTraining.training_plan import draft_card

CPU = torch.device("cpu")
VIEWS = [
    {"plane": "axial", "weight": 1.0, "network": "planes", "thickness": 3},
    {"plane": "sagittal", "weight": 1.0, "network": "planes", "thickness": 3, "merged": True},
    {"plane": "coronal", "weight": 1.0, "network": "stack", "volumetric": True},
]
STACKS = {"phases": [{"steps": 2, "batch": 1, "size": [16, 16], "depth": 16}]}


@pytest.fixture(scope="module")
def teacher(blobs_folder, blobs_recipe, tmp_path_factory):
    """A package that has learnt the blobs a little."""
    recipe = blobs_recipe(phases=[{"steps": 40, "batch": 8, "size": [24, 24]}])
    return train_model(blobs_folder, recipe, tmp_path_factory.mktemp("teacher") / "blobs", "cpu")


def distilled(folder, recipe):
    """A source that has heard the recipe's teacher, its card and the teacher's soft_targets of the training cases."""
    card = draft_card(recipe)
    source = open_source(folder, recipe, card, CPU)
    teacher = Teacher(find_model(recipe.teacher.model), card, source.split, CPU)
    images = [image for _, image, _ in source.whole_volumes(torch.Generator(), "training")]
    source.distil(teacher)
    return source, card, teacher.soft_targets(images)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_target_holds_the_share_of_the_teacher(teacher, blobs_folder, blobs_recipe, share):
    recipe = blobs_recipe(
        teacher={"model": str(teacher.path), "share": share}, card={"views": VIEWS}, volumetric=STACKS
    )
    source, card, soft_targets = distilled(blobs_folder, recipe)
    flat, deep = card.views[:2], card.views[2:]
    for views, phase in ((flat, recipe.phases[1]), (deep, recipe.volumetric.phases[0])):
        batch = source.batch(views, phase, torch.Generator().manual_seed(1))
        classes = torch.nn.functional.one_hot(batch.target, 3).movedim(-1, 1)
        assert batch.soft_target.shape == classes.shape
        torch.testing.assert_close(batch.soft_target.sum(1), torch.ones_like(batch.soft_target[:, 0]))
        own = (batch.soft_target - (1 - share) * classes) / share
        assert own.min() > -1e-5
        assert own[:, 1:].max() > 0.2  # it has seen something
        assert not (batch.soft_target[batch.merged, 2] > 1e-6).any()  # right is left where they are one
        assert source.validation_batch(views, phase, torch.Generator()).soft_target is None
    assert max(float(one.sum(0).max()) for one in soft_targets) <= 1.001


def test_a_student_learns_from_its_teacher_and_says_so(teacher, blobs_folder, blobs_recipe, tmp_path):
    changes = {"phases": [{"steps": 3, "batch": 4, "size": [24, 24]}]}
    recipe = blobs_recipe(**changes, teacher={"model": str(teacher.path), "share": 0.7})
    calls = []
    student = train_model(blobs_folder, recipe, tmp_path / "student", "cpu", lambda *call: calls.append(call))
    assert calls[0][0] == "ask the teacher about case 1 of 2"
    record = student.card.training["teacher"]
    assert record == {"name": "blobs", "version": "1.0.0", "sha256": teacher.card.weights_sha256, "share": 0.7}
    assert "teacher" in (student.path / "README.md").read_text(encoding="utf-8")
    alone = train_model(blobs_folder, blobs_recipe(**changes), tmp_path / "alone", "cpu")
    assert "teacher" not in alone.card.training
    losses = [
        json.loads((package.path / "training" / "planes.log.jsonl").read_text(encoding="utf-8").splitlines()[-1])[
            "loss"
        ]
        for package in (student, alone)
    ]
    assert abs(losses[0] - losses[1]) > 1e-3


def test_a_teacher_that_has_seen_test_cases_is_refused(teacher, blobs_folder, blobs_recipe):
    recipe = blobs_recipe(teacher={"model": str(teacher.path)}, data={"split_seed": 5})
    with pytest.raises(UsageError, match=r"may have learnt from cases that are kept out for test: blob_\d"):
        distilled(blobs_folder, recipe)


@pytest.mark.parametrize(
    "changes", [{"spacing": [2.0, 2.0, 2.0]}, {"intensity": {"type": "percentile", "lower": 1, "upper": 99}}]
)
def test_a_teacher_of_another_grid_is_refused(teacher, blobs_folder, blobs_recipe, changes):
    recipe = blobs_recipe(teacher={"model": str(teacher.path)}, card=changes)
    with pytest.raises(UsageError, match="differs from blobs in spacing, intensity or labels"):
        distilled(blobs_folder, recipe)


def test_a_teacher_that_does_not_exist(blobs_folder, blobs_recipe, tmp_path):
    with pytest.raises(ModelError, match="There is no model 'nobody'"):
        train_model(blobs_folder, blobs_recipe(teacher={"model": "nobody"}), tmp_path, "cpu")


def test_asking_the_teacher_can_be_cancelled(teacher, blobs_folder, blobs_recipe):
    recipe = blobs_recipe(teacher={"model": str(teacher.path)})
    card = draft_card(recipe)
    source = open_source(blobs_folder, recipe, card, CPU)

    def cancel(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        source.distil(Teacher(teacher, card, source.split, CPU), cancel)
