"""What is written as DICOM, and the names of the files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

#: how voxels are kept in a DICOM segmentation
SegmentationType = Literal["binary", "labelmap"]


@dataclass(frozen=True)
class DicomOptions:
    """What is written as DICOM, and how.

    Attributes:
        seg_type: "binary", one bit per voxel and segment, or "labelmap", the values of the label map (in DICOM since
            2024).
        report: write a structured report with the volumes beside the segmentation.
        capture: write a picture as secondary capture beside the segmentation.
        deidentify: leave patient and study attributes empty; UIDs stay, as the results refer to the series by them.
    """

    seg_type: SegmentationType = "binary"
    report: bool = False
    capture: bool = False
    deidentify: bool = False

    def outputs(self, path: Path) -> list[Path]:
        """The files beside ``path``, the segmentation."""
        return [beside(path, kind) for kind, wanted in (("sr", self.report), ("sc", self.capture)) if wanted]


def beside(path: Path, kind: str) -> Path:
    """The file of another object that belongs to the segmentation ``path``: ``x.sr.dcm`` for ``x.seg.dcm``."""
    name = path.name[: -len(".dcm")]
    return path.with_name(f"{name[:-4] if name.lower().endswith('.seg') else name}.{kind}.dcm")
