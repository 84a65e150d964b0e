"""Model packages of strangers: checked whole at every load, within bounds, and nothing else is disabled by them."""

from __future__ import annotations

import copy
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
from SESegmentationLib.errors import InputError, ModelError, SegmentationError, UsageError, fault_of, plain
from SESegmentationLib.files.json_files import parse_json
from SESegmentationLib.models import (
    ModelCard,
    ModelPackage,
    add_model,
    damaged_models,
    find_model,
    list_models,
    sha256_of,
    user_models_folder,
    write_package,
)
from SESegmentationLib.models.store import verify_schema
from SESegmentationLib.networks.weights import load_networks

MEMORY = 64 << 20


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "data"))
    monkeypatch.delenv("SESEGMENTATION_MODELS", raising=False)


def change(entry: dict, path: str, value: object) -> dict:
    """A copy of ``entry`` with ``value`` at the dotted ``path``."""
    entry = copy.deepcopy(entry)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    target = entry
    for part in parents:
        target = target[part] if isinstance(target, list) else target.setdefault(part, {})
    target[last] = value
    return entry


@pytest.fixture
def whole(card_dict) -> dict:
    """A card with every section."""
    curve = {"confidence": [0.5, 0.9], "dice": [0.4, 0.8]}
    figures = {"mean": 0.9, "std": 0.1, "n": 3}
    return card_dict | {
        "weights": {"file": "model.safetensors", "sha256": "0" * 64},
        "merged_pairs": [[1, 2]],
        "input": {"kind": "crop", "extent_mm": [[1, 2], [1, 2], [1, 2]], "limits": ["none"]},
        "cleanup": {"largest_component": [1], "loose": {"values": [1], "erosion_mm": 1.0, "reach_mm": 2}},
        "pipeline": {"locator": "brain-t1", "margin_mm": 10, "targets": [{"locator_value": 17, "values": {"1": 1}}]},
        "training": {"data": "x", "test_cases": ["a"], "steps": {"axial": 3}},
        "accuracy": {"cases": 3, "mean_dice": 0.9, "labels": {"1": {"dice": figures}}, "command": "c"},
        "calibration": {"views": {"1": curve}, "fast": {"2": curve}},
        "repeatability": {"data": "x", "pairs": 3, "within_scan_sd": {"1": 0.02}},
    }


HOSTILE = [
    ("title", "\x1b[31mred"),
    ("title", "x" * 201),
    ("summary", "<img src=x onerror=alert(1)>"),
    ("summary", "[bold red]hello[/bold red]"),
    ("summary", "[here](javascript:alert)"),
    ("labels.0.name", "liver\u202eevil"),
    ("labels.0.name", "two\nlines"),
    ("training.data", "\ud800"),
    ("training.anything", {"deep": ["\x07"]}),
    ("training.te\x1bxt", 1),
    ("training.test_cases", [3]),
    ("training.number", 10**400),
    ("networks.axial.channels", [4, 10**9]),
    ("networks.axial.channels", [4] * 9),
    ("networks.axial.channels", [4, 2.5]),
    ("networks.axial.classes", 10**9),
    ("networks.axial.in_channels", -1),
    ("networks.axial.convolutions", 10**6),
    ("networks.axial.reduction", 0),
    ("networks.axial.dropout", 1.0),
    ("networks.axial.type", ["PyramidUNet"]),
    ("networks.a/b", {"type": "x"}),
    ("networks", {f"n{number}": {"type": "x"} for number in range(33)}),
    ("views.0.size", [4096, 4097]),
    ("views.0.weight", 1e300),
    ("labels", [{}] * 256),
    ("spacing", [10**400, 1, 1]),
    ("margin_mm", 1e12),
    ("intensity.clip", [99, 1]),
    ("intensity", {"type": "percentile", "lower": "a", "upper": 2}),
    ("intensity", {"type": "window", "lower": 2, "upper": 1}),
    ("input.limits", "text"),
    ("input.extent_mm", [[1, 2]]),
    ("input.extent_mm", "large"),
    ("cleanup.smoothing", [{"values": [1], "sigma_mm": 1e300}]),
    ("cleanup.smoothing", [{"values": [1], "sigma_mm": 1.0}] * 1001),
    ("cleanup.minimum_ml", "none"),
    ("cleanup.minimum_ml", 0.5),
    ("cleanup.loose", {"values": [1], "erosion_mm": "1", "reach_mm": 2}),
    ("pipeline.locator", "../../elsewhere"),
    ("pipeline.locator", "tiny-t1"),
    ("pipeline.targets", 3),
    ("pipeline.targets", [{"locator_value": 1, "values": {"9": 1}}]),
    ("accuracy.mean_dice", "high"),
    ("accuracy.cases", 1.5),
    ("accuracy.labels", {"1": {"dice": {"mean": 0.9}}}),
    ("accuracy.labels", {"one": {}}),
    ("calibration.views", {"1": {"confidence": [0.9, 0.5], "dice": [0.1, 0.2]}}),
    ("calibration.views", {"1": {"confidence": [0.9], "dice": [0.1, 0.2]}}),
    ("calibration.views", {"1": {"confidence": [], "dice": []}}),
    ("repeatability.within_scan_sd", {"1": -0.1}),
    ("repeatability.within_scan_sd", {"one": 0.1}),
    ("repeatability.pairs", 0),
    ("weights.file", ".."),
    ("weights.file", "model.json"),
    ("weights.file", "C:model"),
]


