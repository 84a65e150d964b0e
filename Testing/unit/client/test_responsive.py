"""The thread that submits and polls is never made to wait: its calls are short, and so are the gaps between them."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest
import SimpleITK as sitk

from SESegmentationLib.client import Event, FailureEvent, ResultEvent, SegmentJob
from SESegmentationLib.errors import CancelledError

pytestmark = pytest.mark.alone

LONGEST_SECONDS = 0.05
PAUSE_SECONDS = 0.01
#: the computer itself may be busy with something else
ATTEMPTS = 3


class EventLoop:
    """Submits a job and polls, as a panel does, and notes how long everything takes, in s."""

    def __init__(self, segmenter, job: SegmentJob, cancel_at: float | None = None) -> None:
        self.polls: list[float] = []
        self.gaps: list[float] = []
        self.cancel = 0.0
        begin = time.perf_counter()
        handle = segmenter.submit(job)
        self.submit = time.perf_counter() - begin
        while True:
            begin = time.perf_counter()
            events = segmenter.poll()
            self.polls.append(time.perf_counter() - begin)
            over = [event for event in events if isinstance(event, (ResultEvent, FailureEvent))]
            if over:
                self.end: Event = over[0]
                return
            if cancel_at is not None and any(getattr(event, "fraction", 0) >= cancel_at for event in events):
                begin = time.perf_counter()
                handle.cancel()
                self.cancel = time.perf_counter() - begin
            begin = time.perf_counter()
            time.sleep(PAUSE_SECONDS)
            self.gaps.append(time.perf_counter() - begin - PAUSE_SECONDS)

    def worst(self) -> float:
        """The longest of what must be short; of what happens often the 95th percentile, in s."""
        often = [statistics.quantiles(seconds, n=20)[-1] for seconds in (self.polls, self.gaps)]
        return max(self.submit, self.cancel, *often)


def attempt(segmenter, job: SegmentJob, cancel_at: float | None = None) -> EventLoop:
    """The best of some runs."""
    runs = []
    for _ in range(ATTEMPTS):
        runs.append(EventLoop(segmenter, job, cancel_at))
        if runs[-1].worst() < LONGEST_SECONDS:
            break
    return min(runs, key=EventLoop.worst)


def test_with_the_real_worker(warm, tiny_model, large_image):
    run = attempt(warm.segmenter, SegmentJob(large_image, tiny_model, device="cpu"))
    assert isinstance(run.end, ResultEvent)
    assert len(run.polls) > 20
    assert run.worst() < LONGEST_SECONDS


@pytest.mark.parametrize("cancel_at", [None, 0.5])
def test_with_a_whole_head(watch, engine, tiny_model: Path, cancel_at):
    """64 MiB to be sent, 16 MiB to be received."""
    watched = watch(engine("for n in range(40): progress('axial', n / 40, 1.0); time.sleep(0.02)"))
    image = sitk.Image(256, 256, 256, sitk.sitkFloat32) + 1
    run = attempt(watched.segmenter, SegmentJob(image, tiny_model), cancel_at)
    if cancel_at is None:
        assert isinstance(run.end, ResultEvent)
        assert run.end.arrays[0].shape == (256, 256, 256)
    else:
        assert isinstance(run.end.error, CancelledError)
        assert run.cancel > 0
    assert len(run.polls) > 20
    assert run.worst() < LONGEST_SECONDS
