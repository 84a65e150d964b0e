"""The report of a segmentation: volumes, surfaces, confidence, timings and provenance.

It is one JSON object; as a table (CSV) it has a row for each structure.
"""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import io
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import SimpleITK as sitk

from . import __version__
from .errors import UsageError
from .files import store
from .files.json_files import to_json
from .models import Label, ModelCard
from .plain_text import printable
from .result import SegmentOptions

if TYPE_CHECKING:
    from .inference.sampling import StructureSpread
    from .result import IntracranialVolume, SegmentationResult

_LIBRARIES = ("torch", "numpy", "SimpleITK", "safetensors")
#: endings of files for reports
REPORT_ENDINGS = (".json", ".csv")
#: text that begins so is evaluated by spreadsheets as a formula
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
#: the folders of an absolute path
_FOLDERS = re.compile(r"(?<![\w.~:/\\-])(?:[A-Za-z]:|~)?(?:[\\/]+[^\s\\/:*?\"<>|']+)+[\\/]+(?=[^\s\\/])")
_STRUCTURE_COLUMNS = (
    "value",
    "name",
    "voxels",
    "volume_ml",
    "intracranial_share",
    "surface_mm2",
    "confidence",
    "expected_dice",
    "sample_overlap",
    "sample_variation",
    "corrected_share",
    "state",
)
COLUMNS = (
    "input",
    *_STRUCTURE_COLUMNS,
    "intracranial_ml",
    "model",
    "version",
    "weights_sha256",
    "device",
    "seconds",
    "date",
    "SESegmentation",
    "warnings",
)


def build_report(
    result: SegmentationResult,
    image: sitk.Image,
    source: Path,
    output: Path | None = None,
    timings: Mapping[str, float] | None = None,
    options: SegmentOptions = SegmentOptions(),
) -> dict[str, Any]:
    """The report of one volume.

    Args:
        result: what the engine found.
        image: the volume, for its geometry.
        source: where the volume was read from.
        output: where the segmentation is written.
        timings: seconds spent around the engine (reading, writing), in s.
        options: with which it was segmented, as far as volumes depend on them.
    """
    seconds = dict(result.timings) | dict(timings or {})
    surfaces = surfaces_mm2(result.labels)
    return {
        "input": str(source),
        "output": str(output) if output else None,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "volume": size_and_spacing(image),
        "grid": size_and_spacing(result.labels),
        "model": model_entry(result.model),
        "options": {"fast": options.fast, "region": options.roi is not None},
        "device": result.device,
        "intracranial": intracranial_entry(result.intracranial),
        "structures": [
            structure_entry(structure, structure.voxels, surfaces, result.intracranial)
            | {"centre_lps_mm": [round(value, 2) for value in structure.centre_lps] if structure.voxels else None}
            for structure in result.structures
        ],
        "findings": [finding.to_dict() for finding in result.findings],
        "timings_s": {phase: round(spent, 3) for phase, spent in seconds.items()},
        "versions": versions(),
    }


def size_and_spacing(image: sitk.Image) -> dict[str, list]:
    """Size of an image in voxels, and spacing in mm."""
    return {"size": list(image.GetSize()), "spacing_mm": [round(size, 6) for size in image.GetSpacing()]}


def intracranial_entry(known: IntracranialVolume | None) -> dict[str, float] | None:
    """Intracranial volume and its error, in ml; None where it is not known."""
    return None if known is None else {"volume_ml": round(known.ml, 1), "error_ml": round(known.error_ml, 1)}


class Measured(Protocol):
    """What a report needs of a structure, in the result or in the panel's record of it."""

    @property
    def label(self) -> Label: ...
    @property
    def volume_ml(self) -> float: ...
    @property
    def confidence(self) -> float: ...
    @property
    def expected_dice(self) -> float | None: ...


def structure_entry(
    structure: Measured, voxels: int, surfaces: Mapping[int, float], intracranial: IntracranialVolume | None
) -> dict[str, Any]:
    """The entry of one structure.

    Args:
        structure: of a result.
        voxels: how many it has.
        surfaces: see :func:`surfaces_mm2`.
        intracranial: volume of which each structure's share is given, where it is known.
    """
    label, expected = structure.label, structure.expected_dice
    return {
        "value": label.value,
        "name": label.name,
        "code": label.type.to_dict(),
        "voxels": voxels,
        "volume_ml": round(structure.volume_ml, 4),
        "intracranial_share": None if intracranial is None else round(structure.volume_ml / intracranial.ml, 6),
        "surface_mm2": round(surfaces.get(label.value, 0.0), 2),
        "confidence": round(structure.confidence, 4),
        "expected_dice": None if expected is None else round(expected, 4),
    }


