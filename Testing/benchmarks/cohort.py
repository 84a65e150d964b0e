"""How a cohort of crops grows faster with cores, and what 10,000 heads would take on 1, 8 and 100 devices.

``make bench-cohort`` or ``python Testing/benchmarks/cohort.py``. The command ``sesegment cohort`` is bound to one core
and to two, in turn, on the same crops of the hippocampus. Then heads are segmented on ``--device``: what the network
takes, what is done beside it and what is read and written are the parts of the reckoning. ``--head-seconds S`` reckons
with a network that was measured elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from SESegmentationCohort.records import Record, Records

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
CROPS, HEAD = DATA / "hippocampus" / "imagesTr", DATA / "volumes" / "t1-head-lia-256.nii.gz"
HEADS, DEVICES = 10_000, (1, 8, 100)
#: MB/s of what volumes may come through
NETWORKS = {"1 Gbit/s": 118.0, "10 Gbit/s": 1180.0, "100 Gbit/s": 11800.0}
AIM = 1.8
_LOOK_S = 0.3


@dataclass(frozen=True)
class Run:
    """One call of the command.

    Attributes:
        seconds: of the whole command.
        between: from the first result to the last, in s.
        processor: seconds of all its processes on the processor.
        beside: of all but the one with the network, start included.
        others: share of its cores that other programs took meanwhile, 0 to 1.
        records: of what was done.
    """

    seconds: float
    between: float
    processor: float
    beside: float
    others: float
    records: list[Record]

    @property
    def device(self) -> str:
        """Where the networks ran."""
        return (self.records[0].report or {})["device"]

    @property
    def per_scan(self) -> float:
        """Seconds from one result to the next."""
        return self.between / max(1, len(self.records) - 1)


def run(volumes: list[Path], model: str, device: str, cores: set[int] | None) -> Run:
    """Segment links to ``volumes`` on these cores only."""
    with tempfile.TemporaryDirectory() as folder:
        scans, out = Path(folder, "scans"), Path(folder, "out")
        scans.mkdir()
        for number, volume in enumerate(volumes):
            (scans / f"{number:05}.nii.gz").symlink_to(volume.resolve())
        command = [sys.executable, "-m", "SESegmentationLib.cli", "cohort", scans, "-o", out, "-m", model]
        before, begin, spent = psutil.cpu_times(percpu=True), time.perf_counter(), {}
        process = subprocess.Popen(
            [*map(str, command), "--device", device, "--accept-licence"],
            env={**os.environ, "PYTHONPATH": str(ROOT / "SESegmentation")},
            preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None:
            spent |= _processor_seconds(process.pid)
            time.sleep(_LOOK_S)
        seconds, after = time.perf_counter() - begin, psutil.cpu_times(percpu=True)
        if process.returncode:
            raise SystemExit(f"sesegment cohort ended with exit code {process.returncode}.")
        own = sorted(cores or os.sched_getaffinity(0))
        busy = sum(sum(after[core][:3]) - sum(before[core][:3]) for core in own)  # user, nice, system
        others = max(0.0, busy - sum(spent.values())) / (seconds * len(own))
        records = Records(out)
        written = sorted(path.stat().st_mtime for path in records.files())
        return Run(
            seconds,
            written[-1] - written[0],
            sum(spent.values()),
            sum(spent.values()) - max(spent.values()),
            others,
            list(records.all()),
        )


def _processor_seconds(pid: int) -> dict[int, float]:
    """Of a process and all below it, by their ids."""
    spent = {}
    with contextlib.suppress(psutil.Error):
        for one in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = one.cpu_times()
                spent[one.pid] = times.user + times.system
    return spent


def measure_crops(count: int, rounds: int, console: Console) -> None:
    """The cohort of crops on one core and on two."""
    crops = sorted(CROPS.glob("*.nii.gz"))[:count]
    available = sorted(os.sched_getaffinity(0))
    table = Table(title=f"{len(crops)} crops of the hippocampus, hippocampus-t1")
    for column in ("cores", "whole command s", "ms a crop", "processor s", "taken by others"):
        table.add_column(column, justify="right")
    runs: dict[int, list[Run]] = {1: [], 2: []}
    for _ in range(rounds):
        for cores in runs:
            runs[cores].append(run(crops, "hippocampus-t1", "cpu", set(available[:cores])))
            last = runs[cores][-1]
            row = (
                f"{cores}",
                f"{last.seconds:.1f}",
                f"{1000 * last.per_scan:.0f}",
                f"{last.processor:.0f}",
                f"{last.others:.0%}",
            )
            table.add_row(*row)
    console.print(table)
    values = {
        "whole command": lambda one: one.seconds,
        "from result to result": lambda one: one.per_scan,
        "whole command, without the share that others took (an estimate)": lambda one: one.seconds * (1 - one.others),
    }
    for what, value in values.items():
        one, two = (statistics.median(map(value, runs[cores])) for cores in (1, 2))
        verdict = "ok" if one / two >= AIM else f"less than the aim of {AIM}"
        console.print(f"{what}: 2 cores are {one / two:.2f} times as fast as one ({verdict})")


def measure_heads(device: str, count: int, head_seconds: float | None, console: Console) -> None:
    """The parts of a head, and what they come to."""
    done = run([HEAD] * count, "brain-mr", device, None)
    reports = [record.report or {} for record in done.records]
    beside = ("reading", "writing")
    networks = [sum(s for name, s in report["timings_s"].items() if name not in beside) for report in reports]
    network = statistics.median(networks)
    rest = done.beside / count
    megabytes = HEAD.stat().st_size / 1e6
    written = statistics.median(len(record.to_json()) for record in done.records) / 1e6
    console.print(
        f"a head: {network:.1f} s for the network on {done.device}, from result to result {done.per_scan:.1f} s; "
        f"{megabytes:.1f} MB read, {written:.2f} MB of record; {done.processor / count:.0f} s of the processor, "
        f"{max(rest, 0.0):.1f} s of them beside the network"
    )
    seconds = head_seconds or max(network, done.per_scan)
    table = Table(title=f"{HEADS:,} heads, {seconds:g} s a head and device")
    for column in ("devices", "hours", "read MB/s", *NETWORKS):
        table.add_column(column, justify="right")
    for devices in DEVICES:
        rate = devices * megabytes / seconds
        table.add_row(
            f"{devices}",
            f"{HEADS * seconds / devices / 3600:.1f}",
            f"{rate:.0f}",
            *(f"{100 * rate / most:.0f} %" for most in NETWORKS.values()),
        )
    console.print(table)
    console.print("Share of the network: above 100 % it is what is waited for. Storage has to give the same, to all.")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1, help="one core and two cores, in turn")
    parser.add_argument("--heads", type=int, default=3, help="that are segmented to measure their parts; 0 for none")
    parser.add_argument("--device", default="auto", help="for heads")
    parser.add_argument("--head-seconds", type=float, help="of the network, as it was measured elsewhere")
    chosen = parser.parse_args()
    console = Console(width=130)
    if not CROPS.is_dir():
        raise SystemExit(f"Nothing was measured: there is no {CROPS}.")
    console.print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    if chosen.crops:
        measure_crops(chosen.crops, chosen.rounds, console)
    if chosen.heads:
        measure_heads(chosen.device, chosen.heads, chosen.head_seconds, console)


if __name__ == "__main__":
    main()
