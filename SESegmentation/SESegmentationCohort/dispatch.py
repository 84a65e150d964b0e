"""Gives cases to lanes, each a device with its own process or node; the cases of a lost lane go to others."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from SESegmentationLib.cli import as_user_error
from SESegmentationLib.errors import SegmentationError, WorkerError

from .cases import CohortCase
from .runner import CaseOutcome

#: cases in a lane at once: one being read, one segmented, one or two written
AT_ONCE = 4
#: a case is given up after this many lanes were lost that had it
MOST_TRIES = 3
#: time in s after which a cohort ends if it has no lane
PATIENCE_S = 300.0


#: what became of a case; or why it was given up, of which nothing is recorded yet
Answer = CaseOutcome | tuple[CohortCase, SegmentationError]


class LaneLostError(Exception):
    """The process or node of a lane is gone; another one, or a restarted one, can go on."""


class Lane(Protocol):
    """Runs cases on a device; called from several threads at once."""

    def start(self) -> None:
        """Return when it can be given cases; again after it was lost, which may take long.

        Raises:
            SegmentationError: it can never be.
            LaneLostError: it has to be asked again.
        """

    def run(self, case: CohortCase) -> CaseOutcome | SegmentationError:
        """As :meth:`.runner.CaseRunner.run`; LaneLostError where the lane is gone."""

    def close(self) -> None:
        """End it."""


@dataclass
class _Task:
    case: CohortCase
    lost: int = 0  # so many times with its lane
    times: int = 0  # that its lane had been started when it was given this


@dataclass
class _Work:
    """The work of a lane. A case lost before runs alone, so that a case that kills its lane takes no other with it."""

    lane: Lane
    count: int = 0
    alone: bool = False
    ready: bool = False
    times: int = 0  # that it was started
    starting: threading.Lock = field(default_factory=threading.Lock)


class Dispatcher:
    """Gives cases to lanes and tells what became of them.

    Args:
        lanes: at least one.
    """

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._works = [_Work(lane) for lane in lanes]
        self._changed = threading.Condition()
        self._waiting: deque[_Task] = deque()
        self._lost: deque[_Task] = deque()
        self._left = 0
        self._ended = False
        self._failures: list[SegmentationError] = []
        self._outcomes: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()

    def run(self, cases: Sequence[CohortCase], tick_s: float = 1.0) -> Iterator[Answer | None]:
        """What becomes of each case, as it comes; None where nothing came for ``tick_s``.

        Of a case that was lost too often its error comes, of which nothing is recorded yet.

        Raises:
            SegmentationError: no lane can go on; cases are left.
        """
        self._waiting.extend(_Task(case) for case in cases)
        self._left = len(cases)
        works = self._works[: len(cases)]
        for work in works:
            for number in range(AT_ONCE):
                threading.Thread(target=self._work, args=(work,), name=f"cases {number}", daemon=True).start()
        working, silent = AT_ONCE * len(works), 0.0
        try:
            while self._left and working:
                try:
                    outcome = self._outcomes.get(timeout=tick_s)
                except queue.Empty:
                    silent = 0.0 if any(work.ready for work in self._works) else silent + tick_s
                    if silent > PATIENCE_S:
                        raise WorkerError(
                            "No computer is left to go on.", "Check that the cluster is running."
                        ) from None
                    yield None
                    continue
                silent = 0.0
                if outcome is None:
                    working -= 1
                    continue
                self._left -= 1
                yield outcome
            if self._left:
                raise self._failures[0]
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def close(self) -> None:
        """End all lanes."""
        for work in self._works:
            work.lane.close()

    def _work(self, work: _Work) -> None:
        """What each thread of a lane does."""
        try:
            while not self._ended:
                try:
                    self._start(work)
                except LaneLostError:
                    continue
                if task := self._take(work):
                    self._do(work, task)
        except Exception as error:  # the other lanes go on
            self._failures.append(as_user_error(error))
        finally:
            self._outcomes.put(None)

    def _start(self, work: _Work) -> None:
        """See that a lane is there."""
        with work.starting:
            if not work.ready and not self._ended:
                work.lane.start()
                with self._changed:
                    work.ready = True
                    work.times += 1
                    self._changed.notify_all()

    def _take(self, work: _Work) -> _Task | None:
        """The next case for a lane, as soon as there is one; None where the lane is lost meanwhile, or all is ended."""
        with self._changed:
            while work.ready and not self._ended:
                if self._lost and not work.count:
                    work.alone = True
                    return self._taken(work, self._lost.popleft())
                if self._waiting and not work.alone:
                    return self._taken(work, self._waiting.popleft())
                self._changed.wait()
            return None

    @staticmethod
    def _taken(work: _Work, task: _Task) -> _Task:
        work.count += 1
        task.times = work.times
        return task

    def _do(self, work: _Work, task: _Task) -> None:
        """Have a lane do a case; an error that concerns all cases is raised."""
        done: Answer | SegmentationError | None
        try:
            done = work.lane.run(task.case)
        except LaneLostError:
            done = None
        except Exception as error:  # whatever it is, the failure of each case is reported
            done = task.case, as_user_error(error)
        with self._changed:
            work.count -= 1
            work.alone = False
            if done is None:
                # where it was started again meanwhile, another thread has seen that it was lost
                work.ready = work.ready and work.times != task.times
                task.lost += 1
                if task.lost < MOST_TRIES:
                    self._lost.append(task)
                else:
                    done = task.case, _lost_too_often()
            elif isinstance(done, SegmentationError):
                self._waiting.appendleft(task)
            self._changed.notify_all()
        if isinstance(done, SegmentationError):
            raise done
        if done is not None:
            self._outcomes.put(done)


def _lost_too_often() -> WorkerError:
    return WorkerError(
        f"The process or computer that segmented it was lost {MOST_TRIES} times.",
        "Segment it alone, by sesegment run; if that fails too, report it.",
    )
