"""``sesegment run``: volumes in, segmentations, reports and pictures out."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SESegmentationExport import Export
from SESegmentationExport.bids import Derivatives, derivative_paths, sources_of
from SESegmentationExport.page import Pages
from SESegmentationExport.sheet import Sheet, passed, read_marks
from SESegmentationExport.tables import StatsFiles, Table

from ..client import WaitingEngine
from ..client.reading import reading_apart, reading_process
from ..errors import CancelledError, DeviceError, ModelError, SegmentationError, ServerError, UsageError
from ..files import OutputFiles, check_writable, refuse_overwriting
from ..io.formats import SLICES
from ..io.writing import MAP_ENDINGS, write_image
from ..models import find_model
from ..progress import Progress, no_progress
from ..report import check_report_name
from ..result import DicomOptions, Grid, SegmentOptions
from . import as_segmentation_error, report_failure, warn
from .jobs import (
    Job,
    all_small,
    case_names,
    check_dicom,
    plan_jobs,
    read_source,
    refuse_on_server,
    segmenter_on,
    side_by_side,
    write_result,
)
from .show import ProgressBar, print_json, print_line, print_segmentation, require_consent, tell_of_nothing

if TYPE_CHECKING:
    import SimpleITK as sitk

    from ..client.servers import Server
    from ..inference.engine import Engine
    from ..inference.explanations import Kind
    from ..models import ModelCard, ModelPackage

#: the report of a volume, and the error if it failed
Outcome = tuple[dict[str, Any], SegmentationError | None]


@dataclass(frozen=True)
class RunOptions:
    """Options of ``run``; see its help.

    Attributes:
        model: name or folder.
        output: file or folder.
        bids: the folder is a BIDS dataset of derivatives.
        file_format: "seg.nrrd", "nii.gz", "dcm", "png" or None.
        device: "auto", "cpu", "cuda" or "mps".
        server: segments, instead of this computer.
        roi: label file or Slicer's ROI.
        series: number, description or UID of one of several DICOM series.
        report: JSON or CSV file.
        stats: file in the layout of FreeSurfer's aseg.stats, or a folder for several.
        table: TSV file with a row for each volume.
        page: HTML or PDF file about the patient's scan, or a folder for several.
        sheet: folder for the page to check a batch by.
        skip_passed: marks that were saved from such a page.
        picture: PNG file, for one volume only.
        doubt: file for the map of doubt, for one volume only.
        attention: file for what the networks look at, for one volume only.
        samples: how many samples are drawn to see how far they differ; 0 for none.
        sampling: "augmentation" or "dropout".
        grid: of the results: "input", "model", or "auto" for the model's where slices are thick.
        fast: fewer views.
        low_memory: smaller pieces.
        as_json: print the report instead of a table.
        accept_licence: the user accepts the terms of weights that are not free.
        dicom: of results that are written as DICOM.
    """

    model: str
    output: Path
    bids: bool = False
    file_format: str | None = None
    device: str = "auto"
    server: Server | None = None
    roi: Path | None = None
    series: str | None = None
    report: Path | None = None
    stats: Path | None = None
    table: Path | None = None
    page: Path | None = None
    sheet: Path | None = None
    skip_passed: Path | None = None
    picture: Path | None = None
    doubt: Path | None = None
    attention: Path | None = None
    samples: int = 0
    sampling: Kind = "augmentation"
    grid: Grid = "auto"
    fast: bool = False
    low_memory: bool = False
    as_json: bool = False
    accept_licence: bool = False
    dicom: DicomOptions = DicomOptions()


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
    skipped = _passed(marks, names, package.card.name, options.series)
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
    if options.report:
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


def _plan(volumes: Sequence[Path], options: RunOptions, card: ModelCard) -> list[Job]:
    """What is segmented, and where it goes; errors as of :func:`.jobs.plan_jobs`."""
    jobs = plan_jobs(sources_of(volumes, card), options.output, options.file_format, card.input.get("kind") == SLICES)
    if not options.bids:
        return jobs
    if options.file_format not in (None, "nii.gz"):
        raise UsageError("BIDS derivatives are NIfTI files.", f"Leave out --format {options.file_format}.")
    paths = derivative_paths(options.output, case_names([job.source for job in jobs]))
    return [Job(source, path) for source, path in paths.items()]


def _exports(
    options: RunOptions,
    card: ModelCard,
    jobs: Sequence[Job],
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


def _passed(marks: Sequence[dict[str, Any]], names: dict[Path, str], model: str, series: str | None) -> set[Path]:
    """The volumes to skip, because a reviewer has passed this model's result for them."""
    done, changed = passed(marks, names, model, series)
    for volume in changed:
        warn(f"{volume}: it has changed since it passed, and is segmented again.")
    if marks:
        warn(f"{len(done)} of {len(names)} volumes passed before and are skipped.")
    return done


