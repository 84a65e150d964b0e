"""A sheet for reviewing a batch: one HTML page with a row per scan, and the marks that a reviewer sets there.

The page is self-contained, and also holds its scans as JSON, from which a later run continues it. It shows the names of
files without their folders.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import io
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from SESegmentationLib import __version__
from SESegmentationLib.errors import InputError, SegmentationError, UsageError
from SESegmentationLib.files import OutputFiles, changing, write_whole
from SESegmentationLib.files.json_files import parse_json, read_json
from SESegmentationLib.inference.cascade import possible_structures
from SESegmentationLib.io.drawing import draw_slices
from SESegmentationLib.models import ModelCard
from SESegmentationLib.report import model_entry, readable, without_folders

from . import Export, require_packages, templates
from .scan_identity import scan_sha256
from .spread import FEWEST, OUTLYING, Spread

if TYPE_CHECKING:
    import SimpleITK as sitk

    from SESegmentationLib.result import SegmentationResult

PAGE = "sheet.html"
#: marks that a reviewer can give a scan
MARKS = ("pass", "look again", "fail")
PASS = MARKS[0]
#: the field "format" of a page's data and of a file of marks
FORMAT = "SESegmentation sheet 1"
#: structures named with their expected Dice
WORST = 4
PIXELS = 300  # of a slice's longer side
_QUALITY = 70  # of WebP
_LARGEST_PAGE = 1 << 30  # bytes
#: during the run the page is rewritten in at most this share of the time, and at most once in this many s
_WRITING_SHARE, _OFTEN_S = 0.02, 30.0
#: for other batches that write the page, in s: large pages take seconds, and several batches may wait in line
_LONGEST_WAIT = 600.0
_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)

_TEXT, _NUMBER, _WORDS = {"type": "string"}, {"type": "number"}, {"type": ["string", "null"]}


def _objects(**properties: Any) -> dict[str, Any]:
    """The JSON schema of an object that has at least these properties."""
    return {"type": "object", "properties": properties, "required": list(properties)}


_STRUCTURE = _objects(
    name=_TEXT,
    color={"type": "string", "pattern": "^#[0-9a-f]{6}$"},
    voxels=_NUMBER,
    volume_ml=_NUMBER,
    confidence=_NUMBER,
    expected_dice={"type": ["number", "null"]},
)
_SCAN = _objects(
    name=_TEXT,
    place=_TEXT,
    sha256=_WORDS,
    date=_TEXT,
    model=_objects(name=_TEXT, title=_TEXT, version=_TEXT, weights_sha256=_TEXT),
    structures={"type": "array", "items": _STRUCTURE},
    findings={"type": "array", "items": _objects(message=_TEXT, consequence=_TEXT)},
    picture={"type": ["string", "null"], "pattern": "^[A-Za-z0-9+/=]*$"},
    error={"anyOf": [{"type": "null"}, _objects(cause=_TEXT, remedy=_TEXT)]},
    mark={"enum": [*MARKS, None]},
)
_MARK = _objects(name=_TEXT, sha256=_WORDS, model=_TEXT, date=_TEXT, mark={"enum": list(MARKS)})


def _checked(content: Any, scan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The scans of a page or of a file of marks; ValueError where it is something else."""
    import jsonschema

    schema = _objects(format={"const": FORMAT}, scans={"type": "array", "items": scan})
    error = next(jsonschema.Draft202012Validator(schema).iter_errors(content), None)
    if error:
        place = error.json_path.removeprefix("$").removeprefix(".")
        raise ValueError(f"{place} is not valid" if place else "it was not saved from one")
    return content["scans"]


def read_marks(path: Path) -> list[dict[str, Any]]:
    """The marks that were saved from a page: name, sha256, model, date and mark of each scan that has one.

    Raises:
        InputError: the file cannot be read, or is something else.
    """
    try:
        return _checked(read_json(path), _MARK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"{path} holds no marks of a sheet: {reason}.", "Save the marks from the sheet again, and name that file."
        ) from error


def passed(
    marks: Iterable[Mapping[str, Any]], volumes: Mapping[Path, str], model: str, series: str | None = None
) -> tuple[set[Path], set[Path]]:
    """Which volumes were marked as passed, identified by content, since names recur in other studies.

    Args:
        marks: of :func:`read_marks`.
        volumes: files, and folders of DICOM series, with the name of each.
        model: name of the model; what was passed of another one does not count.
        series: chosen of a folder.

    Returns:
        The volumes that passed, and those of whose name a different content passed.
    """
    known = {mark["sha256"]: mark["name"] for mark in marks if mark["mark"] == PASS and mark["model"] == model}
    contents = {volume: scan_sha256(volume, series) for volume in (volumes if known else ())}
    done = {volume for volume, content in contents.items() if content and content in known}
    others = {name for content, name in known.items() if content not in contents.values()}
    return done, {volume for volume in contents if volume not in done and volumes[volume] in others}


