"""A segmentation from the click to its end: progress, cancelling, failures; with a fake behind the panel."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import qt
import slicer
from panel_clicks import click, texts, wait, wait_a_moment

from SESegmentationLib.errors import WorkerError
from SESegmentationLib.io.volume_image import voxels_of


def test_nothing_chosen_is_said(widget, segmenter):
    click(widget.ui.segmentButton)
    assert widget.panel.messages.shown[0].text == "No volume is chosen." and not segmenter.jobs
    assert widget.ui.messageFrame.isVisible() and not widget.ui.logButton.isVisible()


def test_progress_is_shown(widget, segmenter, make_volume):
    make_volume()
    assert not widget.ui.progressBar.isVisible() and not widget.ui.progressLabel.isVisible()
    click(widget.ui.segmentButton)
    assert widget.ui.segmentButton.text == "Cancel" and widget.ui.progressLabel.text == "Starting…"
    segmenter.progress("coronal", 0.42, 12.4)
    wait(lambda: widget.ui.progressBar.value == 42)
    assert widget.ui.progressLabel.text == "Segmenting coronal slices… about 12 s left"
    segmenter.progress("volume 2", 0.5, 12.4)  # a network that sees all slices at once
    wait(lambda: widget.ui.progressBar.value == 50)
    assert widget.ui.progressLabel.text == "Segmenting the whole volume (2)… about 12 s left"
    segmenter.progress("measure", 0.99, 0.2)
    wait(lambda: widget.ui.progressBar.value == 99)
    assert widget.ui.progressLabel.text == "Measuring… less than 1 s left"
    segmenter.fail(WorkerError("It broke.", "Try again."))
    wait(lambda: not widget.panel.run.running)
    assert widget.ui.segmentButton.text == "Segment" and not widget.ui.progressBar.isVisible()


def test_a_failure_shows_cause_remedy_and_log(widget, segmenter, make_volume):
    make_volume()
    click(widget.ui.segmentButton)
    segmenter.fail(WorkerError("It <broke>.", "Try again."))
    wait(lambda: not widget.panel.run.running)
    label = widget.ui.messageFrame.findChildren(qt.QLabel)[1]
    assert label.text == "<b>It &lt;broke&gt;.</b><br>Try again."
    assert not widget.ui.logText.isVisible()
    click(widget.ui.logButton)
    assert widget.ui.logText.isVisible() and widget.ui.logText.plainText == "what the worker printed"
    click(widget.ui.logButton)
    assert not widget.ui.logText.isVisible()
    click(widget.ui.segmentButton)
    assert widget.panel.messages.shown == [] and not widget.ui.logButton.isVisible()


def test_cancel(widget, segmenter, choices, make_volume, monkeypatch):
    from SESegmentationLib.panel import run_control

    monkeypatch.setattr(run_control, "DOUBLE_CLICK_SECONDS", 0.0)
    make_volume()
    click(widget.ui.segmentButton)
    widget.ui.segmentButton.click()  # the next turn of the event loop may bring the end of it already
    assert widget.ui.progressLabel.text == "Cancelling…" and not widget.ui.segmentButton.enabled
    wait(lambda: not widget.panel.run.running)
    assert texts(widget.panel.messages.shown) == [("information", "The segmentation was cancelled.")]
    assert choices.resultSegmentation is None and not widget.ui.logButton.isVisible()


def test_cancelled_at_once(widget, segmenter, make_volume, monkeypatch):
    """Before the copy of the volume is even made."""
    from SESegmentationLib.panel import run_control

    monkeypatch.setattr(run_control, "DOUBLE_CLICK_SECONDS", 0.0)
    make_volume()
    widget.ui.segmentButton.click()
    assert not segmenter.jobs
    widget.ui.segmentButton.click()
    wait(lambda: not widget.panel.run.running)
    assert texts(widget.panel.messages.shown) == [("information", "The segmentation was cancelled.")]
    click(widget.ui.segmentButton)
    assert widget.panel.run.running and len(segmenter.jobs) == 2


@pytest.fixture
def slow_copy(monkeypatch):
    """Voxels are copied only once this is set; what is to be raised then can be added."""
    from SESegmentationLib.panel import requests

    may_go, errors = threading.Event(), []
    copier = requests.copier_of_volume_node

    def copier_of_volume_node(node):
        copy = copier(node)

        def copy_slowly():
            assert may_go.wait(30)
            for error in errors:
                raise error
            return copy()

        return copy_slowly

    monkeypatch.setattr(requests, "copier_of_volume_node", copier_of_volume_node)
    yield may_go, errors
    may_go.set()


def test_the_window_does_not_wait_until_a_large_volume_is_copied(widget, segmenter, make_volume, slow_copy):
    may_go, _ = slow_copy
    volume = make_volume()
    click(widget.ui.segmentButton)
    wait_a_moment()
    assert widget.panel.run.running and not segmenter.jobs and widget.ui.progressLabel.text == "Starting…"
    may_go.set()
    wait(lambda: segmenter.jobs)
    np.testing.assert_array_equal(voxels_of(segmenter.jobs[0].image), slicer.util.arrayFromVolume(volume))


def test_a_scene_closed_while_a_volume_is_copied_is_not_segmented(widget, segmenter, make_volume, slow_copy):
    may_go, _ = slow_copy
    make_volume()
    click(widget.ui.segmentButton)
    slicer.mrmlScene.Clear()
    may_go.set()
    wait_a_moment()
    assert not widget.panel.run.running and not segmenter.jobs and widget.panel.messages.shown == []


def test_no_memory_for_the_copy_is_told(widget, segmenter, make_volume, slow_copy):
    may_go, errors = slow_copy
    errors.append(MemoryError())
    make_volume()
    click(widget.ui.segmentButton)
    may_go.set()
    wait(lambda: not widget.panel.run.running)
    assert "not enough memory" in widget.panel.messages.shown[0].text and not segmenter.jobs
    errors.clear()
    click(widget.ui.segmentButton)
    wait(lambda: segmenter.jobs)


def test_a_scene_closed_at_once_is_not_segmented(widget, segmenter, make_volume):
    make_volume()
    widget.ui.segmentButton.click()
    slicer.mrmlScene.Clear()
    wait_a_moment()
    assert not widget.panel.run.running and not segmenter.jobs and widget.panel.messages.shown == []


def test_a_double_click_does_not_cancel(widget, segmenter, make_volume):
    make_volume()
    click(widget.ui.segmentButton)
    click(widget.ui.segmentButton)
    assert widget.panel.run.running and len(segmenter.jobs) == 1
    assert widget.ui.segmentButton.text == "Cancel" and widget.ui.segmentButton.enabled


def test_a_fault_of_the_program_is_reported_too(widget, segmenter, make_volume, monkeypatch):
    make_volume()
    monkeypatch.setattr(segmenter, "submit", lambda job: 1 / 0)
    click(widget.ui.segmentButton)
    assert "ZeroDivisionError" in widget.panel.messages.shown[0].text and not widget.panel.run.running


def test_a_fault_while_the_result_is_imported_is_reported_too(widget, segment, monkeypatch):
    monkeypatch.setattr(widget.panel._scene_results, "write", lambda *arguments: 1 / 0)
    assert segment() is None
    assert "ZeroDivisionError" in widget.panel.messages.shown[0].text
