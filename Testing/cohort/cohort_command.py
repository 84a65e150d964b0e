"""The command on a cohort, as a process of its own, and what it leaves."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from SESegmentationCohort.records import Record, Records

LIBRARY = Path(__file__).parents[2] / "SESegmentation"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(LIBRARY)}


@dataclass
class Command:
    """``sesegment cohort`` on one input and one folder of results, on the processor."""

    source: Path
    out: Path
    model: str | Path

    def start(self, *options: object, **how: object) -> subprocess.Popen:
        """Begin it."""
        arguments = [self.source, "-o", self.out, "-m", self.model, "--accept-licence", "--device", "cpu", *options]
        return subprocess.Popen(
            [sys.executable, "-m", "SESegmentationLib.cli", "cohort", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            **{"env": ENVIRONMENT, **how},
        )

    def run(self, *options: object, **how: object) -> tuple[int, str]:
        """Do it; exit code and what it said."""
        process = self.start(*options, **how)
        out, err = process.communicate(timeout=240)
        assert out == ""
        assert "Traceback" not in err, err
        return process.returncode, err

    @property
    def records(self) -> dict[str, Record]:
        """By name."""
        return {record.name: record for record in Records(self.out).all()}

    def stamps(self) -> dict[str, int]:
        """When each segmentation was written, by name."""
        found: dict[str, int] = {}
        for folder, folders, names in os.walk(self.out):  # minds no folder that is gone, as they are while it runs
            folders[:] = [name for name in folders if not name.startswith(".sesegment")]
            written = (Path(folder, name) for name in names if name.endswith(".nii.gz"))
            found |= {path.name: path.stat().st_mtime_ns for path in written}
        return found

    def hidden(self) -> list[Path]:
        """What should not be left."""
        return [path for path in self.out.rglob(".*") if path.name.startswith(".sesegment")]


def rows(path: Path) -> list[dict[str, str]]:
    """Those of a table with tabs."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def interrupted(command: Command, number: int, *options: object) -> str:
    """Begin, send a signal in the middle, and see that nothing is left running; what it said."""
    before = len(command.stamps())
    process = command.start(*options)
    until = time.monotonic() + 120
    while len(command.stamps()) < before + 4 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive
    return err
