"""Finding, verifying and writing model packages."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from SESegmentationLib.errors import ModelError
from SESegmentationLib.models import (
    ModelCard,
    damaged_models,
    find_model,
    list_models,
    search_path,
    sha256_of,
    user_models_folder,
    verify_package,
    write_package,
)
from SESegmentationLib.models.store import ENVIRONMENT_VARIABLE


@pytest.fixture
def tensors(tmp_path) -> Path:
    path = tmp_path / "tensors"
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def models_folder(tmp_path, monkeypatch) -> Path:
    """An empty folder that comes first on the search path; the user's own folder is empty too."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(folder))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "data"))
    return folder


def test_a_written_package_is_found_and_whole(models_folder, card_dict, tensors):
    written = write_package(models_folder / "tiny", card_dict, tensors)
    assert verify_package(models_folder / "tiny") == written
    assert find_model("tiny-t1") == written
    assert find_model(models_folder / "tiny") == written
    assert "tiny-t1" in [package.card.name for package in list_models()]
    assert written.weights_path.read_bytes() == b"weights"
    names = sorted(path.name for path in (models_folder / "tiny").iterdir())
    assert names == ["README.md", "model.json", "model.safetensors"]


def test_sha256_is_that_of_the_standard(tensors):
    tensors.write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256_of(tensors) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_weights_in_place_can_be_written_again(models_folder, card_dict, tensors):
    package = write_package(models_folder / "tiny", card_dict, tensors)
    again = write_package(package.path, package.card.to_dict() | {"version": "2"}, package.weights_path)
    assert verify_package(package.path) == again
    assert again.card.version == "2"
    assert "`tiny-t1` 2. " in (package.path / "README.md").read_text(encoding="utf-8")


def test_an_invalid_card_writes_nothing(models_folder, card_dict, tensors):
    del card_dict["labels"]
    with pytest.raises(ModelError):
        write_package(models_folder / "tiny", card_dict, tensors)
    assert list(models_folder.iterdir()) == []


def test_changed_weights_are_noticed(models_folder, card_dict, tensors):
    package = write_package(models_folder / "tiny", card_dict, tensors)
    package.weights_path.write_bytes(b"wEights")
    with pytest.raises(ModelError, match="SHA-256"):
        verify_package(package.path)


def test_a_card_that_breaks_the_schema_is_noticed(models_folder, card_dict, tensors):
    package = write_package(models_folder / "tiny", card_dict, tensors)
    entry = json.loads((package.path / "model.json").read_text(encoding="utf-8"))
    entry["cleanup"]["largest_component"] = "some"
    (package.path / "model.json").write_text(json.dumps(entry), encoding="utf-8")
    with pytest.raises(ModelError, match="largest_component"):
        verify_package(package.path)


def test_damaged_packages_are_told_apart(models_folder, card_dict, tensors):
    write_package(models_folder / "good", card_dict, tensors)
    missing = write_package(models_folder / "missing", card_dict | {"name": "missing"}, tensors)
    missing.weights_path.unlink()
    (models_folder / "broken").mkdir()
    (models_folder / "broken" / "model.json").write_text("{", encoding="utf-8")
    (models_folder / "no-model").mkdir()
    damaged = {model.path.name: model.error.cause for model in damaged_models() if model.path.parent == models_folder}
    assert set(damaged) == {"missing", "broken"}
    assert "missing" in damaged["missing"]
    assert "JSON" in damaged["broken"]
    with pytest.raises(ModelError, match="JSON"):
        find_model("broken")


def test_the_first_on_the_search_path_wins(models_folder, card_dict, tensors, tmp_path, monkeypatch):
    second = tmp_path / "second"
    write_package(second / "tiny", card_dict | {"version": "2"}, tensors)
    write_package(models_folder / "tiny", card_dict, tensors)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, os.pathsep.join([str(models_folder), str(second)]))
    assert find_model("tiny-t1").card.version == "1.0.0"
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, os.pathsep.join([str(second), str(models_folder)]))
    assert find_model("tiny-t1").card.version == "2"
    assert [package.card.name for package in list_models()].count("tiny-t1") == 1


def test_the_users_folder_is_searched(models_folder, card_dict, tensors):
    write_package(user_models_folder() / "mine", card_dict | {"name": "mine"}, tensors)
    assert find_model("mine").card.name == "mine"
    assert search_path().index(models_folder) < search_path().index(user_models_folder())


def test_an_unknown_model_names_those_that_exist(models_folder, card_dict, tensors):
    write_package(models_folder / "tiny", card_dict, tensors)
    with pytest.raises(ModelError, match="'brain'") as caught:
        find_model("brain")
    assert "tiny-t1" in caught.value.remedy


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", "XDG_DATA_HOME", "data/SESegmentation/models"),
        ("win32", "LOCALAPPDATA", "data/SESegmentation/models"),
        ("darwin", "HOME", "data/Library/Application Support/SESegmentation/models"),
    ],
)
def test_the_users_folder_follows_the_platform(tmp_path, monkeypatch, platform, variable, expected):
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setenv(variable, str(tmp_path / "data"))
    assert user_models_folder() == tmp_path / expected


def test_models_of_the_project_are_whole():
    """Every package in the checkout's weights folder keeps its schema and its hash."""
    weights = Path(__file__).parents[3] / "weights"
    cards = sorted(weights.glob("*/model.json"))
    if not cards:
        pytest.skip(f"there is no model in {weights}")
    for card in cards:
        package = verify_package(card.parent)
        assert package.card.name == card.parent.name
        assert ModelCard.from_file(card) == package.card
        for companion in ("README.md", "LICENSE"):
            assert (card.parent / companion).is_file(), f"{companion} of {package.card.name}"
