"""Whether a result that a server sends can be that of the job: labels on its volume, not on another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..geometry import Geometry, same_grid, triple
from ..worker.jobs import AttentionJob, Job, RefineJob, SegmentJob

_LABELS = (np.uint8, np.uint16)


@dataclass(frozen=True)
class ExpectedResult:
    """What a result has to fit.

    Attributes:
        kind: of the job.
        grid: of its volume, or of the labels that were corrected; None where the result has no place.
        exactly: the result has this grid; else it may have the model's, whose centre lies inside.
    """

    kind: str
    grid: Geometry | None
    exactly: bool

    @classmethod
    def of(cls, job: Job) -> ExpectedResult:
        """What the result of ``job`` has to fit."""
        image: sitk.Image | None = getattr(job, "labels", None) if job.kind == RefineJob.kind else None
        image = getattr(job, "image", None) if image is None else image
        grid = Geometry.of(image) if image is not None and image.GetDimension() == 3 else None
        return cls(job.kind, grid, not isinstance(job, SegmentJob) or job.options.grid == "input")

    def check(self, kind: str, value: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> None:
        """Check a result as the worker packs it.

        Raises:
            ValueError: it does not fit. Where it is something else altogether, also LookupError, TypeError.
        """
        if kind != self.kind:
            raise ValueError(f"a result of the kind {kind}")
        if self.grid is None:
            return
        if kind == AttentionJob.kind:
            described, voxels = value["attention"], arrays[0]
        else:
            described, voxels = (
                (value["result"]["geometry"], arrays[1]) if kind == RefineJob.kind else (value["geometry"], arrays[0])
            )
            if voxels.dtype not in _LABELS:
                raise ValueError(f"labels of {voxels.dtype}")
        if described["vector"] or not voxels.size:
            raise ValueError("an image without voxels, or with several values in each")
        spacing, origin, direction = (described[key] for key in ("spacing", "origin", "direction"))
        given = Geometry(triple(voxels.shape[::-1]), triple(spacing), triple(origin), tuple(direction))
        if not (same_grid(given, self.grid) if self.exactly else self._holds(given)):
            raise ValueError("an image of another place")

    def _holds(self, given: Geometry) -> bool:
        """Whether the centre of a grid lies inside that of the volume."""
        assert self.grid is not None
        ((i, j, k),) = self.grid.indices(given.corners().mean(0, keepdims=True))
        return all(-1 <= at <= n for at, n in zip((i, j, k), self.grid.size, strict=True))