def segment_all(
    engine: Engine | WaitingEngine,
    jobs: Sequence[Job],
    region: sitk.Image | None,
    options: RunOptions,
    progress: ProgressBar,
    alone: bool = False,
    exports: Sequence[Export] = (),
) -> Iterator[tuple[Job, Outcome]]:
    """Every job with its outcome, in order; small volumes on a CPU several at once.

    Args:
        engine: has the model.
        jobs: what to segment.
        region: where to look only.
        options: see there.
        progress: is told.
        alone: there is one volume only: its failure is raised, and the options for single volumes apply.
        exports: get each volume with its result, in whatever thread has it.
    """
    # sampling drops channels of the networks, which parallel volumes would share
    plain = not alone and not isinstance(engine, WaitingEngine) and engine.device.type == "cpu"
    if (
        plain
        and not options.low_memory
        and not options.samples
        and all_small([job.source for job in jobs], engine.card.spacing)
    ):
        progress.subject("the first volumes")
        finish = partial(
            _finish, engine, region=region, options=options, progress=no_progress, alone=False, exports=exports
        )
        # volumes are read here, one by one: reading takes the error stream away from ITK, for all threads
        tasks = ((job, _read(engine, job, options.series, alone=False)) for job in jobs)
        yield from zip(jobs, side_by_side(lambda task: finish(*task), tasks), strict=True)
        return
    for number, job in enumerate(jobs, start=1):
        progress.subject(job.source.name if alone else f"{number}/{len(jobs)} {job.source.name}")
        progress("reading", 0.0, None)
        read = _read(engine, job, options.series, alone)
        yield job, _finish(engine, job, read, region, options, progress, alone, exports)


@dataclass(frozen=True)
class _Read:
    """A volume, and the seconds that it took to read it."""

    image: sitk.Image
    seconds: float


def _read(engine: Engine | WaitingEngine, job: Job, series: str | None, alone: bool) -> _Read | SegmentationError:
    """The volume of a job; of one among several that cannot be read, why."""
    from ..io.formats import pixel_size
    from ..io.reading import read_volume

    begin = time.perf_counter()
    try:
        pixel_mm = pixel_size(engine.package.card.input, engine.package.card.spacing)
        image = read_volume(job.source, pixel_mm, job.series or series)
    except Exception as error:
        return _failure(error, alone)
    return _Read(image, time.perf_counter() - begin)


def _finish(
    engine: Engine | WaitingEngine,
    job: Job,
    read: _Read | SegmentationError,
    region: sitk.Image | None,
    options: RunOptions,
    progress: Progress,
    alone: bool,
    exports: Sequence[Export],
) -> Outcome:
    """Report of one volume; of one among several that fails, what is to be said of it."""
    if isinstance(read, _Read):
        try:
            return _segment(engine, job, read, region, options, progress, alone, exports), None
        except Exception as error:
            read = _failure(error, alone)
    told = {"code": read.code, "cause": read.cause, "remedy": read.remedy}
    return {"input": str(job.source), "output": None, "error": told}, read


def _failure(error: Exception, alone: bool) -> SegmentationError:
    """What one volume among several failed by; raised again where it concerns all of them."""
    if alone or isinstance(error, (ModelError, DeviceError, ServerError, CancelledError)):
        raise error
    return as_segmentation_error(error)


def _segment(
    engine: Engine | WaitingEngine,
    job: Job,
    read: _Read,
    region: sitk.Image | None,
    options: RunOptions,
    progress: Progress,
    alone: bool,
    exports: Sequence[Export],
) -> dict[str, Any]:
    """Segment one volume and write what belongs to it; its report."""
    from ..io.writing import write_picture
    from ..report import build_report, with_samples, write_report

    image = read.image
    check_writable(job.output)
    source = read_source(job, options.dicom, options.series)
    chosen = SegmentOptions(region, options.fast, options.low_memory, options.doubt is not None, options.grid)
    result = engine.segment(image, chosen, progress=progress)
    segmented = time.perf_counter()
    spread = attention = None
    if options.samples and not isinstance(engine, WaitingEngine):
        from ..inference.explanations import sample_structures

        kind, count = options.sampling, options.samples
        spread = sample_structures(engine, image, chosen, kind=kind, count=count, progress=progress)
    sampled = time.perf_counter()
    if options.attention and isinstance(engine, WaitingEngine):
        attention = engine.attention(image, chosen, progress)
    elif options.attention and not isinstance(engine, WaitingEngine):
        from ..inference.explanations import attention_map

        attention = attention_map(engine, image, chosen, progress)
    attended = time.perf_counter()
    structures = [structure.label for structure in result.structures]
    with OutputFiles() as files:
        write_result(files, job, image, result, source, options.dicom)
        if options.picture and alone:
            title = f"{job.source.name} · {result.model.title}"
            volumes = [structure.volume_ml for structure in result.structures]
            write_picture(files.begin(options.picture), image, result.labels, structures, volumes, title)
        if options.doubt and alone and result.doubt is not None:
            write_image(files.begin(options.doubt), result.doubt)
        if options.attention and attention is not None and alone:
            write_image(files.begin(options.attention), attention)
        timings = {"reading": read.seconds, "writing": time.perf_counter() - attended}
        report = build_report(result, image, job.source, job.output, timings)
        if spread is not None:
            report = with_samples(report, spread, options.sampling, options.samples, sampled - segmented)
        if options.report and alone:
            write_report(files.begin(options.report), report)
        for export in exports:
            export.take(files, job.source, image, result, report)
    return report
