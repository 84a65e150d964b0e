"""The opened module with a real worker process behind it."""

from __future__ import annotations

import slicer
from panel_clicks import click, wait

from harness import application


class Story:
    """The opened module with a real worker behind it, and what the tests want to know of it."""

    def __init__(self, widget, segmenters):
        self.widget = widget
        self.ui = widget.ui
        self._segmenters = segmenters

    @property
    def choices(self):
        return self.widget._parameterNode  # getParameterNode() would add a wrapper, and its observers, each time

    @property
    def messages(self):
        return [message.text for message in self.widget.panel.messages.shown]

    @property
    def running(self):
        return self.widget.panel.run.running

    @property
    def worker(self):
        """The process id of the worker; None where a server segments."""
        return self._segmenters[-1].worker_pid if self._segmenters else None

    @property
    def fewest_steps(self):
        """More values than these are seen of the progress bar; a server leaves out what is overtaken."""
        return 3 if self._segmenters else 1

    def start(self, until=lambda ui: ui.progressBar.value > 0):
        """Click Segment, and wait until it is under way."""
        click(self.ui.segmentButton)
        assert self.running, self.messages
        wait(lambda: until(self.ui) or not self.running)
        assert self.running, self.messages

    def segment(self):
        """Click Segment, and wait for the result."""
        click(self.ui.segmentButton)
        assert self.running, self.messages
        wait(lambda: not self.running)
        assert self.messages == []
        return self.choices.resultSegmentation


def load_sample():
    from SampleData import SampleDataLogic

    node = SampleDataLogic().downloadSample("SESegmentationHippocampus")
    application.process_events()
    return node


def voxels(node, identifier, volume):
    return slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume) > 0