class Sheet(Export):
    """The page of a batch, written while the batch runs and at its end, even if that is a failure.

    An existing page is continued: its rows of other scans stay, also those that other batches write meanwhile, and
    those of the same scans and model are replaced. It is always written whole or not at all.

    Args:
        folder: gets the page, ``sheet.html``.
        card: of the model.
        volumes: what is to be segmented, with the names that scans have on the page.
        series: chosen of DICOM folders.
        marks: of :func:`read_marks`; scans that stay have these.

    Raises:
        DependencyError: a package is not installed.
        UsageError: there is a file of that name that is not a sheet, or is a damaged one.
    """

    def __init__(
        self,
        folder: Path,
        card: ModelCard,
        volumes: Mapping[Path, str],
        series: str | None = None,
        marks: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        require_packages("A sheet", "jinja2")
        self.path = folder / PAGE
        self.outputs = [self.path]
        self._card, self._volumes, self._series = card, volumes, series
        self._pictures: dict[Path, bytes] = {}
        self._changed, self._written, self._took = False, float("-inf"), 0.0
        self._given = {_result(mark): mark["mark"] for mark in marks}
        self._continued = bool(_scans_of(self.path))  # one that cannot be is refused before anything is segmented
        self._scans: dict[tuple[str, str], dict[str, Any]] = {}  # of this batch

    def take(
        self, files: OutputFiles, volume: Path, image: sitk.Image, result: SegmentationResult, report: Mapping[str, Any]
    ) -> None:
        """Draw a volume and its result; from any thread, before :meth:`add`."""
        self._pictures[volume] = thumbnail(image, result)

    def add(self, volume: Path, report: Mapping[str, Any]) -> None:
        """Add a volume by its report, or by what it failed by; the page is written where that is due."""
        picture = None if "error" in report else self._pictures.pop(volume, None)
        content = scan_sha256(volume, self._series)
        scan = scan_entry(self._card, volume, self._volumes[volume], report, content, picture)
        self._scans[_row_of(scan)] = scan
        self._changed = True
        if time.monotonic() - self._written > max(_OFTEN_S, self._took / _WRITING_SHARE):
            with contextlib.suppress(SegmentationError):  # reported at the end if it still cannot be written
                self.write()

    def write(self) -> None:
        """Write the page, with the rows that are there by now.

        Raises:
            UsageError: another batch writes it for too long, or something else is there now.
            OutputError: as of :class:`~SESegmentationLib.files.OutputFiles`.
        """
        begin = time.monotonic()
        with changing(self.path, _LONGEST_WAIT):
            there = [scan | {"mark": self._given.get(_result(scan), scan["mark"])} for scan in _scans_of(self.path)]
            scans = {_row_of(scan): scan for scan in there} | self._scans
            write_whole(self.path, page(list(scans.values())))
        self._changed, self._written = False, time.monotonic()
        self._took = self._written - begin

    def __enter__(self) -> Sheet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and (self._scans or self._continued):
            self.write()
        elif self._changed:
            with contextlib.suppress(SegmentationError):  # report the error that ended the batch instead
                self.write()


def thumbnail(image: sitk.Image, result: SegmentationResult) -> bytes:
    """The three slices of a scan that its row shows, as WebP."""
    picture = draw_slices(image, result.labels, [structure.label for structure in result.structures], PIXELS)
    content = io.BytesIO()
    picture.save(content, format="WebP", quality=_QUALITY)
    return content.getvalue()


def scan_entry(
    card: ModelCard,
    volume: Path,
    name: str,
    report: Mapping[str, Any],
    content: str | None,
    picture: bytes | None,
) -> dict[str, Any]:
    """What a page holds of one scan.

    Args:
        card: of the model.
        volume: where the scan was read.
        name: of its row.
        report: of the scan, or what it failed by.
        content: its :func:`.scan_sha256`.
        picture: of :func:`thumbnail`.
    """

    def shown(entry: Mapping[str, str], *keys: str) -> dict[str, str]:
        return {key: without_folders(entry[key], volume) for key in keys}

    model = model_entry(card)
    colors = {label.name: "#{:02x}{:02x}{:02x}".format(*label.color) for _, label in possible_structures(card)}
    return {
        "name": readable(name),
        "place": hashlib.sha256(os.fsencode(os.path.abspath(volume))).hexdigest(),
        "sha256": content,
        "date": report.get("date") or datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": {key: model[key] for key in ("name", "version", "weights_sha256")} | {"title": card.title},
        "structures": [
            {key: entry[key] for key in _STRUCTURE["required"] if key != "color"}
            | {"color": colors.get(entry["name"], "#808080")}
            for entry in report.get("structures", ())
        ],
        "findings": [shown(finding, "message", "consequence") for finding in report.get("findings", ())],
        "picture": picture and base64.b64encode(picture).decode("ascii"),
        "error": shown(report["error"], "cause", "remedy") if "error" in report else None,
        "mark": None,
    }


def _result(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    """The key of a mark: the result of one model for one content, at one time."""
    model = entry["model"]
    return entry["sha256"] or entry["name"], model if isinstance(model, str) else model["name"], entry["date"]


def _row_of(scan: Mapping[str, Any]) -> tuple[str, str]:
    """The key of a row: a scan, by where it lies, and a model."""
    return scan["place"], scan["model"]["name"]


def _scans_of(path: Path) -> list[dict[str, Any]]:
    """The scans that a page shows; none where there is no page."""
    try:
        found = _DATA.search(path.read_text(encoding="utf-8"))
        content = parse_json((found[1] if found else "").encode(), _LARGEST_PAGE)
        return _checked(content, _SCAN)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} is not a sheet that can be continued.", "Choose another folder for --sheet, or remove that file."
        ) from error


