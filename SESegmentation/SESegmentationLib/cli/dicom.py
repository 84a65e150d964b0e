"""``sesegment dicom``: a folder of DICOM series in, a segmentation and a report of each out; models are chosen by tags.

For archives and for containers started by a DICOM router: nothing is asked, and unsuitable series are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..client.reading import reading_apart
from ..errors import InputError, UsageError
from ..files import check_writable, refuse_overwriting
from ..io.dicom.series import Found, Series, grouped, refuse_faults
from ..models import ModelPackage, find_model, list_models
from . import report_failure, say, warn
from .file_jobs import FileJob, check_dicom, prepare_to_segment
from .model_choice import choose_for_series
from .run_options import RunOptions
from .segmenting import Done, segment_all
from .shared_options import require_consent
from .show import ProgressBar, print_findings, print_json, report_nothing_found


@reading_apart()
def segment_folder(source: Path, target: Path, options: RunOptions, names: Sequence[str]) -> int:
    """Segment every series in ``source`` that a model can segment.

    Into ``target`` go, named by the UID of the series and the model, segmentation (``.seg.dcm``), report (``.sr.dcm``)
    and, where wanted, picture (``.sc.dcm``).

    Args:
        source: a folder, also with subfolders, or a file.
        target: a folder; made where absent.
        options: of ``run``; model and output are ignored.
        names: models to choose from; all that are installed where there are none.

    Returns:
        0, or the exit code of the first series that failed, else of one in which nothing was found.

    Raises:
        SegmentationError: there is no series, or none that a model takes; a model or the device cannot be used.
    """
    if not source.exists():
        raise InputError(f"There is no file or folder {source}.", "Check the name and the folder.")
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is not a folder.", "Name a folder for the results.")
    packages = [find_model(name) for name in names] or list_models()
    for package in packages if names else ():
        require_consent(package.card, options.accept_licence)
    found = Found.at(source)
    every = grouped(found.headers)
    if not every:
        refuse_faults(found.faults)
        raise InputError(f"{source} holds no DICOM images.", "Give the folder that contains the files of the series.")
    plan = _Plan.of(every, packages, target, bool(names), options.accept_licence)
    if not plan.jobs:
        count = len(every)
        raise InputError(
            f"No model can segment {'the series' if count == 1 else f'any of the {count} series'} in {source}.",
            "Name a model with --model, or see what each segments: sesegment models.",
        )
    jobs = [job for group in plan.jobs.values() for job in group]
    extras = check_dicom(jobs, options.dicom)
    refuse_overwriting([source], [*(job.output for job in jobs), *extras])
    check_writable(jobs[0].output)
    prepare_to_segment()
    code = 0
    for fault in found.faults:
        if not any(series.is_meant(fault) for series in every):
            code = report_failure(InputError(f"{fault.path} {fault.what}.", "Copy or export it again."))
    done = _segment(plan, packages, options)
    if options.as_json:
        print_json([*plan.skipped, *done.reports])
    segmented = sum("structures" in report for report in done.reports)
    warn(f"{segmented} of {len(every)} series segmented.")
    return code or done.code or report_nothing_found(done.nothing)


@dataclass
class _Plan:
    """What is done with the series of a folder.

    Attributes:
        jobs: by the name of their model.
        subjects: what each series is called in messages, by its UID.
        skipped: reports of the series that no model takes.
    """

    jobs: dict[str, list[FileJob]] = field(default_factory=dict)
    subjects: dict[str | None, str] = field(default_factory=dict)
    skipped: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(
        cls, every: Sequence[Series], packages: Sequence[ModelPackage], target: Path, named: bool, accepted: bool
    ) -> _Plan:
        """Choose a model for each series; arguments as of :func:`.choose_for_series`, results go into ``target``."""
        plan = cls()
        for series in every:
            chosen = choose_for_series(series, packages, named, accepted)
            if isinstance(chosen, str):
                warn(f"Skipped: series {series}: {chosen}.")
                plan.skipped.append({"series": series.uid, "skipped": chosen})
                continue
            plan.subjects[series.uid] = f"series {series}"
            output = target / f"{series.uid}_{chosen.card.name}.seg.dcm"
            plan.jobs.setdefault(chosen.card.name, []).append(FileJob(folder_of(series), output, series.uid))
        return plan


def _segment(plan: _Plan, packages: Sequence[ModelPackage], options: RunOptions) -> Done:
    """Do the jobs of each model, one model loaded at a time; what became of each is shown on the way."""
    from ..inference.engine import Engine  # torch is loaded here

    known = {package.card.name: package for package in packages}
    done = Done()
    for name, group in plan.jobs.items():
        with ProgressBar() as progress:
            engine = Engine(known[name], device=options.device)
            for job, (report, error) in segment_all(engine, group, None, options, progress):
                subject = plan.subjects[job.series]
                with progress.paused():
                    done.add(report | {"series": job.series}, error, subject)
                    if error:
                        continue
                    print_findings(report, f"{subject}: ")
                    if not options.as_json:
                        say(f"{subject} -> {name} -> {job.output}")
    return done


def folder_of(series: Series) -> Path:
    """The file of a series, or the folder that holds all of its files."""
    paths = [header.path for header in series.headers]
    return paths[0] if len(paths) == 1 else Path(os.path.commonpath([path.parent for path in paths]))
