"""``sesegment refine``: a volume and corrected labels in, a better segmentation out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SESegmentationExport.dicom_options import DicomOptions

from ..adapted_notes import AdaptedNotes
from ..client.reading import reading_apart
from ..errors import UsageError
from ..files import OutputFiles, check_writable, refuse_overwriting
from ..models import ModelPackage, find_model
from ..progress import Progress
from ..report import check_report_name
from ..result import SegmentOptions
from . import warn
from .file_jobs import (
    FileJob,
    check_dicom,
    plan_jobs,
    prepare_to_segment,
    read_source,
    refuse_on_server,
    segmenter_on,
    write_result,
)
from .shared_options import require_consent
from .show import ProgressBar, console, print_json, print_segmentation

if TYPE_CHECKING:
    from ..client.servers import Server
    from ..worker.jobs import RefinedResult, RefineJob

    Refiner = Callable[[RefineJob, Progress], RefinedResult]


@dataclass(frozen=True)
class RefineOptions:
    """Options of ``refine``; see its help.

    Attributes:
        model: name or folder.
        corrected: corrected label map.
        slices: "AXIS:N[,N...]"; if empty, slices that differ from the model's result.
        output: file or folder.
        device: "auto", "cpu", "cuda" or "mps".
        server: refines, instead of this computer.
        roi: label file or Slicer's ROI, as for the result that was corrected.
        series: number, description or UID of one of several DICOM series.
        report: JSON or CSV file.
        recalibrate: recalibrate the networks before.
        adapted: safetensors file for the adapted parameters.
        low_memory: smaller pieces.
        as_json: print the report instead of a table.
        accept_licence: the user accepts the terms of weights that are not free.
        dicom: of a result that is written as DICOM.
    """

    model: str
    corrected: Path
    slices: Sequence[str]
    output: Path
    device: str = "auto"
    server: Server | None = None
    roi: Path | None = None
    series: str | None = None
    report: Path | None = None
    recalibrate: bool = False
    adapted: Path | None = None
    low_memory: bool = False
    as_json: bool = False
    accept_licence: bool = False
    dicom: DicomOptions = DicomOptions()


@reading_apart()
def refine_volume(volume: Path, options: RefineOptions) -> None:
    """Refine the segmentation of one volume and write what belongs to it.

    Raises:
        SegmentationError: options, model, device, volume or corrections cannot be used.
    """
    jobs = plan_jobs([volume], options.output)
    if len(jobs) > 1:
        raise UsageError(f"{volume} holds {len(jobs)} volumes; one is refined at a time.", "Name one of them.")
    _check_options(options)
    package = find_model(options.model)
    require_consent(package.card, options.accept_licence)
    _check_files(jobs[0], package, options)
    prepare_to_segment()
    report = _refine(jobs[0], package, options)
    if options.as_json:
        print_json(report)
    else:
        print_segmentation(report)
        _print_changes(report)
    if options.recalibrate and not report["refinement"]["adapted_parameters"]:
        absent = f"; {options.adapted} was not written" if options.adapted else ""
        warn(f"The networks were not recalibrated, since held-out corrected slices showed no gain by it{absent}.")


def _check_options(options: RefineOptions) -> None:
    """Refuse options that contradict each other."""
    if options.adapted and not options.recalibrate:
        raise UsageError(
            "Without recalibration no parameters are adapted.", "Add --recalibrate, or leave --adapted out."
        )
    if options.adapted and options.adapted.suffix.lower() != ".safetensors":
        raise UsageError(f"{options.adapted} does not end in .safetensors.", "Choose another name for --adapted.")
    if options.server and options.device != "auto":
        refuse_on_server("--device")


def _check_files(job: FileJob, package: ModelPackage, options: RefineOptions) -> None:
    """See that all can be written, and that nothing is written over what is read."""
    read = [job.source, options.corrected, options.roi, *package.files]
    written = [path for path in (job.output, options.report, options.adapted) if path]
    written += check_dicom([job], options.dicom)
    refuse_overwriting(read, written)
    for path in written:
        check_writable(path)
    check_report_name(options.report)


def _refine(job: FileJob, package: ModelPackage, options: RefineOptions) -> dict[str, Any]:
    """Read, refine and write; returns the report."""
    from ..geometry import Slices
    from ..inference.cascade import sought_structures
    from ..inference.model_grid import on_grid_of
    from ..inference.roi import read_roi
    from ..io.reading import read_volume
    from ..io.segmentations import read_segmentation
    from ..report import build_report, write_report
    from ..worker.jobs import RefineJob

    slices = tuple(str(Slices.parse(text)) for text in options.slices) or None
    with _refiner(options.server) as refine, ProgressBar(job.source.name) as progress:
        begin = time.perf_counter()
        progress("reading", 0.0, None)
        region = read_roi(options.roi) if options.roi else None
        pixel_mm = package.card.pixel_mm
        image = read_volume(job.source, pixel_mm, options.series)
        source = read_source(job, options.dicom, options.series)
        corrected = read_segmentation(options.corrected, pixel_mm)
        reading = time.perf_counter() - begin
        image = on_grid_of(corrected.geometry, image, package.card)
        asked = RefineJob(
            image,
            corrected.label_map(sought_structures(package, image, region), like=image),
            slices,
            package.path,
            SegmentOptions(roi=region, low_memory=options.low_memory),
            options.device,
            whole_slices=True,
            recalibrate=options.recalibrate,
        )
        refined = refine(asked, progress)
        segmented = time.perf_counter()
        with OutputFiles() as files:
            write_result(files, job, image, refined.result, source, options.dicom, corrected=True)
            if options.adapted and refined.adapted:
                files.write(options.adapted, refined.adapted)
            timings = {"reading": reading, "writing": time.perf_counter() - segmented}
            report = build_report(refined.result, image, job.source, job.output, timings, asked.options)
            report = with_refinement(report, refined, options.corrected)
            if options.report:
                write_report(files.begin(options.report), report)
    return report


@contextlib.contextmanager
def _refiner(server: Server | None) -> Iterator[Refiner]:
    """The refiner: on this computer, or on a server."""
    if server:
        from ..client import wait_for

        with segmenter_on(server) as segmenter:
            yield lambda job, progress: wait_for(segmenter, job, progress).refinement()
        return
    from ..worker.jobs import unpack_refinement
    from ..worker.process import JobRunner

    yield lambda job, progress: unpack_refinement(*JobRunner().run(job, progress))


def with_refinement(report: dict[str, Any], refined: RefinedResult, corrected: Path) -> dict[str, Any]:
    """A report with what refinement adds to it: the changed voxels of each structure, and how it was done.

    "corrected_share" is what the clinician changed of a structure, over the voxels that it has now.
    """
    changes = {change.label.value: change for change in refined.changes}
    structures = []
    for structure in report["structures"]:
        change = changes[structure["value"]]
        structures.append(
            structure
            | {
                "gained_voxels": change.gained,
                "lost_voxels": change.lost,
                "corrected_voxels": change.corrected,
                "corrected_share": round(change.corrected / max(structure["voxels"], 1), 4),
            }
        )
    adapted = AdaptedNotes.read(refined.adapted)
    return report | {
        "structures": structures,
        "refinement": {
            "corrected": str(corrected),
            "slices": list(refined.slices),
            "expected_gains": {str(value): round(gain, 4) for value, gain in refined.expected_gains.items()},
            "kept_because": refined.kept_because,
            "contrast_reversed": refined.contrast_reversed,
            "batch_norms_adapted": refined.batch_norms_adapted,
            "adapted_parameters": refined.parameters,
            **(adapted.notes if adapted else {}),
        },
    }


def _print_changes(report: dict[str, Any]) -> None:
    """What the refinement changed, a line for each structure."""
    output = console()
    refinement = report["refinement"]
    output.print(f"Corrected in the slices {' '.join(refinement['slices'])}, which stay as they were left.")
    if refinement["contrast_reversed"]:
        output.print(
            "The scan's contrast is the reverse of the training scans': the networks saw it with bright and dark "
            "exchanged."
        )
    if refinement["batch_norms_adapted"]:
        output.print("The scan differs from the training scans: the networks' batch norms were adapted to it.")
    if refinement["kept_because"]:
        output.print(f"Nothing else was changed, because {refinement['kept_because']}.")
    for structure in report["structures"]:
        elsewhere = structure["gained_voxels"] + structure["lost_voxels"] - structure["corrected_voxels"]
        output.print(
            f"  {structure['name']}: {structure['gained_voxels']} voxels gained, {structure['lost_voxels']} lost; "
            f"{structure['corrected_voxels']} of these corrected, {elsewhere} outside the corrected slices",
        )
