"""Progress of a long task, and its early end: by cancellation, Ctrl-C or SIGTERM.

Signals raise no exception: one that is raised during an import, in a callback or while threads are joined may be lost,
or abort the process. Instead, a thread that only waits for the signal ends the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from .files.staging import close_all_staging, placing

MESSAGE = ("Cancelled.", "Finished files are complete; nothing else was written.")
EXIT_CODE = 1
#: takes a progress bar away and shows the cursor again
_CLEAR = "\r\x1b[K\x1b[?25h"
#: how long finished files may take to be moved into place, in s
_PATIENCE_S = 10.0
#: lines that are printed too when the process ends early, such as how to resume the work
early_end_notes: list[str] = []
#: called when the process ends early, to stop what works for it elsewhere
at_early_end: list[Callable[[], None]] = []
#: how long child processes may take to remove unfinished files, in s
_CHILDREN_S = 2.0


#: receives the fraction of a task that is done, 0 to 1; may raise to stop the task
ReportFraction = Callable[[float], None]


class Progress(Protocol):
    """Receives progress. May raise :class:`~SESegmentationLib.errors.CancelledError` to stop the task."""

    def __call__(self, phase: str, fraction: float, seconds_left: float | None) -> None:
        """Report ``phase`` at ``fraction`` (0 to 1, of the whole task); ``seconds_left`` is None while unknown."""


def no_progress(phase: str, fraction: float, seconds_left: float | None) -> None:
    """Ignore progress (the default of every function that reports it)."""


class PhasedProgress:
    """Turns progress inside phases into progress of the whole, with seconds left and seconds spent per phase.

    Args:
        report: where to report.
        shares: expected share of the whole time, by phase, in order; they need not sum to 1.

    Example::

        phases = PhasedProgress(report, {"read": 1, "predict": 8})
        phases.update("predict", 0.5)   # reports 5/9
    """

    def __init__(
        self, report: Progress, shares: Mapping[str, float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        total = sum(shares.values())
        self._report = report
        self._clock = clock
        self._start = clock()
        self._starts: dict[str, float] = {}
        self._ends: dict[str, float] = {}
        self._range: dict[str, tuple[float, float]] = {}
        done = 0.0
        for phase, share in shares.items():
            self._range[phase] = (done / total, (done + share) / total)
            done += share

    def update(self, phase: str, fraction: float) -> None:
        """Report that ``fraction`` (0 to 1) of ``phase`` is done."""
        now = self._clock()
        self._starts.setdefault(phase, now)
        self._ends[phase] = now
        low, high = self._range[phase]
        overall = low + (high - low) * min(max(fraction, 0.0), 1.0)
        elapsed = now - self._start
        seconds_left = elapsed * (1 - overall) / overall if overall > 0.02 and elapsed > 0.5 else None
        self._report(phase, overall, seconds_left)

    def part(self, phase: str) -> Progress:
        """A progress callback for a task that is a phase of this one."""
        return lambda name, fraction, seconds_left: self.update(phase, fraction)

    def seconds(self) -> dict[str, float]:
        """Seconds spent in each phase so far."""
        return {phase: self._ends[phase] - start for phase, start in self._starts.items()}


def part_of(report: ReportFraction, number: int, count: int) -> ReportFraction:
    """A callback for the ``number``-th (from 0) of ``count`` equal parts of a task; takes the fraction of that part."""
    return lambda fraction: report((number + fraction) / count)


def end_on_signals(silently: bool = False) -> None:
    """From now on a signal ends this process; to be called from its main thread, once.

    Args:
        silently: print nothing, as another process reports it.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)
    if hangup and signal.getsignal(hangup) is not signal.SIG_IGN:  # nohup
        numbers.append(hangup)
    receive, send = os.pipe()
    if hasattr(os, "set_blocking"):  # Windows does not require it, and lacks it before Python 3.12
        os.set_blocking(send, False)
    threading.Thread(target=_end, args=(receive, silently), name="interruption", daemon=True).start()
    signal.set_wakeup_fd(send, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, _noticed)
    if hasattr(os, "register_at_fork"):
        # a signal to a child that has not yet reset its handlers would be reported as one to this process
        os.register_at_fork(
            before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, numbers),
            after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers),
            after_in_child=lambda: _forget(numbers),
        )


@contextlib.contextmanager
def note_if_interrupted(note: str) -> Iterator[None]:
    """Also print ``note`` if the process is interrupted within the block."""
    early_end_notes.append(note)
    try:
        yield
    finally:
        early_end_notes.remove(note)


def ignore_signals() -> None:
    """Ignore signals from now on: all is done and reported."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _noticed(_signal: int, _frame: object) -> None:
    """Python has written to the pipe already."""


def _forget(numbers: list[signal.Signals]) -> None:
    """In a forked process: restore the default handlers, as only the parent reports signals."""
    signal.set_wakeup_fd(-1)
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def _end(pipe: int, silently: bool) -> None:
    os.read(pipe, 1)
    end_process(silently)


def end_process(silently: bool) -> None:
    """End this process from any thread, in the middle of whatever it does: files are whole, or not there."""
    placing.acquire(timeout=_PATIENCE_S)  # and never released: nothing is begun or put in place any more
    close_all_staging()
    with contextlib.suppress(Exception):  # nothing may keep the process from ending
        if used := sys.modules.get("multiprocessing"):
            children = used.active_children()
            for child in children:
                child.terminate()
            until = time.monotonic() + _CHILDREN_S
            for child in children:
                child.join(max(0.0, until - time.monotonic()))
                child.kill()
    with contextlib.suppress(Exception):  # not by sys.stderr, whose lock another thread may hold
        text = (_CLEAR if sys.stderr.isatty() else "") + "\n".join([*MESSAGE, *early_end_notes]) + "\n"
        if not silently:
            os.write(sys.stderr.fileno(), text.encode())
    for stop in at_early_end:
        with contextlib.suppress(Exception):
            stop()
    os._exit(EXIT_CODE)
