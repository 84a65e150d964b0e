"""The window stays responsive while a whole head is segmented: no event has to wait, the import of the result excepted.

What is measured is the time that the main thread computes between two turns of the event loop. Waiting for locks, pipes
or other threads would not be seen in that; it shows in the time on the clock, which is only judged where the computer
is idle enough to tell.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np
import pytest
import qt
import slicer
from panel_clicks import click, wait
from panel_fakes import MODULE

from harness import application

pytestmark = pytest.mark.alone

LIMIT = 0.050  # s
TICK_MS = 4
SIZE = 256
ATTEMPTS = 3


class LoopWatch:
    """Notes each turn of the event loop: (time on the clock, time that this thread has computed)."""

    def __init__(self):
        self._turns = []
        self._timer = qt.QTimer()
        self._timer.interval = TICK_MS
        self._timer.connect("timeout()", self.turn)

    def turn(self):
        self._turns.append((time.perf_counter(), time.thread_time()))

    def start(self):
        self._turns.clear()
        self.turn()
        self._timer.start()

    def stop(self):
        self._timer.stop()
        self.turn()
        return np.diff(np.array(self._turns), axis=0)


@pytest.fixture
def head(random_model, monkeypatch):
    """The opened module with a head, of which a small region is to be segmented by the real worker."""
    from SESegmentationLib.models import store
    from SESegmentationLib.panel.scene_results import SceneResults

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
    watch, write = LoopWatch(), SceneResults.write
    imports = []

    def write_unwatched(self, *arguments):
        imports.append(watch.stop())
        written = write(self, *arguments)
        watch.start()
        return written

    monkeypatch.setattr(SceneResults, "write", write_unwatched)
    click(widget.ui.segmentButton)  # the worker is started: its own beginning is no part of the measurement
    wait(lambda: not widget.panel.run.running)
    assert widget.panel.messages.shown == []

    def measure():
        imports.clear()
        watch.start()
        click(widget.ui.segmentButton)
        wait(lambda: not widget.panel.run.running)
        after = watch.stop()
        assert widget.panel.messages.shown == [] and len(imports) == 1
        return np.concatenate([imports[0], after])

    return measure


def test_no_event_waits_while_a_head_is_segmented(head):
    for _ in range(ATTEMPTS):
        gaps = head()
        assert len(gaps) > 40
        on_the_clock, computed = gaps.max(axis=0)
        if computed <= LIMIT and on_the_clock <= LIMIT:
            return
    assert computed <= LIMIT, f"the main thread computed for {1000 * computed:.0f} ms at a stretch"
    if os.getloadavg()[0] > os.cpu_count() if hasattr(os, "getloadavg") else sys.platform == "win32":
        pytest.skip(f"the computer is too busy to tell: {1000 * on_the_clock:.0f} ms between two turns")
    assert on_the_clock <= LIMIT, f"{1000 * on_the_clock:.0f} ms between two turns of the event loop"
