"""What ``sesegment run`` can be asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from SESegmentationExport.dicom_options import DicomOptions

from ..result import Grid

if TYPE_CHECKING:
    from ..client.servers import Server
    from ..inference.sampling import SamplingMethod


@dataclass(frozen=True)
class RunOptions:
    """Options of ``run``; see its help.

    Attributes:
        model: name or folder.
        output: file or folder.
        bids: the folder is a BIDS dataset of derivatives.
        file_format: "seg.nrrd", "nii.gz", "dcm", "png" or None.
        device: "auto", "cpu", "cuda" or "mps".
        server: segments, instead of this computer.
        roi: label file or Slicer's ROI.
        series: number, description or UID of one of several DICOM series.
        report: JSON or CSV file.
        stats: file in the layout of FreeSurfer's aseg.stats, or a folder for several.
        table: TSV file with a row for each volume.
        page: HTML or PDF file about the patient's scan, or a folder for several.
        sheet: folder for the page for reviewing the batch.
        skip_passed: marks that were saved from such a page.
        picture: PNG file, for one volume only.
        doubt: file for the map of doubt, for one volume only.
        attention: file for what the networks look at, for one volume only.
        samples: how many samples are drawn to see how far they differ; 0 for none.
        sampling: "augmentation" or "dropout".
        grid: of the results: "input", "model", or "auto" for the model's where slices are thick.
        fast: fewer views.
        low_memory: smaller pieces.
        as_json: print the report instead of a table.
        accept_licence: the user accepts the terms of weights that are not free.
        dicom: of results that are written as DICOM.
    """

    model: str
    output: Path
    bids: bool = False
    file_format: str | None = None
    device: str = "auto"
    server: Server | None = None
    roi: Path | None = None
    series: str | None = None
    report: Path | None = None
    stats: Path | None = None
    table: Path | None = None
    page: Path | None = None
    sheet: Path | None = None
    skip_passed: Path | None = None
    picture: Path | None = None
    doubt: Path | None = None
    attention: Path | None = None
    samples: int = 0
    sampling: SamplingMethod = "augmentation"
    grid: Grid = "auto"
    fast: bool = False
    low_memory: bool = False
    as_json: bool = False
    accept_licence: bool = False
    dicom: DicomOptions = DicomOptions()
