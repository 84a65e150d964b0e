"""The commands and their options, those of other packages where they are installed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from SESegmentationExport.commands import add_compare_command

from .. import __version__
from ..errors import UsageError
from . import say, warn
from .package_commands import add_package_commands
from .shared_options import (
    AcceptLicence,
    AsJson,
    Deidentify,
    Device,
    Fast,
    LowMemory,
    SecondaryCapture,
    SegType,
    Series,
    ServerAddress,
    ServerCertificate,
    StructuredReport,
)
from .usage import Commands

app = Commands(
    help="Segment anatomy in medical volumes with squeeze & excitation networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models_app = Commands(invoke_without_command=True, help="List the models that can be used, or add one.")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Print the traceback of a failure. It can be added to every command.")
    ] = False,
) -> None:
    """Options before the command; ``--debug`` is removed from the arguments before they reach this function."""


app.add_typer(models_app, name="models")


@models_app.callback()
def models(context: typer.Context, as_json: AsJson = False) -> None:
    """List the models that can be used, or add one."""
    if context.invoked_subcommand is not None:
        return
    from ..models import damaged_models, list_models
    from .show import print_json, print_models

    packages = list_models()
    if as_json:
        print_json([{"path": str(package.path), **package.card.to_dict()} for package in packages])
    else:
        print_models(packages)
    for model in damaged_models():
        warn(f"Damaged: {model.error.cause} {model.error.remedy}")


@models_app.command("add")
def models_add(
    source: Annotated[Path, typer.Argument(metavar="DIR|ZIP", help="A model's folder, or a ZIP of it.")],
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite a model of the same name.")] = False,
) -> None:
    """Install a model for this user, in Slicer too: schema and SHA-256 are checked, nothing in it is executed."""
    from ..models import add_model

    package = add_model(source, replace=replace)
    say(f"{package.card.name} {package.card.version}: {package.path}")


@app.command()
def run(
    volumes: Annotated[
        list[Path],
        typer.Argument(
            metavar="VOLUME",
            help="NIfTI, NRRD, MetaImage or MGH files, or folders; DICOM folders, files or DICOMDIR; BIDS datasets.",
        ),
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Name of a model (see: sesegment models), or its folder.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=".seg.nrrd, .nii.gz or .dcm file, or a folder.")
    ] = None,
    bids: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Instead of -o: write BIDS derivatives, with tables of labels and volumes."),
    ] = None,
    file_format: Annotated[
        Literal["seg.nrrd", "nii.gz", "dcm", "png"] | None,
        typer.Option("--format", case_sensitive=False, help="Format of the files in a folder."),
    ] = None,
    device: Device = "auto",
    server: ServerAddress = None,
    server_certificate: ServerCertificate = None,
    roi: Annotated[
        Path | None,
        typer.Option(help="Segment this box only: Slicer's ROI (.mrk.json), or the box around the labels in a file."),
    ] = None,
    series: Series = None,
    report: Annotated[
        Path | None, typer.Option(help="Write volumes, confidence, timings and versions to this JSON or CSV file.")
    ] = None,
    stats: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.stats|DIR", help="Write volumes and intensities in the layout of FreeSurfer's aseg.stats."
        ),
    ] = None,
    table: Annotated[
        Path | None, typer.Option(metavar="FILE.tsv", help="Write a table of the batch, one row per volume.")
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html|pdf|DIR", help="Write a page about the scan: pictures, volumes, asymmetry, provenance."
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write, or continue, a page for reviewing the batch (sheet.html) in this folder."
        ),
    ] = None,
    skip_passed: Annotated[
        Path | None,
        typer.Option(
            metavar="MARKS.json", help="Leave out volumes that passed review, by the marks saved from that page."
        ),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Write three slices with the structures to this PNG file.")
    ] = None,
    doubt: Annotated[
        Path | None,
        typer.Option(help="Write the probability that a voxel's label is wrong to this .nii.gz or .nrrd file."),
    ] = None,
    attention: Annotated[
        Path | None,
        typer.Option(
            help="Write what the networks looked at, the gates of their last decoders, to this .nii.gz or .nrrd file."
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(min=0, help="Draw this many samples and report how far each structure differs among them; slow."),
    ] = 0,
    sampling: Annotated[
        Literal["augmentation", "dropout"],
        typer.Option(help="How samples differ: by augmenting the image, or by Monte Carlo dropout."),
    ] = "augmentation",
    grid: Annotated[
        Literal["auto", "input", "model"],
        typer.Option(help="Grid of the result: the volume's, the model's, or the model's where slices are thick."),
    ] = "auto",
    fast: Fast = False,
    low_memory: LowMemory = False,
    seg_type: SegType = "binary",
    sr: StructuredReport = False,
    secondary_capture: SecondaryCapture = False,
    deidentify: Deidentify = False,
    accept_licence: AcceptLicence = False,
    as_json: AsJson = False,
) -> None:
    """Segment volumes.

    In a folder, each result is named after its volume, without a trailing _0000.
    If some of several volumes fail, the others are segmented; the exit code is that of the first failure.
    """
    from SESegmentationExport.dicom_options import DicomOptions

    from ..client.servers import server_at
    from .run import run as run_volumes
    from .run_options import RunOptions

    target = output or bids
    if target is None:
        raise UsageError("There is no --output.", "Name a file or folder with -o, or a folder with --bids.")
    if output and bids:
        raise UsageError("There are both --output and --bids, but results go to one place.", "Leave out one of them.")
    chosen = RunOptions(
        model=model,
        output=target,
        bids=bids is not None,
        file_format=file_format,
        device=device,
        server=server_at(server, server_certificate) if server is not None else None,
        roi=roi,
        series=series,
        report=report,
        stats=stats,
        table=table,
        page=page,
        sheet=sheet,
        skip_passed=skip_passed,
        picture=picture,
        doubt=doubt,
        attention=attention,
        samples=samples,
        sampling=sampling,
        grid=grid,
        fast=fast,
        low_memory=low_memory,
        as_json=as_json,
        accept_licence=accept_licence,
        dicom=DicomOptions(seg_type, sr, secondary_capture, deidentify),
    )
    raise typer.Exit(run_volumes(volumes, chosen))


@app.command()
def dicom(
    source: Annotated[
        Path,
        typer.Argument(metavar="IN", envvar="MERCURE_IN_DIR", help="A folder of DICOM series, also in subfolders."),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", envvar="MERCURE_OUT_DIR", help="Folder for the results.")],
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Choose among these models only, whatever part of the body; repeatable."),
    ] = None,
    device: Device = "auto",
    fast: Fast = False,
    low_memory: LowMemory = False,
    seg_type: SegType = "binary",
    secondary_capture: SecondaryCapture = False,
    deidentify: Deidentify = False,
    accept_licence: AcceptLicence = False,
    as_json: AsJson = False,
) -> None:
    """Segment every DICOM series of a folder with the model that suits it.

    Modality, part of the body and contrast in the tags determine the model.
    A series that no model can segment is skipped, with the reason.
    For each other series, a DICOM segmentation and a structured report are written.
    """
    from SESegmentationExport.dicom_options import DicomOptions

    from .dicom import segment_folder
    from .run_options import RunOptions

    chosen = RunOptions(
        model="",
        output=target,
        device=device,
        fast=fast,
        low_memory=low_memory,
        as_json=as_json,
        accept_licence=accept_licence,
        dicom=DicomOptions(seg_type, True, secondary_capture, deidentify),
    )
    raise typer.Exit(segment_folder(source, target, chosen, model or []))


@app.command()
def refine(
    volume: Annotated[
        Path, typer.Argument(metavar="VOLUME", help="NIfTI, NRRD, MetaImage or MGH file, or a DICOM folder.")
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="Name or folder of the model that segmented it.")],
    corrected: Annotated[Path, typer.Option(help="Label map of the volume with corrected slices.")],
    output: Annotated[Path, typer.Option("--output", "-o", help=".seg.nrrd, .nii.gz or .dcm file, or a folder.")],
    slices: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXIS:N[,N...]",
            help="The corrected slices, counted from 0 along the file's voxel axis i, j or k; repeatable. Without it, "
            "slices that differ from the model's own result are used.",
        ),
    ] = None,
    device: Device = "auto",
    server: ServerAddress = None,
    server_certificate: ServerCertificate = None,
    roi: Annotated[
        Path | None, typer.Option(help="The region that was segmented: label file or Slicer's ROI (.mrk.json).")
    ] = None,
    series: Series = None,
    report: Annotated[
        Path | None, typer.Option(help="Write volumes, changes, timings and versions to this JSON or CSV file.")
    ] = None,
    recalibrate: Annotated[
        bool,
        typer.Option(
            "--recalibrate",
            help="First recalibrate the model's squeeze & excitation blocks to this patient, as far as that improves "
            "the result on held-out corrected slices. Takes longer.",
        ),
    ] = False,
    adapted: Annotated[
        Path | None,
        typer.Option(help="Write the recalibrated parameters, if there are any, to this .safetensors file."),
    ] = None,
    low_memory: LowMemory = False,
    seg_type: SegType = "binary",
    sr: StructuredReport = False,
    secondary_capture: SecondaryCapture = False,
    deidentify: Deidentify = False,
    accept_licence: AcceptLicence = False,
    as_json: AsJson = False,
) -> None:
    """Carry corrections of some slices of a volume over to its other slices, where a gain is expected.

    Corrected slices stay as they are. The model itself is not changed.
    """
    from SESegmentationExport.dicom_options import DicomOptions

    from ..client.servers import server_at
    from .refine import RefineOptions, refine_volume

    refine_volume(
        volume,
        RefineOptions(
            model=model,
            corrected=corrected,
            slices=slices or [],
            output=output,
            device=device,
            server=server_at(server, server_certificate) if server is not None else None,
            roi=roi,
            series=series,
            report=report,
            recalibrate=recalibrate,
            adapted=adapted,
            low_memory=low_memory,
            as_json=as_json,
            accept_licence=accept_licence,
            dicom=DicomOptions(seg_type, sr, secondary_capture, deidentify),
        ),
    )


@app.command()
def doctor(as_json: AsJson = False, server: ServerAddress = None, server_certificate: ServerCertificate = None) -> None:
    """Check this computer (packages, device, memory, disk, folders, models), or a server.

    The exit code is 1 if a check failed.
    """
    from ..doctor import ERROR, examine, examine_server, worst
    from .show import print_checks, print_json

    checks = examine() if server is None else examine_server(server, server_certificate)
    if as_json:
        print_json({"status": worst(checks), "checks": [asdict(check) for check in checks]})
    else:
        print_checks(checks)
    raise typer.Exit(1 if worst(checks) == ERROR else 0)


add_compare_command(app)
add_package_commands(app)
