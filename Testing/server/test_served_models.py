"""A model that is removed or changed while the server runs, and what clients are told: no path of the server."""

from __future__ import annotations

import shutil
import threading

import pytest
import SimpleITK as sitk

pytest.importorskip("ray")
from serving import job_header
from SESegmentationLib import errors
from SESegmentationLib.errors import ModelError
from SESegmentationLib.models import find_model
from SESegmentationLib.worker.jobs import SegmentJob
from SESegmentationLib.worker.messages import FAILURE, Frame
from SESegmentationServer.deployments import Replica
from SESegmentationServer.frames import Work, read_work
from SESegmentationServer.refusals import without_paths
from SESegmentationServer.served_models import ServedModels
from SESegmentationServer.settings import ServerSettings

REPLICA = Replica.func_or_class if hasattr(Replica, "func_or_class") else Replica


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A package on the search path, in a folder whose name has a blank."""
    folder = tmp_path / "Our models" / "own"
    shutil.copytree(find_model("hippocampus-t1").path, folder)
    card = folder / "model.json"
    card.write_text(card.read_text().replace('"hippocampus-t1"', '"own-t1"'))
    monkeypatch.setenv("SESEGMENTATION_MODELS", str(folder.parent))
    return folder


def test_a_model_that_is_removed_is_not_named_any_more(folder):
    models = ServedModels()
    assert "own-t1" in models.cards()
    shutil.rmtree(folder)
    assert "own-t1" not in models.cards()


@pytest.mark.parametrize("file", ["model.json", "weights"])
def test_a_model_whose_files_go_is_not_named_any_more(folder, file):
    models = ServedModels()
    package = models.packages()["own-t1"]
    (package.weights_path if file == "weights" else folder / file).unlink()
    assert "own-t1" not in models.cards()


def test_a_model_that_is_replaced_is_told_as_it_is_now(folder):
    models, card = ServedModels(), folder / "model.json"
    version = models.cards()["own-t1"].version
    card.write_text(card.read_text().replace(f'"version": "{version}"', '"version": "9.8.7"'))
    assert models.cards()["own-t1"].version == "9.8.7"


def failure_of(work: Work) -> dict:
    """What a replica tells of a job that fails."""
    told: list[dict] = []
    replica = REPLICA(ServerSettings(device="cpu", cores=1, slots=1))
    replica._do(work, 1, lambda header, arrays=None: told.append(header), threading.Event())
    assert told[-1]["type"] == FAILURE
    return told[-1]


@pytest.mark.parametrize("spoilt", ["before it is looked for", "before it is loaded", "weights"])
def test_a_job_for_a_model_that_is_spoilt_fails_without_a_path(folder, monkeypatch, spoilt):
    header, arrays = job_header(SegmentJob(sitk.Image(8, 8, 8, sitk.sitkInt16) + 1, "own-t1"))
    cards = ServedModels().cards()
    work = read_work(Frame(header, arrays), cards)
    packages = ServedModels().packages()
    if spoilt == "weights":
        packages["own-t1"].weights_path.write_bytes(b"damaged")
    else:
        shutil.rmtree(folder)
    if spoilt == "before it is loaded":
        monkeypatch.setattr(ServedModels, "packages", lambda models: packages)
    told = failure_of(work)
    assert told["code"] == "model"
    assert told["cause"] and told["remedy"]
    assert "Our models" not in told["cause"] + told["remedy"]


@pytest.mark.parametrize(
    "path", ["/srv/models", "'/srv/Our models/a'", "~/models", r"C:\models\a", "D:/models", r"\\host\models"]
)
def test_an_error_that_names_a_path_is_told_without_it(path):
    for kind in (errors.ModelError, errors.SegmentationError, errors.OutOfMemoryError):
        for error in (kind(f"There is no {path}.", "Look."), kind("It is missing.", f"Put it into {path}.")):
            told = without_paths(error)
            assert type(told) is kind
            assert "models" not in told.cause + told.remedy
            assert "owner of the server" in told.remedy


def test_an_error_without_a_path_stays_as_it_is():
    error = ModelError("It needs 3 GB and/or 2 mm/s.", "See https://example.org/models, or: sesegment models a/b")
    assert without_paths(error) is error
