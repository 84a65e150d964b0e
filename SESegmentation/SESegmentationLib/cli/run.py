"""``sesegment run``: volumes in, segmentations, reports and pictures out."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CancelledError, DeviceError, ModelError, UsageError
from ..inference.pictures import SLICES
from ..models import find_model
from ..outputs.files import OutputFiles, check_writable
from .entry import as_segmentation_error, report_failure
from .jobs import Job, plan_jobs
from .show import ProgressBar, print_findings, print_json, print_segmentation

if TYPE_CHECKING:
    import SimpleITK as sitk

    from ..inference.engine import Engine


@dataclass(frozen=True)
class RunOptions:
    """Options of ``run``; see its help.

    Attributes:
        model: name or folder.
        output: file or folder.
        file_format: "seg.nrrd", "nii.gz", "png" or None.
        device: "auto", "cpu", "cuda" or "mps".
        roi: label file or Slicer's ROI.
        report: JSON or CSV file.
        picture: PNG file, for one volume only.
        fast: fewer views.
        low_memory: smaller pieces.
        as_json: print the report instead of a table.
    """

    model: str
    output: Path
    file_format: str | None = None
    device: str = "auto"
    roi: Path | None = None
    report: Path | None = None
    picture: Path | None = None
    fast: bool = False
    low_memory: bool = False
    as_json: bool = False


def run(volumes: Sequence[Path], options: RunOptions) -> int:
    """Segment ``volumes``. One that fails among several does not keep the others from being done.

    Returns:
        0, or the exit code of the first volume that failed.

    Raises:
        SegmentationError: options, model, device or region cannot be used, or the only volume fails.
    """
    package = find_model(options.model)
    jobs = plan_jobs(volumes, options.output, options.file_format, package.card.input.get("kind") == SLICES)
    if options.picture and len(jobs) > 1:
        raise UsageError("--picture is for one volume.", f"Segment the {len(jobs)} volumes without it.")
    if options.picture and options.picture.suffix.lower() != ".png":
        raise UsageError(f"{options.picture} does not end in .png.", "Choose another name for --picture.")
    for path in (jobs[0].output, options.report, options.picture):
        if path:
            check_writable(path)
    # threads that wait by spinning slow each other down tenfold where other programs use the cores too
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from ..inference.engine import Engine
    from ..inference.roi import read_roi
    from ..outputs.report import write_report

    reports, first_code, alone = [], 0, len(jobs) == 1
    with ProgressBar() as progress:
        region = read_roi(options.roi) if options.roi else None
        engine = Engine(package, device=options.device)
        for number, job in enumerate(jobs, start=1):
            progress.subject(f"{number}/{len(jobs)} {job.source.name}" if not alone else job.source.name)
            report, code = _attempt(engine, job, region, options, progress, alone)
            first_code = first_code or code
            reports.append(report)
            if not alone and not options.as_json:
                with progress.paused():
                    _print_line(report)
    if alone:
        (print_json if options.as_json else print_segmentation)(reports[0])
        return first_code
    if options.report:
        with OutputFiles() as files:
            write_report(files.begin(options.report), reports)
    if options.as_json:
        print_json(reports)
    done = sum("error" not in report for report in reports)
    print(f"{done} of {len(reports)} volumes segmented.", file=sys.stderr)
    return first_code


def _attempt(
    engine: Engine, job: Job, region: sitk.Image | None, options: RunOptions, progress: ProgressBar, alone: bool
) -> tuple[dict[str, Any], int]:
    """Report of one volume, and 0; of one among several that fails, what is to be said of it, and its exit code."""
    try:
        return _segment(engine, job, region, options, progress, alone), 0
    except (ModelError, DeviceError, CancelledError):  # they concern every volume
        raise
    except Exception as error:
        if alone:
            raise
        known = as_segmentation_error(error)
        failure = {"code": known.code, "cause": known.cause, "remedy": known.remedy}
        with progress.paused():
            code = report_failure(known, subject=str(job.source))
        return {"input": str(job.source), "output": None, "error": failure}, code


def _segment(
    engine: Engine, job: Job, region: sitk.Image | None, options: RunOptions, progress: ProgressBar, alone: bool
) -> dict[str, Any]:
    """Segment one volume and write what belongs to it; its report."""
    from ..inference.pictures import pixel_size
    from ..inference.reading import read_volume
    from ..outputs.picture import write_picture
    from ..outputs.report import build_report, write_report
    from ..outputs.segnrrd import write_segmentation

    begin = time.perf_counter()
    progress("reading", 0.0, None)
    image = read_volume(job.source, pixel_size(engine.package.card.input, engine.package.card.spacing))
    read = time.perf_counter()
    result = engine.segment(image, roi=region, fast=options.fast, low_memory=options.low_memory, progress=progress)
    segmented = time.perf_counter()
    structures = [structure.label for structure in result.structures]
    with OutputFiles() as files:
        write_segmentation(files.begin(job.output), result.labels, structures)
        if options.picture and alone:
            title = f"{job.source.name} · {result.model.title}"
            volumes = [structure.volume_ml for structure in result.structures]
            write_picture(files.begin(options.picture), image, result.labels, structures, volumes, title)
        written = time.perf_counter()
        timings = {"reading": read - begin, "writing": written - segmented}
        report = build_report(result, image, job.source, job.output, timings)
        if options.report and alone:
            write_report(files.begin(options.report), report)
    return report


def _print_line(report: dict[str, Any]) -> None:
    """One of several volumes that is done, in one line, after what was noticed."""
    if "error" not in report:
        print_findings(report, subject=f"{report['input']}: ")
        print(f"{report['input']} -> {report['output']}", flush=True)
