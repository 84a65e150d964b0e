"""Options that several commands have, and the consent to the terms of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import UsageError
from ..models import ModelCard

#: by which a user consents
OPTION = "--accept-licence"
AcceptLicence = Annotated[
    bool,
    typer.Option(
        OPTION,
        envvar="SESEGMENTATION_ACCEPT_LICENCE",
        help="Accept the terms of weights that are not free for every use.",
    ),
]
ServerAddress = Annotated[
    str | None, typer.Option("--server", metavar="URL", help="A server of SESegmentation (sesegment serve).")
]
ServerCertificate = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Trust the certificate of the server, or of its authority, in this PEM file."),
]
Series = Annotated[
    str | None,
    typer.Option(
        metavar="SERIES",
        help="Which of several DICOM series: number, description or UID; without it they are listed.",
    ),
]
SegType = Annotated[
    Literal["binary", "labelmap"],
    typer.Option(case_sensitive=False, help="DICOM: one bit per voxel and segment, or the label map (newer readers)."),
]
StructuredReport = Annotated[
    bool, typer.Option("--sr", help="DICOM: write a structured report of the volumes too, beside the segmentation.")
]
SecondaryCapture = Annotated[
    bool, typer.Option("--secondary-capture", help="DICOM: write the picture as secondary capture too.")
]
Deidentify = Annotated[
    bool, typer.Option("--deidentify", help="DICOM: leave out the attributes of patient and study; UIDs stay.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Fast = Annotated[bool, typer.Option("--fast", help="Take fewer views: faster, less accurate.")]
LowMemory = Annotated[bool, typer.Option("--low-memory", help="Use less memory and more time.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def require_consent(card: ModelCard, accepted: bool) -> None:
    """Raise UsageError where the terms of a model are not free and not accepted."""
    licence = card.licence
    if accepted or not licence.asks_consent:
        return
    where = f" at {licence.url}" if licence.url else ""
    raise UsageError(
        f"The weights of {card.name} may not be used for every purpose: {licence.name} ({licence.spdx}).",
        f"Read these terms{where}; if you accept them, add {OPTION}.",
    )
