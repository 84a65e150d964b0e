"""The contract: which names Slicer's and CTK's widgets have. The stand-in shows Python these and no others.

``contract.json`` was read from the headers of Slicer 5.12.3 and CTK: for 114 classes every property, slot, signal and
method that Python can see. One class a line: ``properties`` (name: [type, setter or null, notify signal or null]),
``methods`` and ``signals`` as C++ signatures (a signal with a default argument has several).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("contract.json")


@dataclass(frozen=True)
class Property:
    """A Qt property: its C++ type, the method that sets it (None: read-only) and the signal that says it changed."""

    type: str
    setter: str | None
    notify: str | None


@dataclass(frozen=True)
class ClassContract:
    """What Python sees of one class."""

    name: str
    base: str | None
    properties: dict[str, Property]
    methods: list[str]
    signals: list[list[str]]
    enums: dict[str, list[str]]

    def method_names(self) -> set[str]:
        return {signature.split("(")[0] for signature in self.methods}


@cache
def load() -> dict[str, ClassContract]:
    """All classes by name."""
    classes = json.loads(PATH.read_text(encoding="utf-8"))["classes"]
    return {
        name: ClassContract(
            name,
            entry["base"],
            {key: Property(*value) for key, value in entry.get("properties", {}).items()},
            entry.get("methods", []),
            entry.get("signals", []),
            entry.get("enums", {}),
        )
        for name, entry in classes.items()
    }


def names(class_name: str) -> set[str]:
    """All names that Python sees of a class, inherited ones included (Qt's own excepted)."""
    found: set[str] = set()
    while contract := load().get(class_name):
        found |= contract.method_names() | set(contract.properties) | {s[0].split("(")[0] for s in contract.signals}
        class_name = contract.base or ""
    return found


def compact(full: dict[str, Any]) -> str:
    """The text of ``contract.json``, from the full list of classes (slicer_widgets.json)."""
    lines = []
    for name, entry in full["classes"].items():
        methods = {s for kind in ("slots", "invokables") for method in entry[kind] for s in method["signatures"]}
        properties = {
            key: [value["type"], value.get("write"), value.get("notify")] for key, value in entry["properties"].items()
        }
        short = {
            "base": entry["base"],
            "properties": properties,
            "methods": sorted(methods),
            "signals": [signal["signatures"] for signal in entry["signals"]],
            "enums": entry["enums"],
        }
        short = {key: value for key, value in short.items() if value or key == "base"}
        lines.append(f"{json.dumps(name)}: {json.dumps(short, separators=(',', ':'))}")
    source = {key: full[key] for key in ("slicer", "ctk")}
    return f'{{"source": {json.dumps(source)},\n"classes": {{\n' + ",\n".join(lines) + "\n}}\n"
