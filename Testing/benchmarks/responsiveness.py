"""Benchmark of the window: how long an event waits at most while a head is segmented.

``make bench-responsiveness``. The module's panel, in the stand-in for Slicer's window, segments the sample head by
clicks, with the model that is shipped for it. Of each phase the longest stretch is told that the main thread computes
between two turns of the event loop, and its share of the time from the click to the end: seconds are comparable within
one run only, so read the shares.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT / "SESegmentation")]

from harness import application  # noqa: E402

SAMPLE, MODEL = "SESegmentationHead", "brain-mr"
TICK_MS = 4
SECONDS = 300
PHASES = ("until the result comes", "import of the result", "after the import")


class LoopWatch:
    """Notes at each turn of the event loop how long this thread has computed, in s."""

    def __init__(self) -> None:
        import qt

        self._turns: list[float] = []
        self._timer = qt.QTimer()
        self._timer.interval = TICK_MS
        self._timer.connect("timeout()", self.turn)

    def turn(self) -> None:
        """Note one."""
        self._turns.append(time.thread_time())

    def start(self) -> None:
        """Begin."""
        self._turns.clear()
        self.turn()
        self._timer.start()

    def longest(self) -> float:
        """The longest stretch since :meth:`start`, in s; ends."""
        self._timer.stop()
        self.turn()
        return max(after - before for before, after in zip(self._turns, self._turns[1:], strict=False))


def measure(widget: Any) -> tuple[float, float, float, float]:
    """The longest stretch of each of ``PHASES`` in one segmentation by a click, and the time that it takes, in s."""
    from SESegmentationLib.panel.scene_results import SceneResults

    watch, write = LoopWatch(), SceneResults.write
    found: list[float] = []

    def watched_write(results: SceneResults, *arguments: Any) -> Any:
        found.append(watch.longest())
        began = time.thread_time()
        written = write(results, *arguments)
        found.append(time.thread_time() - began)
        watch.start()
        return written

    SceneResults.write = watched_write  # type: ignore[method-assign]
    try:
        clicked = time.monotonic()
        watch.start()
        widget.ui.segmentButton.click()
        if not application.wait_until(lambda: not widget.panel.run.running, SECONDS) or len(found) != 2:
            raise SystemExit(f"The segmentation failed: {[m.text for m in widget.panel.messages.shown]}")
        return found[0], found[1], watch.longest(), time.monotonic() - clicked
    finally:
        SceneResults.write = write  # type: ignore[method-assign]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clicks", type=int, default=3, help="how many segmentations are measured")
    clicks = parser.parse_args().clicks
    application.start()
    try:
        application.load_module(ROOT / "SESegmentation" / "SESegmentation.py")
        volume = sys.modules["SampleData"].SampleDataLogic().downloadSample(SAMPLE)
        widget = application.open_module("SESegmentation")
        choices = widget.logic.getParameterNode()
        choices.inputVolume, choices.model = volume, MODEL
        measure(widget)  # starts the worker, and loads the model
        runs = [measure(widget) for _ in range(clicks)]
    finally:
        application.stop()
    *stretches, whole = [statistics.median(seconds) for seconds in zip(*runs, strict=True)]
    sizes = " x ".join(map(str, volume.GetImageData().GetDimensions()))
    table = Table(title=f"{sizes} voxels, {MODEL}: {clicks} runs of {whole:.0f} s")
    for column in ("phase", "longest stretch, ms", "share of the time"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for phase, seconds in zip(PHASES, stretches, strict=True):
        table.add_row(phase, f"{1000 * seconds:.0f}", f"{100 * seconds / whole:.1f} %")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
