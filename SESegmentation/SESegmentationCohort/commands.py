"""The command of the cohort and its options; what it does is imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from SESegmentationLib.cli.shared_options import AcceptLicence, Fast


def add_commands(app: typer.Typer) -> None:
    """Add it to ``app``."""
    app.command("cohort")(_command)


def _command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="A folder and its subfolders (volumes, DICOM series), a BIDS dataset, or a list of paths: .txt "
            "with one per line, .tsv or .csv with a column path or image, and optionally name.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for results, records, table, failures and sheet.")
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="Name or folder of the model.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue: skip scans done with the same input, model and options.")
    ] = False,
    file_format: Annotated[
        Literal["seg.nrrd", "nii.gz", "dcm", "png"] | None,
        typer.Option("--format", case_sensitive=False, help="Format of the segmentations."),
    ] = None,
    bids: Annotated[bool, typer.Option("--bids", help="Make the folder a BIDS dataset of derivatives.")] = False,
    device: Annotated[
        str, typer.Option(help="auto (all GPUs, else the processor), cpu, cuda, cuda:N or mps.")
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Scans to segment at once; by default chosen automatically.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Segment only the I-th of N parts: for job arrays.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="local|ADDRESS", help="Use a Ray cluster, or one started on this computer."),
    ] = None,
    grid: Annotated[
        Literal["auto", "input", "model"],
        typer.Option(help="Grid of the results: the volume's, the model's, or the model's where slices are thick."),
    ] = "auto",
    fast: Fast = False,
    low_memory: Annotated[bool, typer.Option("--low-memory", help="Use less memory and more time.")] = False,
    seg_type: Annotated[
        Literal["binary", "labelmap"],
        typer.Option(case_sensitive=False, help="DICOM: one bit per voxel and segment, or the label map."),
    ] = "binary",
    sr: Annotated[bool, typer.Option("--sr", help="DICOM: write a structured report of the volumes too.")] = False,
    secondary_capture: Annotated[
        bool, typer.Option("--secondary-capture", help="DICOM: write the picture as secondary capture too.")
    ] = False,
    deidentify: Annotated[
        bool, typer.Option("--deidentify", help="DICOM: leave out the attributes of patient and study; UIDs stay.")
    ] = False,
    accept_licence: AcceptLicence = False,
) -> None:
    """Segment all scans of a cohort, on all devices of this computer, a cluster, or in parts.

    A scan that fails is listed with its cause and does not stop the others. --resume continues an interrupted run.
    """
    from SESegmentationExport.dicom_options import DicomOptions

    from .cases import parse_shard
    from .run import WorkDistribution, run_cohort
    from .settings import CohortSettings

    settings = CohortSettings(
        model=model,
        out=output,
        bids=bids,
        file_format=file_format,
        device=device,
        fast=fast,
        low_memory=low_memory,
        grid=grid,
        dicom=DicomOptions(seg_type, sr, secondary_capture, deidentify),
        resume=resume,
    )
    distribution = WorkDistribution(workers, parse_shard(shard) if shard else None, ray)
    raise typer.Exit(run_cohort(source, settings, distribution, accept_licence))
