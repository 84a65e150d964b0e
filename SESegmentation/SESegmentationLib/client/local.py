"""Segmenting in a worker process on this computer."""

from __future__ import annotations

import contextlib
import itertools
import queue
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CancelledError, SegmentationError, WorkerError
from ..worker.jobs import Job
from ..worker.messages import (
    ACCEPTED,
    CANCEL,
    FAILURE,
    HEARTBEAT,
    HELLO,
    JOB,
    PROGRESS,
    RESULT,
    Frame,
    check_hello,
    error_of,
)
from . import AcceptedEvent, Event, FailureEvent, JobHandle, ProgressEvent, ResultEvent
from .worker_process import WORKER_REMEDY, Ending, WorkerProcess, worker_command, worker_environment


@dataclass(frozen=True)
class TimeLimits:
    """How patient a client is, in s.

    Attributes:
        start: until a worker that was started introduces itself.
        cancel: until a job that was cancelled stops by itself; then its worker is ended.
        silence: without a sign of life; libraries may keep Python from running for some seconds.
        stall: without progress of a job, of a worker that is alive.
    """

    start: float = 60.0
    cancel: float = 0.7
    silence: float = 60.0
    stall: float = 300.0


@dataclass
class _Entry:
    """A job, packed, with what is needed to tell of it."""

    handle: JobHandle
    header: dict[str, Any]
    arrays: list[np.ndarray]
    sent: bool = False
    cancel_by: float | None = None


