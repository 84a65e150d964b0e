"""Which scans make up a cohort: those of folders with all that is in them, BIDS datasets, DICOM series, lists."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath

from SESegmentationExport.bids import find_scans
from SESegmentationExport.scan_identity import scan_sha256
from SESegmentationLib.cli.dicom import folder_of
from SESegmentationLib.cli.file_jobs import case_name, case_names, is_input
from SESegmentationLib.cli.model_choice import choose_for_series
from SESegmentationLib.errors import InputError, UsageError
from SESegmentationLib.files import refuse_same_names
from SESegmentationLib.io.dicom import looks_like_dicom
from SESegmentationLib.io.dicom.series import Found, grouped
from SESegmentationLib.models import ModelPackage
from SESegmentationLib.plain_text import fault_of

from .records import FOLDER as RECORDS
from .records import Records

#: file extensions of lists of scans, with their column separator
LISTS = {".txt": "", ".tsv": "\t", ".csv": ","}
#: columns with the path of a scan, the first one present counts; and the one with the name of its results
PATH_COLUMNS, NAME_COLUMN = ("path", "image"), "name"


@dataclass(frozen=True)
class CohortCase:
    """One scan of a cohort.

    Attributes:
        name: of its results and its record, without an ending; folders are divided by "/".
        source: file, or folder of a DICOM series.
        series: UID of the series, where there may be several in that folder.
        files: those of the series; empty where all that is read for the source counts.
        fault: cause and remedy, if it is already known that it cannot be read.
    """

    name: str
    source: Path
    series: str | None = None
    files: tuple[Path, ...] = ()
    fault: tuple[str, str] | None = None

    @property
    def input(self) -> str:
        """How lists and messages name it."""
        return f"{self.source} (series {self.series})" if self.series else str(self.source)

    @property
    def identity(self) -> Path:
        """A path that no other case has."""
        return self.source / self.series if self.series else self.source

    def content(self) -> str | None:
        """SHA-256 of what is read for it; None where that cannot be read."""
        return scan_sha256(self.source, self.series, self.files or None)


@dataclass
class Cohort:
    """Scans, sorted by name.

    Attributes:
        cases: what is to be segmented.
        skipped: a sentence with the reason for each series skipped on purpose.
    """

    cases: list[CohortCase] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def shard(self, number: int, count: int) -> Cohort:
        """The ``number``-th (from 1) of ``count`` disjoint parts that make up the cohort.

        Neighbours go to different parts, so that scans of one kind are spread over all.
        """
        return Cohort(self.cases[number - 1 :: count], self.skipped if number == 1 else [])


def parse_shard(text: str) -> tuple[int, int]:
    """Number and count of "I/N"; UsageError where it is none."""
    number, _, count = text.partition("/")
    if number.isascii() and count.isascii() and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count):
        return int(number), int(count)
    raise UsageError(f"{text!r} does not name a part.", "Give --shard I/N with I from 1 to N, for example 3/10.")


def find_cohort(source: Path, package: ModelPackage, out: Path) -> Cohort:
    """The scans that ``source`` stands for.

    Args:
        source: a folder, a file of a volume, or a list of those (see :func:`read_list`).
        package: the model: it tells which scans of a BIDS dataset and which DICOM series are meant.
        out: the folder of the results; nothing in it is input.

    Raises:
        InputError: there is nothing, or no scan in it, or the list cannot be read.
        UsageError: results would lie among the scans, or two scans have one name.
    """
    if not source.exists():
        raise InputError(f"There is no file or folder {source}.", "Check the name and the folder.")
    if source.is_dir() and out.resolve() in (source.resolve(), *source.resolve().parents):
        raise UsageError(
            f"{out} holds the scans themselves: results would lie among them.", "Choose another folder with -o."
        )
    if source.suffix.lower() in LISTS and source.is_file():
        cohort = _listed(source, package, out)
    elif source.is_dir():
        cohort = _in_folder(source, package, out)
    else:
        cohort = Cohort([CohortCase(case_name(source), source)])
    if not cohort.cases:
        reasons = f" {cohort.skipped[0]}" if cohort.skipped else ""
        raise InputError(
            f"{source} holds no scan that {package.card.name} can segment.{reasons}",
            "Give a folder of volumes or DICOM series, a BIDS dataset, or a list of paths.",
        )
    cohort.cases.sort(key=lambda case: case.name)
    refuse_same_names(
        ((case.input, case.name) for case in cohort.cases), "Name them in a list with the columns path and name."
    )
    return cohort


def _in_folder(folder: Path, package: ModelPackage, out: Path) -> Cohort:
    """All scans in a folder and its subfolders, called by their place in it."""
    scans = find_scans(folder, package.card)
    if scans is not None:
        return Cohort([CohortCase(_name_in(folder, scan), scan) for scan in scans])
    volumes, dicom = [], False
    others: list[str] = []
    for file in _files(folder, out, others):
        if is_input(file, package.card.takes_slices):
            volumes.append(file)
        else:
            dicom = dicom or looks_like_dicom(file)
    cohort = _series_in(folder, package, out) if dicom else Cohort()
    cohort.skipped += others
    by_folder: dict[Path, list[Path]] = {}
    for volume in volumes:
        by_folder.setdefault(volume.parent, []).append(volume)
    for parent, inside in by_folder.items():  # files that differ only in their endings are distinguished
        place, names = PurePosixPath(*parent.relative_to(folder).parts), case_names(inside)
        cohort.cases += [CohortCase((place / name).as_posix(), volume) for volume, name in names.items()]
    return cohort


def _name_in(folder: Path, file: Path) -> str:
    return (PurePosixPath(*file.parent.relative_to(folder).parts) / case_name(file)).as_posix()


def _files(folder: Path, out: Path, skipped: list[str]) -> Iterator[Path]:
    """Files in a folder and all below, links to folders among them, but for hidden ones and those in ``out``.

    Results of other cohorts are no scans either; a sentence about each of their folders is added to ``skipped``.
    """
    seen, results = set(), out.resolve()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen or Path(real) == results:
            folders.clear()
            continue
        seen.add(real)
        if RECORDS in folders and Path(place) != folder and next(Records(Path(place)).all(), None):
            skipped.append(f"The folder {place} is skipped: it holds the results of a cohort.")
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def _series_in(folder: Path, package: ModelPackage, out: Path) -> Cohort:
    """The DICOM series of a folder that the model takes, called by their UIDs."""
    cohort, found, results = Cohort(), Found.at(folder), out.resolve()
    headers = [header for header in found.headers if results not in header.path.resolve().parents]
    every = grouped(headers)
    for series in every:
        chosen = choose_for_series(series, [package], named=True, accepted=True)
        if isinstance(chosen, str):
            cohort.skipped.append(f"Series {series} is skipped: {chosen}.")
            continue
        files = tuple(header.path for header in series.headers)
        cohort.cases.append(CohortCase(series.uid, folder_of(series), series.uid, files))
    for fault in found.faults:
        if results in fault.path.resolve().parents or any(series.is_meant(fault) for series in every):
            continue  # reading its series tells of it
        cause = f"{fault.path} {fault.what}.", "Copy or export it again."
        cohort.cases.append(CohortCase(_name_in(folder, fault.path), fault.path, fault=cause))
    return cohort


def _listed(path: Path, package: ModelPackage, out: Path) -> Cohort:
    """The scans of a list; a folder in it stands for all that is in it."""
    cohort, unnamed = Cohort(), []
    for source, name in read_list(path):
        if not source.is_dir():
            unnamed += [] if name else [source]
            cohort.cases += [CohortCase(name, source)] if name else []
            continue
        inside = _in_folder(source, package, out)
        cohort.skipped += inside.skipped
        prefix = name or case_name(source)
        for case in inside.cases:
            called = prefix if len(inside.cases) == 1 else f"{prefix}/{case.name}"
            cohort.cases.append(CohortCase(called, case.source, case.series, case.files, case.fault))
        if not inside.cases:
            fault = f"{source} holds no scan that {package.card.name} can segment.", "Correct the list."
            cohort.cases.append(CohortCase(prefix, source, fault=fault))
    cohort.cases += [CohortCase(name, source) for source, name in case_names(unnamed).items()]
    return cohort


def read_list(path: Path) -> list[tuple[Path, str]]:
    """The paths in a list, with the names that it gives them, or empty ones.

    A ``.txt`` file has a path in each line; ``#`` begins a remark. A ``.tsv`` or ``.csv`` file has a column ``path`` or
    ``image``, and perhaps ``name``. Relative paths start from the list's own folder.

    Raises:
        InputError: it cannot be read, is no text, or has no such column; a row has no path, or more columns than the
            first, as where a comma in a path is not quoted.
    """
    remedy = "Save it as text in UTF-8, a path in each line (.txt), or with a column path (.tsv, .csv)."
    try:
        text = path.read_text(encoding="utf-8-sig")
        delimiter = LISTS[path.suffix.lower()]
        if not delimiter:
            lines = [line.strip() for line in text.split("\n")]  # names may hold what else can end a line
            entries = [(line, "") for line in lines if line and not line.startswith("#")]
        else:
            entries = _rows(text, delimiter)
    except (OSError, ValueError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        why = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else why
        raise InputError(f"The list {path} cannot be read: {why}.", remedy) from error
    for entry, name in entries:
        place = PurePosixPath(name)
        if name and (PurePath(name).anchor or ".." in place.parts or not place.parts or "\\" in name or fault_of(name)):
            raise InputError(
                f"{name!r} in {path} cannot be the name of a result.", "Choose another one; / divides folders."
            )
        if "\0" in entry:
            raise InputError(f"{entry!r} in {path} is not a path.", remedy)
    # "a", "./a" and "a/" are one name
    named = ((entry, PurePosixPath(name).as_posix() if name else "") for entry, name in entries if entry)
    return [(path.parent / entry, name) for entry, name in dict.fromkeys(named)]


def _rows(text: str, delimiter: str) -> list[tuple[str, str]]:
    """Path and name in each row of a table; ValueError where it is none of paths.

    Spreadsheets divide the columns of a ``.csv`` file by semicolons where a comma is the decimal point.
    """
    for divider in (delimiter, ";") if delimiter == "," else (delimiter,):
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter=divider)
        column = next((name for name in PATH_COLUMNS if name in (table.fieldnames or ())), None)
        if column is not None:
            break
    else:
        raise ValueError(f"it has no column {' or '.join(PATH_COLUMNS)}")
    rows = []
    for row in table:
        if any(row.pop(None, ())):
            raise ValueError(f"line {table.line_num} has more columns than the first line")
        entry = (row[column] or "").strip()
        if not entry and any(row.values()):
            raise ValueError(f"line {table.line_num} has nothing in the column {column}")
        rows.append((entry, (row.get(NAME_COLUMN) or "").strip()))
    return rows
