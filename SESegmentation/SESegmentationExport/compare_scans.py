"""``sesegment compare``: two scans of one patient in, the change of each structure out."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SESegmentationLib.cli import warn
from SESegmentationLib.cli.shared_options import require_consent
from SESegmentationLib.cli.show import ProgressBar, console, print_json
from SESegmentationLib.errors import UsageError
from SESegmentationLib.files import OutputFiles, check_writable, refuse_overwriting
from SESegmentationLib.files.json_files import to_json
from SESegmentationLib.models import Label, ModelPackage, find_model

from .comparison import (
    NOT_MEASURED,
    Change,
    acquisition_date,
    as_csv,
    compare_reports,
    draw_comparison,
    noise_of,
    other_options,
    other_patient,
    read_report,
    remarks,
    same_scan,
    scan_tags,
)

if TYPE_CHECKING:
    import SimpleITK as sitk
    from pydicom.dataset import Dataset

ENDINGS = (".json", ".csv")


@dataclass(frozen=True)
class CompareOptions:
    """Options of a comparison.

    Attributes:
        model: name or folder; empty where both are reports.
        device: where the networks run.
        fast: take fewer views, for both scans.
        series: that of the earlier and that of the later DICOM folder, if they hold several; or empty.
        days: between the scans; None: by the dates.
        dates: of both scans; empty: as the DICOM files tell.
        output: JSON or CSV file for the changes.
        picture: PNG file for both scans and the changes.
        accept_licence: consent to the terms of the weights.
        as_json: print JSON.
    """

    model: str = ""
    device: str = "auto"
    fast: bool = False
    series: tuple[str, ...] = ()
    days: float | None = None
    dates: tuple[datetime.date, ...] = ()
    output: Path | None = None
    picture: Path | None = None
    accept_licence: bool = False
    as_json: bool = False


@dataclass(frozen=True)
class _Scan:
    """One scan: its report, and image, labels and their structures where it was segmented now."""

    report: dict[str, Any]
    image: sitk.Image | None = None
    labels: sitk.Image | None = None
    structures: Sequence[Label] = ()


def compare_scans(earlier: Path, later: Path, options: CompareOptions) -> None:
    """Compare two scans, print and write the changes.

    Raises:
        UsageError: options contradict each other; the results are of different models.
        SegmentationError: a volume, report or model cannot be used.
    """
    sources = (earlier, later)
    read = [_is_report(path) for path in sources]
    _check_options(options, read)
    package = find_model(options.model) if options.model else None
    outputs = [path for path in (options.output, options.picture) if path]
    refuse_overwriting([*sources, *(package.files if package else ())], outputs)
    for path in outputs:
        check_writable(path)
    reports = [read_report(path) if is_report else None for path, is_report in zip(sources, read, strict=True)]
    if package is None:
        package = _model_of(reports)
    else:
        _check_model(package, reports, options)
    tags = _tags(sources, options)
    dates: Sequence[datetime.date | None] = options.dates or [
        None if each is None else acquisition_date(each) for each in tags
    ]
    days = _days(dates) if options.days is None else options.days
    scans = _scans(sources, reports, package, options)
    noise = noise_of(package, *(scan.report for scan in scans))
    findings = _findings(sources, options.series, scans, tags)
    changes = compare_reports(scans[0].report, scans[1].report, noise, days)
    content = {
        "earlier": scans[0].report["input"],
        "later": scans[1].report["input"],
        "days": days,
        "model": scans[1].report["model"],
        "findings": findings,
        "changes": [change.to_dict() for change in changes],
    }
    with OutputFiles() as files:
        if options.output:
            text = as_csv(changes) if options.output.suffix.lower() == ".csv" else to_json(content) + "\n"
            files.write(options.output, text.encode())
        if options.picture:
            files.write(options.picture, _picture(sources, dates, scans, changes))
    named = {"earlier": f"{earlier}: ", "later": f"{later}: ", "both": ""}
    for finding in findings:
        warn(f"{named[finding['scan']]}Warning: {finding['message']} {finding['consequence']}")
    if options.as_json:
        print_json(content)
    else:
        _print(content, changes, remarks(scans[0].report, scans[1].report, changes))


def _check_options(options: CompareOptions, read: Sequence[bool]) -> None:
    """Refuse options that contradict each other, or the sources: ``read`` tells which of them are reports."""
    if options.output and not options.output.name.lower().endswith(ENDINGS):
        raise UsageError(f"{options.output} does not end in .json or .csv.", "Choose another name for --output.")
    if options.picture and options.picture.suffix.lower() != ".png":
        raise UsageError(f"{options.picture} does not end in .png.", "Choose another name for --picture.")
    if options.picture and any(read):
        raise UsageError("Reports hold no images to draw.", "Give volumes, or leave out --picture.")
    if len(options.series) not in (0, 2):
        raise UsageError("--series is given for one scan.", "Give it twice: for the earlier scan and for the later.")
    if options.days is not None and options.dates:
        raise UsageError("--days and --dates both give the time between the scans.", "Give one of them.")
    if not all(read) and not options.model:
        raise UsageError("No model is named to segment the volumes with.", "Name one with --model.")


def _check_model(package: ModelPackage, reports: Sequence[dict[str, Any] | None], options: CompareOptions) -> None:
    """Refuse a model whose terms are not accepted, if it is to segment, and reports of another model."""
    if not all(reports):
        require_consent(package.card, options.accept_licence)
    own = package.card.weights_sha256
    if own and any(report["model"]["weights_sha256"] != own for report in reports if report):
        raise UsageError(
            f"A report was made by another model than {package.card.name} {package.card.version}.",
            "Leave out --model, or give volumes.",
        )


def _tags(sources: Sequence[Path], options: CompareOptions) -> list[Dataset | None]:
    """Those of both scans, None of what is not DICOM."""
    series = options.series or (None, None)
    return [scan_tags(path, one) for path, one in zip(sources, series, strict=True)]


def _findings(
    sources: Sequence[Path], series: Sequence[str], scans: Sequence[_Scan], tags: Sequence[Dataset | None]
) -> list[dict[str, str]]:
    """What is doubtful about the earlier scan, the later one, and comparing them."""
    every = [
        {"scan": when} | finding
        for when, scan in zip(("earlier", "later"), scans, strict=True)
        for finding in scan.report["findings"]
    ]
    first, second = tags
    patients = other_patient(first, second) if first is not None and second is not None else []
    same = same_scan(*sources) if series[:1] == series[1:] else []
    both = [*same, *patients, *other_options(scans[0].report, scans[1].report)]
    return every + [{"scan": "both"} | finding.to_dict() for finding in both]


def _is_report(path: Path) -> bool:
    return path.suffix.lower() == ".json"


def _model_of(reports: Sequence[dict[str, Any] | None]) -> ModelPackage | None:
    """The model that made the reports, if it is installed here: its card has the noise of the volumes."""
    from SESegmentationLib.errors import ModelError

    for report in reports:
        try:
            package = find_model(report["model"]["name"]) if report else None
        except ModelError:
            continue
        if package and report and package.card.weights_sha256 == report["model"]["weights_sha256"]:
            return package
    return None


def _scans(
    sources: Sequence[Path],
    reports: Sequence[dict[str, Any] | None],
    package: ModelPackage | None,
    options: CompareOptions,
) -> list[_Scan]:
    """Both scans; those without a report are segmented now."""
    if all(reports):
        return [_Scan(report) for report in reports if report]
    assert package is not None
    from SESegmentationLib.cli.file_jobs import prepare_to_segment
    from SESegmentationLib.client.reading import reading_apart

    prepare_to_segment()
    from SESegmentationLib.inference.engine import Engine
    from SESegmentationLib.io.reading import read_volume
    from SESegmentationLib.report import build_report
    from SESegmentationLib.result import SegmentOptions

    scans = []
    with ProgressBar() as progress:
        engine = Engine(package, device=options.device)
        pixel_mm = package.card.pixel_mm
        for number, (path, report) in enumerate(zip(sources, reports, strict=True)):
            if report:
                scans.append(_Scan(report))
                continue
            progress.subject(path.name)
            series = options.series[number] if options.series else None
            with reading_apart():
                image = read_volume(path, pixel_mm, series)
            chosen = SegmentOptions(fast=options.fast, grid="auto")
            result = engine.segment(image, chosen, progress=progress)
            about = build_report(result, image, path, options=chosen)
            scans.append(_Scan(about, image, result.labels, [structure.label for structure in result.structures]))
    return scans


def _days(dates: Sequence[datetime.date | None]) -> float | None:
    """Days between the scans, None where that is unknown; a later scan is never the earlier one."""
    first, second = dates
    if first is None or second is None:
        return None
    days = (second - first).days
    if days < 0:
        raise UsageError(
            f"The earlier scan was acquired on {first}, after the later one ({second}).", "Exchange the two."
        )
    return float(days)


def _picture(
    sources: Sequence[Path],
    dates: Sequence[datetime.date | None],
    scans: Sequence[_Scan],
    changes: list[Change],
) -> bytes:
    from SESegmentationLib.io.drawing import as_png

    drawn = [
        (f"{name}: {path.name}" + (f", {date}" if date else ""), scan.image, scan.labels)
        for name, path, date, scan in zip(("earlier", "later"), sources, dates, scans, strict=True)
        if scan.image is not None and scan.labels is not None
    ]
    return as_png(draw_comparison(drawn, scans[1].structures, changes))


def _print(content: dict[str, Any], changes: Sequence[Change], lines: Sequence[str]) -> None:
    """Print the table of changes, with the noise where it was measured."""
    from rich.table import Table

    between = "" if content["days"] is None else f" · {content['days']:g} days"
    table = Table(title=f"{content['earlier']} → {content['later']}{between}", title_justify="left")
    table.add_column("structure")
    for column in ("earlier ml", "later ml", *["noise"] * bool(lines)):
        table.add_column(column, justify="right")
    table.add_column("change", no_wrap=True)
    for change in changes:
        noise = "" if change.noise_percent is None else f"{change.noise_percent:.1f} %"
        table.add_row(
            change.name,
            f"{change.earlier_ml:.2f}",
            f"{change.later_ml:.2f}",
            *[noise] * bool(lines),
            change.words(),
        )
    console().print(table)
    for line in lines:
        console().print(line, soft_wrap=True)
    if not lines:
        warn(NOT_MEASURED.format(model=content["model"]["name"]))