def with_samples(
    report: dict[str, Any], spread: Mapping[int, StructureSpread], kind: str, count: int, seconds: float
) -> dict[str, Any]:
    """A report with the spread of each structure among samples of the volume; see :mod:`.inference.sampling`."""
    structures = [
        structure
        | {
            "sample_overlap": round(spread[structure["value"]].overlap, 4),
            "sample_variation": round(spread[structure["value"]].variation, 4),
        }
        if structure["value"] in spread
        else structure
        for structure in report["structures"]
    ]
    timings = report["timings_s"] | {"sampling": round(seconds, 3)}
    return report | {"structures": structures, "samples": {"kind": kind, "count": count}, "timings_s": timings}


def surfaces_mm2(labels: sitk.Image) -> dict[int, float]:
    """Area of every structure's surface in mm^2, by value.

    It is estimated from the crossings of lines with the surface (Crofton's formula; Lehmann & Legland, "Efficient
    N-dimensional surface estimation using Crofton formula and run-length encoding", Insight Journal 2012).
    """
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.ComputePerimeterOn()
    shapes.Execute(labels)
    return {value: shapes.GetPerimeter(value) for value in shapes.GetLabels()}


def check_report_name(path: Path | None) -> None:
    """Raise UsageError for a file whose name says neither JSON nor CSV."""
    if path and path.suffix.lower() not in REPORT_ENDINGS:
        raise UsageError(f"{path} ends neither in .json nor in .csv.", "Choose another name for --report.")


def write_report(path: Path, content: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Write one report or several: a table where the file's name ends in .csv, JSON otherwise.

    Raises:
        OutputError: the file cannot be written.
    """
    if path.suffix.lower() != ".csv":
        store(path, (to_json(content) + "\n").encode())
        return
    reports = [content] if isinstance(content, Mapping) else content
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS)
    table.writeheader()
    for report in reports:
        table.writerows({column: in_spreadsheet(value) for column, value in row.items()} for row in table_rows(report))
    # the byte order mark tells spreadsheets that it is UTF-8; file names can hold bytes that are not text
    store(path, text.getvalue().encode("utf-8-sig", "backslashreplace"))


def in_spreadsheet(value: Any) -> Any:
    """A value of a table, marked as text if a spreadsheet would evaluate it as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def table_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A report as rows of ``COLUMNS``, one for each structure; one alone for a volume that could not be segmented."""
    if "error" in report:
        return [{"input": report["input"], "warnings": f"{report['error']['cause']} {report['error']['remedy']}"}]
    model = report["model"]
    common = {
        "input": report["input"],
        "intracranial_ml": (report.get("intracranial") or {}).get("volume_ml"),
        "model": model["name"],
        "version": model["version"],
        "weights_sha256": model["weights_sha256"],
        "device": report["device"],
        "seconds": round(sum(report["timings_s"].values()), 3),
        "date": report["date"],
        "SESegmentation": report["versions"]["SESegmentation"],
        "warnings": " ".join(finding["message"] for finding in report["findings"]),
    }
    return [
        common | {column: structure.get(column) for column in _STRUCTURE_COLUMNS} for structure in report["structures"]
    ]


def model_entry(card: ModelCard) -> dict[str, Any]:
    """Which model it was, by name, version and hash, and its terms of use."""
    return {
        "name": card.name,
        "version": card.version,
        "weights_sha256": card.weights_sha256,
        "licence": card.licence.spdx,
        "attribution": card.licence.attribution,
    }


def versions() -> dict[str, str | None]:
    """Versions of this program, Python and the libraries that compute; None for what is not installed."""
    found: dict[str, str | None] = {"SESegmentation": __version__, "Python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = None
    return found | {"system": platform.platform()}


def readable(text: str) -> str:
    """``text`` fit for a table or a page: names of files can hold bytes that are no text."""
    return printable(text).encode("utf-8", "backslashreplace").decode()


def without_folders(text: str, volume: Path) -> str:
    """``text`` without the folders of absolute paths: of the volume's, which may have spaces, and of all others."""
    for path in (volume.absolute(), Path(os.path.abspath(volume)), Path(os.path.realpath(volume))):
        if path.parent != path.parent.parent:  # not the root, as '/' is in other text too
            text = text.replace(os.path.join(path.parent, ""), "")
    return _FOLDERS.sub("", readable(text))
