"""What a panel needs of whatever segments for it: a worker process here, or a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..worker.jobs import Job
from .events import Event


class JobHandle:
    """A job that was submitted.

    Attributes:
        number: the ``job`` of its events.
        finished: whether its result or failure is there: :meth:`Segmenter.poll` has given it, or will next.
    """

    def __init__(self, number: int, cancel: Callable[[JobHandle], None]) -> None:
        self.number = number
        self.finished = False
        self._cancel = cancel

    def cancel(self) -> None:
        """Ask to stop it; within 1 s a failure with a CancelledError comes. Nothing happens if it is finished."""
        if not self.finished:
            self._cancel(self)


class Segmenter(Protocol):
    """Takes jobs and gives events; all from one thread, which is never made to wait.

    Example::

        segmenter = LocalSegmenter()
        handle = segmenter.submit(SegmentJob(image, "brain-mr"))
        # every 50 ms, from a timer
        for event in segmenter.poll():
            if event.job == handle.number: ...
    """

    def submit(self, job: Job) -> JobHandle:
        """Queue a job; all that becomes of it, failures included, comes as events. Its images are not copied here."""

    def poll(self) -> list[Event]:
        """What has happened since the last call, oldest first. To be called some 20 times a second."""

    def release(self) -> None:
        """Give back memory: end what runs for this segmenter unless it is busy. The next job starts it again."""

    def close(self) -> None:
        """End everything, running jobs too; no further events come."""
