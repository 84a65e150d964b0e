"""Model packages of strangers: read within bounds, and nothing else is disabled by them."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from SESegmentationLib.cli import main
from SESegmentationLib.doctor import check_models
from SESegmentationLib.errors import InputError, ModelError, SegmentationError, UsageError
from SESegmentationLib.models import (
    add_model,
    damaged_models,
    find_model,
    list_models,
    sha256_of,
    user_models_folder,
    write_package,
)
from SESegmentationLib.networks.weights import load_networks

MEMORY = 64 << 20


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "data"))
    monkeypatch.delenv("SESEGMENTATION_MODELS", raising=False)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_broken_packages_are_shown_and_disable_nothing(capfd, tmp_path, tiny_model, sample_file, monkeypatch):
    folder = tmp_path / "models"
    shutil.copytree(tiny_model, folder / "tiny")
    for name, content in (("deep", b"[" * 10**6), ("huge", b'{"format": 1' + b"0" * 5000 + b"}"), ("text", b"\xff")):
        (folder / name).mkdir()
        (folder / name / "model.json").write_bytes(content)
    (folder / "pipe").mkdir()
    os.mkfifo(folder / "pipe" / "model.json")
    monkeypatch.setenv("SESEGMENTATION_MODELS", str(folder))
    assert {model.path.name for model in damaged_models()} == {"deep", "huge", "text", "pipe"}
    assert main(["models"]) == 0
    out, err = capfd.readouterr()
    assert "tiny-t1" in out and all(name in err for name in ("deep", "huge", "text", "pipe"))
    checks = {check.name: check.status for check in check_models()}
    assert (checks["model tiny-t1"], checks["model deep"]) == ("ok", "error")
    assert main(["run", str(sample_file), "--model", "tiny-t1", "-o", str(tmp_path / "out.nii.gz")]) == 0
    assert main(["run", str(sample_file), "--model", "deep", "-o", str(tmp_path / "out2.nii.gz")]) == 3
    assert "levels deep" in capfd.readouterr().err


def test_a_shipped_model_is_replaced_only_when_asked_for(tmp_path, tiny_model, monkeypatch):
    shipped = find_model("hippocampus-t1").path
    false = write_package(
        tmp_path / "false",
        json.loads((tiny_model / "model.json").read_text(encoding="utf-8")) | {"name": "hippocampus-t1"},
        tiny_model / "model.safetensors",
    )
    with pytest.raises(UsageError, match="comes with the program"):
        add_model(false.path)
    shutil.copytree(false.path, user_models_folder() / "hippocampus-t1")
    shutil.copytree(false.path, tmp_path / "work" / "hippocampus-t1")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("SESEGMENTATION_MODELS", str(tmp_path))
    assert find_model("hippocampus-t1").path == shipped
    assert [p.path for p in list_models() if p.card.name == "hippocampus-t1"] == [shipped]
    assert any("is not used instead of it" in model.error.cause for model in damaged_models())
    assert find_model(Path("./hippocampus-t1").absolute()).card.title == "Tiny"
    added = add_model(false.path, replace=True)
    assert find_model("hippocampus-t1").path == added.path


@pytest.mark.parametrize(
    ("alter", "cause"),
    [
        (
            lambda card, tensors: tensors.update({"axial.classifier.bias": torch.tensor([0.0, float("nan"), 0.0])}),
            "finite",
        ),
        (lambda card, tensors: card["networks"]["axial"].update(channels=[2048] * 8), "do not fit"),
        (lambda card, tensors: [view.update(thickness=5) for view in card["views"]], "do not fit"),
        (lambda card, tensors: card["labels"].pop(), "do not fit"),
    ],
)
def test_weights_that_do_not_suit_the_card_are_refused_before_memory_is_taken(tmp_path, tiny_model, alter, cause):
    card = json.loads((tiny_model / "model.json").read_text(encoding="utf-8"))
    tensors = load_file(tiny_model / "model.safetensors")
    alter(card, tensors)
    save_file(tensors, tmp_path / "tensors")
    package = write_package(tmp_path / "model", card, tmp_path / "tensors")
    with pytest.raises(ModelError, match=cause):
        load_networks(package)


def zipped(folder: Path, prefix: str = "model/") -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, prefix + file.name)
    return content.getvalue()


def peak_of(work) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_zips_are_read_whichever_way_their_slashes_lean(tmp_path, tiny_model):
    path = tmp_path / "windows.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in tiny_model.iterdir():
            archive.writestr(zipfile.ZipInfo("a/b\\" + file.name), file.read_bytes())
        archive.writestr("__MACOSX/a/b/._model.json", b"")
        archive.writestr("a/b/training/huge.bin", b"0" * 10**6)
    assert add_model(path).card.name == "tiny-t1"


def bomb(tiny_model: Path, kind: str) -> bytes:
    content = io.BytesIO(zipped(tiny_model))
    method = zipfile.ZIP_LZMA if kind == "lzma" else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(content, "a", method) as archive:
        if kind == "entries":
            for number in range(30_000):
                archive.writestr(f"{number}", b"")
        elif kind == "some entries":
            for number in range(2000):
                archive.writestr(f"{number}", b"")
        elif kind == "twice":
            archive.writestr("model\\model.json", b"{}")
    if kind in ("weights", "readme", "lzma", "card"):
        name = {"weights": "model.safetensors", "card": "model.json"}.get(kind, "README.md")
        rest = io.BytesIO()
        with zipfile.ZipFile(content) as old, zipfile.ZipFile(rest, "w", method) as archive:
            for entry in old.namelist():
                size = 30 << 20 if entry.endswith(name) and kind != "lzma" else 0
                with archive.open(entry, "w") as file:
                    for _ in range(size >> 20):
                        file.write(b"0" * (1 << 20))
                    file.write(b"" if size else old.read(entry))
        return rest.getvalue()
    return content.getvalue()


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("entries", "list of files is too long"),
        ("some entries", "holds 2003 files"),
        ("twice", "twice"),
        ("weights", "too much"),
        ("readme", "too much"),
        ("card", "too much"),
        ("lzma", "other than deflate"),
    ],
)
def test_a_zip_that_swells_is_refused_within_bounds(tmp_path, tiny_model, kind, cause):
    (tmp_path / "bomb.zip").write_bytes(bomb(tiny_model, kind))

    def add() -> None:
        with pytest.raises(InputError, match=cause):
            add_model(tmp_path / "bomb.zip")

    assert peak_of(add) < MEMORY
    assert not user_models_folder().exists()


@given(st.integers(0, 10**6), st.integers(1, 12))
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_mutated_zips_raise_nothing_else(tmp_path, tiny_model, seed, changes):
    chance = random.Random(seed)
    content = bytearray(zipped(tiny_model))
    directory = struct.unpack("<I", content[-6:-2])[0]
    for _ in range(changes):  # half of them in the list of files, where sizes and offsets are
        low = directory if chance.random() < 0.5 else 0
        content[chance.randrange(low, len(content))] = chance.choice([0, 1, 0x80, 0xFF, chance.randrange(256)])
    path = tmp_path / "mutated.zip"
    path.write_bytes(content[: chance.randrange(len(content))] if chance.random() < 0.2 else content)
    try:
        add_model(path, replace=True)
    except SegmentationError as error:
        assert "\n" not in error.cause


def test_the_hash_is_that_of_the_file_that_was_added(tmp_path, tiny_model):
    (tmp_path / "model.zip").write_bytes(zipped(tiny_model, ""))
    added = add_model(tmp_path / "model.zip")
    assert sha256_of(added.weights_path) == added.card.weights_sha256
