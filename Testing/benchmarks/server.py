"""Benchmark of the server: what a request costs beyond the local worker, and how several users share it.

``make bench-server``. A server of one replica and the local worker, both on this computer and warm, segment the same
volumes in turn; read the ratios. Then eight clients send crops at once, each one after the other. Results are compared
byte for byte. The volumes are those in ``../shared/data``.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import statistics
import threading
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from rich.console import Console
from rich.table import Table

from SESegmentationLib.client import FailureEvent, ResultEvent, Segmenter, SegmentJob
from SESegmentationLib.client.local import LocalSegmenter
from SESegmentationLib.client.remote import RemoteSegmenter
from SESegmentationLib.client.servers import server_at
from SESegmentationLib.io.reading import read_volume
from SESegmentationServer.serving import running
from SESegmentationServer.settings import ServerSettings

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
CROPS, HEAD = "hippocampus/imagesTr", "volumes/t1-head-lia-256.nii.gz"
CLIENTS, REQUESTS = 8, 6
POLL_SECONDS = 0.002
#: a request may take so much longer than the local worker; the slowest client may wait so much longer than the mean
CROP_AIM, HEAD_AIM, FAIR_AIM = 0.10, 0.03, 2.0
console = Console(width=110)


def segment(segmenter: Segmenter, job: SegmentJob) -> tuple[float, ResultEvent]:
    """Seconds from submitting a job to its result, and the result."""
    begin = time.perf_counter()
    handle = segmenter.submit(job)
    while True:
        for event in segmenter.poll():
            if isinstance(event, FailureEvent):
                raise event.error
            if isinstance(event, ResultEvent) and event.job == handle.number:
                return time.perf_counter() - begin, event
        time.sleep(POLL_SECONDS)


def compared(local: Segmenter, remote: Segmenter, jobs: list[SegmentJob]) -> tuple[float, float]:
    """Median seconds of a job by the local worker and by the server, in turn; both warm."""
    times: tuple[list[float], list[float]] = ([], [])
    for segmenter in (local, remote):
        segment(segmenter, jobs[0])
    for number, job in enumerate(jobs):
        results = []
        order = ((0, local), (1, remote)) if number % 2 else ((1, remote), (0, local))
        for place, segmenter in order:
            seconds, event = segment(segmenter, job)
            times[place].append(seconds)
            results.append(event.arrays[0])
        if not np.array_equal(*results):
            raise SystemExit("The server's result is another one than the local worker's.")
    return statistics.median(times[0]), statistics.median(times[1])


def together(url: str, images: list[sitk.Image]) -> list[list[float]]:
    """Seconds that each request of each client took."""
    waited: list[list[float]] = [[] for _ in range(CLIENTS)]
    barrier = threading.Barrier(CLIENTS)

    def client(number: int) -> None:
        with RemoteSegmenter(server_at(url)) as segmenter:
            barrier.wait()
            for request in range(REQUESTS):
                image = images[(number + request) % len(images)]
                waited[number].append(segment(segmenter, SegmentJob(image, "hippocampus-t1"))[0])

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return waited


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=int, default=40, help="requests of a crop")
    parser.add_argument("--heads", type=int, default=3, help="requests of a head")
    chosen = parser.parse_args()
    crops = [read_volume(path) for path in sorted((DATA / CROPS).iterdir())[:CLIENTS]]
    head = read_volume(DATA / HEAD)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    table = Table(title=f"One replica; {platform.machine()}, {os.cpu_count()} cores")
    for column in ("", "local worker", "server", "ratio", "aim"):
        table.add_column(column)
    with running(ServerSettings(port=port)) as settings, LocalSegmenter() as local:
        with RemoteSegmenter(server_at(settings.url)) as remote:
            jobs = [SegmentJob(crops[n % len(crops)], "hippocampus-t1") for n in range(chosen.crops)]
            for name, batch, aim in (
                ("crop", jobs, CROP_AIM),
                ("head of 256³", [SegmentJob(head, "brain-mr")] * chosen.heads, HEAD_AIM),
            ):
                if batch:
                    alone, served = compared(local, remote, batch)
                    told = f"≤ {1 + aim:.2f}"
                    table.add_row(name, f"{alone:.3f} s", f"{served:.3f} s", f"{served / alone:.3f}", told)
        local.release()
        begin = time.perf_counter()
        waited = together(settings.url, crops)
        seconds = time.perf_counter() - begin
        means = [statistics.mean(times) for times in waited]
        table.add_row(
            f"{CLIENTS} clients, {REQUESTS} crops each",
            "",
            f"{CLIENTS * REQUESTS / seconds:.1f} crops/s",
            f"slowest / mean {max(means) / statistics.mean(means):.2f}",
            f"≤ {FAIR_AIM:.1f}",
        )
        longest = max(max(times) for times in waited)
        table.add_row("longest request / mean", "", f"{longest:.2f} s", f"{longest / statistics.mean(means):.2f}", "")
    console.print(table)


if __name__ == "__main__":
    main()
