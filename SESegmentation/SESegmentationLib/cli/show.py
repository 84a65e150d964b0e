"""What the command shows: tables on stdout, progress on stderr."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from ..doctor import ERROR, OK, Check
from ..errors import NothingFoundError
from ..files.json_files import to_json
from ..models import ModelPackage
from ..plain_text import printable, some_of
from . import report_failure, say, warn

_STATUS_STYLES = {OK: "green", ERROR: "red"}


class _PlainConsole(Console):
    """A console for which strings are what they are: they come from files and packages."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text, lines=True), **options)


def console() -> Console:
    """The console for results; texts are not parsed as markup, and control characters are escaped."""
    return _PlainConsole(file=sys.stdout, highlight=False, markup=False, emoji=False)


def print_json(content: Any) -> None:
    """Print ``content`` as JSON on stdout."""
    print(to_json(content, encoding=getattr(sys.stdout, "encoding", None) or "utf-8"))


class ProgressBar:
    """Progress on stderr: phase, bar, percent, time left. Silent where stderr is no terminal.

    A ``with`` block; call it as :class:`SESegmentationLib.progress.Progress`.
    """

    def __init__(self, subject: str = "") -> None:
        self._bar = Progress(
            TextColumn("{task.fields[subject]}{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[left]}"),
            console=Console(file=sys.stderr),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("starting", total=1.0, subject="", left="")
        self.subject(subject)

    def subject(self, subject: str) -> None:
        """Name what is being worked on."""
        self._bar.update(self._task, subject=f"{printable(subject)}: " if subject else "")

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bar away while something else is printed."""
        self._bar.stop()
        yield
        self._bar.start()

    def __call__(self, phase: str, fraction: float, seconds_left: float | None) -> None:
        left = "" if seconds_left is None else f"{duration(round(seconds_left))} left"
        self._bar.update(self._task, description=printable(phase), completed=fraction, left=left)


def duration(seconds: float) -> str:
    """Seconds in words: "0.4 s", "14 s", "3 min 20 s", "2 h 5 min"."""
    if 0.05 <= seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def print_segmentation(report: Mapping[str, Any]) -> None:
    """The structures of one volume, and what was noticed."""
    table = Table(
        title=f"{report['input']} · {report['model']['name']} {report['model']['version']}", title_justify="left"
    )
    table.add_column("value", justify="right")
    table.add_column("structure")
    table.add_column("ml", justify="right")
    table.add_column("confidence", justify="right")
    calibrated = any(structure["expected_dice"] is not None for structure in report["structures"])
    if calibrated:
        table.add_column("expected Dice", justify="right")
    sampled = report.get("samples") is not None
    if sampled:
        table.add_column("sample overlap", justify="right")
    for structure in report["structures"]:
        found = structure["voxels"] > 0
        expected = structure["expected_dice"]
        row = [
            str(structure["value"]),
            structure["name"],
            f"{structure['volume_ml']:.2f}" if found else "not found",
            f"{structure['confidence']:.2f}" if found else "",
        ]
        if calibrated:
            row.append(f"{expected:.2f}" if found and expected is not None else "")
        if sampled:
            row.append(f"{structure['sample_overlap']:.2f}" if found and "sample_overlap" in structure else "")
        table.add_row(*row)
    output = console()
    output.print(table)
    print_findings(report)
    seconds = sum(report["timings_s"].values())
    output.print(f"{report['output']}  ({duration(seconds)} on {report['device']})", soft_wrap=True)


def print_findings(report: Mapping[str, Any], subject: str = "") -> None:
    """What was noticed in one volume, a line each, on stderr."""
    for finding in report["findings"]:
        warn(f"{subject}Warning: {finding['message']} {finding['consequence']}")


def print_line(report: dict[str, Any]) -> None:
    """Print one line for a finished volume of several, after its warnings."""
    if "error" not in report:
        print_findings(report, subject=f"{report['input']}: ")
        say(f"{report['input']} -> {report['output']}")


def report_nothing_found(reports: Sequence[dict[str, Any]]) -> int:
    """Report on stderr the volumes in which nothing was found; returns the exit code."""
    code = 0
    for report in reports:
        error = NothingFoundError(
            f"Nothing was found in {report['input']}: it shows none of the structures of {report['model']['name']}.",
            "Check that the model suits the volume: part of the body, modality and contrast, field of view.",
        )
        code = report_failure(error)
    return code


def print_models(packages: Sequence[ModelPackage]) -> None:
    """All models by name: what each finds and in what, its version and licence."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("name", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for package in packages:
        card = package.card
        consent = ", consent required" if card.licence.asks_consent else ""
        contrast = "of any contrast" if card.contrast == "any" else card.contrast
        about = f"{card.modality} {contrast}".strip() + f", version {card.version}, {card.licence.spdx}{consent}"
        names = some_of((label.name for label in card.labels), 4)
        finds = Text.assemble(printable(card.summary), (f"\n{printable(names)}\n{printable(about)}", "dim"))
        table.add_row(card.name, finds)
    console().print(table)


def print_checks(checks: Sequence[Check]) -> None:
    """The findings of the doctor, the remedy below each."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("status")
    table.add_column("name", no_wrap=True)
    table.add_column("finding", overflow="fold")
    for check in checks:
        style = _STATUS_STYLES.get(check.status, "yellow")
        finding = Text(printable(check.finding, lines=True))
        if check.remedy:
            finding.append(f"\n→ {printable(check.remedy, lines=True)}", "bold")
        table.add_row(Text(check.status, style), check.name, finding)
    console().print(table)
