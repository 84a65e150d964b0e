"""Progress of a long task: phase, fraction done, seconds left; cancelling by raising."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol


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
        """Where a task reports that is a phase of this one."""
        return lambda name, fraction, seconds_left: self.update(phase, fraction)

    def seconds(self) -> dict[str, float]:
        """Seconds spent in each phase so far, in s."""
        return {phase: self._ends[phase] - start for phase, start in self._starts.items()}


def part_of(report: Callable[[float], None], number: int, count: int) -> Callable[[float], None]:
    """Where the ``number``-th (from 0) of ``count`` equal parts of a task reports the fraction of it that is done."""
    return lambda fraction: report((number + fraction) / count)
