"""A scan that several engines segment, all in the same crops."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import SimpleITK as sitk
from torch import Tensor

from ..inference.crops import Crop
from ..inference.engine import Engine
from ..progress import Progress
from ..result import SegmentationResult, SegmentOptions


@dataclass(frozen=True)
class SegmentedScan:
    """A segmentation, and what the networks saw and gave, crop by crop; see :func:`.propagate`."""

    result: SegmentationResult
    seen: list[tuple[Crop, Tensor]]

    @property
    def confidence(self) -> float:
        """Agreement between the views, 0 to 1: mean over the structures."""
        return fmean(structure.confidence or 0.0 for structure in self.result.structures)


@dataclass(frozen=True)
class Scan:
    """A volume and how it is segmented.

    Attributes:
        image: that was checked.
        options: of each segmentation.
        located: what the model's locator found, or None.
    """

    image: sitk.Image
    options: SegmentOptions
    located: sitk.Image | None

    @classmethod
    def located_by(cls, engine: Engine, image: sitk.Image, options: SegmentOptions, progress: Progress) -> Scan:
        """The scan with the structures located that crops are cut round; in a region of interest there are none."""
        if options.roi is not None:
            return cls(image, options, None)
        return cls(image, options, engine.locate(image, low_memory=options.low_memory, progress=progress))

    def segmented(self, engine: Engine, progress: Progress) -> SegmentedScan:
        """What an engine makes of it."""
        seen: list[tuple[Crop, Tensor]] = []

        def observe(crop: Crop, probabilities: Tensor) -> None:
            seen.append((crop, probabilities))

        result = engine.segment(self.image, self.options, located=self.located, observe=observe, progress=progress)
        return SegmentedScan(result, seen)
