"""How a volume is segmented, and how its result is written: choices that several ways of using the program have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import SimpleITK as sitk

#: which grid a result lies on
Grid = Literal["auto", "input", "model"]


@dataclass(frozen=True)
class SegmentOptions:
    """Options of a segmentation.

    Attributes:
        roi: look only inside the box round this image's voxels above 0, along its own axes; None: everywhere.
        fast: use only the view with the largest weight.
        low_memory: smaller batches; slower.
        doubt: give the map of doubt too.
        grid: of the result: that of "input" or "model", or "auto" for the model's where slices are thick.
    """

    roi: sitk.Image | None = None
    fast: bool = False
    low_memory: bool = False
    doubt: bool = False
    grid: Grid = "input"


#: how voxels are kept in a DICOM segmentation
SegmentationType = Literal["binary", "labelmap"]


@dataclass(frozen=True)
class DicomOptions:
    """What is written as DICOM, and how.

    Attributes:
        seg_type: "binary", one bit a voxel and segment, or "labelmap", the values of the label map (in DICOM since
            2024).
        report: write a structured report with the volumes beside the segmentation.
        capture: write a picture as secondary capture beside the segmentation.
        deidentify: leave patient and study attributes empty; UIDs stay, for the results refer to the series.
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
