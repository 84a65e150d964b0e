"""A worker without networks, for tests of what a cohort keeps and does again: bright voxels are the first structure.

A voxel 7 at the first corner crashes it, 8 is a failure of its device, which ``BROKEN`` in its environment is too.
"""

from __future__ import annotations

import os

import SimpleITK as sitk

from SESegmentationLib.errors import DeviceError
from SESegmentationLib.inference.output_checks import measure_structures
from SESegmentationLib.models import ModelPackage
from SESegmentationLib.progress import Progress
from SESegmentationLib.result import SegmentationResult, SegmentOptions
from SESegmentationLib.worker.process import serve

CRASH, FAILURE = 7, 8


class Engine:
    """Has the methods of the real one that a worker calls."""

    def __init__(self, package: ModelPackage, device: str) -> None:
        self.card = package.card
        if os.environ.get("BROKEN"):
            raise DeviceError("The GPU failed: out of order.", "Mend it.")

    def segment(self, image: sitk.Image, options: SegmentOptions, *, progress: Progress) -> SegmentationResult:
        if image[0, 0, 0] == CRASH:
            os.abort()
        if image[0, 0, 0] == FAILURE:
            raise DeviceError("The GPU failed: this scan.", "")
        labels = sitk.OtsuThreshold(image, 0, 1)
        structures, findings = measure_structures(labels, self.card.labels, [], {})
        return SegmentationResult(labels, structures, {}, findings, self.card, "cpu")


if __name__ == "__main__":
    serve(Engine)
