"""Adding a model from a folder or a ZIP: whole or not at all, and nothing that cannot be trusted."""

from __future__ import annotations

import errno
import os
import stat
import zipfile
from pathlib import Path

import pytest

from SESegmentationLib.errors import InputError, ModelError, UsageError
from SESegmentationLib.files import OutputError
from SESegmentationLib.models import add_model, find_model, user_models_folder, write_package


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "data"))


@pytest.fixture
def package(tmp_path, card_dict) -> Path:
    """A package as somebody passes it on, with more in its folder than belongs to it."""
    (tmp_path / "tensors").write_bytes(b"weights")
    folder = write_package(tmp_path / "passed on", card_dict | {"name": "given"}, tmp_path / "tensors").path
    (folder / "README.md").write_text("read me", encoding="utf-8")
    (folder / "training").mkdir()
    (folder / "run.py").write_text("raise SystemExit", encoding="utf-8")
    return folder


def zipped(folder: Path, path: Path, inside: str = "model/") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, inside + str(file.relative_to(folder)))
    return path


def test_a_folder_is_added_without_what_does_not_belong(package):
    added = add_model(package)
    assert added.path == user_models_folder() / "given"
    assert sorted(p.name for p in added.path.iterdir()) == ["README.md", "model.json", "model.safetensors"]
    assert find_model("given") == added
    assert not [p for p in user_models_folder().iterdir() if p.name != "given"]


@pytest.mark.parametrize("inside", ["", "model/", "a/b/"])
def test_a_zip_is_added(package, tmp_path, inside):
    assert add_model(zipped(package, tmp_path / "model.zip", inside)).weights_path.read_bytes() == b"weights"


def test_a_model_of_that_name_stays_unless_it_is_to_be_replaced(package, card_dict, tmp_path):
    first = add_model(package)
    (tmp_path / "tensors").write_bytes(b"other")
    write_package(package, card_dict | {"name": "given", "version": "2.0.0"}, tmp_path / "tensors")
    with pytest.raises(UsageError, match="already"):
        add_model(package)
    assert first.weights_path.read_bytes() == b"weights"
    assert add_model(package, replace=True).card.version == "2.0.0"
    assert first.weights_path.read_bytes() == b"other"


def test_a_model_stays_where_the_new_one_cannot_be_put_in_its_place(package, monkeypatch):
    """On Windows that is so while any program has a file of it open, such as a virus scanner."""
    first, replace = add_model(package), os.replace

    def held(source: Path, target: Path) -> None:
        if Path(source).name == "new":
            raise PermissionError(errno.EACCES, "Access is denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", held)
    with pytest.raises(OutputError, match="given cannot be written: Access is denied"):
        add_model(package, replace=True)
    assert find_model("given") == first
    assert [p.name for p in user_models_folder().iterdir()] == ["given"]


def test_damaged_weights_are_refused(package):
    (package / "model.safetensors").write_bytes(b"tampered")
    with pytest.raises(ModelError, match="SHA-256"):
        add_model(package)
    assert not user_models_folder().exists()


@pytest.mark.parametrize("name", ["../out", "/out", "model/../../out", "C:/out", "..\\out"])
def test_a_zip_that_points_outside_is_refused(package, tmp_path, name):
    path = zipped(package, tmp_path / "model.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "evil")
    with pytest.raises(InputError, match="outside"):
        add_model(path)
    assert not user_models_folder().exists()


def test_a_zip_with_a_link_is_refused(package, tmp_path):
    path = zipped(package, tmp_path / "model.zip")
    link = zipfile.ZipInfo("model/LICENSE")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="outside"):
        add_model(path)


def test_what_is_no_package_is_refused(package, tmp_path):
    (tmp_path / "text.zip").write_text("no zip", encoding="utf-8")
    empty = zipped(tmp_path / "data", tmp_path / "empty.zip")
    two = zipped(package, tmp_path / "two.zip", "one/")
    with zipfile.ZipFile(two, "a") as archive:
        archive.write(package / "model.json", "two/model.json")
    cut = tmp_path / "cut.zip"
    cut.write_bytes(zipped(package, tmp_path / "whole.zip").read_bytes()[:-30])
    for path, message in (
        (tmp_path / "text.zip", "not a ZIP"),
        (tmp_path / "absent.zip", "does not exist"),
        (empty, "0 model cards"),
        (two, "2 model cards"),
        (cut, "not a ZIP"),
    ):
        with pytest.raises(InputError, match=message):
            add_model(path)
    with pytest.raises(ModelError):
        add_model(tmp_path)