def page(scans: Sequence[Mapping[str, Any]]) -> str:
    """The page of these scans, worst first: those that failed, then by the lowest expected Dice of a structure."""
    from markupsafe import Markup

    folder, made = Path(__file__).parent / "templates", templates()
    strip = made.get_template("strip.svg")
    style, script = (Markup((folder / f"sheet.{kind}").read_text(encoding="utf-8")) for kind in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    structures: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for scan in scans:
        for structure in scan["structures"]:
            structures.setdefault((scan["model"]["name"], structure["name"]), []).append(structure)
    spreads = {key: Spread([s["volume_ml"] for s in found if s["voxels"]]) for key, found in structures.items()}
    strips = [
        {"color": structures[key][-1]["color"], "picture": quote(strip.render(spread=spread))}
        for key, spread in spreads.items()
    ]
    numbers = {key: number for number, key in enumerate(spreads)}
    rows = [_row(index, scan, spreads, numbers) for index, scan in enumerate(scans)]
    models = {scan["model"]["name"]: scan["model"] for scan in scans}
    programs = [f"{m['name']} {m['version']} (SHA-256 {m['weights_sha256'][:12]}…)" for m in models.values()]
    return made.get_template("sheet.html").render(
        script_hash=f"'sha256-{digest}'",
        style=style,
        script=script,
        strips=strips,
        title=" · ".join([_counts(rows), *(model["title"] for model in models.values())]),
        rows=sorted(rows, key=lambda row: row["order"]),
        marks=MARKS,
        width=3 * PIXELS,
        height=PIXELS,
        outlying=OUTLYING,
        fewest=FEWEST,
        provenance=", ".join([f"SESegmentation {__version__}", *programs]),
        data={"format": FORMAT, "marks": MARKS, "scans": scans},
    )


def _counts(rows: Sequence[Mapping[str, Any]]) -> str:
    failed = sum(row["scan"]["error"] is not None for row in rows)
    outlying = sum(row["outliers"] > 0 for row in rows)
    counts = [f"{failed} not segmented"] * (failed > 0) + [f"{outlying} with outlying volumes"] * (outlying > 0)
    return ", ".join([f"{len(rows)} scan{'' if len(rows) == 1 else 's'}", *counts])


def _row(
    index: int,
    scan: Mapping[str, Any],
    spreads: Mapping[tuple[str, str], Spread],
    numbers: Mapping[tuple[str, str], int],
) -> dict[str, Any]:
    """What the template needs of a scan."""
    measure = "expected_dice" if any(s["expected_dice"] is not None for s in scan["structures"]) else "confidence"
    trusted = sorted(
        (structure[measure] if structure["voxels"] else -1.0, structure["name"])
        for structure in scan["structures"]
        if structure[measure] is not None or not structure["voxels"]
    )
    keys = [(scan["model"]["name"], structure["name"]) for structure in scan["structures"]]
    cells = [
        {
            "structure": structure,
            "spread": spreads[key],
            "number": numbers[key],
            "deviation": spreads[key].deviation(structure["volume_ml"]) if structure["voxels"] else 0.0,
        }
        for key, structure in zip(keys, scan["structures"], strict=True)
    ]
    outliers = sum(abs(cell["deviation"]) > OUTLYING for cell in cells)
    return {
        "index": index,
        "order": (scan["error"] is None, trusted[:1], -outliers, scan["name"]),
        "scan": scan,
        "outliers": outliers,
        "measure": "Expected Dice" if measure == "expected_dice" else "Confidence",
        "worst": trusted[:WORST],
        "cells": cells,
    }
