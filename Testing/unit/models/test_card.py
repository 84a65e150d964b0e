"""The model card: reading, writing, and every way in which it can be wrong."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from SESegmentationLib.errors import ModelError
from SESegmentationLib.models import ModelCard
from SESegmentationLib.models import card as card_module
from SESegmentationLib.models.store import verify_schema

WEIGHTS = {"file": "model.safetensors", "sha256": "0" * 64}


def change(card: dict, path: str, value: object) -> dict:
    """A copy of ``card`` with ``value`` at the dotted ``path``; ``...`` removes the field."""
    card = copy.deepcopy(card)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    target = card
    for part in parents:
        target = target[part]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return card


@pytest.fixture
def complete(card_dict) -> dict:
    return card_dict | {"weights": WEIGHTS}


def test_a_card_survives_being_written_and_read(complete):
    card = ModelCard.from_dict(complete)
    assert ModelCard.from_dict(json.loads(json.dumps(card.to_dict()))) == card
    assert card.spacing == (1.0, 1.0, 1.0)
    assert [view.plane for view in card.views] == ["axial", "coronal", "sagittal"]
    assert card.label(2).name == "posterior hippocampus"
    with pytest.raises(KeyError):
        card.label(3)


def test_what_a_card_writes_keeps_the_schema(complete, tmp_path):
    path = tmp_path / "model.json"
    full = complete | {
        "merged_pairs": [[1, 2]],
        "dividing_plane": {"plane": "coronal", "values": [1, 2]},
        "missed_below": 0.5,
        "cleanup": {"smoothing": [{"values": [1, 2], "sigma_mm": 0.5}], "fluid": {"values": [1], "tissue": [2]}},
        "pipeline": {"locator": "brain-t1", "targets": [{"locator_value": 17, "values": {"1": 1}}]},
    }
    path.write_text(json.dumps(ModelCard.from_dict(full).to_dict()), encoding="utf-8")
    verify_schema(path)
    whole = {"plane": "coronal", "weight": 1.0, "network": "coronal", "size": [48, 40, 40], "volumetric": True}
    flat = {"plane": "coronal", "weight": 1.0, "network": "coronal", "thickness": 3, "size": [40, 40]}
    path.write_text(json.dumps(ModelCard.from_dict(complete | {"views": [whole, flat]}).to_dict()), encoding="utf-8")
    verify_schema(path)


WRONG = [
    ("name", "Upper Case"),
    ("name", ...),
    ("title", ""),
    ("version", 1),
    ("spacing", [1, 1]),
    ("spacing", [1, 1, 0]),
    ("spacing", [1, 1, "1"]),
    ("orientation", "LPS"),
    ("intensity", "zscore"),
    ("networks", []),
    ("networks.axial", 3),
    ("views", {}),
    ("views.0.plane", "oblique"),
    ("views.0.weight", 0),
    ("views.0.weight", float("nan")),
    ("views.0.thickness", 0),
    ("views.0.merged", 1),
    ("views.0.size", [40]),
    ("views.0.size", [48, 40, 40]),
    ("views.0.volumetric", 1),
    ("views.0.volumetric", True),
    ("labels", []),
    ("labels.0.value", 0),
    ("merged_pairs", [[1]]),
    ("missed_below", 1.5),
    ("missed_below", "half"),
    ("dividing_plane", [1, 2]),
    ("dividing_plane", {"plane": "oblique", "values": [1, 2]}),
    ("dividing_plane", {"plane": "coronal", "values": [1]}),
    ("dividing_plane", {"plane": "coronal"}),
    ("dividing_plane", {"plane": "coronal", "values": [1, 2], "at": 3}),
    ("cleanup.smoothing", {"values": [1], "sigma_mm": 1.0}),
    ("cleanup.smoothing", [{"values": [1], "sigma_mm": 0}]),
    ("cleanup.smoothing", [{"values": [], "sigma_mm": 1.0}]),
    ("cleanup.smoothing", [{"values": [1]}]),
    ("cleanup.fluid", [1]),
    ("cleanup.fluid", {"values": [1]}),
    ("cleanup.fluid", {"values": [], "tissue": [2]}),
    ("cleanup.fluid", {"values": [1], "tissue": [2], "share": 0.5}),
    ("margin_mm", -1),
    ("licence", ...),
    ("licence.free", "yes"),
    ("weights.sha256", "abc"),
    ("weights.file", "../model.safetensors"),
    ("weights", ...),
    ("pipeline", []),
    ("merged_pair", [[1, 2]]),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=[f"{path}={value}" for path, value in WRONG])
def test_a_wrong_field_is_refused_by_card_and_by_schema(complete, tmp_path, path, value):
    wrong = change(complete, path, value)
    with pytest.raises(ModelError) as caught:
        ModelCard.from_dict(wrong, tmp_path / "model.json")
    assert str(tmp_path) in caught.value.cause
    assert "\n" not in caught.value.cause
    assert caught.value.remedy
    if value == value:  # JSON Schema has no opinion on NaN
        (tmp_path / "model.json").write_text(json.dumps(wrong), encoding="utf-8")
        with pytest.raises(ModelError):
            verify_schema(tmp_path / "model.json")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("labels.1.value", 1, "same value"),
        ("labels.1.name", "anterior hippocampus", "same name"),
        ("views.1.network", "other", "other"),
        ("views.1.thickness", 4, "odd"),
        ("merged_pairs", [[1, 3]], "3"),
        ("views.2.merged", True, "merged_pairs is empty"),
        ("dividing_plane", {"plane": "coronal", "values": [1, 3]}, "dividing_plane names labels that do not exist"),
        ("dividing_plane", {"plane": "coronal", "values": [1, 1]}, "dividing_plane names one label twice"),
        (
            "cleanup.smoothing",
            [{"values": [3], "sigma_mm": 1.0}],
            "smoothing names a label twice, or one not there",
        ),
        (
            "cleanup.smoothing",
            [{"values": [1, 1], "sigma_mm": 1.0}],
            "smoothing names a label twice, or one not there",
        ),
        ("cleanup.fluid", {"values": [1], "tissue": [3]}, "cleanup.fluid names a label twice, or one not there"),
        ("cleanup.fluid", {"values": [1, 2], "tissue": [2]}, "cleanup.fluid names a label twice, or one not there"),
        ("views", [], "no view"),
    ],
)
def test_contradictions_are_refused(complete, path, value, message):
    with pytest.raises(ModelError, match=message):
        ModelCard.from_dict(change(complete, path, value))


def test_a_newer_format_asks_for_an_update(complete):
    with pytest.raises(ModelError) as caught:
        ModelCard.from_dict(complete | {"format": 2})
    assert "Update" in caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00", b"null"])
def test_a_file_that_is_no_card(tmp_path, content):
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.json"):
        ModelCard.from_file(tmp_path)


def test_models_need_nothing_but_the_standard_library():
    library = Path(__file__).parents[3] / "SESegmentation"
    program = (
        "import sys, importlib.abc\n"
        "class Block(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name.split('.')[0] in 'torch jsonschema typer rich numpy SimpleITK safetensors'.split():\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from SESegmentationLib import models\n"
        "from SESegmentationLib.models.store import verify_schema\n"
        "print(len(models.list_models()) >= 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", cwd=library)
    assert result.stdout.strip() == "True", result.stderr


@pytest.mark.parametrize(
    ("spdx", "free", "asks"),
    [("Apache-2.0", True, False), ("CC-BY-NC-SA-4.0", False, True), ("LicenseRef-training-data", False, False)],
)
def test_stated_terms_that_are_not_free_ask_for_consent(complete, spdx, free, asks):
    card = change(change(complete, "licence.spdx", spdx), "licence.free", free)
    assert ModelCard.from_dict(card).licence.asks_consent is asks


def test_a_card_is_checked_once_and_again_when_it_has_changed(tiny_model, tmp_path, monkeypatch):
    """Each job asks for its model, among all that are there: that must cost less than the networks of a crop."""
    path = Path(shutil.copy(tiny_model / "model.json", tmp_path / "model.json"))
    first, checked = ModelCard.from_file(path), []
    monkeypatch.setattr(card_module, "_check", lambda card: checked.append(card.title))
    assert ModelCard.from_file(path) is first
    assert not checked
    path.write_text(path.read_text(encoding="utf-8").replace('"Tiny"', '"Other"'), encoding="utf-8")
    assert ModelCard.from_file(path).title == "Other"
    assert checked == ["Other"]
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ModelError):
        ModelCard.from_file(path)


@pytest.mark.parametrize(
    "key",
    ["in_channels", "classes", "channels", "convolutions", "blocks", "reduction", "dimensions", "kernel", "widened"],
)
def test_null_is_no_number_of_a_network(complete, key):
    """The schema refuses it as well."""
    next(iter(complete["networks"].values()))[key] = None
    with pytest.raises(ModelError, match=key):
        ModelCard.from_dict(complete)
