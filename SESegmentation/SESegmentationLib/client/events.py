"""What happens to a job. Each gets, in this order: accepted, progress any number of times, then a result or a failure.

A job that fails early is not accepted before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import SegmentationError
from ..inference.result import SegmentationResult
from ..worker.images import unpack_image
from ..worker.results import RefinedResult, unpack_refinement, unpack_result


@dataclass(frozen=True)
class AcceptedEvent:
    """The worker has the whole job and begins.

    Attributes:
        job: number of the job.
    """

    job: int


@dataclass(frozen=True)
class ProgressEvent:
    """The job has come further.

    Attributes:
        job: number of the job.
        phase: what is being done.
        fraction: 0 to 1, of the whole job.
        seconds_left: in s; None while unknown.
    """

    job: int
    phase: str
    fraction: float
    seconds_left: float | None


@dataclass(frozen=True)
class ResultEvent:
    """The job is done.

    Attributes:
        job: number of the job.
        kind: of the job, for example "segment".
    """

    job: int
    kind: str
    value: dict[str, Any] = field(repr=False)
    arrays: list[np.ndarray] = field(repr=False)

    def segmentation(self) -> SegmentationResult:
        """The result of a job of the kind "segment", made anew by each call.

        Makes an image of the labels: some 20 to 80 ms for 256 x 256 x 256 voxels.
        """
        return unpack_result(self.value, self.arrays)

    def refinement(self) -> RefinedResult:
        """The result of a job of the kind "refine", likewise."""
        return unpack_refinement(self.value, self.arrays)

    def attention(self) -> sitk.Image:
        """The result of a job of the kind "attention", likewise."""
        return unpack_image(self.value["attention"], self.arrays[0])


@dataclass(frozen=True)
class FailureEvent:
    """The job came to nothing.

    Attributes:
        job: number of the job.
        error: why, and what the user can do; a CancelledError if that was the user's wish.
    """

    job: int
    error: SegmentationError


Event = AcceptedEvent | ProgressEvent | ResultEvent | FailureEvent
