"""Segmenting from a program that must stay responsive, such as Slicer: jobs go to another process, events come back.

This module defines the interface; :mod:`.local` implements it by a worker process on this computer, :mod:`.remote` by a
server. Needs neither torch nor Qt, and nothing blocks the thread that calls it. A job that fails early may never be
accepted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import SimpleITK as sitk

from ..errors import SegmentationError
from ..geometry import Geometry
from ..io.volume_image import voxels_of
from ..models import ModelPackage
from ..progress import Progress
from ..result import SegmentationResult, SegmentOptions
from ..worker.jobs import (
    DOUBT_STEPS,
    AttentionJob,
    Job,
    RefinedResult,
    RefineJob,
    SegmentJob,
    WarmUpJob,
    unpack_image,
    unpack_refinement,
    unpack_result,
)

__all__ = [
    "AcceptedEvent",
    "AttentionJob",
    "Event",
    "FailureEvent",
    "Job",
    "JobHandle",
    "ProgressEvent",
    "RefineJob",
    "RefinedResult",
    "ResultEvent",
    "SegmentJob",
    "Segmenter",
    "WaitingEngine",
    "WarmUpJob",
    "wait_for",
]


@dataclass(frozen=True)
class AcceptedEvent:
    """The worker has the whole job and begins.

    Attributes:
        job: number of the job.
    """

    job: int


@dataclass(frozen=True)
class ProgressEvent:
    """The job has come further.

    Attributes:
        job: number of the job.
        phase: what is being done.
        fraction: 0 to 1, of the whole job.
        seconds_left: in s; None while unknown.
    """

    job: int
    phase: str
    fraction: float
    seconds_left: float | None


@dataclass(frozen=True)
class ResultEvent:
    """The job is done.

    Attributes:
        job: number of the job.
        kind: of the job, for example "segment".
    """

    job: int
    kind: str
    value: dict[str, Any] = field(repr=False)
    arrays: list[np.ndarray] = field(repr=False)

    def segmentation(self) -> SegmentationResult:
        """The result of a job of the kind "segment", made anew by each call.

        Makes an image of the labels: some 20 to 80 ms for 256 x 256 x 256 voxels.
        """
        return unpack_result(self.value, self.arrays)

    def refinement(self) -> RefinedResult:
        """The result of a job of the kind "refine", likewise."""
        return unpack_refinement(self.value, self.arrays)

    def attention(self) -> sitk.Image:
        """The result of a job of the kind "attention", likewise."""
        return unpack_image(self.value["attention"], self.arrays[0])


@dataclass(frozen=True)
class FailureEvent:
    """The job failed, or was cancelled.

    Attributes:
        job: number of the job.
        error: why, and what the user can do; a CancelledError if that was the user's wish.
    """

    job: int
    error: SegmentationError


Event = AcceptedEvent | ProgressEvent | ResultEvent | FailureEvent


class JobHandle:
    """A job that was submitted.

    Attributes:
        number: the ``job`` of its events.
        finished: whether it has a result or failure: :meth:`Segmenter.poll` has returned it, or will at its next call.
    """

    def __init__(self, number: int, cancel: Callable[[JobHandle], None]) -> None:
        self.number = number
        self.finished = False
        self._cancel = cancel

    def cancel(self) -> None:
        """Ask to stop it; a failure with a CancelledError follows within 1 s. Does nothing if it is finished."""
        if not self.finished:
            self._cancel(self)


class Segmenter(Protocol):
    """Takes jobs and returns events; to be used from one thread, which it never blocks.

    Example::

        segmenter = LocalSegmenter()
        handle = segmenter.submit(SegmentJob(image, "brain-mr"))
        # every 50 ms, from a timer
        for event in segmenter.poll():
            if event.job == handle.number: ...
    """

    def submit(self, job: Job) -> JobHandle:
        """Queue a job; its whole course, failures included, is reported as events. Its images are not copied here."""

    def poll(self) -> list[Event]:
        """What has happened since the last call, oldest first. To be called some 20 times a second."""

    def release(self) -> None:
        """Free memory: end the process of this segmenter unless it is busy. The next job starts it again."""

    def close(self) -> None:
        """End everything, running jobs too; no further events come."""


def wait_for(segmenter: Segmenter, job: Job, progress: Progress) -> ResultEvent:
    """The result of a job; for programs that may wait. Other events of the segmenter are lost.

    Raises:
        SegmentationError: what the job fails with; or what ``progress`` raises, which cancels the job.
    """
    handle = segmenter.submit(job)
    try:
        while True:
            for event in segmenter.poll():
                if isinstance(event, AcceptedEvent) or event.job != handle.number:
                    continue  # of a job that was given up
                if isinstance(event, ResultEvent):
                    return event
                if isinstance(event, FailureEvent):
                    raise event.error
                progress(event.phase, event.fraction, event.seconds_left)
            time.sleep(0.01)
    finally:
        handle.cancel()  # does nothing to a job that is over


class WaitingEngine:
    """A model behind a segmenter, for programs that may block: the same results as from the engine of that model.

    Attributes:
        package: the model as it is installed here.
        card: of the model.
        segmenter: runs its jobs.
    """

    def __init__(self, package: ModelPackage, segmenter: Segmenter) -> None:
        self.package = package
        self.card = package.card
        self.segmenter = segmenter

    def segment(self, image: sitk.Image, options: SegmentOptions, *, progress: Progress) -> SegmentationResult:
        """Segment a volume; see :meth:`SESegmentationLib.inference.engine.Engine.segment`.

        A map of doubt comes in steps of 1/255.

        Raises:
            SegmentationError: as there, and those of the segmenter.
        """
        result = wait_for(self.segmenter, SegmentJob(image, self.package.path, options), progress).segmentation()
        if result.doubt is None:
            return result
        return replace(result, doubt=Geometry.of(result.doubt).image(voxels_of(result.doubt) / np.float32(DOUBT_STEPS)))

    def attention(self, image: sitk.Image, options: SegmentOptions, progress: Progress) -> sitk.Image:
        """What the networks look at; see :func:`SESegmentationLib.inference.attention.attention_map`."""
        return wait_for(self.segmenter, AttentionJob(image, self.package.path, options), progress).attention()
