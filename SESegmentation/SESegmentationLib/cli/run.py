"""``sesegment run``: volumes in, segmentations, reports and pictures out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SESegmentationExport import Export
from SESegmentationExport.bids import Derivatives, derivative_paths, sources_of
from SESegmentationExport.page import Pages
from SESegmentationExport.sheet import Sheet, passed, read_marks
from SESegmentationExport.tables import StatsFiles, Table

from ..client import WaitingEngine
from ..client.reading import reading_apart, reading_process
from ..errors import UsageError
from ..files import OutputFiles, check_writable, refuse_overwriting
from ..io.formats import SLICES
from ..io.writing import MAP_ENDINGS
from ..models import find_model
from ..report import check_report_name
from . import report_failure, warn
from .file_jobs import FileJob, case_names, check_dicom, plan_jobs, refuse_on_server, segmenter_on
from .run_options import RunOptions
from .segmenting import segment_all
from .show import ProgressBar, print_json, print_line, print_segmentation, require_consent, tell_of_nothing

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
    alone, names = len(jobs) == 1, case_names([job.source for job in jobs])
    maps = {"--doubt": options.doubt, "--attention": options.attention}
    for option, path in {"--picture": options.picture, **maps}.items():
        if path and not alone:
            raise UsageError(f"{option} is for one volume only.", f"Segment the {len(jobs)} volumes without it.")
    if options.picture and options.picture.suffix.lower() != ".png":
        raise UsageError(f"{options.picture} does not end in .png.", "Choose another name for --picture.")
    for option, path in maps.items():
        if path and not path.name.lower().endswith(MAP_ENDINGS):
            raise UsageError(f"{path} does not end in {' or '.join(MAP_ENDINGS)}.", f"Choose another for {option}.")
    marks = read_marks(options.skip_passed) if options.skip_passed else []
    exports = _exports(options, package.card, jobs, names, marks)
    extras = [path for path in (options.report, options.picture, *maps.values()) if path]
    extras += check_dicom(jobs, options.dicom)
    outputs = [path for export in exports for path in export.outputs]
    read = [*(job.source for job in jobs), options.roi, options.skip_passed, *package.files]
    refuse_overwriting(read, [*(job.output for job in jobs), *extras, *outputs])
    places = [jobs[0].output] * (options.bids is None)  # else the dataset's folder is checked
    for path in (*places, *extras, *(export.place or export.outputs[0] for export in exports)):
        check_writable(path)
    check_report_name(options.report)
    skipped = _passed(marks, names, package.card.name, options)
    jobs = [job for job in jobs if job.source not in skipped]
    # threads that wait by spinning slow each other down tenfold where other programs use the cores too
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    reading_process().start()  # while libraries are imported here
    from ..inference.roi import read_roi
    from ..report import write_report

    reports, nothing, first_code = [], [], 0
    with contextlib.ExitStack() as opened:
        for export in exports:
            opened.enter_context(export)
        progress = opened.enter_context(ProgressBar())
        region = read_roi(options.roi) if options.roi else None
        engine = opened.enter_context(_engine(package, options))
        outcomes = segment_all(engine, jobs, region, options, progress, alone, exports)
        for number, (job, (report, error)) in enumerate(outcomes, start=1):
            reports.append(report)
            for export in exports:
                export.add(job.source, report)
            with progress.paused():
                if error:
                    code = report_failure(error, subject=str(job.source))
                    first_code = first_code or code
                elif not alone and not options.as_json:
                    print_line(report)
                if not error and not any(structure["voxels"] for structure in report["structures"]):
                    nothing.append(report)
            if not alone:
                progress.subject(f"{number} of {len(jobs)} done")
    if alone and reports:
        (print_json if options.as_json else print_segmentation)(reports[0])
        return first_code or tell_of_nothing(nothing)
    if options.report and reports:
        with OutputFiles() as files:
            write_report(files.begin(options.report), reports)
    if options.as_json:
        print_json(reports)
    done = sum("error" not in report for report in reports)
    code = tell_of_nothing(nothing)
    warn(f"{done} of {len(reports)} volumes segmented.")
    return first_code or code


@contextlib.contextmanager
def _engine(package: ModelPackage, options: RunOptions) -> Iterator[Engine | WaitingEngine]:
    """The segmenter: on this computer, or on the server of the options."""
    if options.server:
        with segmenter_on(options.server) as segmenter:
            yield WaitingEngine(package, segmenter)
        return
    from ..inference.engine import Engine
    from ..inference.explanations import gated_views

    engine = Engine(package, device=options.device)
    if options.attention:
        gated_views(engine, options.fast)  # fails here, before anything is segmented in vain
    yield engine


def _plan(volumes: Sequence[Path], options: RunOptions, card: ModelCard) -> list[FileJob]:
    """What is segmented, and where it goes; errors as of :func:`.file_jobs.plan_jobs`."""
    slices = card.input.get("kind") == SLICES
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
        exports.append(Derivatives(options.output, card, {job.source: job.output for job in jobs}))
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
