"""What decides the result of a run, and the key under which that result is kept.

Entries that have their default are left out: a recipe may learn new entries without old runs becoming strangers. Where
the code changes what runs give, ``FORMAT`` has to be raised.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from ..recipe import Phase, Recipe

FORMAT = 1
#: entries of a card that a run depends on; texts and licences are not among them
DECISIVE_CARD = ("spacing", "orientation", "intensity", "views", "merged_pairs", "labels")
DECISIVE_LABEL = ("value", "name")


def describe_run(dataset: str, recipe: Recipe) -> dict[str, Any]:
    """The run as plain values: dataset, and the recipe's entries that decide and are no defaults."""
    card = {key: recipe.card[key] for key in DECISIVE_CARD if key in recipe.card}
    card["labels"] = [{key: label[key] for key in DECISIVE_LABEL} for label in card["labels"]]
    changed = {"card": card, "network": recipe.network, "phases": [_phase(p) for p in recipe.phases]}
    for entry in ("data", "fit", "deformation", "appearance", "synthesis"):
        if entries := _changed(getattr(recipe, entry)):
            changed[entry] = entries
    if recipe.networks:
        changed["networks"] = {name: _changed(changes) for name, changes in recipe.networks.items()}
    if recipe.data.source != "label-maps":
        changed.pop("synthesis", None)
    return json.loads(json.dumps({"format": FORMAT, "dataset": dataset, "recipe": changed}))


def key_of(description: dict[str, Any]) -> str:
    """Hash of a description, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]


def _phase(phase: Phase) -> dict[str, Any]:
    """A phase; its depth decides only what volumetric views learn, and others have none."""
    entries = dataclasses.asdict(phase)
    return entries if phase.depth > 1 else {key: value for key, value in entries.items() if key != "depth"}


def _changed(entries: Any) -> dict[str, Any]:
    """The entries of a dataclass that are not its defaults; how often a fit is saved or reported decides nothing."""
    default = type(entries)()
    return {
        entry.name: getattr(entries, entry.name)
        for entry in dataclasses.fields(entries)
        if getattr(entries, entry.name) != getattr(default, entry.name) and entry.name != "checkpoint_seconds"
    }