@pytest.mark.parametrize(("path", "value"), HOSTILE, ids=[f"{path}-{n}" for n, (path, _) in enumerate(HOSTILE)])
def test_a_hostile_field_is_refused_in_plain_words(whole, path, value):
    ModelCard.from_dict(whole)
    with pytest.raises(ModelError) as caught:
        ModelCard.from_dict(change(whole, path, value), "model.json")
    assert fault_of(caught.value.cause) is None
    assert len(caught.value.cause) < 400


SCRAPS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.sampled_from(["", "all", "1", "x" * 5000, "\x00", "<b>", "\ud800", "a/../b", "9" * 5000])
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


def places(entry: object, path: tuple = ()) -> list[tuple]:
    inner = entry.items() if isinstance(entry, dict) else enumerate(entry) if isinstance(entry, list) else ()
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def put(entry: object, path: tuple, value: object) -> None:
    for key in path[:-1]:
        entry = entry[key]
    entry[path[-1]] = value


@given(st.data(), st.lists(SCRAPS, min_size=1, max_size=3))
@settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))
def test_mutated_cards_raise_nothing_else_and_keep_the_schema_where_they_are_read(whole, tmp_path, data, scraps):
    """What the reader accepts the schema does, too, and it can be shown."""
    entry = copy.deepcopy(whole)
    for scrap in scraps:
        put(entry, data.draw(st.sampled_from([place for place in places(entry) if place])), scrap)
    try:
        card = ModelCard.from_dict(entry)
    except ModelError as error:
        assert "\n" not in error.cause and len(error.cause) < 1000
        return
    folder = tmp_path / "written"
    folder.mkdir(exist_ok=True)
    (folder / "tensors").write_bytes(b"")
    verify_schema(write_package(folder, card, folder / "tensors").path / "model.json")


def test_null_states_nothing_wherever_it_stands(whole, tmp_path):
    """The card is refused, or as good as without the field: it can be shown, and the schema takes it."""
    (tmp_path / "tensors").write_bytes(b"")
    read = 0
    for path in places(whole)[1:]:
        entry = copy.deepcopy(whole)
        put(entry, path, None)
        try:
            card = ModelCard.from_dict(entry)
        except ModelError as error:
            assert "\n" not in error.cause
            continue
        verify_schema(write_package(tmp_path, card, tmp_path / "tensors").path / "model.json")
        read += 1
    assert read > 20


@given(
    st.binary(max_size=200)
    | st.sampled_from([b"[" * 10**6, b'{"a":' * 10**5, b'"' * 10**6, b"1" * 10**6, b'"\\' * 10**6])
)
@settings(deadline=None, max_examples=60)
def test_any_bytes_are_json_or_a_value_error(content):
    try:
        parse_json(content)
    except ValueError as error:
        assert len(str(error)) < 200


def test_json_is_read_with_a_bom_and_other_encodings_are_named(tmp_path, tiny_model):
    folder = shutil.copytree(tiny_model, tmp_path / "bom")
    text = (folder / "model.json").read_text(encoding="utf-8")
    (folder / "model.json").write_text(text, encoding="utf-8-sig")
    assert ModelPackage.from_folder(folder).card.name == "tiny-t1"
    for content, cause in (
        (text.encode("utf-16"), "UTF-16"),
        (text.encode("latin-1") + b"\xff", "not in UTF-8"),
        (text.replace("{", '{"name": "a",', 1).encode(), "comes twice"),
        (text.replace('"weight": 1.0', '"weight": NaN', 1).encode(), "NaN is no number"),
        (text.replace('"weight": 1.0', '"weight": 1e999', 1).encode(), "too large"),
        (b" " * (5 << 20), "larger than 4 MiB"),
        (b"[" * 99999, "levels deep"),
    ):
        (folder / "model.json").write_bytes(content)
        with pytest.raises(ModelError, match=cause):
            ModelPackage.from_folder(folder)


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


@given(st.text())
def test_plain_text_is_plain(text):
    assert fault_of(plain(text)) is None
    if fault_of(text) is None:
        assert plain(text) == " ".join(text.split())


def test_the_hash_is_that_of_the_file_that_was_added(tmp_path, tiny_model):
    (tmp_path / "model.zip").write_bytes(zipped(tiny_model, ""))
    added = add_model(tmp_path / "model.zip")
    assert sha256_of(added.weights_path) == added.card.weights_sha256
