"""What the worker can be asked to do. A job packs itself into a frame on one side and unpacks itself on the other."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import SimpleITK as sitk

from ..options import SegmentOptions
from .results import pack_image, unpack_image


class Job(Protocol):
    """One thing to do."""

    kind: ClassVar[str]

    def pack(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        """What to do as JSON, and the arrays it needs; InputError where an image cannot be sent."""

    @classmethod
    def unpack(cls, value: dict[str, Any], arrays: list[np.ndarray]) -> Self:
        """The job that was packed."""


@dataclass(frozen=True)
class VolumeJob:
    """What a model does with one volume.

    Attributes:
        image: the volume; it must stay unchanged until the job is accepted.
        model: name or folder of the model.
        options: where to look, how, and what to give.
        device: "auto", "cpu", "cuda", "cuda:1", ..., "mps".
        adapted: parameters adapted to this patient, the bytes of a file as :mod:`SESegmentationLib.refine.adapted`
            writes it, to be used instead of the model's own.
    """

    image: sitk.Image
    model: str | Path
    options: SegmentOptions = SegmentOptions()
    device: str = "auto"
    adapted: bytes | None = None

    def pack(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        return _pack(self)

    @classmethod
    def unpack(cls, value: dict[str, Any], arrays: list[np.ndarray]) -> Self:
        return cls(**_unpack(value, arrays))


@dataclass(frozen=True)
class SegmentJob(VolumeJob):
    """Segment a volume. Its result is a :class:`~SESegmentationLib.result.SegmentationResult`.

    A map of doubt comes in steps of 1/255, and with it the most doubtful slices of each structure.
    """

    kind: ClassVar[str] = "segment"


@dataclass(frozen=True)
class AttentionJob(VolumeJob):
    """Show what the networks look at in a volume; see :mod:`SESegmentationLib.inference.attention`.

    Its result is an image with the geometry of the volume, 0 to 1.
    """

    kind: ClassVar[str] = "attention"


@dataclass(frozen=True)
class RefineJob:
    """Carry what was corrected in some slices of a volume to the others.

    Its result is a :class:`~SESegmentationLib.worker.results.RefinedResult`.

    Attributes:
        image: the volume; it and ``labels`` must stay unchanged until the job is accepted.
        labels: the corrected label map, on the grid of the image or on the model's over it.
        slices: those of ``labels`` that were corrected, for example ("k:12,17", "j:40").
        model: name or folder of the model.
        options: as for the result that was corrected; the grid is that of ``labels``.
        device: as for :class:`VolumeJob`.
        whole_slices: what was not changed in these slices is right too.
        recalibrate: let the model's networks learn from these slices before, as far as that proves good.
    """

    kind: ClassVar[str] = "refine"

    image: sitk.Image
    labels: sitk.Image
    slices: tuple[str, ...]
    model: str | Path
    options: SegmentOptions = SegmentOptions()
    device: str = "auto"
    whole_slices: bool = False
    recalibrate: bool = False

    def pack(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        return _pack(self)

    @classmethod
    def unpack(cls, value: dict[str, Any], arrays: list[np.ndarray]) -> Self:
        value = _unpack(value, arrays)
        return cls(**value | {"slices": tuple(value["slices"])})


@dataclass(frozen=True)
class WarmUpJob:
    """Load a model, so that the first segmentation with it starts at once. Its result is nothing.

    Attributes:
        model: name or folder of the model.
        device: as for :class:`VolumeJob`.
    """

    kind: ClassVar[str] = "warm_up"

    model: str | Path
    device: str = "auto"

    def pack(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        return {"model": str(self.model), "device": self.device}, []

    @classmethod
    def unpack(cls, value: dict[str, Any], arrays: list[np.ndarray]) -> Self:
        return cls(**value)


AnyJob = SegmentJob | RefineJob | AttentionJob | WarmUpJob
#: every job by its kind
JOBS: dict[str, type[AnyJob]] = {job.kind: job for job in (SegmentJob, RefineJob, AttentionJob, WarmUpJob)}


def _pack(job: VolumeJob | RefineJob) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The fields of a job as JSON, its images as descriptions, and arrays: their voxels, then adapted parameters."""
    value = {field.name: getattr(job, field.name) for field in fields(job)}
    options = {field.name: getattr(job.options, field.name) for field in fields(job.options)}
    images = {"image": job.image, "labels": value.pop("labels", None), "roi": options.pop("roi")}
    packed = {name: pack_image(image) for name, image in images.items() if name == "image" or image is not None}
    arrays = [voxels for _, voxels in packed.values()]
    if value.get("adapted") is not None:
        arrays.append(np.frombuffer(value["adapted"], np.uint8))
        value["adapted"] = True
    del value["image"]
    descriptions = {name: description for name, (description, _) in packed.items()}
    return value | {"model": str(job.model), "options": options, "images": descriptions}, arrays


def _unpack(value: dict[str, Any], arrays: list[np.ndarray]) -> dict[str, Any]:
    """The fields that :func:`_pack` packed."""
    value = dict(value)
    if value.get("adapted"):
        *arrays, adapted = arrays
        value["adapted"] = adapted.tobytes()
    descriptions = value.pop("images").items()
    images = {name: unpack_image(entry, voxels) for (name, entry), voxels in zip(descriptions, arrays, strict=True)}
    return value | {"options": SegmentOptions(roi=images.pop("roi", None), **value["options"]), **images}
