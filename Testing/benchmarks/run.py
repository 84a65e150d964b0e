"""Benchmarks: time, memory and accuracy of the models that are shipped. Run by ``make bench``.

Every figure is of the real command in a process of its own. Times are comparable only within one run: read the ratios.
The volumes are those in ``../shared/data``; what is absent is left out, and said so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from subprocess import STDOUT

import psutil
import torch
from rich.console import Console
from rich.table import Table

from SESegmentationLib.inference.device import fast_precision
from SESegmentationLib.models import ModelPackage, list_models
from SESegmentationTraining.accuracy import measure, test_cases
from SESegmentationTraining.dataset import Case

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
console = Console(width=110)


@dataclass(frozen=True)
class Measured:
    """A process that was watched.

    Attributes:
        code: exit code.
        seconds: from its start to its end.
        peak_mb: largest resident memory, 10^6 bytes.
        output: what it printed, errors included.
    """

    code: int
    seconds: float
    peak_mb: float
    output: str


def watched(command: list[str], environment: dict[str, str], folder: str) -> Measured:
    """Run a command in ``folder`` and watch it."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        started = time.monotonic()
        process = psutil.Popen(command, stdout=output, stderr=STDOUT, env=environment, cwd=folder)
        peak = 0
        ended = threading.Event()
        threading.Thread(target=lambda: (process.wait(), ended.set()), daemon=True).start()
        while not ended.wait(0.02):
            try:
                peak = max(peak, process.memory_info().rss)
            except psutil.Error:
                break
        code = process.wait()
        seconds = time.monotonic() - started
        output.seek(0)
        return Measured(code, seconds, peak / 1e6, output.read())


def run_command(volumes: list[Path], model: str, *options: str) -> tuple[Measured, dict]:
    """Run ``sesegment run`` in a process of its own; what was measured, and its report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "SESegmentationLib.cli", "run", *map(str, volumes), "--model", model]
        command += ["-o", str(Path(folder) / "out"), "--report", str(report), *options]
        result = watched(command, os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}, folder)
        if result.code != 0:
            raise SystemExit(f"{' '.join(command)} ended with {result.code}:\n{result.output}")
        return result, json.loads(report.read_text(encoding="utf-8"))


def time_and_memory(models: dict[str, ModelPackage]) -> None:
    """A table of seconds, ratios and memory, and seconds by phase."""
    runs: list[tuple[str, str, list[Path], tuple[str, ...]]] = []
    head = SHARED_DATA / "volumes" / "t1-head-lia-256.nii.gz"
    crops = sorted((SHARED_DATA / "hippocampus" / "imagesTr").glob("*_0000.nii.gz"))
    if "brain-mr" in models and head.exists():
        runs.append(("256^3 head, all views", "brain-mr", [head], ()))
        runs.append(("256^3 head, --fast", "brain-mr", [head], ("--fast",)))
    if "hippocampus-t1" in models and crops:
        runs.append(("one crop", "hippocampus-t1", crops[:1], ()))
        runs.append(("100 crops", "hippocampus-t1", crops[:100], ()))
    table = Table(title="Time and memory", caption="seconds of the whole command; ratio to the first row")
    for column in ("run", "model", "seconds", "ratio", "peak MB", "seconds by phase"):
        table.add_column(column)
    first = None
    for name, model, volumes, options in runs:
        result, report = run_command(volumes, model, *options)
        first = first or result.seconds
        phases = report.get("timings_s", {}) if len(volumes) == 1 else {}
        table.add_row(
            name,
            model,
            f"{result.seconds:.1f}",
            f"{result.seconds / first:.2f}",
            f"{result.peak_mb:.0f}",
            ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in phases.items()),
        )
    console.print(table)


def accuracy(models: dict[str, ModelPackage]) -> None:
    """A table of Dice and 95 % Hausdorff distance per structure, on cases the weights never saw."""
    brain = SHARED_DATA / "volumes" / "t1-brain-stripped.nii.gz"
    truth = brain.with_name("t1-brain-stripped-aparc2009s+aseg.nii.gz")
    if "brain-mr" in models and truth.exists():
        for fast in (False, True):
            title = "brain-mr on t1-brain-stripped" + (", --fast" if fast else "")
            _print_accuracy(title, models["brain-mr"], [Case("t1-brain-stripped", brain, truth)], fast)
    hippocampus = SHARED_DATA / "hippocampus"
    if "hippocampus-t1" in models and hippocampus.is_dir():
        package = models["hippocampus-t1"]
        cases = test_cases(package, hippocampus)
        _print_accuracy(f"hippocampus-t1 on {len(cases)} cases kept out", package, cases, False)


def _print_accuracy(title: str, package: ModelPackage, cases: list[Case], fast: bool) -> None:
    measured = measure(package, cases, fast)["labels"]
    table = Table(title=title)
    for column in ("structure", "Dice", "95 % Hausdorff (mm)"):
        table.add_column(column)
    apart = package.card.accuracy.get("not_in_mean", []) if package.card.accuracy else []
    dice = []
    for label in package.card.labels:
        entry = measured[str(label.value)]
        distance = entry.get("hausdorff95_mm")
        name = label.name
        if label.value in apart:
            name += " (not in the mean)"
        else:
            dice.append(entry["dice"]["mean"])
        table.add_row(name, f"{entry['dice']['mean']:.3f}", f"{distance['mean']:.2f}" if distance else "-")
    table.add_section()
    table.add_row("mean", f"{sum(dice) / len(dice):.3f}", "")
    console.print(table)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("time", "accuracy"))
    chosen = parser.parse_args()
    models = {package.card.name: package for package in list_models()}
    # how fast networks are depends most on the widest arithmetic that the CPU has
    precision = str(fast_precision(torch.device("cpu"))).removeprefix("torch.")
    abilities = f"{torch.backends.cpu.get_cpu_capability()}, {precision}"
    console.print(f"{platform.platform()}, {os.cpu_count()} cores ({abilities}), Python {platform.python_version()}")
    if not SHARED_DATA.is_dir():
        console.print(f"There are no volumes in {SHARED_DATA}: nothing can be measured.")
    if chosen.only != "accuracy":
        time_and_memory(models)
    if chosen.only != "time":
        accuracy(models)


if __name__ == "__main__":
    main()
