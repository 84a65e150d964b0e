"""The summary of a cohort, made from its records: a table, the list of failures, and sheets for review."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from SESegmentationExport import require_packages
from SESegmentationExport.sheet import page, scan_entry
from SESegmentationExport.tables import Table, tsv
from SESegmentationLib.errors import DependencyError
from SESegmentationLib.files import write_whole
from SESegmentationLib.models import ModelCard

from .records import Record, Records

TABLE, FAILURES, SHEET = "cohort.tsv", "failures.tsv", "sheet.html"
FAILURE_COLUMNS = ("input", "code", "cause", "remedy")
#: scans on one sheet, with which a browser still scrolls smoothly
SCANS_A_SHEET = 1000


def outputs(out: Path) -> list[Path]:
    """The files that are written in the folder of the results, but for further sheets."""
    return [out / name for name in (TABLE, FAILURES, SHEET)]


def write_summary(records: Records, names: Sequence[str], card: ModelCard) -> str:
    """Write table, failures and sheets of the cases of a cohort, as far as a model has done them.

    Several processes may do so at once: if a record has been added meanwhile, all is written again.

    Args:
        records: may be of other cases, too.
        names: of the cases, in the order of the rows.
        card: of the model.

    Returns:
        Why there are no sheets; empty where there are.

    Raises:
        OutputError: a file cannot be written.
    """
    why_none = ""
    try:
        require_packages("A sheet", "jinja2")
    except DependencyError as error:
        why_none = f"{error.cause} {error.remedy}"
    while True:
        stamps = records.stamps()
        found = [record for record in map(records.read, names) if record and record.model == card.name]
        _write_tables(records.out, found, card)
        if not why_none:
            _write_sheets(records.out, found, card)
        if records.stamps() == stamps:
            return why_none


def _write_tables(out: Path, records: Sequence[Record], card: ModelCard) -> None:
    names: dict[Path, str] = {}
    with Table(out / TABLE, card, names) as table:
        for record in records:
            names[Path(record.input)] = record.name  # of this row: a list may give one scan several names
            table.add(Path(record.input), _report_or_error(record))
    failures = [{"input": record.input, **(record.error or {})} for record in records if record.error]
    write_whole(out / FAILURES, tsv(FAILURE_COLUMNS, failures))


def _write_sheets(out: Path, records: Sequence[Record], card: ModelCard) -> None:
    for number, begin in enumerate(range(0, len(records), SCANS_A_SHEET), start=1):
        name = SHEET if number == 1 else SHEET.replace(".", f"-{number}.")
        entries = [_entry(record, card) for record in records[begin : begin + SCANS_A_SHEET]]
        write_whole(out / name, page(entries))
    last = -(-len(records) // SCANS_A_SHEET)
    for path in out.glob(SHEET.replace(".", "-*.")):  # of a time when there were more
        if (which := path.stem.rpartition("-")[2]).isdigit() and int(which) > last:
            path.unlink(missing_ok=True)


def _entry(record: Record, card: ModelCard) -> dict:
    picture = base64.b64decode(record.picture) if record.picture else None
    return scan_entry(card, Path(record.input), record.name, _report_or_error(record), record.content, picture)


def _report_or_error(record: Record) -> dict:
    """The report of a case, or its error, as tables take it."""
    return record.report if record.report is not None else {"error": record.error}
