"""Runs jobs from request to result: with button, progress bar and timer in the panel, or blocking for scripts."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..client import Event, FailureEvent, Job, JobHandle, ProgressEvent, ResultEvent, Segmenter, wait_for
from ..errors import SegmentationError
from ..progress import Progress, no_progress
from .messages import explain_error, progress_line
from .requests import SegmentRequest, SegmentRun
from .scene_results import SceneResults

#: how often events are fetched, while a segmentation runs and while the worker only waits, in ms
RUNNING_MS, WAITING_MS = 40, 1000
#: time in ms from a click until its job is read from the scene, so that reading has its own turn of the event loop
#: (with 0 Qt would do both in one)
SUBMIT_MS = 1
#: clicks within this time (s) of the start do not cancel: a double click on Segment must not cancel what it began
DOUBLE_CLICK_SECONDS = 0.5
#: time in s that each fetch yields to the threads that carry messages, as Slicer may block other Python threads
THREAD_SECONDS = 0.004


@dataclass
class _Run:
    """Jobs that run one after the other, and their progress.

    Attributes:
        segmenter: does them.
        next_job: reads the next job from the scene, and returns a function that makes it, in another thread.
        on_result: called with the event of each job that succeeded.
        on_failure: called with what ended the run.
        count: how many jobs there are.
        started: when the run began, in s of the clock.
        done: how many jobs are done.
        making: the job that is being made; None before and after.
        handle: of the job under way; None before it is submitted.
    """

    segmenter: Segmenter
    next_job: Callable[[], Callable[[], Job]]
    on_result: Callable[[ResultEvent], None]
    on_failure: Callable[[SegmentationError], None]
    count: int
    started: float
    done: int = 0
    making: Future[Job] | None = None
    handle: JobHandle | None = None


class RunControl:
    """Runs one job after the other and shows their progress as that of one run.

    Args:
        ui: holds segmentButton, progressBar and progressLabel.
        make_segmenter: creates the segmenter when it is first needed or has to be replaced.
        on_segment: called when the user clicks Segment.
        ready: returns whether there is a scene to read and write; results wait until there is.
        clock: tells the time in s.
    """

    def __init__(
        self,
        ui: Any,
        make_segmenter: Callable[[], Segmenter],
        on_segment: Callable[[], None],
        ready: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ui = ui
        self._make_segmenter = make_segmenter
        self._segmenter: Segmenter | None = None
        self._is_another = False
        self._run: _Run | None = None
        self._on_segment = on_segment
        self._ready = ready
        self._clock = clock
        self._timer = qt.QTimer(ui.segmentButton)
        self._timer.connect("timeout()", self._fetch)
        ui.segmentButton.connect("clicked(bool)", self._on_click)
        self._show_idle()

    @property
    def running(self) -> bool:
        """Whether jobs are under way."""
        return self._run is not None

    @property
    def elapsed(self) -> float:
        """Time since the run began, in s; 0 where there is none."""
        return 0.0 if self._run is None else self._clock() - self._run.started

    @property
    def log(self) -> str:
        """What the worker printed last, for reports of failures."""
        return getattr(self._segmenter, "log", "")

    def start(
        self,
        next_job: Callable[[], Callable[[], Job]],
        on_result: Callable[[ResultEvent], None],
        on_failure: Callable[[SegmentationError], None],
        count: int = 1,
    ) -> None:
        """Begin a run. The one before must be over.

        Args:
            next_job: reads a job from the scene, the first one shortly after this call, each other one when the job
                before it is done. Returns a function that makes the job in another thread, so that copying large
                volumes does not block the window. Both may raise SegmentationError.
            on_result: called with the event of a job that succeeded; another one follows unless it was the last, or
                this calls :meth:`abandon`.
            on_failure: called with the error of a job that could not be made, failed or was cancelled; no other one
                follows.
            count: how many jobs there are.
        """
        if self._is_another and self._segmenter is not None:
            self._segmenter.close()
            self._segmenter = None
        self._is_another = False
        if self._segmenter is None:
            self._segmenter = self._make_segmenter()
        self._run = _Run(self._segmenter, next_job, on_result, on_failure, count, self._clock())
        self._ui.segmentButton.text = _("Cancel")
        self._ui.segmentButton.toolTip = _("Stop the segmentation. Nothing in the scene is changed.")
        self._ui.progressBar.value = 0
        self._ui.progressLabel.text = _("Starting…")
        self._ui.progressBar.visible = self._ui.progressLabel.visible = True
        self._timer.start(RUNNING_MS)
        qt.QTimer.singleShot(SUBMIT_MS, self._submit)

    def cancel(self) -> None:
        """Ask the run to stop; ``on_failure`` is called within a second."""
        self._submit(seconds=None)
        if self._run is not None and self._run.handle is not None:
            self._ui.segmentButton.enabled = False
            self._ui.progressLabel.text = _("Cancelling…")
            self._run.handle.cancel()

    def abandon(self) -> None:
        """Stop, without reporting an outcome."""
        if self._run is None:
            return
        if self._run.handle is not None:
            self._run.handle.cancel()
        self._end()

    def make_another(self) -> None:
        """Create a new segmenter for the next run."""
        self._is_another = True
        self.release()

    def release(self) -> None:
        """End the worker if it is idle, to give its memory back."""
        if self._segmenter is not None and not self.running:
            self._segmenter.release()

    def close(self) -> None:
        """End everything."""
        self._timer.stop()
        self._run = None
        if self._segmenter is not None:
            self._segmenter.close()
            self._segmenter = None

    def _on_click(self) -> None:
        if not self.running:
            self._on_segment()
        elif self.elapsed > DOUBLE_CLICK_SECONDS:
            self.cancel()

    def _fetch(self) -> None:
        if self._segmenter is None or not self._ready():
            return
        time.sleep(THREAD_SECONDS)
        for event in self._segmenter.poll():
            run = self._run  # each event may end it, or begin another
            # events of an abandoned job are ignored
            if run is not None and run.handle is not None and event.job == run.handle.number:
                self._receive(run, event)
        self._submit()

    def _receive(self, run: _Run, event: Event) -> None:
        if isinstance(event, ProgressEvent):
            self._show_progress(run, event)
        elif isinstance(event, ResultEvent):
            self._advance(run, event)
        elif isinstance(event, FailureEvent):
            self._end()
            run.on_failure(event.error)

    def _advance(self, run: _Run, event: ResultEvent) -> None:
        """Pass on the result of a finished job, and begin the next one."""
        run.handle = None
        run.done += 1
        if run.done == run.count:
            self._end()
        run.on_result(event)
        self._submit()

    def _submit(self, seconds: float | None = THREAD_SECONDS) -> None:
        """Make the next job, unless there is none or one is under way.

        Args:
            seconds: how long to wait for the job to be made before leaving it to the next fetch; None: no limit.
        """
        run = self._run
        if run is None or run.handle is not None or not self._ready():
            return
        try:
            if run.making is None:
                run.making = _in_thread(run.next_job())
            if wait([run.making], seconds).done:
                making, run.making = run.making, None
                run.handle = run.segmenter.submit(making.result())
        except Exception as error:
            self._end()
            run.on_failure(explain_error(error))

    def _show_progress(self, run: _Run, event: ProgressEvent) -> None:
        fraction = (run.done + event.fraction) / run.count
        self._ui.progressBar.value = round(100 * fraction)
        if run.count == 1:
            self._ui.progressLabel.text = progress_line(event.phase, event.seconds_left)
            return
        left = self.elapsed * (1 - fraction) / fraction if run.done else None
        line = progress_line(event.phase, left)
        self._ui.progressLabel.text = _("Frame {number} of {count}: {line}").format(
            number=run.done + 1, count=run.count, line=line
        )

    def _end(self) -> None:
        self._run = None
        self._timer.start(WAITING_MS)
        self._show_idle()

    def _show_idle(self) -> None:
        self._ui.segmentButton.text = _("Segment")
        self._ui.segmentButton.toolTip = _("Find the structures of the chosen model in the chosen volume.")
        self._ui.segmentButton.enabled = True
        self._ui.progressBar.visible = self._ui.progressLabel.visible = False


def _in_thread(make: Callable[[], Job]) -> Future[Job]:
    """What ``make`` returns or raises, from a thread of its own."""
    executor = ThreadPoolExecutor(1, "make a job")
    try:
        return executor.submit(make)
    finally:
        executor.shutdown(wait=False)  # the thread ends with the job


def segment_and_wait(
    segmenter: Segmenter, request: SegmentRequest, progress: Progress | None = None
) -> slicer.vtkMRMLSegmentationNode:
    """Segment without a panel; this blocks the program until it is done.

    Args:
        segmenter: does it.
        request: what is to be segmented.
        progress: called with phase, fraction (0 to 1) and seconds left (None while unknown); may raise to cancel.

    Returns:
        The segmentation node.

    Raises:
        SegmentationError: with a cause and a remedy; frames that were done before are in the scene.
    """
    request.check()
    results, run = SceneResults(), SegmentRun(request, request.frames())
    node = None
    while run.frames:
        result = wait_for(segmenter, run.next_job()(), progress or no_progress).segmentation()
        node = results.write(result, run.target(), request.adapted).node
        run.frames.pop(0)
        run.output_id = node.GetID()
    return node
