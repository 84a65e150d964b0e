"""Volumes segmented one after the other, or several small ones at once; what is written of each, and how it failed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from SESegmentationExport import Export

from ..client import WaitingEngine
from ..errors import CancelledError, DeviceError, ModelError, SegmentationError, ServerError
from ..files import OutputFiles, check_writable
from ..io.writing import write_image
from ..progress import Progress, no_progress
from ..result import SegmentOptions
from . import as_user_error, report_failure
from .file_jobs import FileJob, all_small, read_source, side_by_side, write_result
from .run_options import RunOptions
from .show import ProgressBar

if TYPE_CHECKING:
    import SimpleITK as sitk

    from ..inference.engine import Engine

#: the report of a volume, and the error if it failed
JobOutcome = tuple[dict[str, Any], SegmentationError | None]


@dataclass
class Done:
    """What became of several volumes.

    Attributes:
        reports: of all.
        nothing: of those in which nothing was found.
        code: exit code of the first that failed, or 0.
    """

    reports: list[dict[str, Any]] = field(default_factory=list)
    nothing: list[dict[str, Any]] = field(default_factory=list)
    code: int = 0

    def add(self, report: dict[str, Any], error: SegmentationError | None, subject: str) -> None:
        """Count a volume, which messages call ``subject``; its error is shown on stderr."""
        self.reports.append(report)
        if error:
            code = report_failure(error, subject)
            self.code = self.code or code
        elif not any(structure["voxels"] for structure in report["structures"]):
            self.nothing.append(report | {"input": subject})


def segment_all(
    engine: Engine | WaitingEngine,
    jobs: Sequence[FileJob],
    region: sitk.Image | None,
    options: RunOptions,
    progress: ProgressBar,
    alone: bool = False,
    exports: Sequence[Export] = (),
) -> Iterator[tuple[FileJob, JobOutcome]]:
    """Every job with its outcome, in order; small volumes on a CPU several at once.

    Args:
        engine: has the model.
        jobs: what to segment.
        region: where to look only.
        options: see there.
        progress: called with phase, fraction and seconds left.
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


def _read(engine: Engine | WaitingEngine, job: FileJob, series: str | None, alone: bool) -> _Read | SegmentationError:
    """The volume of a job; of one among several that cannot be read, why."""
    from ..io.reading import read_volume

    begin = time.perf_counter()
    try:
        pixel_mm = engine.package.card.pixel_mm
        image = read_volume(job.source, pixel_mm, job.series or series)
    except Exception as error:
        return _failure(error, alone)
    return _Read(image, time.perf_counter() - begin)


def _finish(
    engine: Engine | WaitingEngine,
    job: FileJob,
    read: _Read | SegmentationError,
    region: sitk.Image | None,
    options: RunOptions,
    progress: Progress,
    alone: bool,
    exports: Sequence[Export],
) -> JobOutcome:
    """Report of one volume; of one among several that fails, what is to be said of it."""
    if isinstance(read, _Read):
        try:
            return _segment(engine, job, read, region, options, progress, alone, exports), None
        except Exception as error:
            read = _failure(error, alone)
    reported = {"code": read.code, "cause": read.cause, "remedy": read.remedy}
    return {"input": str(job.source), "output": None, "error": reported}, read


def _failure(error: Exception, alone: bool) -> SegmentationError:
    """What one volume among several failed by; raised again where it concerns all of them."""
    if alone or isinstance(error, (ModelError, DeviceError, ServerError, CancelledError)):
        raise error
    return as_user_error(error)


def _segment(
    engine: Engine | WaitingEngine,
    job: FileJob,
    read: _Read,
    region: sitk.Image | None,
    options: RunOptions,
    progress: Progress,
    alone: bool,
    exports: Sequence[Export],
) -> dict[str, Any]:
    """Segment one volume and write what belongs to it; its report."""
    from ..io.drawing import write_picture
    from ..report import build_report, with_samples, write_report

    image = read.image
    check_writable(job.output)
    source = read_source(job, options.dicom, options.series)
    chosen = SegmentOptions(region, options.fast, options.low_memory, options.doubt is not None, options.grid)
    result = engine.segment(image, chosen, progress=progress)
    segmented = time.perf_counter()
    spread = attention = None
    if options.samples and not isinstance(engine, WaitingEngine):
        from ..inference.sampling import sample_structures

        kind, count = options.sampling, options.samples
        spread = sample_structures(engine, image, chosen, kind=kind, count=count, progress=progress)
    sampled = time.perf_counter()
    if options.attention and isinstance(engine, WaitingEngine):
        attention = engine.attention(image, chosen, progress)
    elif options.attention and not isinstance(engine, WaitingEngine):
        from ..inference.attention import attention_map

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
        report = build_report(result, image, job.source, job.output, timings, chosen)
        if spread is not None:
            report = with_samples(report, spread, options.sampling, options.samples, sampled - segmented)
        if options.report and alone:
            write_report(files.begin(options.report), report)
        for export in exports:
            export.take(files, job.source, image, result, report)
    return report
