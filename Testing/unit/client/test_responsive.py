"""The thread that submits and polls never waits for the worker, nor for what is carried to it and from it.

A call that waited would wait here until the time is up. How long calls take tells ``Testing/benchmarks/worker.py``.
"""

from __future__ import annotations

import threading
import time

import psutil
import pytest
import SimpleITK as sitk

from SESegmentationLib.client import AcceptedEvent, FailureEvent, ResultEvent, SegmentJob, worker_process
from SESegmentationLib.errors import CancelledError

pytestmark = pytest.mark.timeout(90)

POLLS = 50
PAUSE_SECONDS = 0.01


@pytest.fixture
def head() -> sitk.Image:
    """64 MiB, of which no pipe holds more than a small part."""
    return sitk.Image(256, 256, 256, sitk.sitkFloat32) + 1


def poll_often(watched) -> None:
    for _ in range(POLLS):
        watched.poll()
        time.sleep(PAUSE_SECONDS)


@pytest.mark.parametrize("cancelled", [False, True])
def test_sending_to_a_worker_that_stands_still(watch, engine, small_image, tiny_model, head, cancelled):
    watched = watch(engine(""), cancel=60.0)
    watched.finish(watched.segmenter.submit(SegmentJob(small_image, tiny_model)))
    worker = psutil.Process(watched.segmenter.worker_pid)
    worker.suspend()
    try:
        handle = watched.segmenter.submit(SegmentJob(head, tiny_model))
        poll_often(watched)
        if cancelled:
            handle.cancel()
            poll_often(watched)
        assert watched.of(handle) == []
    finally:
        worker.resume()
    end = watched.finish(handle)
    if cancelled:
        assert isinstance(end, FailureEvent) and isinstance(end.error, CancelledError)
    else:
        assert isinstance(end, ResultEvent) and end.arrays[0].shape == (256, 256, 256)


def test_receiving_what_takes_long_to_come(watch, engine, tiny_model, head, monkeypatch):
    may_come = threading.Event()
    read_frame = worker_process.read_frame

    def slow_read(*arguments):
        frame = read_frame(*arguments)
        if frame is not None and frame.arrays:
            may_come.wait()
        return frame

    monkeypatch.setattr(worker_process, "read_frame", slow_read)
    watched = watch(engine(""))
    handle = watched.segmenter.submit(SegmentJob(head, tiny_model))
    watched.until(lambda event: isinstance(event, AcceptedEvent))
    poll_often(watched)
    assert not any(isinstance(event, ResultEvent) for event in watched.events)
    may_come.set()
    assert isinstance(watched.finish(handle), ResultEvent)
