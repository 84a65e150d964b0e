"""Which engine runs a job: the same as long as the model's files are, and no more than a few at once."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from SESegmentationLib.errors import InputError, ModelError
from SESegmentationLib.models import ModelPackage
from SESegmentationLib.progress import no_progress
from SESegmentationLib.refine.adapted import AdaptedParameters
from SESegmentationLib.result import SegmentationResult
from SESegmentationLib.worker.jobs import AttentionJob, SegmentJob, WarmUpJob
from SESegmentationLib.worker.process import JobRunner, release_memory


class RecordingEngine:
    made: list[tuple[Path, str]] = []

    def __init__(self, package: ModelPackage, device: str) -> None:
        self.card = package.card
        self.made.append((package.path, device))

    def segment(self, image, options, *, progress):
        progress("axial", 0.5, 1.0)
        self.options = options
        return SegmentationResult(image, [], {}, [], self.card, "cpu")


@pytest.fixture
def made() -> list[tuple[Path, str]]:
    """The engines that were made."""
    RecordingEngine.made = []
    return RecordingEngine.made


def copies(tiny_model: Path, folder: Path, count: int) -> list[Path]:
    return [Path(shutil.copytree(tiny_model, folder / f"model {number}")) for number in range(count)]


def test_a_model_is_loaded_once(made, tiny_model):
    runner = JobRunner(RecordingEngine)
    told = []
    image = sitk.Image(2, 2, 2, sitk.sitkUInt8)
    for _ in range(2):
        value, (labels,) = runner.run(SegmentJob(image, tiny_model), lambda *progress: told.append(progress))
        assert labels.shape == (2, 2, 2)
        assert value["device"] == "cpu"
    assert made == [(tiny_model, "auto")]
    assert told == 2 * [("load", 0.0, None), ("axial", 0.5, 1.0)]


def test_warming_up_loads(made, tiny_model):
    runner = JobRunner(RecordingEngine)
    assert runner.run(WarmUpJob(tiny_model, "cpu"), no_progress) == ({}, [])
    runner.run(SegmentJob(sitk.Image(2, 2, 2, sitk.sitkUInt8), tiny_model, device="cpu"), no_progress)
    assert made == [(tiny_model, "cpu")]


def test_each_device_has_its_own(made, tiny_model):
    runner = JobRunner(RecordingEngine)
    for device in ("cpu", "auto", "cpu"):
        runner.run(WarmUpJob(tiny_model, device), no_progress)
    assert [device for _, device in made] == ["cpu", "auto"]


def test_those_used_longest_ago_are_dropped(made, tiny_model, tmp_path):
    runner = JobRunner(RecordingEngine, capacity=2)
    first, second, third = copies(tiny_model, tmp_path, 3)
    for model in (first, second, first, third, first, second):
        runner.run(WarmUpJob(model), no_progress)
    assert [model for model, _ in made] == [first, second, third, second]
    assert len(runner._engines) == 2


@pytest.fixture
def adapted(tiny_model) -> bytes:
    """A file of adapted parameters: the axial network calls everything background."""
    package = ModelPackage.from_folder(tiny_model)
    tensors = {f"{plane}.classifier.bias": torch.tensor([90.0, 0, 0]) for plane in ("axial", "coronal", "sagittal")}
    return AdaptedParameters(tensors, package.card.weights_sha256).to_bytes()


def test_adapted_parameters_have_an_engine_of_their_own(tiny_model, adapted):
    runner = JobRunner()
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(100, 20, (9, 10, 11)).astype(np.float32))
    jobs = [SegmentJob(image, tiny_model, device="cpu", adapted=content) for content in (None, adapted, None)]
    plain, changed, again = (runner.run(job, no_progress)[1][0] for job in jobs)
    assert plain.any()
    assert not changed.any()
    assert (again == plain).all()
    assert len(runner._engines) == 2


def test_adapted_parameters_that_cannot_be_used_are_refused(tiny_model, adapted):
    image = sitk.Image(8, 8, 8, sitk.sitkFloat32)
    other = adapted.replace(ModelPackage.from_folder(tiny_model).card.weights_sha256.encode(), b"0" * 64)
    for content, cause in ((other, "other weights"), (b"no tensors", "cannot be read")):
        with pytest.raises(InputError, match=cause):
            JobRunner().run(SegmentJob(image, tiny_model, device="cpu", adapted=content), no_progress)


def test_attention_is_a_map_on_the_volume(tiny_model, adapted):
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(100, 20, (9, 10, 11)).astype(np.float32))
    image.SetOrigin((1, 2, 3))
    told = []
    job = AttentionJob(image, tiny_model, device="cpu", adapted=adapted)
    value, (voxels,) = JobRunner().run(job, lambda *progress: told.append(progress[0]))
    assert voxels.shape == (9, 10, 11)
    assert 0 < voxels.min() < voxels.max() <= 1
    assert value["attention"]["origin"] == (1, 2, 3)
    assert list(dict.fromkeys(told)) == ["load", "prepare", "look", "restore"]


def test_changed_files_are_loaded_anew(made, tiny_model, tmp_path):
    runner = JobRunner(RecordingEngine)
    (model,) = copies(tiny_model, tmp_path, 1)
    runner.run(WarmUpJob(model), no_progress)
    weights = ModelPackage.from_folder(model).weights_path
    os.utime(weights, ns=(1, 1))
    runner.run(WarmUpJob(model), no_progress)
    assert len(made) == 2
    assert len(runner._engines) == 1


def test_a_model_that_has_gone(made, tiny_model, tmp_path):
    runner = JobRunner(RecordingEngine)
    (model,) = copies(tiny_model, tmp_path, 1)
    runner.run(WarmUpJob(model), no_progress)
    shutil.rmtree(model)
    with pytest.raises(ModelError):
        runner.run(WarmUpJob(model), no_progress)


@pytest.mark.parametrize(("platform", "error"), [("win32", TypeError), ("darwin", AttributeError), ("linux", OSError)])
def test_memory_is_given_back_where_that_can_be_done(platform, error, monkeypatch):
    def load(name: None) -> None:
        raise error("as this system does it")

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(sys, "platform", platform)
    release_memory()
