"""The command ``sesegment compare`` and its options; what does the work is imported only when it is called."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

import typer

from SESegmentationLib.cli.shared_options import AcceptLicence, AsJson, Device, Fast


def add_compare_command(app: typer.Typer) -> None:
    """Add ``sesegment compare`` to ``app``."""
    app.command("compare")(_command)


def _command(
    earlier: Annotated[
        Path, typer.Argument(metavar="EARLIER", help="Volume or DICOM folder; or the report (.json) of sesegment run.")
    ],
    later: Annotated[Path, typer.Argument(metavar="LATER", help="The same for a later scan of the patient.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Name or folder of the model that segments volumes.")
    ] = "",
    days: Annotated[
        float | None, typer.Option(min=0, help="Days between the scans; by default from the DICOM files.")
    ] = None,
    dates: Annotated[
        tuple[datetime.datetime, datetime.datetime] | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            metavar="EARLIER LATER",
            help="Instead of --days: the dates of both scans, such as 2020-12-31.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the changes to this JSON or CSV file.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Write both scans and the changes to this PNG file.")] = None,
    series: Annotated[
        list[str] | None,
        typer.Option(metavar="SERIES", help="In folders with several DICOM series: the earlier, then the later one."),
    ] = None,
    device: Device = "auto",
    fast: Fast = False,
    accept_licence: AcceptLicence = False,
    as_json: AsJson = False,
) -> None:
    """Report how structures changed between two scans of a patient, and which changes exceed noise."""
    from .compare_scans import CompareOptions, compare_scans

    chosen = CompareOptions(
        model=model,
        device=device,
        fast=fast,
        series=tuple(series or ()),
        days=days,
        dates=tuple(date.date() for date in dates or ()),
        output=output,
        picture=picture,
        accept_licence=accept_licence,
        as_json=as_json,
    )
    compare_scans(earlier, later, chosen)
