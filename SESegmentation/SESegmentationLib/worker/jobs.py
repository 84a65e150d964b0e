"""The jobs of the worker and their results, and their conversion to JSON and arrays for frames and back.

A job packs itself on one side and unpacks itself on the other; so do images and results.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..io.reading import NOT_NUMBERS
from ..io.volume_image import REMARKS, voxels_of
from ..result import SegmentationResult, SegmentOptions, StructureChange
from .messages import DTYPES

if TYPE_CHECKING:
    from ..refine.refinement import Refinement

#: the metadata that the input checks need: what NIfTI files say about their axes, and what reading found. All else,
#: such as names of patients, is not sent
KEPT_METADATA = ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units", NOT_NUMBERS, REMARKS)
#: doubt is sent and kept as uint8 in steps of 1/255, a quarter of the size of single precision
DOUBT_STEPS = 255


def pack_image(image: sitk.Image, metadata: Iterable[str] = KEPT_METADATA) -> tuple[dict[str, Any], np.ndarray]:
    """Description (JSON) and voxels of an image; the voxels are a view, which keeps the image.

    Args:
        image: any that is not complex-valued.
        metadata: the keys of the metadata that are sent with it.

    Raises:
        InputError: voxels are neither integers nor real numbers, or the geometry is not finite.
    """
    voxels = voxels_of(image)
    if voxels.dtype.str not in DTYPES:
        raise InputError(
            f"Volumes of {image.GetPixelIDTypeAsString()} cannot be segmented.", "Take a volume of real numbers."
        )
    geometry = {"spacing": image.GetSpacing(), "origin": image.GetOrigin(), "direction": image.GetDirection()}
    if not all(isfinite(number) for numbers in geometry.values() for number in numbers):
        raise InputError("The place of the volume in space is not given by numbers.", "Correct its origin and spacing.")
    kept = {key: image.GetMetaData(key) for key in metadata if image.HasMetaDataKey(key)}
    return {**geometry, "vector": voxels.ndim > image.GetDimension(), "metadata": kept}, voxels


def unpack_image(description: dict[str, Any], voxels: np.ndarray) -> sitk.Image:
    """The image that :func:`pack_image` described, with a copy of ``voxels``.

    This holds Python's lock for some 20 to 80 ms for 256 x 256 x 256 bytes.
    """
    image = sitk.GetImageFromArray(voxels, isVector=description["vector"])
    image.SetSpacing(description["spacing"])
    image.SetOrigin(description["origin"])
    image.SetDirection(description["direction"])
    for key, value in description["metadata"].items():
        image.SetMetaData(key, value)
    return image


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
    """A job of a model on one volume.

    Attributes:
        image: the volume; it must stay unchanged until the job is accepted.
        model: name or folder of the model.
        options: where to look, how, and what to return.
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
    """Propagate the corrections in some slices of a volume to the others.

    Its result is a :class:`~SESegmentationLib.worker.jobs.RefinedResult`.

    Attributes:
        image: the volume; it and ``labels`` must stay unchanged until the job is accepted.
        labels: the corrected label map, on the grid of the image or on the model's over it.
        slices: those of ``labels`` that were corrected, for example ("k:12,17", "j:40"); None: they are found by
            comparing with the model's own result.
        model: name or folder of the model.
        options: as for the result that was corrected; the grid is that of ``labels``.
        device: as for :class:`VolumeJob`.
        whole_slices: what was not changed in these slices is right too.
        recalibrate: first let the networks learn from these slices, as far as that improves held-out ones.
    """

    kind: ClassVar[str] = "refine"

    image: sitk.Image
    labels: sitk.Image
    slices: tuple[str, ...] | None
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
        return cls(**value | {"slices": None if value["slices"] is None else tuple(value["slices"])})


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


@dataclass(frozen=True)
class RefinedResult:
    """The result of a refinement.

    Attributes:
        result: the new one, corrected slices as they were left.
        slices: the corrected ones, for example ("k:12,17",).
        adapted: the adapted parameters, the bytes of a file as :mod:`SESegmentationLib.refine.adapted` writes it; None
            where the networks stayed as they are.
        parameters: how many numbers were adapted.
        kept_because: why nothing but the corrected slices changed; empty where something did.
        changes: by structure.
        expected_gains: in Dice on the other slices, by value, of the structures that were corrected.
        contrast_reversed: whether the networks saw the scan with bright and dark exchanged.
        batch_norms_adapted: whether the networks' batch norms were adapted to the scan.
    """

    result: SegmentationResult
    slices: tuple[str, ...]
    adapted: bytes | None
    parameters: int
    kept_because: str = ""
    changes: tuple[StructureChange, ...] = ()
    expected_gains: dict[int, float] = field(default_factory=dict)
    contrast_reversed: bool = False
    batch_norms_adapted: bool = False

    @classmethod
    def of(cls, refined: Refinement) -> Self:
        """The part of a refinement that is sent."""
        return cls(
            refined.result,
            tuple(map(str, refined.slices)),
            refined.adapted.to_bytes() if refined.adapted else None,
            refined.adapted.count if refined.adapted else 0,
            refined.kept_because,
            tuple(refined.changes),
            {value: gain.dice for value, gain in refined.expected_gains.items()},
            refined.contrast_reversed,
            refined.batch_norms_adapted,
        )


def pack_result(result: SegmentationResult) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Description (JSON) of a result; its labels, and its doubt where there is one, as arrays."""
    geometry, voxels = pack_image(result.labels)
    value = result.to_dict() | {"geometry": geometry}
    if result.doubt is None:
        return value, [voxels]
    steps = np.rint(DOUBT_STEPS * voxels_of(result.doubt)).astype(np.uint8)
    return value, [voxels, steps]


def unpack_result(value: dict[str, Any], arrays: list[np.ndarray]) -> SegmentationResult:
    """The result that :func:`pack_result` described."""
    # doubt stays in steps: as float32 the map of a head takes 67 MB, and making it blocks an event loop too long
    labels, *doubt = (unpack_image(value["geometry"], voxels) for voxels in arrays)
    return SegmentationResult.from_dict(value, labels, *doubt)


def pack_refinement(refined: RefinedResult) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Description (JSON) of a refinement, and arrays: the adapted parameters, then those of :func:`pack_result`."""
    value, arrays = pack_result(refined.result)
    refinement = {
        "slices": refined.slices,
        "parameters": refined.parameters,
        "kept_because": refined.kept_because,
        "changes": [(change.gained, change.lost, change.corrected) for change in refined.changes],
        "expected_gains": list(refined.expected_gains.items()),
        "contrast_reversed": refined.contrast_reversed,
        "batch_norms_adapted": refined.batch_norms_adapted,
    }
    adapted = np.frombuffer(refined.adapted or b"", np.uint8)
    return {"result": value, **refinement}, [adapted, *arrays]


def unpack_refinement(value: dict[str, Any], arrays: list[np.ndarray]) -> RefinedResult:
    """What :func:`pack_refinement` described."""
    result = unpack_result(value["result"], arrays[1:])
    adapted = arrays[0].tobytes() or None
    changed = zip(result.structures, value["changes"], strict=True)
    return RefinedResult(
        result,
        tuple(value["slices"]),
        adapted,
        value["parameters"],
        value["kept_because"],
        tuple(StructureChange(structure.label, *numbers) for structure, numbers in changed),
        {int(structure): float(gain) for structure, gain in value["expected_gains"]},
        *(value.get(key, False) for key in ("contrast_reversed", "batch_norms_adapted")),  # earlier servers say neither
    )
