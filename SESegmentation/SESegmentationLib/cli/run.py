"""``sesegment run``: volumes in, segmentations, reports and pictures out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SESegmentationExport import Export
from SESegmentationExport.bids import Derivatives, derivative_paths, refuse_other_scans, sources_of
from SESegmentationExport.page import Pages
from SESegmentationExport.sheet import Sheet, passed, read_marks
from SESegmentationExport.tables import StatsFiles, Table

from ..client import WaitingEngine
from ..client.reading import reading_apart
from ..errors import UsageError
from ..files import OutputFiles, check_writable, refuse_overwriting
from ..io.writing import MAP_ENDINGS
from ..models import find_model
from ..report import check_report_name
from . import warn
from .file_jobs import (
    FileJob,
    case_names,
    check_dicom,
    plan_jobs,
    prepare_to_segment,
    refuse_on_server,
    segmenter_on,
)
from .run_options import RunOptions
from .segmenting import Done, segment_all
from .shared_options import require_consent
from .show import ProgressBar, print_json, print_line, print_segmentation, report_nothing_found

if TYPE_CHECKING:
    from ..inference.engine import Engine
    from ..models import ModelCard, ModelPackage


@reading_apart()
def run(volumes: Sequence[Path], options: RunOptions) -> int:
    """Segment ``volumes``. If there are several, one that fails does not stop the others.

    Returns:
        0, or the exit code of the first volume that failed, else of one in which nothing was found.

    Raises:
        SegmentationError: options, model, device or region cannot be used, or the only volume fails.
    """
    package = find_model(options.model)
    require_consent(package.card, options.accept_licence)
    if options.server and (options.samples or options.device != "auto"):
        refuse_on_server("--samples" if options.samples else "--device")
    jobs = _plan(volumes, options, package.card)
    names = case_names([job.source for job in jobs])
    _check_names(options, len(jobs))
    marks = read_marks(options.skip_passed) if options.skip_passed else []
    exports = _exports(options, package.card, jobs, names, marks)
    _check_files(jobs, package, exports, options)
    skipped = _passed(marks, names, package.card.name, options)
    prepare_to_segment()
    alone = len(jobs) == 1
    done = _segment([job for job in jobs if job.source not in skipped], package, exports, options, alone)
    return _conclude(done, options, alone)


def _check_names(options: RunOptions, count: int) -> None:
    """Refuse files of one volume where ``count`` are several, and names with endings that do not suit."""
    maps = {"--doubt": options.doubt, "--attention": options.attention}
    for option, path in {"--picture": options.picture, **maps}.items():
        if path and count > 1:
            raise UsageError(f"{option} is for one volume only.", f"Segment the {count} volumes without it.")
    if options.picture and options.picture.suffix.lower() != ".png":
        raise UsageError(f"{options.picture} does not end in .png.", "Choose another name for --picture.")
    for option, path in maps.items():
        if path and not path.name.lower().endswith(MAP_ENDINGS):
            raise UsageError(f"{path} does not end in {' or '.join(MAP_ENDINGS)}.", f"Choose another for {option}.")


def _check_files(
    jobs: Sequence[FileJob], package: ModelPackage, exports: Sequence[Export], options: RunOptions
) -> None:
    """See that all can be written, and that nothing is written over what is read."""
    extras = [path for path in (options.report, options.picture, options.doubt, options.attention) if path]
    extras += check_dicom(jobs, options.dicom)
    outputs = [path for export in exports for path in export.outputs]
    read = [*(job.source for job in jobs), options.roi, options.skip_passed, *package.files]
    refuse_overwriting(read, [*(job.output for job in jobs), *extras, *outputs])
    places = [jobs[0].output] * (options.bids is None)  # else the dataset's folder is checked
    for path in (*places, *extras, *(export.place or export.outputs[0] for export in exports)):
        check_writable(path)
    check_report_name(options.report)


def _segment(
    jobs: Sequence[FileJob], package: ModelPackage, exports: Sequence[Export], options: RunOptions, alone: bool
) -> Done:
    """Do the jobs and fill the exports; progress, failures and, of several, a line each are shown on the way."""
    from ..inference.roi import read_roi

    done = Done()
    with contextlib.ExitStack() as opened:
        for export in exports:
            opened.enter_context(export)
        progress = opened.enter_context(ProgressBar())
        region = read_roi(options.roi) if options.roi else None
        engine = opened.enter_context(_engine(package, options))
        outcomes = segment_all(engine, jobs, region, options, progress, alone, exports)
        for number, (job, (report, error)) in enumerate(outcomes, start=1):
            for export in exports:
                export.add(job.source, report)
            with progress.paused():
                done.add(report, error, str(job.source))
                if not (error or alone or options.as_json):
                    print_line(report)
            if not alone:
                progress.subject(f"{number} of {len(jobs)} done")
    return done


def _conclude(done: Done, options: RunOptions, alone: bool) -> int:
    """Print or write the reports, and how many there are of several volumes; returns the exit code."""
    from ..report import write_report

    if alone and done.reports:
        (print_json if options.as_json else print_segmentation)(done.reports[0])
        return done.code or report_nothing_found(done.nothing)
    if options.report and done.reports:
        with OutputFiles() as files:
            write_report(files.begin(options.report), done.reports)
    if options.as_json:
        print_json(done.reports)
    code = report_nothing_found(done.nothing)
    segmented = sum("error" not in report for report in done.reports)
    warn(f"{segmented} of {len(done.reports)} volumes segmented.")
    return done.code or code


@contextlib.contextmanager
def _engine(package: ModelPackage, options: RunOptions) -> Iterator[Engine | WaitingEngine]:
    """The segmenter: on this computer, or on the server of the options."""
    if options.server:
        with segmenter_on(options.server) as segmenter:
            yield WaitingEngine(package, segmenter)
        return
    from ..inference.attention import gated_views
    from ..inference.engine import Engine

    engine = Engine(package, device=options.device)
    if options.attention:
        gated_views(engine, options.fast)  # fails here, before anything is segmented in vain
    yield engine


def _plan(volumes: Sequence[Path], options: RunOptions, card: ModelCard) -> list[FileJob]:
    """What is segmented, and where it goes; errors as of :func:`.file_jobs.plan_jobs`."""
    slices = card.takes_slices
    jobs = plan_jobs(sources_of(volumes, card), options.output, options.file_format, slices, options.series)
    if not options.bids:
        return jobs
    if options.file_format not in (None, "nii.gz"):
        raise UsageError("BIDS derivatives are NIfTI files.", f"Leave out --format {options.file_format}.")
    paths = derivative_paths(options.output, case_names([job.source for job in jobs]))
    return [FileJob(source, path) for source, path in paths.items()]


def _exports(
    options: RunOptions,
    card: ModelCard,
    jobs: Sequence[FileJob],
    names: dict[Path, str],
    marks: Sequence[dict[str, Any]],
) -> list[Export]:
    """What is made besides segmentations; errors as of each."""
    exports: list[Export] = []
    if options.bids:
        paths = {job.source: job.output for job in jobs}
        exports.append(Derivatives(options.output, card, paths, series=options.series))
        refuse_other_scans(paths, options.series)
    if options.stats:
        exports.append(StatsFiles(options.stats, names))
    if options.table:
        exports.append(Table(options.table, card, names))
    if options.page:
        exports.append(Pages(options.page, names))
    if options.sheet:
        exports.append(Sheet(options.sheet, card, names, options.series, marks))
    return exports


def _passed(marks: Sequence[dict[str, Any]], names: dict[Path, str], model: str, options: RunOptions) -> set[Path]:
    """The volumes to skip, because a reviewer has passed this model's result for them.

    Raises:
        UsageError: a table or report would be replaced by one without them.
    """
    done, changed = passed(marks, names, model, options.series)
    if 0 < len(done) < len(names):  # if all passed, nothing is written
        _refuse_to_lose_rows(options)
    for volume in changed:
        warn(f"{volume}: it has changed since it passed, and is segmented again.")
    if marks:
        warn(f"{len(done)} of {len(names)} volumes passed before and are skipped.")
    return done


def _refuse_to_lose_rows(options: RunOptions) -> None:
    """Refuse files of a whole batch that are there already, where only a part of it is segmented."""
    for option, path in {"--table": options.table, "--report": options.report}.items():
        if path and path.exists():
            raise UsageError(
                f"{path} exists, and would be replaced by one without the volumes that passed.",
                f"Give {option} another name for the volumes that are segmented again, or leave it out.",
            )