class LocalSegmenter:
    """Runs jobs one after the other in a worker process, which is started by the first job and stays for the next.

    A worker that crashes, hangs or is killed loses only the job that it runs; the next job starts another one. All
    state belongs to the calling thread: the other threads only carry frames. See :class:`.Segmenter`.

    Args:
        command: starts the worker, instead of this package's own.
        environment: variables that the worker gets besides those of this process.
        limits: how long to wait for what.
        clock: tells the time in s.
    """

    def __init__(
        self,
        command: Sequence[str] | None = None,
        limits: TimeLimits = TimeLimits(),
        clock: Callable[[], float] = time.monotonic,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._given_command = command
        self._environment = dict(environment or {})
        self._limits = limits
        self._clock = clock
        self._numbers = itertools.count(1)
        self._arrived: queue.SimpleQueue[tuple[WorkerProcess, Frame | Ending]] = queue.SimpleQueue()
        self._events: list[Event] = []
        self._waiting: deque[_Entry] = deque()
        self._current: _Entry | None = None
        self._worker: WorkerProcess | None = None
        self._ready = False
        self._silent = 0.0
        self._watched = 0.0
        self._log_lines: Sequence[str] = ()
        self._closed = False

    @property
    def log(self) -> str:
        """The last lines that the worker printed, or those of the last one that ended."""
        return "\n".join(self._log_lines)

    @property
    def worker_pid(self) -> int | None:
        """The process id of the worker; None while there is none."""
        return self._worker.pid if self._worker else None

    def submit(self, job: Job) -> JobHandle:
        """Queue ``job``; see :meth:`.Segmenter.submit`. RuntimeError after :meth:`close`."""
        if self._closed:
            raise RuntimeError("this segmenter is closed")
        handle = JobHandle(next(self._numbers), self._cancel)
        try:
            value, arrays = job.pack()
        except SegmentationError as error:
            self._fail(handle, error)
            return handle
        header = {"type": JOB, "job": handle.number, "kind": job.kind, "value": value}
        self._waiting.append(_Entry(handle, header, arrays))
        self._collect()  # the worker may have ended since
        self._advance()
        return handle

    def poll(self) -> list[Event]:
        """What has happened since the last call; see :meth:`.Segmenter.poll`."""
        self._collect()
        self._watch()
        self._advance()
        events, self._events = self._events, []
        return events

    def wait(self, seconds: float) -> None:
        """Wait until there is something for :meth:`poll`, at most so long: for threads that have nothing else to do."""
        with contextlib.suppress(queue.Empty):
            self._take(*self._arrived.get(timeout=seconds))

    def release(self) -> None:
        """End the worker if it is idle; the next job starts another."""
        if not self._current and (worker := self._dismiss()):
            worker.shut_down()

    def close(self) -> None:
        """End the worker, in the middle of a job too. No further events come."""
        self._closed = True
        self._waiting.clear()
        self._events.clear()
        if self._current:
            self._current = None
            if worker := self._dismiss():
                worker.kill()
        self.release()

    def __enter__(self) -> LocalSegmenter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _cancel(self, handle: JobHandle) -> None:
        entry = self._current
        if entry and entry.handle is handle:
            if not entry.sent:
                self._current = None
                self._fail(handle, _cancelled())
            elif entry.cancel_by is None:
                entry.cancel_by = self._clock() + self._limits.cancel
                if self._worker:
                    self._worker.send({"type": CANCEL, "job": handle.number})
            return
        for entry in self._waiting:
            if entry.handle is handle:
                self._waiting.remove(entry)
                self._fail(handle, _cancelled())
                return

    def _advance(self) -> None:
        """Give the worker the next job, if it is free."""
        if self._closed:
            return
        if not self._current and self._waiting:
            self._current = self._waiting.popleft()
        entry = self._current
        if not entry or entry.sent:
            return
        if not self._worker:
            self._ready = False
            self._silent = 0.0
            self._watched = self._clock()
            self._worker = WorkerProcess(self._command, lambda *arrived: self._arrived.put(arrived))
            self._log_lines = self._worker.lines
        elif self._ready:
            self._worker.send(entry.header, entry.arrays)
            entry.sent = True
            entry.arrays = []  # the worker lets go of them when they are sent

    def _command(self) -> tuple[Sequence[str], dict[str, str]]:
        return self._given_command or worker_command(), worker_environment() | self._environment

    def _collect(self) -> None:
        """Take in what has arrived."""
        while True:
            try:
                self._take(*self._arrived.get_nowait())
            except queue.Empty:
                return

    def _take(self, worker: WorkerProcess, item: Frame | Ending) -> None:
        if worker is self._worker:
            self._receive(item)

    def _receive(self, item: Frame | Ending) -> None:
        self._silent = 0.0
        if isinstance(item, Ending):
            self._worker = None
            if self._current:
                self._finish(self._current, FailureEvent(self._current.handle.number, item.explain()))
            return
        header = item.header
        kind = header.get("type")
        if kind == HELLO or not self._ready:
            try:
                check_hello(header)
                self._ready = True
            except WorkerError as error:
                self._abandon(error)
        elif kind == HEARTBEAT:
            if header["stalled"] > self._limits.stall:
                self._abandon(
                    WorkerError(
                        f"The segmentation made no progress for {header['stalled']:.0f} s; it was stopped.",
                        WORKER_REMEDY,
                    )
                )
        elif self._current and header.get("job") == self._current.handle.number:
            self._tell(self._current, kind, item)

    def _tell(self, entry: _Entry, kind: object, frame: Frame) -> None:
        """Turn a message about the current job into an event."""
        header = frame.header
        number = entry.handle.number
        if kind == ACCEPTED:
            self._events.append(AcceptedEvent(number))
        elif kind == PROGRESS and entry.cancel_by is None:
            event = ProgressEvent(number, header["phase"], header["fraction"], header["seconds_left"])
            self._events.append(event)
        elif kind == RESULT:
            self._finish(entry, ResultEvent(number, header["kind"], header["value"], frame.arrays))
        elif kind == FAILURE:
            self._finish(entry, FailureEvent(number, error_of(header)))
            if header["ends"] and (worker := self._dismiss()):
                worker.shut_down()

    def _watch(self) -> None:
        """End a worker that does not answer."""
        now = self._clock()
        # time without polling, asleep for example, does not count against the worker
        self._silent += min(now - self._watched, 1.0)
        self._watched = now
        if not self._worker:
            return
        entry = self._current
        if entry and entry.cancel_by is not None and now >= entry.cancel_by:
            self._abandon(_cancelled())
        elif self._ready and self._silent > self._limits.silence:
            self._abandon(
                WorkerError(
                    f"The segmentation process did not answer for {self._silent:.0f} s and was ended.", WORKER_REMEDY
                )
            )
        elif not self._ready and self._silent > self._limits.start:
            self._abandon(
                WorkerError(
                    f"The segmentation process did not start within {self._limits.start:.0f} s.",
                    "Restart the computer, or allow Slicer's Python in your security software.",
                )
            )

    def _abandon(self, error: SegmentationError) -> None:
        """Kill the worker and fail the current job."""
        if worker := self._dismiss():
            worker.kill()
        if self._current:
            self._finish(self._current, FailureEvent(self._current.handle.number, error))

    def _dismiss(self) -> WorkerProcess | None:
        """Forget the worker; nothing that still comes from it counts."""
        worker, self._worker = self._worker, None
        return worker

    def _finish(self, entry: _Entry, event: ResultEvent | FailureEvent) -> None:
        """The current job is over."""
        self._current = None
        if entry.cancel_by is not None:
            event = FailureEvent(entry.handle.number, _cancelled())
        entry.handle.finished = True
        self._events.append(event)

    def _fail(self, handle: JobHandle, error: SegmentationError) -> None:
        """Report the failure of a job that was not begun."""
        handle.finished = True
        self._events.append(FailureEvent(handle.number, error))


def _cancelled() -> CancelledError:
    return CancelledError("The segmentation was cancelled.", "Nothing was changed.")
