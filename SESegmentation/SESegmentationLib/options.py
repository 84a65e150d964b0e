"""How a volume is segmented: the choices that the panel, the command line and Python programs have alike."""

from __future__ import annotations

from dataclasses import dataclass
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
