"""Results of runs on disk, each under a key of what decides it.

Entries that have their default are left out: a recipe may learn new entries without old runs becoming strangers. Where
the code changes what runs give, ``FORMAT`` has to be raised.

``runs/<key>.json`` is what one run gave. ``results.json`` holds many, what they share (splits, cards) only once; it
alone is enough to make tables and plots anew.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from SESegmentationLib.errors import InputError
from SESegmentationLib.files import write_whole

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


RESULTS_NAME = "results.json"
#: entries that many runs have in common
SHARED = (("split",), ("versions",), ("labels",), ("description", "recipe", "card"), ("description", "recipe", "data"))


def result_path(folder: Path, key: str) -> Path:
    """The file of one run."""
    return folder / "runs" / f"{key}.json"


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """All results in ``folder`` by key: those of ``results.json`` and of single runs.

    Raises:
        InputError: ``results.json`` is damaged.
    """
    together = folder / RESULTS_NAME
    results = {}
    if together.is_file():
        try:
            content = json.loads(together.read_text(encoding="utf-8"))
            results = {run["key"]: _whole(run, content["shared"]) for run in content["runs"]}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{together} is damaged: {error}.", "Restore the file, or delete it.") from error
    for path in sorted(result_path(folder, "*").parent.glob("*.json")):
        if (result := _read(path)) is not None:
            results[result["key"]] = result
    return results


def gather_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Move the results of single runs into ``results.json``, and return all by key; errors as :func:`read_results`."""
    single = list(result_path(folder, "*").parent.glob("*.json"))
    results = read_results(folder)
    if single:
        write_results(folder, results.values())
        for path in single:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a run that is unfinished stays
            single[0].parent.rmdir()
    return results


def write_results(folder: Path, results: Iterable[Mapping[str, Any]]) -> None:
    """Write ``results.json``: a line for each shared entry and each run, in the order of their keys."""
    shared: dict[str, Any] = {}
    runs = [_compact(result, shared) for result in sorted(results, key=lambda result: result["key"])]
    lines = [
        '{"shared": {',
        ",\n".join(f"{json.dumps(key)}: {_line(value)}" for key, value in sorted(shared.items())),
        '}, "runs": [',
        ",\n".join(map(_line, runs)),
        "]}\n",
    ]
    write_whole(folder / RESULTS_NAME, "\n".join(lines))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write one run's result, whole or not at all."""
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _read(path: Path) -> dict[str, Any] | None:
    """One result; None for a file that is damaged: that run is done again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if content["key"] == path.stem else None
    except (ValueError, KeyError, TypeError):
        return None


def _compact(result: Mapping[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    compact = copy.deepcopy(dict(result))
    for *above, last in SHARED:
        place = compact
        for key in above:
            place = place[key]
        if last in place:
            digest = hashlib.sha256(json.dumps(place[last], sort_keys=True).encode()).hexdigest()[:12]
            shared[digest] = place[last]
            place[last] = digest
    return compact


def _whole(compact: dict[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    for *above, last in SHARED:
        place = compact
        for key in above:
            place = place[key]
        if last in place:
            place[last] = copy.deepcopy(shared[place[last]])
    return compact


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
