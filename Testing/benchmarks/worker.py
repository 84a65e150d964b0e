"""Benchmark of the worker: what a click in the panel costs beyond inference, and what an idle worker keeps.

``python Testing/benchmarks/worker.py [MODEL [VOLUME]]``. Without arguments: every model that is installed, on a volume
of ``../shared/data`` that suits it. Times are of the real worker process, as the panel's thread sees them; every figure
but that of the first click is the median of several clicks.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import SimpleITK as sitk
from rich.console import Console
from rich.table import Table

from SESegmentationLib.client import FailureEvent, ResultEvent, SegmentJob
from SESegmentationLib.client.local import LocalSegmenter
from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.models import list_models

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
#: by kind of input that a model expects
VOLUMES = {
    "head": "volumes/t1-head-lia-256.nii.gz",
    "volume": "abdomen-mr/imagesTr/chaos_021_0000.nii.gz",
    "crop": "hippocampus/imagesTr/hippocampus_001_0000.nii.gz",
}
POLL_SECONDS = 0.01
PAUSE_SECONDS = 2.0  # between clicks; a person takes longer
#: aims: s, and bytes
BEYOND_AIM, IDLE_AIM = 0.5, 700e6


@dataclass(frozen=True)
class Click:
    """One segmentation.

    Attributes:
        seconds: from submitting the job to the event with its result.
        inference: seconds inside the engine.
        unpacking: seconds to make an image of the labels.
        call: the longest call of submit or poll, in s.
    """

    seconds: float
    inference: float
    unpacking: float
    call: float

    @property
    def beyond(self) -> float:
        """Seconds beyond inference."""
        return self.seconds - self.inference


def click(segmenter: LocalSegmenter, job: SegmentJob) -> Click:
    """Segment once, polling as a panel does."""
    begin = time.perf_counter()
    segmenter.submit(job)
    calls = [time.perf_counter() - begin]
    while True:
        start = time.perf_counter()
        events = segmenter.poll()
        end = time.perf_counter()
        calls.append(end - start)
        for event in events:
            if isinstance(event, FailureEvent):
                raise SystemExit(f"{event.error.cause} {event.error.remedy}\n{segmenter.log}")
            if isinstance(event, ResultEvent):
                inference = sum(event.value["timings"].values())
                event.segmentation()
                return Click(end - begin, inference, time.perf_counter() - end, max(calls))
        time.sleep(POLL_SECONDS)


def measure(name: str, image: sitk.Image, device: str, count: int) -> list[str]:
    """The row of one model: a first click, which starts the worker, and ``count`` more."""
    with LocalSegmenter() as segmenter:
        job = SegmentJob(image, name, device=device)
        first = click(segmenter, job)
        clicks = []
        for _ in range(count):
            time.sleep(PAUSE_SECONDS)
            clicks.append(click(segmenter, job))
        time.sleep(PAUSE_SECONDS)
        memory = psutil.Process(segmenter.worker_pid).memory_info().rss

    def median(attribute: str) -> float:
        return statistics.median(getattr(one, attribute) for one in clicks)

    beyond = median("beyond")
    return [
        Path(name).name,
        " x ".join(map(str, image.GetSize())),
        f"{first.seconds:.2f}",
        f"{median('seconds'):.2f}",
        f"{median('inference'):.2f}",
        f"{beyond:.2f} {'ok' if beyond <= BEYOND_AIM else 'too long'}",
        f"{1000 * median('unpacking'):.0f}",
        f"{1000 * median('call'):.0f}",
        f"{memory / 1e6:.0f} {'ok' if memory <= IDLE_AIM else 'too much'}",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", help="name or folder")
    parser.add_argument("volume", nargs="?", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--clicks", type=int, default=5, help="after the first")
    chosen = parser.parse_args()
    console = Console(width=130)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    console.print(f"{platform.platform()}, {os.cpu_count()} cores{load}, Python {platform.python_version()}")
    if chosen.volume:
        runs = [(chosen.model, chosen.volume)]
    else:
        packages = [package for package in list_models() if chosen.model in (None, package.card.name)]
        runs = [(str(package.path), SHARED_DATA / VOLUMES[package.card.input["kind"]]) for package in packages]
    table = Table(
        title="Clicks with a worker",
        caption=f"medians of {chosen.clicks} clicks after the first, which starts the worker",
    )
    for column in (
        "model",
        "volume",
        "first s",
        "next s",
        "inference s",
        "beyond it s",
        "unpack ms",
        "call ms",
        "idle MB",
    ):
        table.add_column(column)
    for name, path in runs:
        if path.exists():
            table.add_row(*measure(name, read_volume(path), chosen.device, chosen.clicks))
        else:
            console.print(f"{name}: there is no {path}; it was not measured.")
    console.print(table)


if __name__ == "__main__":
    main()
