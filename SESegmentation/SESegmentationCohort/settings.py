"""The settings of a cohort, the same for all of its scans; they can be sent to any process and computer."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from SESegmentationExport.bids import derivative_paths
from SESegmentationExport.dicom_options import DicomOptions
from SESegmentationLib.cli.file_jobs import FileJob, result_format
from SESegmentationLib.errors import ModelError
from SESegmentationLib.files.json_files import to_json
from SESegmentationLib.models import ModelPackage, find_locator, find_model, sha256_of
from SESegmentationLib.models.card import CARD_NAME
from SESegmentationLib.result import Grid, SegmentOptions

from .cases import CohortCase


@dataclass(frozen=True)
class CohortSettings:
    """See the help of ``sesegment cohort``.

    Attributes:
        model: name or folder.
        out: folder of the results.
        bids: it becomes a BIDS dataset of derivatives.
        file_format: "seg.nrrd", "nii.gz", "dcm", "png", or None for what suits the scan.
        device: "auto", "cpu", "cuda", "cuda:1", ..., "mps".
        fast: fewer views.
        low_memory: smaller pieces.
        grid: of the results.
        dicom: of results that are written as DICOM.
        resume: what is done stays.
        model_key: :func:`model_key` on the computer where the cohort was started; empty: any.
    """

    model: str
    out: Path
    bids: bool = False
    file_format: str | None = None
    device: str = "auto"
    fast: bool = False
    low_memory: bool = False
    grid: Grid = "auto"
    dicom: DicomOptions = DicomOptions()
    resume: bool = False
    model_key: str = ""

    @property
    def options(self) -> SegmentOptions:
        """Options of the engine."""
        return SegmentOptions(fast=self.fast, low_memory=self.low_memory, grid=self.grid)

    def package(self) -> ModelPackage:
        """The model as it is on this computer; ModelError where there is none, or another one than is wanted."""
        package = find_model(self.model)
        if self.model_key and model_key(package) != self.model_key:
            raise ModelError(
                f"The model {package.card.name} on this computer differs from that where the cohort was started.",
                "Install the same model package on all computers, or name its folder on a disk that they share.",
            )
        return package

    def job(self, case: CohortCase) -> FileJob:
        """Where the result of a case goes."""
        if self.bids:
            return FileJob(
                case.source, derivative_paths(self.out, {case.identity: case.name})[case.identity], case.series
            )
        ending = self.file_format or result_format(case.source)
        return FileJob(case.source, self.out / f"{case.name}.{ending}", case.series)

    def key(self, content: str | None) -> str:
        """SHA-256 of all that a result depends on.

        Args:
            content: SHA-256 of the input; None where it cannot be read.
        """
        return hashlib.sha256(f"{content}\n{self._key_of_all}".encode()).hexdigest()

    @cached_property
    def _key_of_all(self) -> str:
        chosen = {name: getattr(self, name) for name in ("bids", "file_format", "fast", "low_memory", "grid")}
        return to_json(chosen | {"dicom": asdict(self.dicom), "model": self.model_key})

    @cached_property
    def recorded(self) -> dict[str, Any]:
        """All that a result depends on beside its input, by what users call it."""
        return {
            "--bids": self.bids,
            "--format": self.file_format,
            "--fast": self.fast,
            "--low-memory": self.low_memory,
            "--grid": self.grid,
            "--seg-type": self.dicom.seg_type,
            "--sr": self.dicom.report,
            "--secondary-capture": self.dicom.capture,
            "--deidentify": self.dicom.deidentify,
            "the files of the model": self.model_key,
        }


def model_key(package: ModelPackage) -> str:
    """SHA-256 of a model's card and weights, and of those of the model that locates for it."""
    packages = [package]
    if isinstance(locator := (package.card.pipeline or {}).get("locator"), str):
        try:
            packages.append(find_locator(package))
        except ModelError:  # crops need no locator; if one is needed, the engine raises
            return hashlib.sha256(f"{locator} is missing".encode() + _digest(package)).hexdigest()
    return hashlib.sha256(b"".join(_digest(each) for each in packages)).hexdigest()


def _digest(package: ModelPackage) -> bytes:
    try:
        card = sha256_of(package.path / CARD_NAME)
    except OSError as error:
        raise ModelError(f"{package.path / CARD_NAME} cannot be read: {error.strerror}.", "Check the file.") from error
    return f"{card} {package.card.weights_sha256}\n".encode()
