"""Results as tables for other tools: FreeSurfer's aseg.stats of a scan, and one table (TSV) of a batch."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import SimpleITK as sitk

from SESegmentationLib import __version__
from SESegmentationLib.errors import SegmentationError, UsageError
from SESegmentationLib.files import OutputFiles, write_whole
from SESegmentationLib.geometry import Geometry
from SESegmentationLib.inference.cascade import possible_structures
from SESegmentationLib.models import Label, ModelCard
from SESegmentationLib.models.labels import brain_labels, split_side
from SESegmentationLib.plain_text import plain
from SESegmentationLib.report import in_spreadsheet, readable, without_folders
from SESegmentationLib.result import SegmentationResult

from . import Export, file_per_volume

#: the entry for a missing value in tables, as readers of TSV expect it
NOTHING = "n/a"
TABLE_ENDING = ".tsv"
#: where the file of a volume is in a folder: as in FreeSurfer's SUBJECTS_DIR
_OF_SUBJECT = "{}/stats/aseg.stats"
#: FreeSurfer's names of structures (FreeSurferColorLUT.txt), without the side
_FREESURFER = {
    "cerebral white matter": "Cerebral-White-Matter",
    "cerebral cortex": "Cerebral-Cortex",
    "lateral ventricle": "Lateral-Ventricle",
    "inferior lateral ventricle": "Inf-Lat-Vent",
    "cerebellar white matter": "Cerebellum-White-Matter",
    "cerebellar cortex": "Cerebellum-Cortex",
    "accumbens": "Accumbens-area",
    "ventral diencephalon": "VentralDC",
    "third ventricle": "3rd-Ventricle",
    "fourth ventricle": "4th-Ventricle",
    "cerebrospinal fluid": "CSF",
}
_BRAIN = {label.value: label.name for label in brain_labels()}
#: header, field and unit of the columns
_COLUMNS = (
    ("Index", "Index", "NA"),
    ("SegId", "Segmentation Id", "NA"),
    ("NVoxels", "Number of Voxels", "unitless"),
    ("Volume_mm3", "Volume", "mm^3"),
    ("StructName", "Structure Name", "NA"),
    ("normMean", "Intensity normMean", "unknown"),
    ("normStdDev", "Intensity normStdDev", "unknown"),
    ("normMin", "Intensity normMin", "unknown"),
    ("normMax", "Intensity normMax", "unknown"),
    ("normRange", "Intensity normRange", "unknown"),
)


class StatsFiles(Export):
    """A file in the layout of aseg.stats for each volume.

    Args:
        path: a file that ends in ``.stats``, for one volume only, or a folder like FreeSurfer's SUBJECTS_DIR.
        names: of the volumes.

    Raises:
        UsageError: it is neither.
    """

    def __init__(self, path: Path, names: Mapping[Path, str]) -> None:
        self._names = names
        self._files = file_per_volume("--stats", path, names, (".stats",), _OF_SUBJECT)
        self.outputs = list(self._files.values())
        if self.outputs[0] != path:  # no folder is made for a subject that fails
            self.place = path / self.outputs[0].name

    def take(
        self, files: OutputFiles, volume: Path, image: sitk.Image, result: SegmentationResult, report: Mapping[str, Any]
    ) -> None:
        """Write the file of one volume."""
        files.write(self._files[volume], aseg_stats(result, image, self._names[volume]))


def aseg_stats(result: SegmentationResult, image: sitk.Image, subject: str) -> str:
    """The text of an aseg.stats.

    All structures have a row, also those that were not found, so that files of one model have the same rows.
    Intensities are those of ``image``, which is not normalised; they are 0 where a structure was not found.

    Args:
        result: what was found.
        image: the volume; it may lie on another grid.
        subject: name of the scan.
    """
    model = result.model
    lines = [
        "Title Segmentation Statistics",
        "",
        "generating_program SESegmentation",
        f"cvs_version {__version__}",
        "cmdline sesegment run --stats",
        f"model {model.name} {model.version} weights SHA-256 {model.weights_sha256}",
        "purpose for research, not for diagnosis",
        "anatomy_type volume",
        "",
        f"subjectname {_word(subject)}",
    ]
    if result.intracranial is not None:
        ml = result.intracranial.ml
        lines.append(
            f"Measure EstimatedTotalIntraCranialVol, eTIV, Estimated Total Intracranial Volume, {ml * 1000:.6f}, mm^3"
        )
    lines += ["Reporting empty segmentations too", f"VoxelVolume_mm3 {math.prod(result.labels.GetSpacing()):.6g}"]
    for number, (header, field, unit) in enumerate(_COLUMNS, start=1):
        entries = (("ColHeader", header), ("FieldName", field), ("Units", unit))
        lines += [f"TableCol {number:2} {key:9} {text}" for key, text in entries]
    structures = sorted(result.structures, key=lambda structure: structure.label.value)
    headers = " ".join(header for header, _, _ in _COLUMNS)
    lines += [f"NRows {len(structures)}", f"NTableCols {len(_COLUMNS)}", f"ColHeaders  {headers}"]
    intensities = _intensities(image, result.labels)
    rows = []
    for index, structure in enumerate(structures, start=1):
        mean, deviation, low, high = intensities.get(structure.label.value, (0.0,) * 4)
        rows.append(
            f"{index:3} {structure.label.value:5} {structure.voxels:8} {structure.volume_ml * 1000:10.1f}  "
            f"{freesurfer_name(structure.label):30} {mean:10.4f} {deviation:10.4f} {low:10.4f} {high:10.4f} "
            f"{high - low:10.4f}"
        )
    # readers take every line without a "#" for a row
    return "\n".join([*(f"# {line}".rstrip() for line in lines), *rows]) + "\n"


def _intensities(image: sitk.Image, labels: sitk.Image) -> dict[int, tuple[float, float, float, float]]:
    """Mean, standard deviation, smallest and largest intensity by value of the label."""
    grid = Geometry.of(labels)
    image = sitk.Cast(image, sitk.sitkFloat64)  # interpolated whole numbers would be cut off, not rounded
    if Geometry.of(image) != grid:
        image = grid.resample(image, sitk.sitkLinear)
    statistics = sitk.LabelStatisticsImageFilter()
    image.CopyInformation(labels)  # headers differ by rounding
    statistics.Execute(image, labels)
    return {
        value: (
            statistics.GetMean(value),
            statistics.GetSigma(value) if statistics.GetCount(value) > 1 else 0.0,
            statistics.GetMinimum(value),
            statistics.GetMaximum(value),
        )
        for value in statistics.GetLabels()
    }


def freesurfer_name(label: Label) -> str:
    """FreeSurfer's name of a structure of the brain ("Left-Hippocampus"); other structures are named likewise."""
    side, structure = split_side(label.name)
    if _BRAIN.get(label.value) != label.name:
        return _word(label.name)
    name = _FREESURFER.get(structure) or "-".join(word.capitalize() for word in structure.split())
    return f"{side.meaning}-{name}" if side else name


