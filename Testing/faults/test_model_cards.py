"""Cards of strangers' models: checked whole, refused in plain words, and what is read can be shown and written."""

from __future__ import annotations

import copy
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from json_places import holder, places
from SESegmentationLib.errors import ModelError
from SESegmentationLib.files.json_files import parse_json
from SESegmentationLib.models import (
    ModelCard,
    ModelPackage,
    write_package,
)
from SESegmentationLib.models.store import verify_schema
from SESegmentationLib.plain_text import fault_of, plain


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
    ("cleanup.fill_holes", "none"),
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


@given(st.data(), st.lists(SCRAPS, min_size=1, max_size=3))
@settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))
def test_mutated_cards_raise_nothing_else_and_keep_the_schema_where_they_are_read(whole, tmp_path, data, scraps):
    """What the reader accepts the schema does, too, and it can be shown."""
    entry = copy.deepcopy(whole)
    for scrap in scraps:
        path = data.draw(st.sampled_from(places(entry)[1:]))
        holder(entry, path)[path[-1]] = scrap
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
        holder(entry, path)[path[-1]] = None
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
        (text.replace('"weight": 1.0', '"weight": NaN', 1).encode(), "NaN is not a number"),
        (text.replace('"weight": 1.0', '"weight": 1e999', 1).encode(), "too large"),
        (b" " * (5 << 20), "larger than 4 MiB"),
        (b"[" * 99999, "levels deep"),
    ):
        (folder / "model.json").write_bytes(content)
        with pytest.raises(ModelError, match=cause):
            ModelPackage.from_folder(folder)


@given(st.text())
def test_plain_text_is_plain(text):
    assert fault_of(plain(text)) is None
    if fault_of(text) is None:
        assert plain(text) == " ".join(text.split())
