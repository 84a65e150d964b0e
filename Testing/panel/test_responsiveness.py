"""The window does not wait while a whole head is segmented: neither for its voxels to be copied, nor for the worker.

What takes long is here held up until the window has gone on. For how long events wait at most is told by
``Testing/benchmarks/responsiveness.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import psutil
import pytest
import qt
import slicer
from panel_clicks import click, wait
from panel_fakes import MODULE

from harness import application

SIZE = 256
TURNS = 25
TICK_MS = 4
PATIENCE = 20  # s


@pytest.fixture
def opened(random_model, monkeypatch):
    """The opened module with a head, of which a small region is to be segmented by the real worker."""
    from SESegmentationLib.models import store

    monkeypatch.setattr(store, "search_path", lambda: [random_model.parent])
    application.load_module(MODULE)
    widget = application.open_module("SESegmentation")
    voxels = np.random.default_rng(0).normal(100, 20, (SIZE,) * 3).astype(np.int16)
    slicer.util.addVolumeFromArray(voxels, name="head")
    region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "region")
    region.SetCenter(100, 100, 100)
    region.SetSize(30, 30, 30)
    application.process_events()
    widget.logic.getParameterNode().region = region
    return widget


def segment(widget) -> None:
    """Segment by a click, to the end."""
    click(widget.ui.segmentButton)
    wait(lambda: not widget.panel.run.running)
    assert widget.panel.messages.shown == []


@contextmanager
def released_by_the_window(release: Callable[[], None]) -> Iterator[None]:
    """Release what is held up when the event loop has turned often; fail where that needs another thread."""
    timer, turns, rescued = qt.QTimer(), [], threading.Event()
    timer.interval = TICK_MS

    def turn() -> None:
        turns.append(None)
        if len(turns) == TURNS:
            release()

    def rescue() -> None:
        rescued.set()
        release()

    rescuer = threading.Timer(PATIENCE, rescue)
    timer.connect("timeout()", turn)
    timer.start()
    rescuer.start()
    try:
        yield
    finally:
        timer.stop()
        rescuer.cancel()
    assert not rescued.is_set(), "the window stood still"
    assert len(turns) >= TURNS


def test_voxels_are_copied_while_the_window_goes_on(opened, monkeypatch):
    from SESegmentationLib.panel import requests

    may_end = threading.Event()
    copier_of = requests.copier_of_volume_node

    def slow_copier(node):
        copy = copier_of(node)

        def slow_copy():
            may_end.wait()
            return copy()

        return slow_copy

    monkeypatch.setattr(requests, "copier_of_volume_node", slow_copier)
    with released_by_the_window(may_end.set):
        segment(opened)


def test_the_window_goes_on_while_the_worker_stands_still(opened):
    segment(opened)
    worker = psutil.Process(opened.panel.run._segmenter.worker_pid)
    worker.suspend()
    with released_by_the_window(worker.resume):
        segment(opened)


def test_a_worker_that_stands_still_can_be_cancelled(opened):
    segment(opened)
    worker = psutil.Process(opened.panel.run._segmenter.worker_pid)
    results = len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode"))
    worker.suspend()
    click(opened.ui.segmentButton)
    wait(lambda: opened.panel.run.elapsed > 1)  # a click before counts as the second of a double click
    click(opened.ui.segmentButton)
    wait(lambda: not opened.panel.run.running)
    assert [message.text for message in opened.panel.messages.shown] == ["The segmentation was cancelled."]
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == results
    opened.panel.messages.clear()
    segment(opened)  # by another worker