def _word(text: str) -> str:
    """``text`` as one word, as readers that divide lines at spaces need it."""
    return re.sub(r"[^\w.+]+", "-", readable(text)).strip("-") or "-"


class Table(Export):
    """One table of a batch with a row for each volume, also for those that failed.

    It is written at the end; if the run breaks off, with the volumes done until then.

    Args:
        path: ends in ``.tsv``.
        card: of the model; each structure that it can return has columns, named after it.
        names: of the volumes.

    Raises:
        UsageError: the name ends otherwise.
    """

    def __init__(self, path: Path, card: ModelCard, names: Mapping[Path, str]) -> None:
        if path.suffix.lower() != TABLE_ENDING:
            raise UsageError(f"{path} does not end in {TABLE_ENDING}.", "Choose another name for --table.")
        self._path, self._names, self.outputs = path, names, [path]
        values = {label.name: label.value for _, label in possible_structures(card)}
        columns = [column_name(name) for name in values]
        self._columns = {
            name: column if columns.count(column) == 1 else f"{column}_{value}"
            for (name, value), column in zip(values.items(), columns, strict=True)
        }
        self._rows: list[dict[str, Any]] = []

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        of_scan = ["scan", "state", "cause", "model", "version", "weights_sha256", "SESegmentation", "device"]
        of_scan += ["seconds", "date", "warnings", "intracranial_ml"]
        return of_scan + [f"{name}_{kind}" for kind in ("ml", "expected_dice") for name in self._columns.values()]

    def add(self, volume: Path, report: Mapping[str, Any]) -> None:
        """Add the row of a volume."""
        row: dict[str, Any] = {"scan": readable(self._names[volume])}
        if "error" in report:
            row |= {"state": "failed", "cause": without_folders(report["error"]["cause"], volume)}
        else:
            model = report["model"]
            warnings = [without_folders(finding["message"], volume) for finding in report["findings"]]
            found = any(structure["voxels"] for structure in report["structures"])
            row |= {
                "state": "segmented" if found else "nothing found",
                "model": model["name"],
                "version": model["version"],
                "weights_sha256": model["weights_sha256"],
                "SESegmentation": report["versions"]["SESegmentation"],
                "device": report["device"],
                "seconds": round(sum(report["timings_s"].values()), 3),
                "date": report["date"],
                "warnings": " ".join(warnings),
                "intracranial_ml": (report["intracranial"] or {}).get("volume_ml"),
            }
            for structure in report["structures"]:
                column = self._column_of(structure)
                row[f"{column}_ml"] = structure["volume_ml"]
                row[f"{column}_expected_dice"] = structure["expected_dice"]
        self._rows.append(row)

    def _column_of(self, structure: Mapping[str, Any]) -> str:
        """The column of a structure of a report; a structure that the card does not list gets a new one."""
        name, column = structure["name"], column_name(structure["name"])
        if name not in self._columns and column in self._columns.values():
            column = f"{column}_{structure['value']}"
        return self._columns.setdefault(name, column)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._rows:
            return
        # the error that ended the batch must be reported, not this one
        with contextlib.suppress(*(() if kind is None else (SegmentationError,))):
            write_whole(self._path, tsv(self.columns, self._rows))


def column_name(structure: str) -> str:
    """The name of a structure in names of columns: ``left_hippocampus``."""
    return re.sub(r"\W+", "_", readable(structure)).strip("_") or "structure"


def tsv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A table of tab-separated values; what a row lacks is n/a.

    Numbers have a decimal point; texts are in one line and without tabs.
    """

    def cell(value: Any) -> str:
        if value is None or value == "":
            return NOTHING
        return in_spreadsheet(readable(plain(value))) if isinstance(value, str) else str(value)

    lines = [columns, *([cell(row.get(column)) for column in columns] for row in rows)]
    return "".join("\t".join(line) + "\n" for line in lines)
