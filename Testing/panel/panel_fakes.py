"""What stands behind the panel's Protocols in quick tests, and models and results to go with it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from SESegmentationLib.adapted_notes import FORMAT
from SESegmentationLib.client import (
    Event,
    FailureEvent,
    Job,
    JobHandle,
    ProgressEvent,
    RefinedResult,
    RefineJob,
    ResultEvent,
)
from SESegmentationLib.doctor import Check
from SESegmentationLib.errors import CancelledError, SegmentationError
from SESegmentationLib.inference.output_checks import with_doubtful_slices
from SESegmentationLib.models import ModelCard, ModelPackage, write_package
from SESegmentationLib.models.labels import structure_label
from SESegmentationLib.result import Finding, SegmentationResult, StructureChange, StructureResult
from SESegmentationLib.worker.jobs import pack_image, pack_refinement, pack_result

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "SESegmentation" / "SESegmentation.py"


class FakeSegmenter:
    """A :class:`Segmenter` whose jobs do what the test says.

    Attributes:
        jobs: that were submitted, oldest first.
        released: how often the worker was to be ended.
        closed: whether it was closed.
    """

    log = "what the worker printed"

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.released = 0
        self.closed = False
        self._events: list[Event] = []

    def submit(self, job: Job) -> JobHandle:
        self.jobs.append(job)
        self._handle = JobHandle(len(self.jobs), self._cancel)
        return self._handle

    def poll(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def release(self) -> None:
        self.released += 1

    def close(self) -> None:
        self.closed = True

    def progress(self, phase: str, fraction: float, seconds_left: float | None = None) -> None:
        self._events.append(ProgressEvent(self._handle.number, phase, fraction, seconds_left))

    def succeed(self, result: SegmentationResult) -> None:
        self._finish(ResultEvent(self._handle.number, "segment", *pack_result(result)))

    def succeed_refinement(self, refined: RefinedResult) -> None:
        self._finish(ResultEvent(self._handle.number, "refine", *pack_refinement(refined)))

    def succeed_attention(self, attention: sitk.Image) -> None:
        description, voxels = pack_image(attention)
        self._finish(ResultEvent(self._handle.number, "attention", {"attention": description}, [voxels]))

    def fail(self, error: SegmentationError) -> None:
        self._finish(FailureEvent(self._handle.number, error))

    def _cancel(self, handle: JobHandle) -> None:
        self.fail(CancelledError("The segmentation was cancelled.", "Nothing was changed."))

    def _finish(self, event: Event) -> None:
        self._handle.finished = True
        self._events.append(event)


def made_at_once(make: Callable[[], Job]) -> Future[Job]:
    """What the panel has made in another thread, made in this one."""
    future: Future[Job] = Future()
    try:
        future.set_result(make())
    except Exception as error:
        future.set_exception(error)
    return future


class FakeDoctor:
    """Finds what the test says; takes one look to do so."""

    checks = (
        Check("Python", "ok", "Python 3.12.10."),
        Check("memory", "warning", "2.0 of 8.0 GB memory free.", "Close other programs."),
        Check("torch", "error", "torch is not installed.", "Click Segment."),
    )

    def __init__(self) -> None:
        self.started = 0
        self._looks = 0

    def start(self) -> None:
        self.started += 1
        self._looks = 0

    def poll(self) -> list[Check] | None:
        self._looks += 1
        return list(self.checks) if self._looks > 1 else None

    def close(self) -> None:
        """Nothing runs."""


def card_dict(name: str = "tiny-t1", **changes: Any) -> dict[str, Any]:
    """A valid model card without "weights", of a network that needs no training to be read."""
    labels = [structure_label(1, "anterior hippocampus"), structure_label(2, "posterior hippocampus")]
    card = {
        "format": 1,
        "name": name,
        "title": "Tiny",
        "version": "1.0.0",
        "summary": "A network for tests.",
        "modality": "MR",
        "contrast": "T1",
        "spacing": [1.0, 1.0, 1.0],
        "orientation": "RAS",
        "intensity": {"type": "zscore"},
        "networks": {"axial": {"type": "PyramidUNet", "in_channels": 3, "classes": 3, "channels": [4, 8]}},
        "views": [{"plane": "axial", "weight": 1.0, "network": "axial", "thickness": 3}],
        "labels": [label.to_dict() for label in labels],
        "input": {"kind": "crop"},
        "licence": {"spdx": "Apache-2.0", "name": "Apache License 2.0", "free": True},
    }
    return card | changes


def make_package(folder: Path, name: str = "tiny-t1", **changes: Any) -> ModelPackage:
    """A model package in ``folder`` whose weights are no weights."""
    tensors = folder.parent / f"{name}.tensors"
    tensors.write_bytes(b"no weights")
    return write_package(folder / name, card_dict(name, **changes), tensors)


def make_result(
    image: sitk.Image, card: ModelCard, findings: Sequence[Finding] = (), corner: int = 2
) -> SegmentationResult:
    """A result with a block of voxels for every label of the card except the last, which was not found.

    Args:
        image: what was segmented.
        corner: index where the first block begins; blocks have 3 x 3 x 3 voxels and lie beside each other along i.
    """
    array = np.zeros(sitk.GetArrayFromImage(image).shape, np.uint8)
    structures = []
    for number, label in enumerate(card.labels):
        if number == len(card.labels) - 1 and number:
            structures.append(StructureResult(label, 0, 0.0, 0.0, (np.nan,) * 3))
            break
        first = corner + 3 * number
        array[corner : corner + 3, corner : corner + 3, first : first + 3] = label.value
        centre = image.TransformContinuousIndexToPhysicalPoint((first + 1.0, corner + 1.0, corner + 1.0))
        volume_ml = 27 * float(np.prod(image.GetSpacing())) / 1000
        structures.append(StructureResult(label, 27, volume_ml, max(0.9 - 0.1 * number, 0.0), centre))
    labels = sitk.GetImageFromArray(array)
    labels.CopyInformation(image)
    return with_doubt(SegmentationResult(labels, structures, {"predict": 2.0}, list(findings), card, "cpu"))


def with_doubt(result: SegmentationResult) -> SegmentationResult:
    """A result with doubt that rises along all axes, so that the last slices of a structure are the most doubtful."""
    shape = sitk.GetArrayFromImage(result.labels).shape
    doubt = sitk.GetImageFromArray((np.indices(shape).sum(0) / sum(shape)).astype(np.float32))
    doubt.CopyInformation(result.labels)
    return with_doubtful_slices(replace(result, doubt=doubt))


def make_refined(job: RefineJob, card: ModelCard, grow: int = 1) -> RefinedResult:
    """A refinement whose structures are those of the job, larger by ``grow`` voxels at their ends along i."""
    array = sitk.GetArrayFromImage(job.labels)
    for label in card.labels:
        for _ in range(grow):
            ends = np.roll(array == label.value, 1, axis=2) & (array == 0)
            array[ends] = label.value
    labels = sitk.GetImageFromArray(array)
    labels.CopyInformation(job.labels)
    structures = make_result(job.image, card).structures
    result = SegmentationResult(labels, structures, {"learn": 3.0}, [], card, "cpu")
    changes = tuple(StructureChange(structure.label, grow, 0, 0) for structure in structures)
    return RefinedResult(with_doubt(result), job.slices or (), adapted_file(card), 7, changes=changes)


def adapted_file(card: ModelCard) -> bytes:
    """A file of seven parameters adapted to a patient."""
    tensor = {"dtype": "F32", "shape": [7], "data_offsets": [0, 28]}
    notes = {"format": FORMAT, "weights_sha256": card.weights_sha256}
    header = json.dumps({"__metadata__": notes, "axial.classifier.bias": tensor}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(28)
