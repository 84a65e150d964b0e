"""What the worker can be asked to do. A job packs itself into a frame on one side and unpacks itself on the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import SimpleITK as sitk

from .images import pack_image, unpack_image


class Job(Protocol):
    """One thing to do."""

    kind: ClassVar[str]

    def pack(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        """What to do as JSON, and the arrays it needs; InputError where an image cannot be sent."""

    @classmethod
    def unpack(cls, value: dict[str, Any], arrays: list[np.ndarray]) -> Job:
        """The job that was packed."""


@dataclass(frozen=True)
class SegmentJob:
    """Segment a volume. Its result is a :class:`~SESegmentationLib.inference.result.SegmentationResult`.

    Attributes:
        image: the volume; it must stay unchanged until the job is accepted.
        model: name or folder of the model.
        roi: look only inside the box round this image's voxels above 0.
        fast: fewer views.
        low_memory: smaller batches.
        device: "auto", "cpu", "cuda", "cuda:1", ..., "mps".
    """

    kind = "segment"

    image: sitk.Image
    model: str | Path
    roi: sitk.Image | None = None
    fast: bool = False
    low_memory: bool = False
    device: str = "auto"

    def pack(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        images = [self.image] if self.roi is None else [self.image, self.roi]
        packed = [pack_image(image) for image in images]
        value = {
            "images": [description for description, _ in packed],
            "model": str(self.model),
            "fast": self.fast,
            "low_memory": self.low_memory,
            "device": self.device,
        }
        return value, [voxels for _, voxels in packed]

    @classmethod
    def unpack(cls, value: dict[str, Any], arrays: list[np.ndarray]) -> SegmentJob:
        value = dict(value)
        images = [unpack_image(*packed) for packed in zip(value.pop("images"), arrays, strict=True)]
        return cls(*images[:1], roi=images[1] if len(images) > 1 else None, **value)


@dataclass(frozen=True)
class WarmUpJob:
    """Load a model, so that the first segmentation with it starts at once. Its result is nothing.

    Attributes:
        model: name or folder of the model.
        device: as for :class:`SegmentJob`.
    """

    kind = "warm_up"

    model: str | Path
    device: str = "auto"

    def pack(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        return {"model": str(self.model), "device": self.device}, []

    @classmethod
    def unpack(cls, value: dict[str, Any], arrays: list[np.ndarray]) -> WarmUpJob:
        return cls(**value)


#: every job by its kind
JOBS: dict[str, type[Job]] = {job.kind: job for job in (SegmentJob, WarmUpJob)}
