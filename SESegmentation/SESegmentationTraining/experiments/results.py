"""Results of experiments on disk.

``runs/<key>.json`` is what one run gave. ``results.json`` holds many, what they share (splits, cards) only once; it
alone is enough to make tables and plots anew.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from SESegmentationLib.errors import InputError, UsageError
from SESegmentationLib.files import write_whole

from ..begun import changed_since, contents_of
from ..dataset import names_of
from .plan import Run

RESULTS_NAME = "results.json"
#: entries that many runs have in common
SHARED = (
    *(("split",), ("contents",), ("versions",), ("labels",)),
    *(("description", "recipe", "card"), ("description", "recipe", "data")),
)


def refuse_other_data(folder: Path, results: Mapping[str, Mapping[str, Any]], runs: Iterable[Run], data: Path) -> None:
    """Refuse to add to results of ``runs`` that were measured on other images, labels or cases than there are now.

    A run's key tells its recipe, not its data: in a table such results would look like those of the present data.

    Args:
        folder: of the results.
        results: by key; those of earlier versions do not have the files' contents, but names of cases.
        runs: those that are asked for.
        data: folder that holds the datasets; without that of a run its result is taken as it is.

    Raises:
        UsageError: which results, and which files changed.
        InputError: a dataset cannot be used.
    """
    present: dict[str, tuple[set[str], dict[str, str]]] = {}
    for run in runs:
        dataset, result = data / run.dataset, results.get(run.key)
        if result is None or not dataset.is_dir():
            continue
        asked = repr((dataset, run.recipe.data))
        if asked not in present:
            names = names_of(dataset, run.recipe)
            present[asked] = set(names), contents_of(dataset, run.recipe, names)
        names_now, now = present[asked]
        before = result.get("contents", now)
        changed = changed_since(before, now) or changed_since(now, before)
        if not changed and {name for names in result["split"].values() for name in names} != names_now:
            changed = "there are other cases now"
        if changed:
            raise UsageError(
                f"{folder} holds results of other images or labels than those in {dataset}: {changed}.",
                f"Write to another folder, or delete {RESULTS_NAME} there to do all runs again. "
                "With --report the tables are of the former data.",
            )


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


def write_run(path: Path, content: Mapping[str, Any]) -> None:
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
