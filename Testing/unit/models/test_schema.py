"""The schema of cards and the classes that read them hold the same fields, with the same ones required."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from SESegmentationLib.models.card import DividingPlane, ModelCard
from SESegmentationLib.models.labels import Code, Label
from SESegmentationLib.models.licence import Licence
from SESegmentationLib.models.sections import View
from SESegmentationLib.models.store import SCHEMA_PATH

SHIPPED = Path(__file__).parents[3] / "weights"
SCHEMA = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
#: what a class may leave out in JSON although every instance has it
MAY_BE_ABSENT = {ModelCard: {"contrast"}, Label: {"modifier"}}
PARTS = [
    (Code, SCHEMA["$defs"]["code"]),
    (Label, SCHEMA["$defs"]["label"]),
    (View, SCHEMA["$defs"]["view"]),
    (Licence, SCHEMA["properties"]["licence"]),
    (DividingPlane, SCHEMA["properties"]["dividing_plane"]),
]


def fields_of(kind) -> tuple[set[str], set[str]]:
    """Names of a class's fields, and of those without a default."""
    every = {field.name for field in fields(kind)}
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    return every, needed - MAY_BE_ABSENT.get(kind, set())


@pytest.mark.parametrize(("kind", "schema"), PARTS, ids=[kind.__name__ for kind, _ in PARTS])
def test_parts_of_a_card(kind, schema):
    every, needed = fields_of(kind)
    assert set(schema["properties"]) == every
    assert set(schema["required"]) == needed
    assert schema["additionalProperties"] is False


def test_the_card_itself():
    every, needed = fields_of(ModelCard)
    own = {name for name in every if not name.startswith("weights_")} | {"format", "weights"}
    assert set(SCHEMA["properties"]) == own
    assert set(SCHEMA["required"]) == {name for name in needed if not name.startswith("weights_")} | {
        "format",
        "weights",
    }
    assert {f"weights_{name}" for name in SCHEMA["properties"]["weights"]["properties"]} == every - own


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*/model.json")), ids=lambda path: path.parent.name)
def test_shipped_cards_ask_for_no_cleanup_that_nobody_does(path):
    assert set(ModelCard.from_file(path).cleanup) <= set(SCHEMA["properties"]["cleanup"]["properties"])
