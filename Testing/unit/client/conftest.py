"""Segmenters whose workers are real processes: the real worker, or one with an engine written for a test."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import SimpleITK as sitk

from contract_server import ContractServer
from SESegmentationLib.client import Event, FailureEvent, JobHandle, ResultEvent, WarmUpJob
from SESegmentationLib.client.local import LocalSegmenter, TimeLimits
from SESegmentationLib.io.reading import read_volume

#: the worker, with an engine that does BODY at each job and then finds nothing
SCRIPT = """
import os, signal, sys, time
import SimpleITK as sitk
from SESegmentationLib.result import SegmentationResult
from SESegmentationLib.worker.process import serve


class Engine:
    def __init__(self, package, device):
        self.card = package.card

    def segment(self, image, options, *, progress):
BODY
        labels = sitk.Image(image.GetSize(), sitk.sitkUInt8)
        labels.CopyInformation(image)
        return SegmentationResult(labels, [], {}, [], self.card, "cpu")


serve(Engine)
"""


class Watched:
    """A segmenter that is polled as a panel does it."""

    def __init__(self, segmenter: LocalSegmenter) -> None:
        self.segmenter = segmenter
        self.events: list[Event] = []
        self.pids: set[int] = set()

    def poll(self) -> list[Event]:
        """New events, which are also kept."""
        events = self.segmenter.poll()
        self.events += events
        if self.segmenter.worker_pid:
            self.pids.add(self.segmenter.worker_pid)
        return events

    def until(self, condition: Callable[[Event], bool], seconds: float = 60.0) -> Event:
        """The next event that fulfils ``condition``."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for event in self.poll():
                if condition(event):
                    return event
            time.sleep(0.01)
        raise AssertionError(f"nothing came within {seconds} s; {self.events}; log: {self.segmenter.log}")

    def finish(self, handle: JobHandle, seconds: float = 60.0) -> ResultEvent | FailureEvent:
        """How a job ends."""
        for event in self.events:
            if event.job == handle.number and isinstance(event, (ResultEvent, FailureEvent)):
                return event
        return self.until(
            lambda event: event.job == handle.number and isinstance(event, (ResultEvent, FailureEvent)), seconds
        )

    def printed(self, seconds: float = 15.0) -> str:
        """What the worker printed; it is read beside the events, so the end of a job may come first."""
        end = time.monotonic() + seconds
        while not self.segmenter.log and time.monotonic() < end:
            time.sleep(0.01)
        return self.segmenter.log

    def of(self, handle: JobHandle) -> list[Event]:
        """All events of a job so far."""
        return [event for event in self.events if event.job == handle.number]


def gone(pid: int, seconds: float = 15.0) -> bool:
    """Whether a process ends within ``seconds``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def has_ended() -> Callable[[int], bool]:
    """See :func:`gone`."""
    return gone


@pytest.fixture
def watch() -> Iterator[Callable[..., Watched]]:
    """Makes a segmenter of a command (its own where there is none) and limits; no worker of it outlives the test."""
    made: list[Watched] = []

    def make(command: list[str] | None = None, **limits: float) -> Watched:
        made.append(Watched(LocalSegmenter(command, TimeLimits(**limits))))
        return made[-1]

    yield make
    for watched in made:
        watched.segmenter.close()
    for watched in made:
        assert all(gone(pid) for pid in watched.pids)


@pytest.fixture(scope="session")
def real() -> Iterator[Watched]:
    """A segmenter with the real worker, which stays from test to test."""
    watched = Watched(LocalSegmenter())
    yield watched
    watched.segmenter.close()
    assert all(gone(pid) for pid in watched.pids)


@pytest.fixture
def warm(real: Watched, tiny_model: Path) -> Watched:
    """The real worker with the tiny model loaded, on the CPU."""
    result = real.finish(real.segmenter.submit(WarmUpJob(tiny_model, "cpu")))
    assert isinstance(result, ResultEvent), result
    real.events.clear()
    return real


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], list[str]]:
    """The command of a Python script."""

    def write(text: str) -> list[str]:
        path = tmp_path / "worker script Ä.py"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return [sys.executable, str(path)]

    return write


@pytest.fixture
def engine(script: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """The command of a worker whose engine does ``body`` at each job."""
    return lambda body: script(SCRIPT.replace("BODY", textwrap.indent(textwrap.dedent(body), 8 * " ")))


@pytest.fixture
def small_image() -> sitk.Image:
    return sitk.GetImageFromArray(np.arange(24, dtype=np.float32).reshape(2, 3, 4))


@pytest.fixture(scope="session")
def large_image() -> sitk.Image:
    """Takes the tiny model some seconds."""
    noise = np.random.default_rng(5).normal(100, 20, (176, 192, 176)).astype(np.float32)
    return sitk.GetImageFromArray(noise)


@pytest.fixture
def serve(tiny_model):
    """Makes servers; and segmenters for them, which are closed."""
    made = []

    def make(**options) -> ContractServer:
        made.append(ContractServer({"tiny-t1": tiny_model}, **options))
        return made[-1]

    yield make
    for server in made:
        server.silent.clear()
        server.stop()


@pytest.fixture
def image(sample_file) -> sitk.Image:
    """The sample."""
    return read_volume(sample_file)
