"""Runs cases on one device; called from several threads, it reads and writes cases while another is segmented."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from SESegmentationExport.bids import Derivatives
from SESegmentationExport.sheet import thumbnail
from SESegmentationLib.cli import as_user_error
from SESegmentationLib.cli.file_jobs import FileJob, read_source, write_result
from SESegmentationLib.client import FailureEvent, ResultEvent, SegmentJob, WarmUpJob
from SESegmentationLib.client.local import LocalSegmenter
from SESegmentationLib.client.reading import ReadingProcess
from SESegmentationLib.errors import (
    DependencyError,
    DeviceError,
    InputError,
    ModelError,
    SegmentationError,
    WorkerError,
)
from SESegmentationLib.files import OutputFiles
from SESegmentationLib.io.reading import check_volume
from SESegmentationLib.models import sha256_of
from SESegmentationLib.report import build_report
from SESegmentationLib.result import SegmentationResult

from .cases import CohortCase
from .records import FAILED, NOTHING, SEGMENTED, Record, Records
from .settings import CohortSettings

#: after these errors it is checked whether the device, the model and the worker can be used at all
_DOUBTFUL = (DependencyError, DeviceError, ModelError, WorkerError)
#: seconds between two looks at a worker that says nothing
_LOOK_S = 1.0


@dataclass(frozen=True)
class CaseOutcome:
    """What became of a case.

    Attributes:
        case: which.
        state: of its record.
        error: of one that failed.
        kept: it was done before.
    """

    case: CohortCase
    state: str
    error: SegmentationError | None = None
    kept: bool = False


class CaseRunner:
    """Runs cases in its own worker process, which is kept for the next case and replaced if it crashes.

    :meth:`run` is called from several threads: while one segments, others read and write. Files are opened in a
    separate process, too, so that a damaged file or a crash costs one case only.

    Args:
        settings: of the cohort; the device is this runner's.
        environment: variables for the worker, such as how many cores it has.

    Raises:
        ModelError: there is no such model here.
    """

    def __init__(self, settings: CohortSettings, environment: Mapping[str, str] | None = None) -> None:
        self._settings, self._records = settings, Records(settings.out)
        self._package = settings.package()
        card = self._package.card
        self._pixel_mm = card.pixel_mm
        self._paths: dict[Path, Path] = {}
        self._contents: dict[Path, str | None] = {}
        self._derivatives = (
            Derivatives(settings.out, card, self._paths, described=True, contents=self._contents)
            if settings.bids
            else None
        )
        self._reader = ReadingProcess()
        self._segmenter = LocalSegmenter(environment=environment)
        self._segmenting = threading.Lock()

    def run(self, case: CohortCase) -> CaseOutcome | SegmentationError:
        """Do one case, and record what became of it.

        Returns:
            Its outcome; or an error that concerns all cases, of which nothing is recorded: the model, the device or the
            folder of the results cannot be used.
        """
        begin = time.monotonic()
        try:
            content = None if case.fault else case.content()
            key = self._settings.key(content)
            known = self._records.read(case.name)
            if self._settings.resume and known and known.key == key and self._records.is_done(known):
                self._records.keep(known)
                return CaseOutcome(case, known.state, kept=True)
            try:
                record = self._do(case, content, key, known, begin)
                return CaseOutcome(case, record.state)
            except _UnusableError as error:
                return error.reason
            except Exception as error:  # whatever it is, the other cases are done
                return self._fail(case, content, key, as_user_error(error), begin)
        except Exception as error:  # even the failure cannot be written
            return as_user_error(error)

    def close(self) -> None:
        """End its processes."""
        self._segmenter.close()
        self._reader.close()

    def _fail(
        self, case: CohortCase, content: str | None, key: str, error: SegmentationError, begin: float
    ) -> CaseOutcome:
        model, seconds = self._package.card.name, time.monotonic() - begin
        self._records.fail(case.name, case.input, model, key, content, error, seconds)
        return CaseOutcome(case, FAILED, error)

    def _do(self, case: CohortCase, content: str | None, key: str, known: Record | None, begin: float) -> Record:
        if case.fault:
            raise InputError(*case.fault)
        image = self._read(case)
        reading = time.monotonic() - begin
        result = self._segment(image)
        return self._write(case, image, result, content, key, known, begin, reading)

    def _read(self, case: CohortCase) -> sitk.Image:
        image = self._reader(case.source, self._pixel_mm, series=case.series)
        return check_volume(image, str(case.source), single=self._pixel_mm is not None)

    def _segment(self, image: sitk.Image) -> SegmentationResult:
        job = SegmentJob(image, self._package.path, self._settings.options, self._settings.device)
        with self._segmenting:
            try:
                event = self._ask(job)
            except _DOUBTFUL as error:
                self._segmenter.release()
                self._check_loading()
                if isinstance(error, WorkerError):  # the same case would crash it again
                    raise
                event = self._ask(job)
        return event.segmentation()

    def _check_loading(self) -> None:
        """Check that the model can be loaded on the device; raises _UnusableError if not."""
        try:
            self._ask(WarmUpJob(self._package.path, self._settings.device))
        except SegmentationError as error:
            raise _UnusableError(error) from error

    def _ask(self, job: SegmentJob | WarmUpJob) -> ResultEvent:
        handle = self._segmenter.submit(job)
        while True:
            for event in self._segmenter.poll():
                if event.job == handle.number and isinstance(event, FailureEvent):
                    raise event.error
                if event.job == handle.number and isinstance(event, ResultEvent):
                    return event
            self._segmenter.wait(_LOOK_S)

    def _write(
        self,
        case: CohortCase,
        image: sitk.Image,
        result: SegmentationResult,
        content: str | None,
        key: str,
        known: Record | None,
        begin: float,
        reading: float,
    ) -> Record:
        """Write all that belongs to a case, and its record after it."""
        job: FileJob = self._settings.job(case)
        source = read_source(job, self._settings.dicom, None)
        writing = time.monotonic()
        with OutputFiles() as files:
            write_result(files, job, image, result, source, self._settings.dicom)
            timings = {"reading": reading, "writing": time.monotonic() - writing}
            report = build_report(result, image, case.source, job.output, timings, self._settings.options)
            if self._derivatives:
                self._paths[case.identity], self._contents[case.identity] = job.output, content
                self._derivatives.take(files, case.identity, image, result, report)
            found = any(structure.voxels for structure in result.structures)
            record = Record(
                case.name,
                case.input,
                self._package.card.name,
                SEGMENTED if found else NOTHING,
                key,
                content,
                {self._records.place_of(path): sha256_of(temporary) for temporary, path in files.begun},
                round(time.monotonic() - begin, 3),
                report,
                picture=base64.b64encode(thumbnail(image, result)).decode("ascii"),
                settings=self._settings.recorded,
            )
            self._records.add(files, record)
            if known:  # a scan at another place, of another content, is another patient's perhaps
                other = known.input != case.input and known.content != content
                self._records.set_changed_aside(known, others=other)
        self._records.remove_outputs(known, but=record.outputs)
        return record


class _UnusableError(Exception):
    """No case can be done here."""

    def __init__(self, reason: SegmentationError) -> None:
        super().__init__(reason.cause)
        self.reason = reason
