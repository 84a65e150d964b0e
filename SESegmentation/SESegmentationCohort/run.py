"""``sesegment cohort``: all scans of a cohort, from the list of them to the table of results."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from SESegmentationExport.bids import Derivatives, derivative_paths
from SESegmentationLib.cli import report_failure, warn
from SESegmentationLib.cli.file_jobs import all_small, check_dicom
from SESegmentationLib.cli.shared_options import require_consent
from SESegmentationLib.cli.show import ProgressBar, duration
from SESegmentationLib.errors import NothingFoundError, SegmentationError, UsageError
from SESegmentationLib.files import OutputFiles, check_writable, refuse_overwriting
from SESegmentationLib.files.staging import remove_leftovers
from SESegmentationLib.models import ModelPackage, find_model
from SESegmentationLib.plain_text import counted
from SESegmentationLib.progress import note_if_interrupted

from . import summary
from .cases import Cohort, CohortCase, find_cohort
from .dispatch import Dispatcher, Lane
from .records import CHANGED_FOLDER, FAILED, NOTHING, Records
from .runner import CaseOutcome
from .settings import CohortSettings, model_key

RESUME = "Run the same command with --resume to go on."
#: between two lines of progress where no terminal shows a bar, in s
_OFTEN_S = 60.0


@dataclass(frozen=True)
class WorkDistribution:
    """What a cohort is distributed over.

    Attributes:
        workers: scans that are segmented at once; None for as many as suit the computer or cluster.
        shard: number, from 1, and count of the part that is done here.
        ray: "local" or the address of a cluster; None: processes on this computer.
    """

    workers: int | None = None
    shard: tuple[int, int] | None = None
    ray: str | None = None


def run_cohort(source: Path, settings: CohortSettings, distribution: WorkDistribution, accept_licence: bool) -> int:
    """Segment all scans of ``source``; one that fails does not stop the others.

    Returns:
        0, or the exit code of the first scan that failed, else of one in which nothing was found.

    Raises:
        SegmentationError: input, options, model, device or the folder of the results cannot be used.
    """
    package = find_model(settings.model)
    require_consent(package.card, accept_licence)
    if settings.out.exists() and not settings.out.is_dir():
        raise UsageError(f"{settings.out} is not a folder.", "Name a folder for the results with -o.")
    if distribution.ray:  # processes of a cluster have other working folders
        source, out = source.absolute(), settings.out.absolute()
        model = str(package.path.absolute()) if Path(settings.model).is_dir() else settings.model
        settings = replace(settings, out=out, model=model)
    whole = find_cohort(source, package, settings.out)
    mine = whole.shard(*distribution.shard) if distribution.shard else whole
    settings = replace(settings, model_key=model_key(package))
    records = Records(settings.out)
    _refuse_other_records(records, mine, settings, package, distribution)
    _prepare(source, mine.cases, settings, records, package)
    for reason in mine.skipped:
        warn(reason)
    if reason := describe_changed_settings(mine.cases, settings, records):
        warn(reason)
    tally = _Tally(len(mine.cases))
    try:
        with note_if_interrupted(RESUME), contextlib.ExitStack() as opened:
            if distribution.ray and mine.cases:
                from .cluster import cluster

                opened.enter_context(cluster(distribution.ray))
            bar = opened.enter_context(ProgressBar())
            for small, cases in _by_size(mine.cases, package):
                lanes = _lanes(settings, distribution, small)
                _do(cases, lanes, records, settings, package, tally, bar)
    except SegmentationError as error:
        if not tally.outcomes:
            raise
        raise type(error)(error.cause, f"{error.remedy} {RESUME}".strip()) from error
    finally:
        _clear(mine.cases, settings, records)
    return _conclude(whole, mine, records, package, tally, distribution)


def _refuse_other_records(
    records: Records, mine: Cohort, settings: CohortSettings, package: ModelPackage, distribution: WorkDistribution
) -> None:
    """Refuse a folder with records that this run does not continue: results of two cohorts would be mixed."""
    there = any(records.path(case.name).exists() for case in mine.cases) if distribution.shard else records.exist()
    if there and not settings.resume:
        raise UsageError(
            f"{settings.out} already holds a cohort.",
            "Continue it with --resume, which skips what is done; or name another folder with -o.",
        )
    if (first := next(records.all(), None)) and first.model != package.card.name:
        raise UsageError(
            f"{settings.out} holds a cohort by the model {first.model}, not {package.card.name}.",
            "Name another folder with -o.",
        )


def describe_changed_settings(cases: Sequence[CohortCase], settings: CohortSettings, records: Records) -> str:
    """A sentence naming the settings that differ from those of earlier results; empty if none do."""
    known = [record for record in (records.read(case.name) for case in cases) if record and record.state != FAILED]
    others = [record for record in known if record.key != settings.key(record.content)]
    if not others:
        return ""
    before = [record.settings for record in others if record.settings]
    changed = [
        name for name, value in settings.recorded.items() if any(earlier.get(name) != value for earlier in before)
    ]
    what = ", ".join(changed) or "options, or the files of the model"
    return f"{len(others)} of {len(cases)} scans are segmented again, as these differ from before: {what}."


def _prepare(
    source: Path, cases: Sequence[CohortCase], settings: CohortSettings, records: Records, package: ModelPackage
) -> None:
    """See that all can be written, and write over nothing that is read; remove what a killed run left."""
    if settings.bids and settings.file_format not in (None, "nii.gz"):
        raise UsageError("BIDS derivatives are NIfTI files.", f"Leave out --format {settings.file_format}.")
    if settings.file_format == "png" and not package.card.takes_slices:
        raise UsageError("Only models of single pictures write PNG files.", "Choose --format nii.gz or seg.nrrd.")
    names = {case.identity: case.name for case in cases}
    paths = derivative_paths(settings.out, names) if settings.bids else {}
    jobs = [settings.job(case) for case in cases if not case.fault]
    written = [job.output for job in jobs] + check_dicom(jobs, settings.dicom)
    derivatives = Derivatives(settings.out, package.card, paths) if settings.bids else None
    written += derivatives.outputs if derivatives else []
    written += [*summary.outputs(settings.out), *(records.path(case.name) for case in cases)]
    lists = [source] if source.is_file() else []  # of a folder, results may lie in it that are replaced
    refuse_overwriting([*lists, *{case.source for case in cases}, *package.files], written)
    check_writable(settings.out / summary.TABLE)
    check_writable(records.path("record"))
    _refuse_long_names(settings.out, written)
    check_writable(max(written, key=lambda path: len(str(path))))  # Windows limits whole paths
    _clear(cases, settings, records)
    if derivatives:
        with OutputFiles() as files:
            derivatives.describe(files)


def _refuse_long_names(out: Path, written: Sequence[Path]) -> None:
    """Refuse names too long for the disk: a scan whose record cannot be written would end the cohort each time."""
    longest = os.pathconf(out, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    for path in written:
        if any(len(os.fsencode(part)) > longest for part in path.relative_to(out).parts):
            raise UsageError(
                f"{path.name} cannot be written: the name is longer than the disk allows.",
                "Name the scans in a list with the columns path and name.",
            )


def _clear(cases: Sequence[CohortCase], settings: CohortSettings, records: Records) -> None:
    """Remove what processes that were lost had begun to write."""
    outputs = [settings.job(case).output for case in cases if not case.fault]
    for folder in {
        settings.out,
        *(path.parent for path in outputs),
        *(records.path(case.name).parent for case in cases),
    }:
        remove_leftovers(folder)


def _by_size(cases: Sequence[CohortCase], package: ModelPackage) -> list[tuple[bool, list[CohortCase]]]:
    """Small scans, then large ones."""
    sizes: dict[bool, list[CohortCase]] = {True: [], False: []}
    for case in cases:
        sizes[case.fault is not None or all_small([case.source], package.card.spacing)].append(case)
    return [(small, group) for small, group in sizes.items() if group]


def _lanes(settings: CohortSettings, distribution: WorkDistribution, small: bool) -> list[Lane]:
    if distribution.ray:
        from .cluster import cluster_lanes

        return cluster_lanes(settings, distribution.workers, small)
    from .processes import local_lanes

    return local_lanes(settings, distribution.workers, small)


def _do(
    cases: Sequence[CohortCase],
    lanes: Sequence[Lane],
    records: Records,
    settings: CohortSettings,
    package: ModelPackage,
    tally: _Tally,
    bar: ProgressBar,
) -> None:
    dispatcher = Dispatcher(lanes)
    try:
        for outcome in dispatcher.run(cases):
            if isinstance(outcome, tuple):
                outcome = _record_loss(*outcome, records, settings, package)
            if outcome:
                tally.add(outcome)
                if outcome.error:
                    with bar.paused():
                        report_failure(outcome.error, subject=outcome.case.input)
            tally.show(bar)
    finally:
        dispatcher.close()


def _record_loss(
    case: CohortCase, error: SegmentationError, records: Records, settings: CohortSettings, package: ModelPackage
) -> CaseOutcome:
    content = case.content()
    records.fail(case.name, case.input, package.card.name, settings.key(content), content, error, 0.0)
    return CaseOutcome(case, FAILED, error)


@dataclass
class _Tally:
    """How far a cohort is.

    Attributes:
        count: of scans.
        outcomes: what became of them, by name.
    """

    count: int
    outcomes: dict[str, CaseOutcome] = field(default_factory=dict)
    segmented: int = 0
    failed: int = 0
    kept: int = 0
    begin: float = field(default_factory=time.monotonic)
    shown: float = field(default_factory=time.monotonic)

    def add(self, outcome: CaseOutcome) -> None:
        """Count one more."""
        self.outcomes[outcome.case.name] = outcome
        self.kept += outcome.kept
        self.failed += outcome.state == FAILED
        self.segmented += not outcome.kept and outcome.state != FAILED

    @property
    def left(self) -> int:
        """Scans of which nothing is known yet."""
        return self.count - len(self.outcomes)

    def line(self) -> str:
        """In words: done, failed, left, scans an hour."""
        skipped = f" ({self.kept} before)" if self.kept else ""
        rate = f", {self.rate * 3600:.0f} scans an hour" if self.rate else ""
        return f"{self.segmented + self.kept} done{skipped}, {self.failed} failed, {self.left} left{rate}"

    @property
    def rate(self) -> float:
        """Scans a second, of those that were not done before; 0 while there is none."""
        done = self.segmented + self.failed
        return done / max(time.monotonic() - self.begin, 1e-3) if done else 0.0

    def show(self, bar: ProgressBar) -> None:
        """Tell it: on a bar, or from time to time as a line."""
        left = self.left / self.rate if self.rate else None
        bar.subject(self.line())
        bar("", len(self.outcomes) / max(1, self.count), left)
        if not sys.stderr.isatty() and time.monotonic() - self.shown > _OFTEN_S:
            self.shown = time.monotonic()
            warn(f"{self.line()}{f', {duration(left)} left' if left else ''}.")


def _conclude(
    whole: Cohort, mine: Cohort, records: Records, package: ModelPackage, tally: _Tally, distribution: WorkDistribution
) -> int:
    """Write the summary, if all is done, and say what became of it; the exit code."""
    seconds = time.monotonic() - tally.begin
    before = f", {tally.kept} of them before" if tally.kept else ""
    rest = ", the others" if before else ""
    rate = f"{rest} in {duration(seconds)}, {tally.rate * 3600:.0f} scans an hour" if tally.segmented else ""
    done = tally.segmented + tally.kept
    warn(f"{done} of {tally.count} scans segmented{before}{rate}; {tally.failed} failed.")
    if (aside := records.out / CHANGED_FOLDER).is_dir():
        warn(f"Results changed since they were written, or of another scan, were moved to {aside}.")
    missing = sum(not records.path(case.name).exists() for case in whole.cases) if distribution.shard else 0
    if missing:
        left = f"{missing} of {counted(len(whole.cases), 'scan')}"
        warn(f"Left for the other parts: {left}; the part that ends last makes the table and the sheet.")
    elif mine.cases:
        names = [case.name for case in whole.cases]
        if others := records.count_others(names):
            warn(f"Records of scans outside this cohort in {records.folder}: {others}; table and sheet omit them.")
        why_no_sheet = summary.write_summary(records, names, package.card)
        table, failures, sheet = summary.outputs(records.out)
        about_sheet = f"no sheet: {why_no_sheet}" if why_no_sheet else f"sheet: {sheet}"
        warn(f"Table: {table}; failures: {failures}; {about_sheet}")
    return _exit_code([tally.outcomes[case.name] for case in mine.cases], package)


def _exit_code(outcomes: Sequence[CaseOutcome], package: ModelPackage) -> int:
    failed = next((outcome.error for outcome in outcomes if outcome.error), None)
    nothing = [outcome for outcome in outcomes if outcome.state == NOTHING]
    code = 0
    if nothing:
        code = report_failure(
            NothingFoundError(
                f"Nothing was found in {counted(len(nothing), 'scan')}, for example {nothing[0].case.input}, of the "
                f"structures of {package.card.name}.",
                "Check that the model suits the scans: part of the body, modality and contrast, field of view.",
            )
        )
    return failed.exit_code if failed else code
